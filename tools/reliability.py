"""Measure every claim of README.md's section on reliability, at length: before a release, in an hour or two.

  python tools/reliability.py                    # everything that is not on record for this revision yet
  python tools/reliability.py kills damage       # these, anew
  python tools/reliability.py --list
  python tools/study.py tables README.md         # the page's table from what is on record

Each measure leaves experiments/reliability/NAME.json as it ends, so that a stopped run goes on. Exit code 1 where a
claim does not hold. `.ci/run` has a short form of each among its tests.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # the package and the harnesses of tests/reliability, from wherever this is started
    sys.path.insert(0, str(ROOT))

# Before jax starts: four devices, as the tests have them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()


def main() -> int:
    from cracks_jax.runtime.records import write_json
    from cracks_jax.surroundings import surroundings

    measures = importlib.import_module("tests.reliability.measures").MEASURES
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("names", nargs="*", metavar="NAME", help="measures (default: those not on record yet)")
    top.add_argument("--out", type=Path, default=ROOT / "experiments" / "reliability", metavar="DIR")
    top.add_argument("--list", action="store_true", help="the names and claims")
    options = top.parse_args()
    if options.list:
        print("\n".join(f"{name:10} {measure.claim}" for name, measure in measures.items()))
        return 0
    if unknown := sorted(set(options.names) - set(measures)):
        top.error(f"there is no measure {unknown[0]!r}; there are {', '.join(measures)}")
    revision, failed = surroundings()["git_revision"], []
    for name in options.names or measures:
        measure, path = measures[name], options.out / f"{name}.json"
        if not options.names and path.exists() and json.loads(path.read_text())["git_revision"] == revision:
            print(f"{name}: on record for this revision", file=sys.stderr)
            continue
        print(f"{name}: {measure.claim}", file=sys.stderr, flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"reliability-{name}-") as folder:
            result = measure.run(Path(folder))
        holds, shown = measure.holds(result), measure.shown(result)
        seconds = round(time.monotonic() - began)
        options.out.mkdir(parents=True, exist_ok=True)
        entry = {"place": list(measures).index(name), "claim": measure.claim, "shown": shown, "holds": holds}
        write_json(path, {**entry, "seconds": seconds, **surroundings(), "result": result})
        print(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}: {shown} ({seconds} s)", flush=True)
        failed += [] if holds else [name]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

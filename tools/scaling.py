"""Plan past this machine: what a training step would take on 8, 64 or 512 devices that are not at hand.

  python tools/scaling.py --method upcracknet                        # 8, 64 and 512 devices, every chip, float32
  python tools/scaling.py --method crackseg --precision bfloat16 --chip h100-sxm --devices 8 64 512
  python tools/scaling.py --method crackseg --chip h100-sxm --link pcie-ethernet --batch-per-device 16 --batch 0
  python tools/scaling.py --method upcracknet --cores-per-device 0.5 --programs experiments/scaling   # nothing compiled
  python tools/scaling.py check --method upcracknet                  # the model beside 1, 2, 4 and 8 devices run here
  python tools/scaling.py table experiments/scaling                  # the page from its records
  python tools/scaling.py chips                                      # chips and links that are known, and their sources

The step is compiled for the mesh (one process each, a minute or more; nothing is run), its collectives, operations and
memory are read from the program, and a stated model of chip and link says seconds, images per second, efficiency, and
what limits: arithmetic, memory traffic, the link's bytes or hops, the input, the batch or the memory's size. These are
predictions: two bounds, without and with full overlap. `--batch` is over all devices (strong scaling; the paper's is 8,
and a larger one is another experiment), `--batch-per-device` of each (weak scaling); 0 leaves one of them out.

Exit codes: 0 done, 1 it failed, 2 the command line is wrong.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # the package, from wherever this is started
    sys.path.insert(0, str(ROOT))

from cracks_jax.errors import CracksError, UsageError  # noqa: E402
from cracks_jax.runtime.records import write_json  # noqa: E402
from cracks_jax.scaling import page, plan  # noqa: E402
from cracks_jax.scaling.machines import CHIPS, LINKS, PRECISIONS  # noqa: E402

BENCHMARKS = ROOT / "experiments" / "benchmarks"
KINDS = ("plan", "check", "table", "chips")


class Parser(argparse.ArgumentParser):
    """One line for a wrong command, as for everything else that is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"scaling: {message} (--help shows what there is)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # `plan` is what is meant where no other kind is named.
    words = arguments if {*arguments[:1]} & {*KINDS, "-h", "--help"} else ["plan", *arguments]
    options = _parser().parse_args(words)
    try:
        if options.kind == "table":
            print(page.write_page(_folder(options.folder)))
        elif options.kind == "chips":
            print(page.known())
        else:
            _one(options, plan.command(arguments))
    except CracksError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("scaling: interrupted", file=sys.stderr)
        return 130
    return 0


def _one(options: argparse.Namespace, command: str) -> None:
    file = ROOT / "experiments" / plan.EXPERIMENTS.get(options.method, "")
    spec = str(file) if options.form == "paper" else f"{file}:{options.form}"
    if options.out is not None:
        _folder(options.out, make=True)
    record: dict[str, Any]
    if options.kind == "check":
        record = plan.checked(options.method, spec, options.batch, options.repeats, say)
    else:
        record = plan.answer(_question(options, spec), options.benchmarks, say, options.programs)
    record = {"command": command, **record}
    if options.out is not None:
        write_json(options.out / f"{record['label']}.json", record)
        page.write_page(options.out)
    print(json.dumps(record, allow_nan=False) if options.json else page.lines(record))


def _question(options: argparse.Namespace, spec: str) -> plan.Question:
    return plan.Question(
        method=options.method,
        experiment=spec,
        devices=tuple(options.devices),
        batch=None if options.batch == 0 else options.batch,
        batch_per_device=None if options.batch_per_device == 0 else options.batch_per_device,
        precision=options.precision,
        chips=None if options.chip is None else tuple(options.chip),
        link=options.link,
        cores=options.cores_per_device,
        way=options.input,
        shard=options.shard,
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _folder(path: Path, *, make: bool = False) -> Path:
    try:
        if make:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CracksError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such folder of records")
    return path


def _parser() -> argparse.ArgumentParser:
    top = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = top.add_subparsers(dest="kind", required=True)
    asked, checked = kinds.add_parser("plan", help="the default"), kinds.add_parser("check")
    for one in (asked, checked):
        one.add_argument("--method", required=True, help=", ".join(plan.EXPERIMENTS))
        one.add_argument("--form", choices=("paper", "cpu", "smoke"), default="paper", help="of its experiment file")
        one.add_argument("--batch", type=int, default=plan.PAPER_BATCH, help="over all devices (default: the paper's)")
        one.add_argument("--json", action="store_true", help="one JSON object on standard output")
        one.add_argument("--out", type=Path, help="folder for the record and its page, such as experiments/scaling")
    asked.add_argument("--devices", type=int, nargs="+", default=[8, 64, 512], metavar="N", help="sizes of the meshes")
    asked.add_argument("--batch-per-device", type=int, default=plan.PAPER_BATCH, help="of each device")
    asked.add_argument("--precision", default="float32", help=", ".join(PRECISIONS))
    asked.add_argument("--chip", nargs="+", help=f"{', '.join(CHIPS)} (default: all that have the precision)")
    asked.add_argument("--link", help=f"{', '.join(LINKS)} (default: the chip's own)")
    asked.add_argument("--cores-per-device", type=float, help="host cores that read for each device")
    asked.add_argument("--input", choices=("decoding", "cached"), default="decoding", help="cached: decoded before")
    asked.add_argument("--shard", default="none", help=f"{', '.join(plan.SHARDS)}: as machine.shard")
    asked.add_argument("--programs", type=Path, metavar="DIR", help="take those on record there instead of compiling")
    asked.add_argument("--benchmarks", type=Path, default=BENCHMARKS, help="records of tools/benchmark.py input")
    checked.add_argument("--repeats", type=int, default=5)
    kinds.add_parser("table").add_argument("folder", type=Path, help="a folder of records")
    kinds.add_parser("chips")
    return top


if __name__ == "__main__":
    sys.exit(main())

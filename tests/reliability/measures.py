"""Every claim about reliability with what measures it: the long forms, one record each.

`tools/reliability.py` runs them before a release; README.md's table is made of what they leave.
"""

import contextlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError
from tests.reliability.children import METHODS, REPOSITORY, short_trunk_states

Result = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One claim.

    Attributes:
      claim: what must hold, in words.
      run: measures it in an empty folder.
      shown: the figures in words.
      holds: whether the claim is met.
    """

    claim: str
    run: Callable[[Path], Result]
    shown: Callable[[Result], str]
    holds: Callable[[Result], bool] = lambda result: not result["wrong"]


def _kills(folder: Path) -> Result:
    from tests.reliability import kills

    return _together({method: kills.measure(method, 250, folder, say=_say) for method in METHODS})


def _exactly_once(folder: Path) -> Result:
    from tests.reliability import kills

    return kills.exactly_once(folder, 20)


def _bits(folder: Path) -> Result:
    from tests.reliability import bits
    from tests.reliability.devices import quick_compile, short_trunk

    quiet = contextlib.redirect_stderr((folder / "said.log").open("w"))
    with quiet, short_trunk(), quick_compile(folder / "compiled"):
        found = bits.measure(folder, steps=12)
    return {**found, "hosts_wrong": (other := bits.hosts(folder)), "wrong": [*found["wrong"], *other]}


def _devices(folder: Path) -> Result:
    from tests.reliability import devices

    return devices.measure(folder / "compiled")


def _stops(folder: Path) -> Result:
    from tests.reliability import stops

    return stops.measure(folder, repeats=2, quick=True)


def _damage(folder: Path) -> Result:
    from tests.reliability import damage

    found = {}
    for method, states in short_trunk_states().items():
        (folder / method).mkdir()
        found[method] = damage.measure(states, folder / method)
    return _together(found)


def _saving(folder: Path) -> Result:
    from tests.reliability import cost

    return cost.saving(folder)


def _guard(_: Path) -> Result:
    from tests.reliability import cost

    return cost.guard()


def _faults(folder: Path) -> Result:
    from tests.reliability import faults

    return faults.long(folder)


def _leaks(folder: Path) -> Result:
    from tests.reliability import leaks

    return leaks.measure(folder, 2000)


def _orphans(folder: Path) -> Result:
    from tests.reliability import leaks

    return leaks.orphans(folder, 7)


def _fuzz(folder: Path) -> Result:
    from tests.reliability import fuzz

    return fuzz.fuzz(10_000, 1, folder)


def _tests(*chosen: str) -> Callable[[Path], Result]:
    """Those tests, in a process of their own: how many passed, and which did not."""

    def run(folder: Path) -> Result:
        report = folder / "tests.xml"
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if not report.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise CracksError(f"the tests did not run ({said}); `pip install -e '.[test]'` brings what they need")
        cases = list(ElementTree.parse(report).iter("testcase"))
        bad = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = sum(case.find("skipped") is not None for case in cases)
        return {"tests": list(chosen), "passed": len(cases) - len(bad) - skipped, "skipped": skipped, "wrong": bad}

    return run


def _passed(result: Result) -> str:
    skipped = f", {result['skipped']} skipped" if result["skipped"] else ""
    return f"{result['passed']} tests passed{skipped}, {len(result['wrong'])} failed"


def _together(by_method: dict[str, Result]) -> Result:
    """Counts of several methods added up, their faults in one list, each method's own beside."""
    total: Result = {"wrong": [one for found in by_method.values() for one in found["wrong"]]}
    for found in by_method.values():
        for name, value in found.items():
            if isinstance(value, int):
                total[name] = total.get(name, 0) + value
    return {**total, "by_method": by_method}


def _apart(result: Result, dtype: str) -> str:
    return f"{max(value for name, by in result.items() if name.endswith(dtype) for value in by.values()):.1e}"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


MEASURES: dict[str, Measure] = {
    "kills": Measure(
        "Killed at any moment, a training ends with the bits and the records of an undisturbed one",
        _kills,
        lambda r: f"{r['kills']} kills in {r['runs']} trainings of both methods, {r['during_save']} of them during a "
        f"save: {len(r['wrong'])} differences, {r['checkpoints_passed_over']} checkpoints lost",
        lambda r: not r["wrong"] and r["kills"] >= 500 and r["during_save"] >= 100,
    ),
    "faults": Measure(
        "A crash or a full disk at any write, rename or sync leaves the last good step whole",
        _faults,
        lambda r: str(r["shown"]),
    ),
    "bits": Measure(
        "Same seed, same bits: again, stopped after any step, with 0, 1 or 4 worker processes, changed at a resume; "
        "1, 2 and 4 hosts take the same records",
        _bits,
        lambda r: f"{r['trainings']} trainings of {r['steps']} steps: {len(r['wrong'])} differences",
    ),
    "devices": Measure(
        "1, 2, 4 and 8 devices give the same losses over 10 steps of one batch, by jit and by pmap",
        _devices,
        lambda r: f"largest relative difference of a loss: {_apart(r, 'float64')} in float64, {_apart(r, 'float32')} "
        f"in float32 ({_apart(r, 'first step')} at the first step)",
        lambda r: float(_apart(r, "float64")) <= 1e-9 and float(_apart(r, "first step")) <= 1e-5,
    ),
    "once": Measure(
        "Each epoch is the data set, none lost, none twice",
        _exactly_once,
        lambda r: f"{r['epochs']} epochs of {r['records']} records through {r['kills']} kills, {r['steps_retaken']} "
        f"steps retaken: {len(r['wrong'])} differences",
    ),
    "stops": Measure(
        "A signal ends a training politely: saved, exit code 75; while compiling or validating, and the second time, "
        "at once",
        _stops,
        lambda r: str(r["shown"]),
    ),
    "damage": Measure(
        "A damaged checkpoint is never believed: the newest intact one is restored, the damaged file named",
        _damage,
        lambda r: f"{r['cases']} cases, each beside an intact checkpoint and alone: {len(r['wrong'])} wrong",
        lambda r: not r["wrong"] and r["cases"] >= 200,
    ),
    "saving": Measure(
        "Saving and digesting hold training up for less than 1 % of its time at the default interval",
        _saving,
        lambda r: f"{100 * r['saving_share']:.2f} % of {r['seconds']:.0f} s ({r['steps']} steps, checkpoints of "
        f"{r['checkpoint_mb']} MB)",
        lambda r: r["saving_share"] < 0.01,
    ),
    "bad": Measure(
        "Bad images: fail, replace or drop, the order of the others unchanged, every file on record",
        _tests("tests/data/test_bad_images.py", "tests/test_training_data.py", "tests/test_bad_runs.py"),
        _passed,
    ),
    "finite": Measure(
        "A number that is not finite stops the run within one step, the last finite state on disk",
        _tests("tests/test_not_finite.py"),
        _passed,
    ),
    "guard": Measure(
        "What that guard costs",
        _guard,
        lambda r: f"{r['median_seconds']['guarded']} s a step instead of {r['median_seconds']['plain']} s "
        "(UP-CrackNet's small form)",
        lambda r: r["same_bits"],
    ),
    "networks": Measure(
        "Neither network's step touches the other; each is trained once per batch",
        _tests("tests/methods/test_restoration.py"),
        _passed,
    ),
    "traces": Measure(
        "Each program is traced once, validations included; other rates, weights or seeds compile nothing",
        _tests("tests/test_train.py", "-k", "traced_once or attempt_says"),
        _passed,
    ),
    "leaks": Measure(
        "No leak: 2,000 steps with checkpoints and worker processes",
        _leaks,
        lambda r: str(r["shown"]),
    ),
    "orphans": Measure(
        "No process and no shared memory outlives a kill",
        _orphans,
        lambda r: str(r["shown"]),
    ),
    "hostile": Measure(
        "Bombs, archives that lead out, code in data, weights or run files, odd names: refused, nothing runs",
        _tests("tests/reliability/test_bombs.py", "tests/reliability/test_names.py",
               "tests/reliability/test_no_code_runs.py", "tests/data/test_download.py", "tests/weights/test_files.py",
               "tests/test_untrusted.py"),
        _passed,
    ),  # fmt: skip
    "fuzz": Measure(
        "Mutated images, masks, settings, records, checkpoints, archives and command lines: a sound value or a message",
        _fuzz,
        lambda r: str(r["shown"]),
    ),
    "sweeps": Measure(
        "Sweeps and groups of processes: a member, a worker, a process or the whole killed, stopped, disagreeing",
        _tests("-m", "long or not long", "tests/test_sweep.py", "tests/launch", "tests/group", "tests/test_search.py"),
        _passed,
    ),
    "long": Measure(
        "More devices, more parts of a batch, more places for a bad number: the other tests that take minutes",
        _tests("-m", "long", "tests/runtime", "tests/methods", "tests/benchmark", "tests/test_not_finite.py"),
        _passed,
    ),
}

"""Trainings in processes of their own that are told to stop at every kind of moment, and how fast they do.

One run is started by the same command again and again; each start is told to stop at another moment. Then it is left
alone, and must end as a training that nobody stopped: the same metrics, bits and records. To catch a moment for certain
the process is frozen (SIGSTOP) and looked at, and told while it is frozen; time counts from when it goes on.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from tests.reliability.children import REPOSITORY

STOPPED = 75
GO_ON = "run the same command again to go on"
# `long`: steps of a second or so. CrackSeg has one unit in each block, as `tiny.short_trunk` has it inside a process.
FILE = """
import dataclasses
from pathlib import Path

from cracks_jax.networks.backbones import resnet
from tests import tiny

resnet.UNITS[50] = (1, 1, 1, 1)
DRAWN = {"train": 120, "test": 2, "undamaged": 200, "size": [48, 48]}


def experiment(form):
    cache = Path(__file__).with_name("cache")
    usual = {"steps": 40, "validate_every": 10, "batch_size": 16}
    made = {
        "restoration": tiny.experiment(cache, "restoration", **usual),
        "segmentation": tiny.experiment(cache, "segmentation", **usual),
        "long": tiny.experiment(cache, "restoration", steps=6, validate_every=6, batch_size=512),
    }
    for name, one in made.items():
        data = dataclasses.replace(one.data, recipe_settings=DRAWN)
        made[name] = tiny.with_machine(dataclasses.replace(one, data=data), checkpoint_every=5)
    return made
"""
_LONGEST = 600.0  # seconds that any one process may live


class Training:
    """`cracks-jax train` on a run, in a process and a session of its own; what it says goes to files."""

    def __init__(self, words: Sequence[object], run: Path, environment: Mapping[str, str]):
        self.run, self._log = run, run.with_name(run.name + ".err")
        self._out = run.with_name(run.name + ".out")
        self.began_with, self._attempts = self.taken, len(self.attempts())
        with self._log.open("wb") as log, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cracks_jax.cli", "train", *map(str, words), "--run", str(run)],
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdout=out,
                stderr=log,
                start_new_session=True,
            )
        self._end = Timer(_LONGEST, self.process.kill)
        self._end.daemon = True
        self._end.start()

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def printed(self) -> str:
        return self._out.read_text()

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        try:
            lines = (self.run / "records.jsonl").read_text().split("\n")[:-1]
        except OSError:
            return []
        return [one for one in map(json.loads, lines) if event in (None, one["event"])]

    @property
    def taken(self) -> int:
        """Training steps on record."""
        return len(self.records("train"))

    @property
    def kept(self) -> int:
        """The newest checkpoint's step; 0 where there is none."""
        return max((int(name) for name in self._checkpoints() if name.isdecimal()), default=0)

    @property
    def saving(self) -> int:
        """The step of the save that is under way, or was when the process ended; 0 where there is none."""
        steps = (int(name.removesuffix(".saving")) for name in self._checkpoints() if name.endswith(".saving"))
        return max((step for step in steps if step > self.kept), default=0)

    def _checkpoints(self) -> list[str]:
        try:
            return os.listdir(self.run / "checkpoints")
        except OSError:
            return []

    def described(self) -> dict[str, Any]:
        try:
            return json.loads((self.run / "experiment.json").read_text())
        except OSError:  # not begun yet
            return {}

    def attempts(self) -> list[dict[str, Any]]:
        return self.described().get("attempts", [])

    @property
    def attempted(self) -> bool:
        """Whether the run's record knows of this start."""
        return len(self.attempts()) > self._attempts

    def metrics(self) -> dict[str, Any]:
        return json.loads((self.run / "metrics.json").read_text())

    def freeze(self) -> bool:
        """Whether it stands still now; it may have ended before."""
        os.kill(self.process.pid, signal.SIGSTOP)
        while (state := state_of(self.process.pid)) not in "TZX":
            time.sleep(0.0005)
        return state == "T"

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def wait(self) -> int:
        code = self.process.wait()
        self._end.cancel()
        return code

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # nothing where it has ended
        self.wait()


def state_of(pid: int) -> str:
    """R, S, T (stopped), Z (ended), ...; X where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


# ----------------------------------------------------------------------------------------------- moments


@dataclass(frozen=True)
class Moment:
    """When a process is told to stop, and how it must leave.

    Attributes:
      now: whether this is the moment.
      within: seconds; at random up to so much later than the moment's begin.
      cold: what is compiled anew at this start: how the names of those programs begin.
      settings: of the machine, at this start alone.
      twice: told a second time at once, or once it has said `after`.
      everyone: the worker processes are told too, as a terminal's Ctrl-C does.
      ends: what the run's record may say of this start; None: anything.
    """

    now: Callable[[Training], bool]
    within: float = 0.0
    cold: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    twice: bool = False
    after: str = ""
    everyone: bool = False
    ends: tuple[str, ...] | None = ("signal",)


def _importing(training: Training) -> bool:
    return training.said == ""


def _preparing(training: Training) -> bool:
    return "run directory:" not in training.said and (training.run.parent / "fresh").exists()


def _initialising(training: Training) -> bool:
    return "run directory:" in training.said and not training.attempted


def _workers_starting(training: Training) -> bool:
    return "training:" in training.said and "compiling the first step" not in training.said


def _compiling(training: Training) -> bool:
    return "compiling the first step" in training.said and "first step after" not in training.said


def _stepping(training: Training) -> bool:
    return training.taken > training.began_with and not _validating(training)


def _saving(training: Training) -> bool:
    return training.saving > 0 and not _validating(training)


def _validating(training: Training) -> bool:
    every = training.described()["science"]["training"]["validate_every"]
    done = {one["step"] for one in training.records("validation")}
    begun = "run directory" in training.said  # before, a checkpoint may wait for its validation since the last start
    return begun and training.kept > 0 and training.kept % every == 0 and training.kept not in done


_VALIDATION = ("jit_terms", "jit_scores", "jit_prepare")
_STEP, _INIT = ("jit_guarded_step",), ("jit__lambda",)
# In the order in which one run comes by them.
MOMENTS = {
    # Before the program can hear a signal: what happens is what the interpreter does.
    "importing": Moment(_importing, within=1.0, ends=None),
    "initialising": Moment(_initialising, within=1.0, cold=_INIT),
    "preparing data": Moment(_preparing, settings=("machine.cache={fresh}",)),
    "initialising again": Moment(_initialising, within=1.0, cold=_INIT),
    "compiling": Moment(_compiling, within=2.0, cold=_STEP),
    "compiling, twice": Moment(_compiling, within=2.0, cold=_STEP, twice=True, ends=None),
    "stepping": Moment(_stepping, within=0.1),
    "saving, twice": Moment(_saving, twice=True, ends=None),
    "ending, told again": Moment(_stepping, within=0.1, twice=True, after="stopped after step"),
    "compiling again": Moment(_compiling, within=2.0, cold=_STEP),
    "workers starting, everyone": Moment(_workers_starting, within=1.0, settings=("machine.workers=2",), everyone=True),
    "stepping, everyone": Moment(_stepping, settings=("machine.workers=2",), everyone=True),
    "validating": Moment(_validating, within=0.3, cold=_VALIDATION),
}
LONG_MOMENTS = {
    "long step": Moment(_stepping, within=0.5),
    "long step, twice": Moment(_stepping, within=0.5, twice=True, after="once more to stop at once", ends=None),
}
CHAINS = {"restoration": MOMENTS, "segmentation": MOMENTS, "long": LONG_MOMENTS}


# ----------------------------------------------------------------------------------------------- measure


def measure(
    folder: Path, repeats: int, chains: Mapping[str, Mapping[str, Moment]] = CHAINS, *, quick: bool = False
) -> dict[str, Any]:
    """Stops each member's training at each of its moments; returns times by moment, and all that was wrong.

    Times are of a machine that has other work too: `load` is how many processes wanted its processors.

    Args:
      quick: compile without most optimisations.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, quick)
    told: list[Told] = []
    wrong: list[dict[str, Any]] = []
    for member, moments in chains.items():
        expected = bench.undisturbed(member)
        for repeat in range(repeats):
            run = folder / f"{member}-{repeat}"
            for number, (name, moment) in enumerate(moments.items()):
                rng = random.Random(f"{member} {name} {repeat}")
                first = (signal.SIGTERM, signal.SIGINT)[(repeat + number) % 2]
                found = bench.tell(member, run, name, moment, first, rng)
                told.append(found)
                wrong += [{"run": run.name, "moment": name, "signal": first.name, "fault": f} for f in found.faults]
            faults = _not_as(expected, bench.to_the_end(member, run))
            wrong += [{"run": run.name, "moment": "the end", "fault": fault} for fault in faults]
    by_moment = _by_moment(told)
    return {"told": len(told), "by_moment": by_moment, "wrong": wrong, "shown": _shown(by_moment, len(wrong))}


@dataclass(frozen=True)
class Told:
    """One start that was told to stop."""

    moment: str
    code: int
    seconds: float
    kept: int
    ended: str | None
    faults: list[str]
    load: float = dataclasses.field(default_factory=lambda: os.getloadavg()[0])


class Bench:
    """One experiment file in a folder, and the programs that its trainings have compiled."""

    def __init__(self, folder: Path, quick: bool, file: str = FILE):
        self.folder, self._compiled = folder, folder / "compiled"
        self.file = folder / "tiny.py"
        self.file.write_text(file)
        self._environment = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self._environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true" if quick else "false"

    def start(self, member: str, run: Path, *settings: str, compiled: Path | None = None) -> Training:
        words = [f"{self.file}:smoke", "--member", member, *(("--set", *settings) if settings else ())]
        cache = str(compiled or self._compiled)
        return Training(words, run, {**self._environment, "JAX_COMPILATION_CACHE_DIR": cache})

    def undisturbed(self, member: str) -> Training:
        return self.to_the_end(member, self.folder / f"{member}-undisturbed")

    def to_the_end(self, member: str, run: Path) -> Training:
        with self.start(member, run) as training:
            training.wait()
        return training

    def tell(
        self, member: str, run: Path, name: str, moment: Moment, first: signal.Signals, rng: random.Random
    ) -> Told:
        """Starts the training and tells it to stop at the moment."""
        compiled, fresh = self.folder / "partly-compiled", self.folder / "fresh"
        for old in (compiled, fresh):
            shutil.rmtree(old, ignore_errors=True)
        if moment.cold and self._compiled.is_dir():
            shutil.copytree(self._compiled, compiled, ignore=lambda _, names: _begun_with(moment.cold, names))
        settings = [text.format(fresh=fresh) for text in moment.settings]
        with self.start(member, run, *settings, compiled=compiled if moment.cold else None) as training:
            if not caught(training, moment, rng.uniform(0, moment.within)):
                code = training.wait()
                return Told(name, code, 0.0, training.kept, None, [f"ended before ({code}): {training.said[-400:]}"])
            kept_before, taken = training.kept, training.taken
            seconds = _stopped_in(training, moment, first)
            code, ended = training.wait(), _ended(training)
        faults = []
        if name != "importing":
            faults = [*_faults(training, code), *_kept_wrong(training, moment, kept_before, taken)]
        if moment.ends is not None and training.attempted and ended not in moment.ends:
            faults.append(f"the run's record says that it ended by {ended}")
        return Told(name, code, seconds, training.kept, ended, faults)


def caught(training: Training, moment: Moment, delay: float) -> bool:
    """Freezes the training at its moment; False where it ended before."""
    while training.process.poll() is None:
        if moment.now(training):
            time.sleep(delay)
            delay /= 2  # came too late: the moment was over
            if not training.freeze():
                return False
            if moment.now(training):
                return True
            training.thaw()
        time.sleep(0.002)
    return False


def _stopped_in(training: Training, moment: Moment, first: signal.Signals) -> float:
    """Tells a frozen training, which goes on; seconds from the last signal to its end."""
    pid = training.process.pid
    send = os.killpg if moment.everyone else os.kill
    second = signal.SIGINT if first == signal.SIGTERM else signal.SIGTERM
    send(pid, first)
    if moment.twice and not moment.after:
        send(pid, second)
    begun = time.monotonic()
    training.thaw()
    if moment.twice and moment.after:
        while moment.after not in training.said and state_of(pid) not in "ZX":
            time.sleep(0.0005)
        begun = time.monotonic()
        send(pid, second)
    training.process.wait()
    return time.monotonic() - begun


def _faults(training: Training, code: int) -> list[str]:
    """What is wrong with how it left."""
    said = training.said
    faults = [] if code == STOPPED else [f"exit code {code}: {said[-400:]}"]
    if GO_ON not in said:
        faults.append(f"no line says how to go on: {said[-200:]!r}")
    if "Traceback" in said or "Warning" in said:
        faults.append(f"more than a line: {said[-1000:]}")
    if training.printed or (training.run / "metrics.json").exists():
        faults.append("a result although it did not end")
    return faults


def _kept_wrong(training: Training, moment: Moment, before: int, taken: int) -> list[str]:
    kept = training.kept
    if moment.twice:
        fine = kept >= before
    elif moment.now is _stepping:
        fine = kept == training.taken >= taken and f"stopped after step {kept}" in training.said
    else:
        fine = kept == before
    return [] if fine else [f"step {kept} is kept; {before} was when it was told, with {taken} steps taken"]


def _ended(training: Training) -> str | None:
    return training.attempts()[-1].get("ended") if training.attempted else None


def _not_as(expected: Training, found: Training) -> list[str]:
    if found.process.returncode != 0:
        return [f"exit code {found.process.returncode}: {found.said[-400:]}"]
    faults = []
    if found.metrics() != expected.metrics():
        faults.append("other metrics, or another state, than the undisturbed training's")
    if found.records() != expected.records():
        faults.append("other records than the undisturbed training's")
    return faults


def _begun_with(beginnings: tuple[str, ...], names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(beginnings)]


def _by_moment(told: Sequence[Told]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(one.moment for one in told):
        these = [one for one in told if one.moment == name]
        seconds = sorted(one.seconds for one in these)
        found[name] = {
            "told": len(these),
            "median_s": round(statistics.median(seconds), 3),
            "worst_s": round(seconds[-1], 3),
            "load": round(statistics.median(one.load for one in these), 1),
            "codes": sorted({one.code for one in these}),
            "kept": sorted({one.kept for one in these}),
            "ended": sorted({str(one.ended) for one in these}),
        }
    return found


def _shown(by_moment: Mapping[str, Mapping[str, Any]], wrong: int) -> str:
    told = sum(one["told"] for one in by_moment.values())
    times = ", ".join(f"{name} {one['median_s']:.2f} (at most {one['worst_s']:.2f})" for name, one in by_moment.items())
    return f"{told} signals, seconds from the last one to the end: {times}; {wrong} faults"

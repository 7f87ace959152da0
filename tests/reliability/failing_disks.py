"""Trainings whose disk fills up, fails or turns read-only, and reports without room, by `faults`.

A training stops with one message and is finished by the same command once the disk is well; or, as
`machine.on_write_error=continue` has it, goes on and catches up. A report is written whole or not at all.
"""

import errno
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.runs import CHECKPOINTS, EXPERIMENT, METRICS, RECORDS, UNDAMAGED
from cracks_jax.runtime.records import Records, read_json
from tests.reliability.faults import FOR_EVER, KINDS, Fault, Kind, Server
from tests.tiny_runs import Answer, contents

_FILE = """
from pathlib import Path

from tests import tiny


def experiment(form):
    one = tiny.experiment(Path(__file__).with_name("cache"), steps=20, validate_every=10)
    return {"restoration": tiny.with_machine(one, checkpoint_every=5)}
"""
GOING_ON = "machine.on_write_error=continue"


@dataclass(frozen=True)
class Disturbed:
    """A training whose run, or one file or folder in it (`where`), fails from its `first` operation on."""

    kind: Kind
    first: int
    where: str = ""


class Trainings:
    """A training of 20 steps, undisturbed once, and as often as wanted with a fault."""

    def __init__(self, server: Server):
        self._server, self._folder = server, server.folder / "trainings"
        self._folder.mkdir()
        self._file, self.undisturbed = self._folder / "tiny.py", self._folder / "undisturbed"
        self._file.write_text(_FILE)
        counted = Fault(str(self.undisturbed), str(self._folder / "operations"))
        self._expected = server.command(*self._words(self.undisturbed), fault=counted).ok().last
        self._operations = counted.operations()

    def cases(self) -> Iterator[Disturbed]:
        """Full from eight places of the training on, and for a while; each kind of file; the awkward moments."""
        operations = self._operations
        logging = [one for one in operations if one.path == f"/{RECORDS}"]
        started = operations.index(logging[0])
        full, full_for_a_while = KINDS["ENOSPC"], KINDS["ENOSPC for a while"]
        for part in range(8):
            yield Disturbed(full, 1 + part * (len(operations) - 20) // 8)
            yield Disturbed(full_for_a_while, started + 8 + part * (len(operations) - started - 160) // 8)
        for where, first in ((f"{CHECKPOINTS}/10.saving", 5), (RECORDS, 18), (f"{EXPERIMENT}.tmp", 14)):
            yield Disturbed(full, first, where)
            yield Disturbed(KINDS["EIO"], first, where)
            yield Disturbed(KINDS["EIO for a while"], first, where)
        yield Disturbed(full, 4, f"{UNDAMAGED}.partial")
        yield Disturbed(KINDS["EROFS"], started + 30)
        # What is noted after the first step, and the last line of the log (the log's first operation is its rewind).
        yield Disturbed(Kind(errno.ENOSPC, 4, going_on=True), 9, f"{EXPERIMENT}.tmp")
        yield Disturbed(Kind(errno.EIO, 1, going_on=True), len(logging), RECORDS)

    def wrong(self, case: Disturbed) -> list[str]:
        """Carries out one case; what was not as it should be."""
        kind, run = case.kind, Path(tempfile.mkdtemp(dir=self._folder)) / "run"
        where = run / case.where if case.where else run
        fault = Fault(str(where), str(run.with_name("log")), case.first, case.first + kind.span - 1, kind.error)
        settings = ("--set", GOING_ON) if kind.going_on else ()
        answer = self._server.process(*self._words(run), *settings, fault=fault)
        wrong = [] if any(one.hit for one in fault.operations()) else ["nothing was hit"]
        if kind.going_on:
            said = [line for line in answer.err.splitlines() if GOING_ON in line]
            if not said or any(str(run) not in line or kind.reason not in line for line in said):
                wrong.append(f"what was left out is not said: {answer.err[-2000:]}")
            if "Traceback" in answer.err:
                wrong.append(f"a traceback: {answer.err[-2000:]}")
        else:
            wrong += _not_one_message(answer, run, kind) + self._lost(run, fault)
            answer = self._server.command(*self._words(run))
        return [f"{case}: {one}" for one in wrong + self._otherwise(run, answer)]

    def _words(self, run: Path) -> tuple[object, ...]:
        return "train", f"{self._file}:smoke", "--member", "restoration", "--run", run

    def _lost(self, run: Path, fault: Fault) -> list[str]:
        """Whether the last checkpoint that got its name is the newest intact one."""
        saved = [one.path.rpartition("/")[2].removesuffix(".saving") for one in fault.operations()
                 if one.kind == "rename" and one.path.endswith(".saving") and not one.hit]  # fmt: skip
        found = self._server.ask("newest", run=run) if saved else None
        return [] if found is None or str(found["value"]) == saved[-1] else [f"{saved[-1]} was saved, found {found}"]

    def _otherwise(self, run: Path, answer: Answer) -> list[str]:
        """How a training that ended, and its run, differ from the undisturbed one."""
        if answer.code:
            return [f"exit code {answer.code}: {answer.err[-2000:]}"]
        wrong = [] if answer.last == read_json(run / METRICS) == self._expected else [f"ended with {answer.last}"]
        found, expected = (list(Records(folder / RECORDS)) for folder in (run, self.undisturbed))
        if found != expected:
            wrong.append(f"on record are {[(one['event'], one['step']) for one in found]}")
        left = [name for name in contents(run) if name.endswith(".tmp") or ".saving" in name or ".partial" in name]
        return wrong + [f"left {name}" for name in left]


def _not_one_message(answer: Answer, where: Path, kind: Kind) -> list[str]:
    """Refused as it should be: exit code 1, one message that names the file and the reason, no traceback."""
    messages = [line for line in answer.err.splitlines() if line.startswith("cracks-jax: ")]
    fine = answer.code == 1 and not answer.out and "Traceback" not in answer.err and len(messages) == 1
    if fine and str(where) in messages[0] and kind.reason in messages[0]:
        return []
    return [f"exit code {answer.code}, said {answer.out}{answer.err[-2000:]}"]


class Reports:
    """`evaluate`, `detect` and `report` into a folder whose disk is full from some operation on.

    Args:
      runs: for the report, beside an evaluation.
    """

    def __init__(self, server: Server, *runs: Path):
        self._server, self._folder = server, server.folder / "reports"
        pavements, kept = self._folder / "pavements", self._folder / "kept"
        draw_dataset(pavements, train=1, test=3, undamaged=1, size=(48, 64))
        floor = ("--method", "background_difference")
        evaluate = ("evaluate", *floor, "--data", f"{pavements}:test")
        server.command(*evaluate, "--out", kept).ok()
        self._commands: dict[str, tuple[object, ...]] = {
            "evaluate": evaluate,
            "detect": ("detect", *floor, pavements / "test" / "images", "--scores"),
            "report": ("report", *runs, kept),
        }

    def measure(self, verbs: Sequence[str], every: int = 1) -> dict[str, Any]:
        """Every `every`-th operation of each verb; how many cases there were, and what was `wrong`."""
        cases: Counter[str] = Counter()
        wrong = []
        for verb in verbs:
            fault = self._fault(verb, 0)
            self._server.command(*self._commands[verb], "--out", fault.where, fault=fault).ok()
            whole = _results(Path(fault.where))
            for first in range(1, len(fault.operations()) + 1, every):
                cases[verb] += 1
                wrong += [f"{verb}, operation {first}: {one}" for one in self._wrong(verb, first, whole)]
        return {"cases": sum(cases.values()), "by_verb": dict(cases), "wrong": wrong}

    def _fault(self, verb: str, first: int) -> Fault:
        place = Path(tempfile.mkdtemp(dir=self._folder))
        return Fault(str(place / verb), str(place / "log"), first, FOR_EVER if first else 0, errno.ENOSPC)

    def _wrong(self, verb: str, first: int, whole: dict[str, bytes]) -> list[str]:
        fault = self._fault(verb, first)
        out, words = Path(fault.where), (*self._commands[verb], "--out", fault.where)
        answer = self._server.command(*words, fault=fault)
        hit = any(one.hit for one in fault.operations())
        wrong = _not_one_message(answer, out, KINDS["ENOSPC"]) if hit else []
        for name, found in _results(out).items():
            expected = whole.get(name, b"")
            grown = name == "measurements.csv" and found.endswith(b"\n") and expected.startswith(found)
            if found != expected and not grown:  # that table has the rows of what is finished
                wrong.append(f"{name} is half-written or left over ({len(found)} of {len(expected)} bytes)")
        again = self._server.command(*words)
        if again.code or _results(out) != whole:
            wrong.append(f"run again, it is otherwise: {again.err[-1000:]}")
        return wrong


def _results(out: Path) -> dict[str, bytes]:
    """Every file below a folder, without what differs from one time to the next."""
    found = contents(out)
    for name in found:
        if name.endswith(".json"):
            passing = ("cost", "git_revision")
            told = {key: value for key, value in json.loads(found[name]).items() if key not in passing}
            found[name] = json.dumps(told).encode()
    return found

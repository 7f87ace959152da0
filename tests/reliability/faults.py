"""A disk that fails, or a process that dies, at every single operation of a save.

`faults.c` is loaded into the processes that are disturbed; a case says from which operation on what goes wrong. Saves
and commands run in children forked from one process that has imported everything (`python -m tests.reliability.faults`,
started by `Server`), so that a case takes tenths of a second. `failing_disks` disturbs trainings and reports.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cracks_jax.errors import WriteError
from cracks_jax.runs import CHECKPOINTS, EXPERIMENT, RECORDS
from cracks_jax.runtime import records as writing
from cracks_jax.runtime.checkpoints import Checkpoints, state_sha256
from cracks_jax.runtime.records import Records, read_json, write_json
from tests.tiny_runs import REPOSITORY, Answer, command

SOURCE = Path(__file__).with_name("faults.c")
DIED = 99  # the exit code of a process that faults.c ended
FOR_EVER = 2**31
_LONGEST = 600.0  # seconds that one case may take


class Unavailable(Exception):
    """Faults cannot be injected on this machine; the message says why."""


@dataclass(frozen=True)
class Kind:
    """What goes wrong.

    Attributes:
      error: `crash`, `power` (a crash that takes with it what was not synced) or the number of an error.
      span: how many operations it hits.
      going_on: whether what cannot be written is left out, as `machine.on_write_error=continue` has it.
    """

    error: str | int
    span: int = 1
    going_on: bool = False

    @property
    def reason(self) -> str:
        return os.strerror(self.error) if isinstance(self.error, int) else self.error


KINDS = {
    "crash": Kind("crash"),
    "power": Kind("power"),
    "ENOSPC": Kind(errno.ENOSPC, FOR_EVER),
    "EIO": Kind(errno.EIO),
    "EROFS": Kind(errno.EROFS, FOR_EVER),
    "ENOSPC for a while": Kind(errno.ENOSPC, 12, going_on=True),
    "EIO for a while": Kind(errno.EIO, 3, going_on=True),
}


@dataclass(frozen=True)
class Fault:
    """Operations `first` to `last` on `where` and what lies below it, as faults.c takes them; `first` 0: none."""

    where: str
    log: str
    first: int = 0
    last: int = 0
    error: str | int = "crash"

    def arm(self) -> None:
        number = {"crash": -1, "power": -2}.get(self.error, self.error)  # type: ignore[call-overload]
        first, last = ctypes.c_long(self.first), ctypes.c_long(self.last)
        library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        library.fault_arm(self.where.encode(), first, last, number, self.log.encode())

    def environment(self) -> dict[str, str]:
        values = {"folder": self.where, "log": self.log, "first": self.first, "last": self.last, "error": self.error}
        return {f"FAULT_{name.upper()}": str(value) for name, value in values.items()}

    def operations(self) -> list["Operation"]:
        """What was done there so far."""
        lines = Path(self.log).read_text().splitlines() if Path(self.log).exists() else []
        return [Operation(*line.removesuffix(" !").split(" ", 1), line.endswith(" !")) for line in lines]


@dataclass(frozen=True)
class Operation:
    kind: str
    path: str  # below the fault's folder
    hit: bool


def compiled(folder: Path) -> Path:
    """faults.c as a library in `folder`; Unavailable where there is no Linux or no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        raise Unavailable("faults are injected on Linux, by a library that a C compiler (cc or gcc) must build first")
    library = folder / "faults.so"
    built = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-pthread", "-U_FORTIFY_SOURCE", "-o", library, SOURCE],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        raise Unavailable(f"{SOURCE.name} cannot be compiled here: {built.stderr.strip()[-300:]}")
    return library


# ---------------------------------------------------------------------------------------- processes


class Server:
    """Runs work in forked children, and commands in processes of their own; all load faults.c.

    Args:
      folder: for the library, compiled programs and everything else that the cases leave.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            **os.environ,
            "LD_PRELOAD": str(compiled(self.folder)),
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        }
        self._process = self._start("tests.reliability.faults", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_LONGEST)
        self._process.stdout.close()

    def ask(self, work: str, fault: Fault | None = None, **arguments: Any) -> dict[str, Any]:
        """`_WORK[work]` in a child: its exit `code`, the `value` it returned, if it came so far, and what it `said`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"work": work, "fault": fault and asdict(fault), **arguments}
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def command(self, *words: object, fault: Fault | None = None) -> Answer:
        """A command in a forked child."""
        found = self.ask("command", fault, words=words)
        code, out, err = found["value"] or (found["code"], "", "")
        return Answer(code, out, err + found["said"])

    def process(self, *words: object, fault: Fault) -> Answer:
        """A command in a process of its own."""
        started = self._start("cracks_jax.cli", *map(str, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env={**self._environment, **fault.environment()})  # fmt: skip
        out, err = started.communicate(timeout=_LONGEST)
        return Answer(started.returncode, out, err)

    def _start(self, module: str, *words: str, **how: Any) -> subprocess.Popen:
        how = {"env": self._environment, **how}
        return subprocess.Popen([sys.executable, "-m", module, *words], cwd=REPOSITORY, text=True, **how)


def _serve() -> None:
    """The server's own process: a request is a line of JSON, and so is its answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        work, fault = _WORK[request.pop("work")], request.pop("fault")
        answer = _forked(work, Fault(**fault) if fault else None, request)
        print(json.dumps(answer), file=answers, flush=True)


def _forked(work: Callable[..., Any], fault: Fault | None, arguments: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.dup2(said.fileno(), 2)
                os.write(writing, json.dumps(work(fault, **arguments)).encode())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        if not select.select([reading], [], [], _LONGEST)[0]:
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            value = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return {"code": code, "value": json.loads(value) if value else None, "said": said.read()}


# --------------------------------------------------------------------------------------------- one save

# A run that found its checkpoint 10 damaged goes on from 5: it forgets what was logged since, logs anew, saves 10.
_RUN_ID, _OLDEST, _BEFORE, _AFTER, _LATER = "0badcafe", 3, 5, 10, 15
_DESCRIBED = {step: {"run_id": _RUN_ID, "saved_step": step, "spent": "x" * 9000} for step in (_BEFORE, _AFTER, _LATER)}


def measure(
    folder: Path, kinds: Sequence[str] = tuple(KINDS), every: int = 1, careless: bool = False, server: Any = None
) -> dict[str, Any]:
    """Disturbs every `every`-th operation of a save in each way.

    Args:
      careless: saves as nobody should, for this harness to find out; each kind ends with the first fault it finds.

    Returns:
      How many operations one save has by kind, how many cases there were by kind of fault and by operation hit, in how
      many the new checkpoint was there afterwards, and what was `wrong`.
    """
    with contextlib.nullcontext(server) if server else Server(folder) as server:
        folder.mkdir(parents=True, exist_ok=True)
        whole = Path(tempfile.mkdtemp(dir=folder.resolve()))
        server.ask("prepare", run=whole)
        wrong, _, rehearsed = _case(server, folder, whole, "crash", 0, careless)
        if wrong:
            raise RuntimeError(f"a save that nothing disturbs: {wrong}")
        by_kind, by_operation, committed = Counter(), Counter(), 0
        for place, name in enumerate(kinds):
            for first in range(1 + place % every, len(rehearsed) + 1, every):
                faults, there, operations = _case(server, folder, whole, name, first, careless)
                hit = next((one for one in operations if one.hit), None)
                by_kind[name] += 1
                by_operation[hit.kind if hit else "none"] += 1
                committed += there
                where = f"{first}: {hit.kind} {hit.path}" if hit else str(first)
                wrong += [{"kind": name, "operation": where, "fault": fault} for fault in faults]
                if careless and faults:
                    break
    return {
        "operations": dict(Counter(one.kind for one in rehearsed)),
        "cases": sum(by_kind.values()),
        "by_kind": dict(by_kind),
        "by_operation": dict(by_operation),
        "committed": committed,
        "wrong": wrong,
    }


def _case(
    server: Server, folder: Path, whole: Path, name: str, first: int, careless: bool
) -> tuple[list[str], bool, list[Operation]]:
    """(what is wrong, whether the new checkpoint is there, the operations) of one save, disturbed from `first` on."""
    kind, run, log = KINDS[name], folder.resolve() / "run", folder.resolve() / "operations"
    shutil.rmtree(run, ignore_errors=True)
    log.unlink(missing_ok=True)
    shutil.copytree(whole, run)
    fault = Fault(str(run), str(log), first, first + kind.span - 1 if first else 0, kind.error)
    saved = server.ask("save", fault, run=run, going_on=kind.going_on, careless=careless)
    operations = fault.operations()
    step = _LATER if kind.going_on else _AFTER
    named = Operation("rename", f"/{CHECKPOINTS}/{step}.saving", hit=False)
    committed = named in operations or (kind.going_on and not (saved["value"] or {}).get("failure"))
    wrong = _badly_ended(run, kind, saved, any(one.hit for one in operations))
    looked = server.ask("look", Fault(str(run), ""), run=run, step=step, committed=committed)
    wrong += looked["value"] if looked["code"] == 0 else [f"unreadable: {looked['said'][-2000:]}"]
    return wrong, committed, operations


def _badly_ended(run: Path, kind: Kind, saved: dict[str, Any], hit: bool) -> list[str]:
    """What is wrong with how the saving process ended."""
    if isinstance(kind.error, str):
        fine = saved["code"] == DIED if hit else saved["value"] == {"failure": None, "wrong": []}
        return [] if fine else [f"exit code {saved['code']}, {saved['value']}: {saved['said']}"]
    if saved["code"] or "Traceback" in saved["said"]:
        return [f"exit code {saved['code']}: {saved['said']}"]
    wrong, failure = [], saved["value"]["failure"]
    if failure is not None:
        error, message = failure
        if error != "WriteError" or str(run) not in message or kind.reason not in message or "\n" in message:
            wrong.append(f"{error}: {message}")
        if kind.error != errno.EROFS:  # where nothing can be removed
            wrong += [f"left {path.name}" for path in run.rglob("*") if path.name.endswith((".saving", ".tmp"))]
    return wrong + saved["value"]["wrong"]


def _prepare(_: None, run: str) -> None:
    """The run as the next process finds it."""
    folder = Path(run)
    records, checkpoints = Records(folder / RECORDS), Checkpoints(folder / CHECKPOINTS, _RUN_ID)
    for step in range(1, _AFTER + 3):
        records.append("train", step, loss=1 / step)
        if step in (_OLDEST, _BEFORE, _AFTER):
            checkpoints.save(step, _state(step), best=_OLDEST, before=records.sync)
    checkpoints.close()
    (folder / CHECKPOINTS / str(_AFTER) / "digests.json").write_text("")
    with records.path.open("a") as file:
        file.write('{"event": "train", "st')
    write_json(folder / EXPERIMENT, _DESCRIBED[_BEFORE])


def _save(fault: Fault, run: str, going_on: bool, careless: bool) -> dict[str, Any]:
    """What a resumed training does up to its next checkpoint, and where it goes on, up to the one after that.

    Returns:
      The `failure` that ended it, as (error, message), or None; and what is `wrong` already.
    """
    folder, wrong = Path(run), []
    records, checkpoints = Records(folder / RECORDS), Checkpoints(folder / CHECKPOINTS, _RUN_ID)
    sync = records.sync
    if careless:
        writing.write_text = lambda path, text: path.write_text(text) and None  # type: ignore[assignment]
        sync = lambda: None  # noqa: E731

    def tolerated(write: Callable[[], None]) -> None:
        try:
            write()
        except WriteError:
            if not going_on:
                raise

    def to(step: int) -> None:
        for one in range(step - 4, step + 1):
            tolerated(lambda one=one: records.append("train", one, loss=1 / one))
        tolerated(lambda: checkpoints.save(step, _state(step), best=_BEFORE, before=sync))
        tolerated(checkpoints.wait)
        tolerated(lambda: writing.write_json(folder / EXPERIMENT, _DESCRIBED[step]))

    def forget() -> None:
        checkpoints.set_aside(newer_than=_BEFORE)
        records.rewind(_BEFORE)

    try:
        if going_on:
            forget()
            fault.arm()
            to(_AFTER)
            logged = _logged(Records(records.path)) if _AFTER in checkpoints.steps() else []
            if logged and logged != list(range(1, _AFTER + 1)):
                wrong.append(f"checkpoint {_AFTER} is there, of the steps up to it {logged} are on record")
            Fault(fault.where, "").arm()
            to(_LATER)
        else:
            fault.arm()
            forget()
            to(_AFTER)
        checkpoints.close()
    except Exception as error:
        return {"failure": (type(error).__name__, str(error)), "wrong": wrong}
    return {"failure": None, "wrong": wrong}


def _look(fault: Fault, run: str, step: int, committed: bool) -> list[str]:
    """What is wrong with the run, as it lies there and as the next start goes on with it to `step`."""
    from cracks_jax.runs import open_checkpoints

    fault.arm()  # only so that syncs are not made
    folder, wrong = Path(run), []
    records = Records(folder / RECORDS)

    def demand(holds: bool, otherwise: str) -> None:
        if not holds:
            wrong.append(otherwise)

    list(records)
    demand(read_json(folder / EXPERIMENT) in _DESCRIBED.values(), f"{EXPERIMENT} is neither the old nor the new one")
    reader = Checkpoints(folder / CHECKPOINTS, _RUN_ID, read_only=True)
    found, state = reader.newest(_state(0), lambda _: None) or (None, None)
    demand(found == (step if committed else _BEFORE), f"the newest intact checkpoint is {found}")
    demand(state_sha256(state) == state_sha256(_state(found or 0)), f"checkpoint {found} is not what was saved")

    held = contextlib.ExitStack()  # until this forked process ends
    checkpoints = open_checkpoints(folder, SimpleNamespace(run_id=_RUN_ID), held)  # type: ignore[arg-type]
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".saving", ".tmp"))]
    demand(not left, f"the next start leaves {left}")
    start = found or 0
    checkpoints.set_aside(newer_than=start)
    records.rewind(start)
    logged = _logged(records)
    demand(logged == list(range(1, start + 1)), f"of the steps up to {start} {logged} are on record")
    for one in range(start + 1, step + 1):
        records.append("train", one, loss=1 / one)
    checkpoints.save(step, _state(step), best=_BEFORE, before=records.sync)
    checkpoints.prune(_BEFORE)
    demand(_logged(records) == list(range(1, step + 1)), f"in the end {_logged(records)} are on record")
    demand(state_sha256(checkpoints.restore(step, _state(0))) == state_sha256(_state(step)), "saved again, it differs")
    names = {path.name for path in (folder / CHECKPOINTS).iterdir()}
    kept = {str(_BEFORE), str(step)}
    demand(kept <= names <= kept | {str(_AFTER)}, f"in the end there are {sorted(names)}")
    return wrong


def _state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    arrays = {"kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32), "bias": np.zeros(8, np.float32)}
    return {"network": {"params": arrays}, "step": np.asarray(step, np.int32)}


def _logged(records: Records) -> list[int]:
    return [record["step"] for record in records]


def _newest(_: None, run: str) -> int:
    from cracks_jax.runs import open_run

    return open_run(Path(run)).state("last")[0]


def _command(fault: Fault | None, words: list[str]) -> tuple[int, str, str]:
    if fault is not None:
        fault.arm()
    answer = command(*words)
    return answer.code, answer.out, answer.err


# ------------------------------------------------------------------------------------------ the long form


def long(folder: Path) -> dict[str, Any]:
    """Every operation of a save in each way; a training's in many places; every operation of each report."""
    from tests.reliability.failing_disks import Reports, Trainings

    began = time.monotonic()
    with Server(folder) as server:
        saves = measure(folder / "saves", server=server)
        trainings = Trainings(server)
        disturbed = list(trainings.cases())
        wrong = [one for case in disturbed for one in trainings.wrong(case)]
        reports = Reports(server, trainings.undisturbed).measure(("evaluate", "detect", "report"))
    operations, cases = sum(saves["operations"].values()), saves["cases"] + len(disturbed) + reports["cases"]
    found = [*saves.pop("wrong"), *wrong, *reports.pop("wrong")]
    return {
        "cases": cases,
        "saves": saves,
        "trainings": {"cases": len(disturbed)},
        "reports": reports,
        "wrong": found,
        "seconds": round(time.monotonic() - began),
        "shown": f"{saves['cases']} saves, each of about {operations} operations hit by {len(saves['by_kind'])} kinds "
        f"of fault; {len(disturbed)} trainings and {reports['cases']} reports on a failing disk: {len(found)} wrong",
    }


_WORK = {"prepare": _prepare, "save": _save, "look": _look, "newest": _newest, "command": _command}

if __name__ == "__main__":
    # All that the work needs; no jax backend may be started before the fork.
    for name in ("detect", "evaluate", "repeat", "report.make", "scores", "train"):
        importlib.import_module(f"cracks_jax.{name}")
    _serve()

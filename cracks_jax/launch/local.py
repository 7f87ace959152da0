"""A sweep on this machine: a process for each group of devices, or share of one, which takes one member after another.

Members of one process share its compiled programs. A process that is killed takes its member's work since the last
checkpoint with it and nothing else; one whose sweep is gone stops politely by itself.
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.launch.board import Board
from cracks_jax.launch.job import Job
from cracks_jax.runtime.stopping import STOPPED

_VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
# Members that may share a GPU: on an H100 two trainings of 256-px windows took 1.2 times as long as one, not twice.
SHARERS = 4
# Of a GPU's memory, for all that share it: each would otherwise take three quarters when it starts.
_SHARED_MEMORY, _FRACTION = 0.9, "XLA_PYTHON_CLIENT_MEM_FRACTION"
_FAKE = "--xla_force_host_platform_device_count"
_BEAT = 1.0


@dataclass(frozen=True)
class Devices:
    """What this machine has: the platform's name and how many devices."""

    platform: str
    count: int


def find_devices() -> Devices:
    """Asked in a process of its own, as who asks an accelerator holds its memory; unless jax is told to use none."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        given = re.search(rf"{_FAKE}=(\d+)", os.environ.get("XLA_FLAGS", ""))
        return Devices("cpu", int(given[1]) if given else 1)
    code = "import jax, json; print(json.dumps([jax.default_backend(), jax.local_device_count()]))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    try:
        platform, count = json.loads(asked.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        reason = (asked.stderr.strip().splitlines() or ["no word"])[-1]
        raise CracksError(f"jax finds no device: {reason}") from error
    return Devices(platform, count)


def check_jobs(jobs: int | None, devices: Devices) -> int:
    """How many members at a time: one for each device, or as many as were asked for.

    Raises:
      UsageError: more than cores, than TPU chips, or than SHARERS for each GPU.
    """
    if jobs is None:
        return devices.count
    most, need = devices.count, f"one of the {devices.count} devices here"
    if devices.platform == "cpu":  # its cores can be divided
        most = max(most, len(os.sched_getaffinity(0)))
        need = f"one of the {most} cores here" if most > devices.count else need
    elif devices.platform != "tpu":
        most, need = SHARERS * devices.count, f"a share of one of the {devices.count} GPUs here, {SHARERS} of each"
    if not 1 <= jobs <= most:
        raise UsageError(f"--jobs {jobs}: each member at a time needs {need}; give 1 to {most}")
    return jobs


def environment(worker: int, workers: int, devices: Devices) -> dict[str, str]:
    """The variables that show a process its share of the devices."""
    share = max(1, devices.count // workers)
    if devices.platform == "cpu":
        others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_FAKE)]
        return {"XLA_FLAGS": " ".join([*others, f"{_FAKE}={share}"])}
    variable = _VISIBLE.get(devices.platform, _VISIBLE["gpu"])
    given = os.environ.get(variable, "")
    names = given.split(",") if given else [str(number) for number in range(devices.count)]
    first = worker * share % devices.count
    chosen = {variable: ",".join(names[first : first + share])}
    if workers > devices.count and _FRACTION not in os.environ:
        chosen[_FRACTION] = f"{_SHARED_MEMORY / -(-workers // devices.count):.3f}"
    if devices.platform == "tpu":  # each process is a slice of its own
        chosen |= {"TPU_CHIPS_PER_PROCESS_BOUNDS": f"1,{share},1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return chosen


def cores(worker: int, workers: int) -> set[int]:
    """A process's share of the cores that this one may use; all of them where there are fewer than processes."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < workers:
        return set(mine)
    first, end = (number * len(mine) // workers for number in (worker, worker + 1))
    return set(mine[first:end])


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    number: int
    job: Job | None = None
    told: bool = False


def run_locally(
    jobs: Sequence[Job], at_once: int, devices: Devices, logs: Path, board: Board
) -> dict[str, dict[str, Any]]:
    """Does every job, `at_once` at a time; id -> `state` (done, failed, stopped), `words`, `seconds` by part.

    After SIGTERM or SIGINT the members under way save and stop, and no other is begun.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, found = list(jobs), dict[str, dict[str, Any]]()
    with asked_to_stop() as stop:
        workers = [_start(number, at_once, devices, logs) for number in range(min(at_once, len(jobs)))]
        for worker in workers:
            _give(worker, waiting, board)
        while busy := [worker for worker in workers if worker.job is not None]:
            ready = wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)], _BEAT)
            if stop.is_set():
                waiting.clear()
                for worker in busy:
                    _tell_to_stop(worker)
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    assert worker.job is not None
                    outcome = _outcome(worker)
                    found[worker.job.id] = outcome
                    board.set(worker.job.id, outcome["state"], outcome["words"])
                    worker.job = None
                    if not worker.process.is_alive() and waiting:
                        workers[worker.number] = worker = _start(worker.number, at_once, devices, logs)
                    _give(worker, waiting, board)
            board.beat()
        for worker in workers:
            worker.pipe.close()
            worker.process.join()
    return found


def _start(number: int, workers: int, devices: Devices, logs: Path) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    mine = cores(number, workers) if devices.platform == "cpu" else None
    process = context.Process(target=_work, args=(there, logs, mine), name=f"sweep-{number}")
    # A process that leaves at once leaves its semaphores to the tracker, which removes them and need not say so.
    quiet = {"PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker")))}
    with _variables(environment(number, workers, devices) | quiet):
        process.start()
    there.close()
    return _Worker(process, here, number)


def _give(worker: _Worker, waiting: list[Job], board: Board) -> None:
    if waiting:
        worker.job = waiting.pop(0)
        board.set(worker.job.id, "training")
        try:
            worker.pipe.send(worker.job)
        except OSError:
            pass  # it has ended: its sentinel says so


def _tell_to_stop(worker: _Worker) -> None:
    if not worker.told:  # a second time would mean: at once
        worker.told = True
        os.kill(worker.process.pid, signal.SIGTERM)


def _outcome(worker: _Worker) -> dict[str, Any]:
    try:
        if worker.pipe.poll():
            return dict(worker.pipe.recv())
    except (EOFError, OSError):
        pass
    worker.process.join()
    code = worker.process.exitcode
    if code == STOPPED:
        return {"state": "stopped", "words": "", "seconds": {}}
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    memory = " (out of memory?)" if code == -signal.SIGKILL else ""
    words = f"its process {how}{memory}; run the sweep again to go on from its last checkpoint"
    return {"state": "failed", "words": words, "seconds": {}}


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT inside."""
    stop, before = threading.Event(), {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a process that is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------------------------ in the other process


def _work(pipe: Connection, logs: Path, mine: set[int] | None) -> None:
    """Takes jobs from the pipe until it is closed; answers each with its outcome."""
    os.setsid()  # a terminal's Ctrl-C reaches the sweep alone, which passes it on once
    if mine is not None:
        os.sched_setaffinity(0, mine)
    # While a member is trained, training hears signals itself; what else it does is begun anew another time.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(STOPPED))
    _stop_with_parent()
    from cracks_jax.launch.job import do
    from cracks_jax.runtime.compilation import keep_compiled
    from cracks_jax.runtime.memory import keep_freed_memory
    from cracks_jax.train import Stopped

    keep_freed_memory()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        with _log(logs / f"{job.id}.log"):
            keep_compiled(job.experiment.machine.compilation_cache)
            answer: dict[str, Any] = {"state": "done", "words": "", "seconds": {}}
            try:
                answer["seconds"] = do(job, _say)
            except Stopped:
                answer["state"] = "stopped"
            except (CracksError, OSError, MemoryError) as error:
                answer |= {"state": "failed", "words": str(error) or type(error).__name__}
                _say(answer["words"])
            except Exception as error:
                import traceback

                traceback.print_exc()
                answer |= {"state": "failed", "words": f"{type(error).__name__}: {error} (see logs/{job.id}.log)"}
        pipe.send(answer)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _log(path: Path) -> Iterator[None]:
    """What this process prints goes to a file."""
    with path.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    yield
    sys.stdout.flush()
    sys.stderr.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

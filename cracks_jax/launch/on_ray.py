"""A sweep on a Ray cluster: each member is a task with its share of a machine, tried again where a worker is lost.

The cluster is the one that $RAY_ADDRESS names, or the one that runs on this machine; where there is none, one is
started here and ended with the sweep. The sweep's folder must lie on a disk that every machine sees: a task that is
tried elsewhere goes on from the member's last checkpoint there. Needs `pip install 'cracks-jax[ray]'`.
"""

import dataclasses
import fcntl
import logging
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cracks_jax import __version__
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.launch.board import Board
from cracks_jax.launch.job import Job, do
from cracks_jax.launch.local import asked_to_stop
from cracks_jax.surroundings import cores

# How often a member whose worker was lost is tried again.
RETRIES = 3
LOGS = "logs"
# What a worker has to be told: where this machine looks for data and pretrained files.
PASSED_ON = ("CRACKS_DATA", "CRACKS_WEIGHTS")
_BEAT = 1.0
_PATIENCE = 10.0
_TOKEN = ".seen-by-all"
# Nothing but settings and outcomes travels through Ray; by default it would take a third of the memory.
_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Share:
    """What a member takes of the cluster.

    Attributes:
      options: of the task, as `ray.remote` has them.
      at_once: as many members at a time; None for as many as find room.
      threads: cores of its machine that a member is kept to; None for all.
    """

    options: dict[str, Any]
    at_once: int | None = None
    threads: int | None = None


def share(machines: Sequence[Mapping[str, float]], at_once: int | None) -> Share:
    """One accelerator for a member, or a machine's processors where there is none; with `at_once` as much as that lets.

    Args:
      machines: each one's resources, as Ray names them (CPU, GPU, TPU).

    Raises:
      UsageError: more members at a time than there are accelerators, or none.
    """
    if at_once is not None and at_once < 1:
        raise UsageError(f"--jobs {at_once}: give 1 or more, or leave it out")
    for kind in ("GPU", "TPU"):
        counts = [int(machine.get(kind, 0)) for machine in machines]
        if any(counts):
            if at_once is not None and at_once > sum(counts):
                raise UsageError(f"--jobs {at_once}: the cluster has {sum(counts)} {kind}s; give 1 to {sum(counts)}")
            each = 1 if at_once is None else _largest(counts, at_once)
            wanted = {"num_gpus": each} if kind == "GPU" else {"resources": {"TPU": each}}
            # A process holds the accelerators that it first saw, so the next member gets another process.
            return Share({**wanted, "num_cpus": 1, "max_calls": 1}, at_once)
    counts = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    each = _largest(counts, at_once) if at_once is not None else min(counts, default=1)
    return Share({"num_cpus": each}, at_once, each)


def _largest(counts: Sequence[int], parts: int) -> int:
    """The largest share of which the machines hold `parts`; 1 where they do not hold so many."""
    sizes = range(max(counts, default=1), 0, -1)
    return next((size for size in sizes if sum(count // size for count in counts) >= parts), 1)


def run_on_ray(jobs: Sequence[Job], at_once: int | None, out: Path, board: Board) -> dict[str, dict[str, Any]]:
    """Does every job on the cluster; id -> `state` (done, failed, stopped), `words`, `seconds` by part.

    What members say goes to OUT/logs/<member>.log, what Ray says to OUT/logs/ray.log. After SIGTERM or SIGINT the
    members under way save and stop, and no other is begun.

    Raises:
      UsageError: Ray is not installed, or `at_once` is more than the cluster has.
      CracksError: there is no cluster at $RAY_ADDRESS.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray: pip install 'cracks-jax[ray]', or leave --launcher out") from error
    logs = out.absolute() / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    # Ray puts a handler of its own in the place of ours when it starts, hence twice.
    with _apart(logs / "ray.log"), asked_to_stop() as early, _cluster(ray), asked_to_stop() as stop:
        if early.is_set():
            stop.set()
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with _seen_by_all(out.absolute()) as token:
            return _Sweep(ray, share(machines, at_once), logs, token, board).run(jobs, stop)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Connected with a cluster; one that was begun here is ended here."""
    if ray.is_initialized():
        yield
        return
    # Whoever starts a sweep has not been asked whether his use of Ray may be reported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "auto"
    _check(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        if address == "local" or not _joined(ray, address, quiet):
            ray.init("local", num_cpus=cores(), include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        yield
    finally:
        ray.shutdown()


def _joined(ray: Any, address: str, quiet: dict[str, Any]) -> bool:
    """Whether there was a cluster to connect with; where one was named there has to be."""
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        if address != "auto":
            raise _no_cluster(address, error) from error
        print("no Ray cluster is named by RAY_ADDRESS or runs here: one of this machine alone is started",
              file=sys.stderr, flush=True)  # fmt: skip
        return False
    return True


def _check(address: str) -> None:
    """Whether somebody listens there: Ray itself would try for five minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> CracksError:
    return CracksError(
        f"RAY_ADDRESS={address}: there is no Ray cluster ({(str(error).splitlines() or ['no answer'])[0]}); start one "
        "with `ray start --head`, or leave the variable out to use this machine alone"
    )


@contextmanager
def _apart(log: Path) -> Iterator[None]:
    """What Ray says of itself goes to a file: standard output belongs to the table."""
    logger = logging.getLogger("ray")
    before = logger.handlers[:], logger.propagate
    with log.open("a") as file, redirect_stdout(file):
        logger.handlers, logger.propagate = [logging.StreamHandler(file)], False
        try:
            yield
        finally:
            logger.handlers, logger.propagate = before


@contextmanager
def _seen_by_all(out: Path) -> Iterator[tuple[Path, str]]:
    """A file in the sweep's folder, and what it says: a worker that reads something else has another folder there."""
    path, text = out / _TOKEN, uuid.uuid4().hex
    path.write_text(text)
    try:
        yield path, text
    finally:
        with suppress(OSError):
            path.unlink()


class _Sweep:
    """The driver's side: which members wait, which are tasks, and what came of the others."""

    def __init__(self, ray: Any, taken: Share, logs: Path, token: tuple[Path, str], board: Board):
        self._ray, self._share, self._board = ray, taken, board
        variables = {name: str(Path(os.environ[name]).absolute()) for name in PASSED_ON if os.environ.get(name)}
        self._there = _There(Path.cwd(), token, logs, variables, taken.threads)
        # Not tried again by Ray itself: what happens to a member is said.
        self._remote = ray.remote(**taken.options, max_retries=0)(_task)
        self._waiting: list[Job] = []
        self._under_way: dict[Any, Job] = {}
        self._log_before: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._found: dict[str, dict[str, Any]] = {}

    def run(self, jobs: Sequence[Job], stop: Any) -> dict[str, dict[str, Any]]:
        self._waiting, told = list(jobs), False
        while True:
            if stop.is_set() and not told:
                told = True
                self._stop()
            while self._waiting and (self._share.at_once is None or len(self._under_way) < self._share.at_once):
                self._begin(self._waiting.pop(0))
            if not self._under_way:
                return self._found
            ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=_BEAT)
            for task in ready:
                self._end(self._under_way.pop(task), self._outcome(task), told)
            self._look_who_began()
            self._board.beat()

    def _begin(self, job: Job) -> None:
        self._log_before[job.id] = _size(self._there.log(job))
        there = dataclasses.replace(job, folder=job.folder.absolute())
        self._under_way[self._remote.remote(there, self._there)] = job

    def _look_who_began(self) -> None:
        """A task may wait for room for hours; one that was begun has written to its log."""
        for job in self._under_way.values():
            if job.id in self._log_before and _size(self._there.log(job)) > self._log_before[job.id]:
                del self._log_before[job.id]
                self._board.set(job.id, "training")

    def _end(self, job: Job, outcome: dict[str, Any], told: bool) -> None:
        if outcome["state"] in ("lost", "stopped"):
            if told:
                outcome |= {"state": "stopped", "words": ""}
            elif self._lost.get(job.id, 0) < RETRIES:
                tries = self._lost[job.id] = self._lost.get(job.id, 0) + 1
                why = outcome["words"] or "told to stop"
                self._board.set(job.id, "waiting", f"its worker was lost ({why}); tried again, {tries} of {RETRIES}")
                self._waiting.insert(0, job)
                return
            else:
                words = f"its worker was lost {RETRIES + 1} times ({outcome['words'] or 'told to stop'}); run the sweep"
                outcome |= {"state": "failed", "words": f"{words} again to go on from its last checkpoint"}
        self._found[job.id] = outcome
        self._board.set(job.id, outcome["state"], outcome["words"])

    def _stop(self) -> None:
        """Interrupts what is under way, which training takes for a polite stop; it is waited for until it has saved."""
        for job in self._waiting:
            self._found[job.id] = {"state": "stopped", "words": "", "seconds": {}}
        self._waiting.clear()
        for task in self._under_way:
            self._ray.cancel(task)

    def _outcome(self, task: Any) -> dict[str, Any]:
        """What a task gave; `lost` where it gave nothing because its process or machine has gone."""
        errors = self._ray.exceptions
        try:
            return dict(self._ray.get(task))
        except errors.TaskCancelledError:
            return {"state": "stopped", "words": "", "seconds": {}}
        except (errors.RayTaskError, errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
            words = f"{_last_line(error)}; is cracks-jax {__version__} installed on the workers?"
            return {"state": "failed", "words": words, "seconds": {}}
        except errors.OutOfMemoryError:
            return {"state": "lost", "words": "its machine ran out of memory", "seconds": {}}
        except errors.RayError as error:
            return {"state": "lost", "words": type(error).__name__, "seconds": {}}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


# ------------------------------------------------------------------------------------ on the other machine


@dataclass(frozen=True)
class _There:
    """What a task has to know.

    Attributes:
      folder: where the sweep was started.
      token: a file in the sweep's folder, and what it says.
      variables: of the environment.
      threads: as many cores, and so threads of XLA, as the member takes of its machine; None for all.
    """

    folder: Path
    token: tuple[Path, str]
    logs: Path
    variables: dict[str, str]
    threads: int | None = None
    version: str = __version__

    def log(self, job: Job) -> Path:
        return self.logs / f"{job.id}.log"

    def enter(self) -> None:
        """Makes this process see what the one that started the sweep sees.

        Raises:
          CracksError: it does not.
        """
        if self.version != __version__:
            raise CracksError(f"a worker has cracks-jax {__version__}, the sweep {self.version}; install one of them")
        path, text = self.token
        with suppress(OSError):
            if path.read_text() == text:
                os.environ.update(self.variables)
                os.chdir(self.folder)  # data and caches may be named from where the sweep was started
                if self.threads is not None:
                    _keep_to_cores(self.threads)
                return
        unseen = self.folder if path.is_file() and not self.folder.is_dir() else path.parent
        raise CracksError(
            f"{unseen}: a machine of the cluster does not see this folder; start the sweep from a disk that all of "
            "them share, and give --out there"
        )


# The part of its machine's cores that this process has, as a locked file: free again when the process has ended.
_part: list[IO[str]] = []


def _keep_to_cores(count: int) -> None:
    """Keeps this process to so many cores of its machine, which no other member's has while there are enough.

    To be called before jax looks for devices: XLA then takes as many threads, and records say so.
    """
    if _part or not hasattr(os, "sched_setaffinity"):
        return
    mine = sorted(os.sched_getaffinity(0))
    parts = [mine[first : first + count] for first in range(0, len(mine) - count + 1, count)]
    for part in parts:
        name = f"cracks-jax-{os.getuid()}-cores-{part[0]}-{part[-1]}.lock"
        lock = (Path(tempfile.gettempdir()) / name).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            _part.append(lock)
            os.sched_setaffinity(0, part)
            return
    if parts:
        os.sched_setaffinity(0, parts[os.getpid() % len(parts)])


def _task(job: Job, there: _There) -> dict[str, Any]:
    """Does a job on a worker; `state`, `words` and `seconds` of it."""
    from cracks_jax.runtime.compilation import keep_compiled
    from cracks_jax.runtime.memory import keep_freed_memory
    from cracks_jax.train import Stopped

    answer: dict[str, Any] = {"state": "done", "words": "", "seconds": {}}
    try:
        there.enter()
        with _logged(there.log(job)):
            try:
                _say(f"{job.id}: process {os.getpid()}")
                keep_freed_memory()
                keep_compiled(job.experiment.machine.compilation_cache)
                answer["seconds"] = do(job, _say)
            except Stopped:
                raise
            except (CracksError, OSError, MemoryError) as error:
                _say(str(error) or type(error).__name__)
                raise
            except Exception as error:
                import traceback

                traceback.print_exc()
                raise CracksError(f"{type(error).__name__}: {error} (see {LOGS}/{job.id}.log)") from error
    except (Stopped, KeyboardInterrupt):
        answer["state"] = "stopped"
    except (CracksError, OSError, MemoryError) as error:
        answer |= {"state": "failed", "words": str(error) or type(error).__name__}
    return answer


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What this process prints goes to a file, until the task ends: the next one has its own."""
    before = [(stream, os.dup(stream)) for stream in (1, 2)]
    try:
        with path.open("ab") as file:
            for stream, _ in before:
                os.dup2(file.fileno(), stream)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, kept in before:
            os.dup2(kept, stream)
            os.close(kept)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

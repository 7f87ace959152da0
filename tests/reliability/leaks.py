"""What a training keeps that it should give back: memory while it runs, processes and shared memory once it has ended.

Linux only: all of it is read from /proc and /dev/shm. A training's processes are those of its session, whoever their
parent is by now.
"""

import json
import os
import random
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.reliability.stops import STOPPED, Bench, Training, state_of

_SHARED = Path("/dev/shm")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_EVERY = 0.25  # seconds from one sample of memory to the next
MOST_MB = 50.0
WITHIN = 10.0  # seconds after a training's end
_WARM, _LAST = (0.2, 0.3), (0.9, 1.0)  # parts of the training whose medians are compared
WAYS: dict[str, tuple[signal.Signals, ...]] = {
    "killed": (signal.SIGKILL,),
    "stopped": (signal.SIGTERM,),
    "stopped, twice": (signal.SIGTERM, signal.SIGINT),
}


# ------------------------------------------------------------------------------------------------ memory


@dataclass(frozen=True)
class Sample:
    """MB (2**20 bytes) that are resident after a step, and what else a process can hoard."""

    step: int
    trainer: float
    workers: float
    files: int
    threads: int


def measure(folder: Path, steps: int, workers: int = 2, *, quick: bool = False) -> dict[str, Any]:
    """Trains and watches the memory: how much more it is at the end than after warming up, and some of the curve."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = (f"training.steps={steps}", "training.validate_every=100", "training.batch_size=4",
                "machine.checkpoint_every=20", f"machine.workers={workers}")  # fmt: skip
    began = time.monotonic()
    with Bench(folder, quick).start("restoration", folder / "watched", *settings) as training:
        samples = watch(training.process, training.run / "records.jsonl")
        code = training.wait()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {training.said[-2000:]}")
    more = growth(samples, steps)
    return {
        "steps": steps,
        "workers": workers,
        "seconds": round(time.monotonic() - began),
        "samples": len(samples),
        "growth_mb": more,
        "curve": [vars(one) for one in _some(samples, 12)],
        "wrong": [f"{more['all']} MB more"] if more["all"] >= MOST_MB else [],
        "shown": f"{more['all']} MB more after {steps} steps than after warming up (trainer {more['trainer']}, "
        f"{workers} workers {more['workers']})",
    }


def watch(process: Popen, records: Path, every: float = _EVERY) -> list[Sample]:
    """Samples from the first step on record to the end of the process, which leads a session."""
    samples = []
    while process.poll() is None:
        step = _last_step(records)
        found = processes(process.pid)
        if step and process.pid in found:
            resident = {pid: _resident(pid) for pid in found}
            trainer = resident.pop(process.pid)
            files, threads = (_entries(process.pid, name) for name in ("fd", "task"))
            samples.append(Sample(step, round(trainer, 1), round(sum(resident.values()), 1), files, threads))
        time.sleep(every)
    return samples


def growth(samples: Sequence[Sample], steps: int) -> dict[str, float]:
    """Median of the last part less that of the part right after warming up, in MB; of the trainer and of the rest."""

    def median(part: tuple[float, float], name: str) -> float:
        return statistics.median(getattr(s, name) for s in samples if part[0] * steps <= s.step <= part[1] * steps)

    found = {name: round(median(_LAST, name) - median(_WARM, name), 1) for name in ("trainer", "workers")}
    return {**found, "all": round(sum(found.values()), 1)}


def _some(samples: Sequence[Sample], count: int) -> list[Sample]:
    places = {round(i * (len(samples) - 1) / (count - 1)) for i in range(count)}
    return [samples[place] for place in sorted(places)]


def _last_step(records: Path) -> int:
    try:
        with records.open("rb") as file:
            file.seek(max(0, records.stat().st_size - 2**14))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
    except OSError:
        return 0.0


def _entries(pid: int, name: str) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/{name}"))
    except OSError:
        return 0


# ----------------------------------------------------------------------------------------------- orphans


def orphans(
    folder: Path, kills: int, *, ways: Sequence[str] = tuple(WAYS), within: float = WITHIN, quick: bool = False
) -> dict[str, Any]:
    """Ends trainings with two workers in each of the ways, so many times, at random moments; returns what went wrong.

    Args:
      within: seconds after which nothing may be left.
      quick: compile without most optimisations.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, quick)
    settings = ("training.steps=100000", "training.validate_every=40", "training.batch_size=4",
                "machine.checkpoint_every=5", "machine.workers=2")  # fmt: skip
    found: dict[str, Any] = {}
    wrong: list[dict[str, Any]] = []
    for way in ways:
        seen, seconds = 0, []
        for number in range(kills):
            rng = random.Random(f"{way} {number}")
            before = shared()
            with bench.start("restoration", folder / "ended", *settings) as training:
                _until_a_random_moment(training, rng)
                had = processes(training.process.pid)
                for one in WAYS[way]:
                    training.process.send_signal(one)
                code = training.wait()
            gone, left = left_behind(training.process.pid, before, within)
            seen, seconds = seen + len(had), [*seconds, gone]
            faults = [f"left: {left}"] if left else []
            if code != (-signal.SIGKILL if way == "killed" else STOPPED):
                faults.append(f"exit code {code}: {training.said[-400:]}")
            if "Traceback" in training.said or "Warning" in training.said:
                faults.append(f"more than a line: {training.said[-1000:]}")
            wrong += [{"way": way, "number": number, "fault": fault} for fault in faults]
        found[way] = {
            "ended": kills,
            "processes": seen,
            "gone_s": {"median": round(statistics.median(seconds), 2), "worst": round(max(seconds), 2)},
        }
    worst = max(one["gone_s"]["worst"] for one in found.values())
    total = {name: sum(one[name] for one in found.values()) for name in ("ended", "processes")}
    return {
        "by_way": found,
        "wrong": wrong,
        "shown": f"{total['ended']} trainings with 2 workers {', '.join(found)} at random moments: all of "
        f"{total['processes']} processes and all shared memory gone within {worst:.1f} s; {len(wrong)} faults",
    }


def _until_a_random_moment(training: Training, rng: random.Random) -> None:
    """A moment from the workers' start to some steps later."""
    steps, delay = training.taken + rng.choice((0, 0, 1, 4, 9)), rng.uniform(0, 0.7)
    while training.process.poll() is None:
        workers = sum("spawn_main" in command for command in processes(training.process.pid).values())
        if workers == 2 and training.taken >= steps:
            break
        time.sleep(0.02)
    time.sleep(delay)


def left_behind(session: int, shared_before: set[str], within: float = WITHIN) -> tuple[float, list[str]]:
    """(seconds until all is gone, what is left after `within` seconds); what is left is ended."""
    began = time.monotonic()
    while True:
        living = processes(session)
        left = [*living.values(), *(() if living else _unowned(shared_before))]
        waited = time.monotonic() - began
        if not left or waited > within:
            break
        time.sleep(0.05)
    for pid, command in living.items():
        if "resource_tracker" not in command:  # it goes after the others, and tidies up
            os.kill(pid, signal.SIGKILL)
    return waited, left


def processes(session: int) -> dict[int, str]:
    """Process -> command line of all that live in a session."""
    found = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if os.getsid(pid) == session and state_of(pid) not in "ZX":
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # ended meanwhile
            continue
    return found


def shared() -> set[str]:
    """Names in /dev/shm that belong to this user."""
    return {path.name for path in _SHARED.iterdir() if _ours(path)}


def _unowned(before: set[str]) -> list[str]:
    """What is new in /dev/shm, and no process has mapped: what other trainings use at this time is not meant."""
    new = shared() - before
    return sorted(new - _mapped()) if new else []


def _ours(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _mapped() -> set[str]:
    """Names in /dev/shm that some process has in its memory."""
    names = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        except OSError:
            continue
        names |= {line.split(f"{_SHARED}/", 1)[1] for line in lines if f"{_SHARED}/" in line}
    return names

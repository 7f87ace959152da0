"""A sweep's progress: a live table on a terminal, one line an event elsewhere.

How far a member is comes from its run directory, so that it is seen wherever the member is trained.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cracks_jax.errors import shown
from cracks_jax.launch.job import Job
from cracks_jax.runs import RECORDS

# Bytes at the end of a log that surely hold its last line.
_TAIL = 16_384
# Seconds between two lines about the whole where there is no terminal.
_QUIET = 60.0


class Board:
    """The state of every job of a sweep, shown on standard error.

    As a context manager it shows; `beat` is called about once a second.
    """

    def __init__(self, jobs: Sequence[Job]):
        self._jobs = {job.id: job for job in jobs}
        self._state = {job.id: "done" if job.done else "waiting" for job in jobs}
        self._words: dict[str, str] = {}
        self._began = time.monotonic()
        self._last_line = self._began
        self._steps_then = {job.id: self._step(job) for job in jobs}
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(self._summary(), markup=False)
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def set(self, job_id: str, state: str, words: str = "") -> None:
        """`state`: waiting, training, done, failed or stopped; `words`: why, or what came out."""
        self._state[job_id], self._words[job_id] = state, words
        self._console.print(shown(f"{job_id}: {state}{': ' if words else ''}{words}"), markup=False)
        self.beat()

    def beat(self) -> None:
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)
        elif time.monotonic() - self._last_line > _QUIET:
            self._last_line = time.monotonic()
            self._console.print(self._summary(), markup=False)

    def _table(self) -> Table:
        table = Table(title=self._summary(), title_justify="left", box=None, header_style="none")
        for name, side in (("member", "left"), ("state", "left"), ("step", "right"), ("", "left")):
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        for job_id, job in self._jobs.items():
            steps, words = job.experiment.training.steps, self._words.get(job_id, "")
            table.add_row(job_id, self._state[job_id], f"{self._step(job):,}/{steps:,}", shown(words))
        return table

    def _summary(self) -> str:
        states = list(self._state.values())
        parts = [f"{states.count(name)} {name}" for name in ("done", "training", "waiting", "failed", "stopped")
                 if name in states]  # fmt: skip
        left = self.seconds_left()
        return f"{len(states)} members: {', '.join(parts)}" + ("" if left is None else f"; about {_span(left)} left")

    def seconds_left(self) -> float | None:
        """From the steps still to take and the steps taken since this start, scoring and compiling in proportion."""
        open_jobs = [job for job in self._jobs.values() if self._state[job.id] in ("waiting", "training")]
        steps = {job.id: self._step(job) for job in self._jobs.values()}
        taken = sum(max(0, step - self._steps_then[name]) for name, step in steps.items())
        to_take = sum(max(0, job.experiment.training.steps - steps[job.id]) for job in open_jobs)
        return (time.monotonic() - self._began) * to_take / taken if taken else None

    def _step(self, job: Job) -> int:
        return job.experiment.training.steps if job.trained else last_step(job.folder / RECORDS)


def last_step(records: Path) -> int:
    """The step of a log's last whole line; 0 where there is none."""
    try:
        with records.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # the line that is being written, or half of one
    return 0


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"

"""What is looked at after each training step: whether its numbers are finite, the log, and the progress bar."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cracks_jax.errors import CracksError
from cracks_jax.experiment import Experiment
from cracks_jax.methods.guard import FINITE, names_of
from cracks_jax.runtime.records import Records, write_json

NAN_REPORT = "nan_report.json"
SKIPPED = "skipped"


class NotFinite(CracksError):
    """A step made numbers that are not finite; the state is what it was before.

    Attributes:
      step: which step, from 1.
      arrays: '/'-joined paths of the state's arrays that it would have spoilt.
      terms: the loss terms of that step.
      records: the record numbers of its batch.
    """

    def __init__(self, step: int, arrays: Sequence[str], terms: dict[str, float], records: Sequence[int]):
        self.step, self.arrays, self.terms, self.records = step, list(arrays), terms, list(records)
        bad = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
        found = ", ".join(bad) or f"{len(self.arrays)} arrays, the first {self.arrays[0]}"
        super().__init__(
            f"step {step}: not finite: {found}; the state before it is saved, and {NAN_REPORT} names the step's "
            "records, loss terms and arrays. Lower training.learning_rate, look at those images, or train anew with "
            "--set training.skip_non_finite=N to leave up to N such steps out"
        )


@dataclass
class _Taken:
    """A step that was taken and not looked at yet."""

    step: int
    metrics: dict[str, Any]
    records: np.ndarray
    state: Any  # for the names of its arrays alone: the arrays may be gone


class Watch:
    """Looks at each step once, one step late, so that looking costs an accelerator no time.

    Args:
      write: calls what writes a record; it may let a failed disk pass.
    """

    def __init__(
        self,
        experiment: Experiment,
        records: Records,
        steps_per_epoch: float,
        bar: tqdm,
        write: Callable[[Callable[[], None]], None],
    ):
        self._experiment, self._records, self._bar, self._write = experiment, records, bar, write
        self._steps_per_epoch = steps_per_epoch
        self._last: _Taken | None = None
        self.skipped = sum(record["event"] == SKIPPED for record in records)

    def soon(self, step: int, metrics: dict[str, Any], numbers: np.ndarray, state: Any) -> None:
        """Remembers this step and looks at the one before."""
        before, self._last = self._last, _Taken(step, metrics, numbers, state)
        if before is not None:
            self._look(before)

    def now(self) -> None:
        """Looks at the last step; returns once it has been computed.

        Raises:
          NotFinite: it made numbers that are not finite, and no more steps may be skipped.
        """
        last, self._last = self._last, None
        if last is not None:
            self._look(last)

    def _look(self, taken: _Taken) -> None:
        values = jax.device_get(taken.metrics)
        finite = np.asarray(values.pop(FINITE))
        terms = {name: float(value) for name, value in values.items()}
        step = taken.step
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix(loss=f"{terms['loss']:.4g}", refresh=False)
        if not finite.all():
            names = names_of(taken.state, taken.metrics)
            bad = [name for name, fine in zip(names, finite, strict=True) if not fine and name not in terms]
            self._bad_step(NotFinite(step, bad, terms, [int(number) for number in taken.records]))
        elif step % self._experiment.machine.log_every == 0 or step == self._experiment.training.steps:
            rounded = {name: round(value, 6) for name, value in terms.items()}
            epoch = math.floor(step / self._steps_per_epoch)
            self._write(lambda: self._records.append("train", step, epoch=epoch, **rounded))

    def _bad_step(self, found: NotFinite) -> None:
        self.skipped += 1
        limit = self._experiment.training.skip_non_finite
        if self.skipped > limit:
            raise found
        what = _described(found)
        self._write(lambda: self._records.append(SKIPPED, found.step, **what))
        if not self._bar.disable:
            said = f"step {found.step}: not finite, skipped ({self.skipped} of at most {limit})"
            self._bar.write(said, file=sys.stderr)


def report_not_finite(folder: Path, found: NotFinite, stems: Sequence[str]) -> None:
    """Writes nan_report.json; `stems` are the names of the batch's images."""
    write_json(folder / NAN_REPORT, {"step": found.step, "images": list(stems), **_described(found)})


def _described(found: NotFinite) -> dict[str, Any]:
    terms = {name: value if math.isfinite(value) else str(value) for name, value in found.terms.items()}
    return {"records": found.records, "loss_terms": terms, "arrays": found.arrays}


def progress(start: int, steps: int, shown: bool = True) -> tqdm:
    """Steps done, rate and time left, on standard error; rarely where that is a file."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=steps, initial=start, unit="step", mininterval=0.5 if interactive else 15, file=sys.stderr,
        dynamic_ncols=interactive, desc="training", disable=not shown,
    )

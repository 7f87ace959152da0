"""One member of a sweep as a job: train it where it is not trained, score it where it is not scored.

A job can be sent to another process or machine that sees the same folders. Done again it does only what is missing.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cracks_jax.data.datasets import open_dataset, parse_spec
from cracks_jax.experiment import Experiment
from cracks_jax.runs import METRICS
from cracks_jax.runtime.memory import give_back_freed_memory
from cracks_jax.runtime.records import read_json
from cracks_jax.scores import file_name, keep_scores
from cracks_jax.scoring import Request
from cracks_jax.train import train

SCORES = "scores"
# What a sweep notes of each of its starts, in its folder.
SWEEP = "sweep.json"
Outcome = Literal["done", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """A member: what is trained, where, and on what it is scored.

    Attributes:
      id: the member's name, with the seed where there are several.
      folder: its run directory.
      tests: labelled data, NAME_OR_PATH[:SPLIT].
      detection: fields of a `Request` (preset, rule, geometry, tile, settings, calibration): how it is scored.
    """

    id: str
    experiment: Experiment
    folder: Path
    tests: tuple[str, ...] = ()
    detection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> Request:
        return Request(run=self.folder, **self.detection)

    @property
    def trained(self) -> bool:
        metrics = self.folder / METRICS
        return metrics.is_file() and read_json(metrics).get("run_id") == self.experiment.run_id

    @property
    def missing_scores(self) -> tuple[str, ...]:
        return tuple(spec for spec in self.tests if not self.score_path(spec).is_file())

    @property
    def done(self) -> bool:
        return self.trained and not self.missing_scores

    def score_path(self, spec: str) -> Path:
        return self.folder / SCORES / file_name(self.request, spec)


def do(job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains and scores what is missing; `seconds` by part of what was done now.

    Raises:
      CracksError: the member cannot be trained or scored; what it has on disk stays.
      Stopped: a signal came; the same job goes on from its last checkpoint.
    """
    began = time.monotonic()
    try:
        if not job.trained:
            train(job.experiment, job.folder)
            give_back_freed_memory()
        trained = time.monotonic()
        for spec in job.missing_scores:
            dataset = open_dataset(*parse_spec(spec), need_masks=True)
            keep_scores(job.request, (job.request.rule,), dataset, spec, job.folder / SCORES, say)
    finally:
        give_back_freed_memory()
    return {"train": round(trained - began, 2), "score": round(time.monotonic() - trained, 2)}

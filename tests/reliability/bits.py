"""The same training again, however it is interrupted and whatever feeds it: the same bits.

All in one process, so that a training takes a second; signals are real and sent between two steps.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cracks_jax import train as story
from cracks_jax.data.pipeline import batches
from cracks_jax.experiment import Experiment
from cracks_jax.train import Stopped, train
from cracks_jax.training_data import open_training_data
from tests import tiny

KINDS = ("restoration", "segmentation")


def measure(folder: Path, steps: int = 12) -> dict[str, Any]:
    """What was compared and what was not equal, for both methods."""
    found: dict[str, Any] = {"steps": steps, "trainings": 0, "wrong": []}
    for kind in KINDS:
        experiment = _experiment(folder / "cache", kind, steps)
        digest = train(experiment, folder / kind)["state_sha256"]
        other = train(dataclasses.replace(experiment, seed=1), folder / f"{kind}-seed1")["state_sha256"]
        if other == digest:
            found["wrong"].append(f"{kind}: another seed gave the same state")
        trainings = {"again": lambda run, e=experiment: train(e, run)}
        for stop in range(1, steps):
            trainings[f"stopped after step {stop}"] = lambda run, e=experiment, s=stop: _resumed(e, e, run, s)
        for workers in (1, 4):
            fed = tiny.with_machine(experiment, workers=workers)
            trainings[f"{workers} workers"] = lambda run, f=fed: train(f, run)
        fed = tiny.with_machine(experiment, workers=1)
        trainings["0 workers, then 1"] = lambda run, e=experiment, f=fed: _resumed(e, f, run, steps // 2)
        trainings["1 worker, then 0"] = lambda run, e=experiment, f=fed: _resumed(f, e, run, steps // 2)
        for name, training in trainings.items():
            if training(folder / f"{kind} {name}")["state_sha256"] != digest:
                found["wrong"].append(f"{kind}: {name}: another state")
        found["trainings"] += len(trainings) + 2
    return found


def hosts(folder: Path, steps: int = 30) -> list[str]:
    """Which global steps do not hold the same records on 1, 2 and 4 hosts; none should be listed."""
    experiment = _experiment(folder / "cache", "restoration", steps)
    data = open_training_data(experiment)
    taken = {count: _record_numbers(experiment, data.train, count, steps) for count in (1, 2, 4)}
    return [f"step {i}, {c} hosts" for c in (2, 4) for i in range(steps) if taken[c][i] != taken[1][i]]


def _record_numbers(experiment: Experiment, dataset: Any, count: int, steps: int) -> list[list[int]]:
    shares = [
        batches(dataset, experiment.data.pipeline, batch_size=experiment.training.batch_size, seed=experiment.seed,
                steps=steps, process_index=index, process_count=count)
        for index in range(count)
    ]  # fmt: skip
    return [[int(n) for share in parts for n in share["index"]] for parts in zip(*shares, strict=True)]


def _experiment(cache: Path, kind: str, steps: int) -> Experiment:
    return tiny.with_machine(tiny.experiment(cache, kind, steps=steps, validate_every=5), checkpoint_every=5)


def _resumed(first: Experiment, second: Experiment, run: Path, stop: int) -> dict[str, Any]:
    with signal_before_step(stop), contextlib.suppress(Stopped):
        train(first, run)
    return train(second, run)


@contextlib.contextmanager
def signal_before_step(number: int, kind: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """A real signal while step `number` of the next training (from 1) is being prepared."""
    original, calls = story.hyper, []

    def wrapped(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == number + 1:  # the first call is the compilation's
            os.kill(os.getpid(), kind)
        return original(*arguments)

    story.hyper = wrapped  # type: ignore[assignment]
    try:
        yield
    finally:
        story.hyper = original

"""What reliability costs a training of real size: the guard in each step, and the time that saving makes it wait."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cracks_jax.experiment import load_file
from cracks_jax.methods.guard import guarded
from cracks_jax.pretrained import initial_state, resolve_weights
from cracks_jax.runtime.parallel import Parallel, devices
from cracks_jax.training_step import hyper, with_augmentation
from tests.reliability.children import REPOSITORY

EXPERIMENT = "experiments/upcracknet_deepcrack.py:cpu"
MEMBER = "masks"


def saving(folder: Path, steps: int = 600) -> dict[str, Any]:
    """A training on real photographs with the default interval of checkpoints: seconds by part, the share of saving."""
    run = folder / "saving"
    command = [sys.executable, "-m", "cracks_jax.cli", "train", EXPERIMENT, "--member", MEMBER, "--run", str(run)]
    with (folder / "saving.log").open("wb") as log:
        done = subprocess.run(
            [*command, "--set", f"training.steps={steps}"],
            cwd=REPOSITORY,
            env={**os.environ, "XLA_FLAGS": ""},  # one device, as a user has
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError((folder / "saving.log").read_text()[-2000:])
    attempt = json.loads((run / "experiment.json").read_text())["attempts"][-1]
    files = [path for path in (run / "checkpoints" / str(steps)).rglob("*") if path.is_file()]
    return {
        "experiment": f"{EXPERIMENT}, member {MEMBER}",
        "steps": steps,
        "checkpoint_every": attempt["machine"]["checkpoint_every"],
        "checkpoint_mb": round(sum(path.stat().st_size for path in files) / 2**20),
        "seconds": attempt["seconds"],
        "spent": attempt["spent"],
        "saving_share": round(attempt["spent"]["checkpoint"] / attempt["seconds"], 5),
    }


def guard(repeats: int = 12) -> dict[str, Any]:
    """Median seconds of a step with and without the guard, in turn, on the same batch; and whether the bits agree."""
    experiment = resolve_weights(load_file(EXPERIMENT, MEMBER), lambda _: None)
    start = jax.tree.map(np.asarray, initial_state(experiment, lambda _: None)[0])
    parallel, key = Parallel("jit", devices(1)), jax.random.key(0)
    batch, side = experiment.training.batch_size, experiment.data.pipeline.crop
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    keep = rng.random((batch, 1, side, side, 1)) > 0.5
    placed = parallel.put_batch({"image": image, "corrupted": image[:, None] * keep})
    plain = with_augmentation(experiment.method, experiment.training.colour)
    rates = hyper(experiment, 1.0)
    forms = {"plain": plain, "guarded": guarded(plain)}
    states = {name: parallel.put_state(start) for name in forms}
    steps = {n: parallel.program(step).ready(states[n], placed, rates, key) for n, step in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats):
        for name in sorted(forms, reverse=turn % 2 == 0):
            began = time.perf_counter()
            states[name], metrics = steps[name](states[name], placed, rates, key)
            jax.block_until_ready((states[name], metrics))
            seconds[name].append(time.perf_counter() - began)
    median = {name: round(float(np.median(found)), 4) for name, found in seconds.items()}
    a, b = (jax.tree.leaves(state) for state in states.values())
    return {
        "experiment": f"{EXPERIMENT}, member {MEMBER}",
        "repeats": repeats,
        "median_seconds": median,
        "ratio": round(median["guarded"] / median["plain"], 4),
        "same_bits": all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)),
    }

"""Trainings in processes of their own, small enough to be started hundreds of times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
METHODS = ("restoration", "segmentation")
# CrackSeg with one unit in each block, as `tiny.short_trunk` has it for tests inside one process.
# Where TAKEN names a file, each step leaves a line there: its number, then the record numbers of its batch.
FILE = """
import dataclasses
import os
from pathlib import Path

from cracks_jax.networks.backbones import resnet
from cracks_jax.watch import Watch
from tests import tiny

resnet.UNITS[50] = (1, 1, 1, 1)
soon = Watch.soon


def noted(self, step, metrics, numbers, state):
    with open(os.environ["TAKEN"], "a") as file:
        print(step, *numbers, file=file)
    return soon(self, step, metrics, numbers, state)


if "TAKEN" in os.environ:
    Watch.soon = noted


def experiment(form):
    cache = Path(__file__).with_name("cache")
    made = [tiny.experiment(cache, kind, steps={steps}, validate_every=10) for kind in ("restoration", "segmentation")]
    made = [dataclasses.replace(one, data=dataclasses.replace(one.data, recipe_settings=one.data.recipe_settings
            | {{"undamaged": {undamaged}}})) for one in made]
    return {{one.name.removeprefix("tiny_"): tiny.with_machine(one, checkpoint_every=5, devices=1) for one in made}}
"""


class Trainings:
    """One experiment file in a folder, with what its processes share: drawn data and compiled programs."""

    def __init__(self, folder: Path, steps: int, undamaged: int = 10):
        self.folder, self.steps = folder, steps
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "tiny.py"
        self.file.write_text(FILE.format(steps=steps, undamaged=undamaged))

    def start(self, method: str, run: Path, *settings: str, log: Path | None = None) -> subprocess.Popen:
        """`cracks-jax train` on `run`; what it says goes to `log`."""
        words = ["train", f"{self.file}:smoke", "--member", method, "--run", str(run)]
        quick = {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "TAKEN": str(self.folder / f"{run.name}.taken"),
        }
        out = (log or self.folder / f"{run.name}.log").open("ab")
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "cracks_jax.cli", *words, *(("--set", *settings) if settings else ())],
                cwd=REPOSITORY,
                env={**os.environ, **quick},
                stdout=out,
                stderr=out,
            )
        finally:
            out.close()

    def undisturbed(self, method: str) -> dict[str, Any]:
        """What a training that nothing interrupts leaves: its metrics and its records."""
        run = self.folder / f"{method}-undisturbed"
        if not (run / "metrics.json").exists() and self.start(method, run).wait() != 0:
            raise RuntimeError((self.folder / f"{run.name}.log").read_text()[-2000:])
        return {"metrics": json.loads((run / "metrics.json").read_text()), "records": records(run)}


def taken(run: Path) -> list[tuple[int, tuple[int, ...]]]:
    """(step, record numbers) of every step that was taken, in order, those that a kill undid included."""
    lines = run.with_name(f"{run.name}.taken").read_text().splitlines()
    return [(step, tuple(numbers)) for step, *numbers in (map(int, line.split()) for line in lines)]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]


def short_trunk_states() -> dict[str, dict[int, Any]]:
    """Two states by step of each method's small form, as trainings would save them."""
    import jax
    import numpy as np

    from tests import tiny
    from tests.reliability.devices import short_trunk

    found = {}
    with short_trunk():
        for method in METHODS:
            state = tiny.state_of(tiny.experiment(Path("unused"), method).method)
            later = jax.tree.map(lambda x: x + np.asarray(1, x.dtype), state)
            found[method] = {5: state, 10: later}
    return found

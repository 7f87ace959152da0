"""A whole sweep's trainings, ours beside the same members by Optuna and PyTorch: wall time from start to end.

Each side is started once, in a process of its own, with nothing compiled before; scoring on a test set is left out of
both. The peer is a command that takes FILE.py[:FORM], --out and --set and prints its seconds as JSON.
"""

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cracks_jax.benchmark import machine
from cracks_jax.benchmark.workloads import say
from cracks_jax.errors import CracksError
from cracks_jax.runs import EXPERIMENT
from cracks_jax.runtime.records import read_json
from cracks_jax.surroundings import cores, surroundings
from cracks_jax.sweep import plan, sweep

# Where each side would find what an earlier sweep has compiled.
_CACHE, _PEERS_CACHE = "JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"


def measure_sweep(
    spec: str, settings: Sequence[str], peers: Mapping[str, Sequence[str]], jobs: int | None = None
) -> dict[str, Any]:
    """Seconds of the sweep `spec` with `settings`, in all and by part, and those of its peers.

    Args:
      peers: name -> the command's first words.
      jobs: members at a time, of ours.

    Raises:
      CracksError: a member of ours failed, or a peer.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say(f"{spec}: ours")
        ours = _ours(spec, settings, folder, jobs)
        found = {}
        for name, words in peers.items():
            say(f"{spec}: {name}")
            command = [*words, spec, "--out", str(folder / name), "--set", *settings]
            found[name] = _theirs(command, folder / f"compiled-{name}")
    best = min(found, key=lambda name: found[name]["seconds"], default=None)
    around = surroundings()
    around["device"] |= {"processor": machine.processor(), "threads": cores()}
    return {
        "label": f"sweep-{Path(spec.partition(':')[0]).stem}",
        "kind": "sweep",
        "system": Path(spec.partition(":")[0]).stem,
        "experiment": Path(spec).name,
        "settings": list(settings),
        "environment": machine.settings(),
        "peers": found,
        "best_peer": best,
        "ratio": None if best is None else found[best]["seconds"] / ours["seconds"],
        **ours,
        **around,
    }


def _ours(spec: str, settings: Sequence[str], folder: Path, jobs: int | None) -> dict[str, Any]:
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(folder / "compiled")
    try:
        began = time.monotonic()
        found = plan(spec, folder / "ours", settings=settings)
        unscored = tuple(dataclasses.replace(job, tests=()) for job in found.jobs)
        table, code = sweep(dataclasses.replace(found, jobs=unscored, table=unscored), jobs=jobs)
        seconds = time.monotonic() - began
    finally:
        os.environ.pop(_CACHE)
        if before is not None:
            os.environ[_CACHE] = before
    if code:
        raise CracksError(f"{spec}: the sweep ended with exit code {code}\n{table}")
    spent: Counter[str] = Counter()
    for job in unscored:
        for attempt in read_json(job.folder / EXPERIMENT)["attempts"]:
            spent.update(attempt["spent"])
    experiment = unscored[0].experiment
    return {
        "precision": experiment.matmul_precision,
        "members": len(unscored),
        "steps": experiment.training.steps,
        "batch": experiment.training.batch_size,
        "size": experiment.data.pipeline.crop,
        "jobs": jobs or 1,
        "seconds": seconds,
        "spent": dict(spent),
        # What a sweep costs beside its steps and one compilation; validations and checkpoints apart.
        "overhead": (seconds - spent["evaluation"] - spent["checkpoint"]) / (spent["step"] + spent["compile"]),
    }


def _theirs(command: Sequence[str], compiled: Path) -> dict[str, Any]:
    began = time.monotonic()
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, _PEERS_CACHE: str(compiled)})
    seconds = time.monotonic() - began
    if run.returncode:
        raise CracksError(f"{command[2]} ended with exit code {run.returncode}; its words are above")
    said = json.loads(run.stdout.strip().splitlines()[-1])
    return {**said, "seconds": seconds}

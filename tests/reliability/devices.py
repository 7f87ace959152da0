"""The same training step over several devices: how far losses and arrays part, in float64 and in float32."""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from cracks_jax.errors import CracksError
from cracks_jax.runtime.parallel import Parallel, Shard, devices
from cracks_jax.training_step import with_augmentation
from tests import tiny

COUNTS = (1, 2, 4, 8)
BATCH = 8


def run(
    kind: str, strategy: str, count: int, dtype: Any, steps: int, colour: float = 0.0, shard: Shard = "none",
    accumulate: int = 1, batch: int = 4,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The state's leaves after some steps on 8-bit batches, and the loss of each step as `losses`."""
    experiment = tiny.experiment(Path("unused"), kind, colour=colour)
    parallel = Parallel(strategy, devices(count), shard)
    method = dataclasses.replace(experiment.method, axis_name=parallel.axis_name, accumulate=accumulate)
    step = parallel.compile(with_augmentation(method, colour))
    return _steps(kind, parallel, step, tiny.state_of(experiment.method, dtype=dtype), steps, batch)


def _steps(kind: str, parallel: Parallel, step: Any, state: Any, steps: int, size: int) -> dict[str, np.ndarray]:
    state, rng, losses = parallel.put_state(state), np.random.default_rng(1), []
    for number in range(steps):
        batch = tiny.bytes_batch(rng, size)
        batch.pop("corrupted" if kind == "segmentation" else "mask")
        state, metrics = step(state, parallel.put_batch(batch), tiny.hyper(), jax.random.key(number))
        losses.append(float(jax.block_until_ready((state, metrics))[1]["loss"]))
    return {**tiny.leaves(parallel.get_state(state)), "losses": np.asarray(losses)}


def measure(folder: Path, steps: int = 10, **less: Sequence[Any]) -> dict[str, Any]:
    """What `measured` gives in a process of its own with eight devices; compiled programs are kept in `folder`."""
    code = (
        "import json\nfrom tests.reliability import devices\n"
        f"with devices.quick_compile({str(folder)!r}):\n"
        f"    print(json.dumps(devices.measured({steps}, **{less!r})))\n"
    )
    flags = f"--xla_force_host_platform_device_count={COUNTS[-1]} "
    flags += "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": flags}, cwd=Path(__file__).parents[2],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise CracksError(f"eight devices: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(
    steps: int,
    kinds: Sequence[str] = ("restoration", "segmentation"),
    counts: Sequence[int] = COUNTS[1:],
    dtypes: Sequence[str] = ("float64", "float32"),
) -> dict[str, Any]:
    """The largest relative difference of a loss from one device's, by kind, strategy, dtype and number of devices.

    CrackSeg with one unit in each block. Dropout is off, because pmap's devices draw their own. `first step`: of the
    first loss alone, in float32.
    """
    found: dict[str, Any] = {"steps": steps, "batch": BATCH}
    with short_trunk(), tiny.no_dropout():
        for kind, dtype in itertools.product(kinds, dtypes):
            with jax.enable_x64(dtype == "float64"):
                one = run(kind, "jit", 1, np.dtype(dtype), steps, batch=BATCH)["losses"]
                for strategy in ("jit", "pmap"):
                    losses = {n: run(kind, strategy, n, np.dtype(dtype), steps, batch=BATCH)["losses"] for n in counts}
                    apart = {n: np.abs(by / one - 1) for n, by in losses.items()}
                    found[f"{kind} {strategy} {dtype}"] = {n: float(one_by.max()) for n, one_by in apart.items()}
                    if dtype == "float32":
                        first = {n: float(one_by[0]) for n, one_by in apart.items()}
                        found[f"{kind} {strategy} first step"] = first
    return found


@contextlib.contextmanager
def quick_compile(folder: Path) -> Iterator[None]:
    """Programs compiled without XLA's optimisations, which cost more here than they save, and kept in a folder."""
    quick = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: jax.config.values[name] for name in quick}
    _configure(quick)
    try:
        yield
    finally:
        _configure(before)


def _configure(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # jax settles on a folder when it first compiles


@contextlib.contextmanager
def short_trunk() -> Iterator[None]:
    """ResNet-50 with one unit in each of its blocks."""
    from cracks_jax.networks.backbones import resnet

    before, resnet.UNITS[50] = resnet.UNITS[50], (1, 1, 1, 1)
    try:
        yield
    finally:
        resnet.UNITS[50] = before

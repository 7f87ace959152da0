"""The same training step over several devices: how far losses and arrays part, in float64 and in float32."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from cracks_jax.runtime.parallel import Parallel, Shard, devices
from cracks_jax.train import with_augmentation
from tests import tiny

COUNTS = (1, 2, 4)


def run(
    kind: str, strategy: str, count: int, dtype: Any, steps: int, colour: float = 0.0, shard: Shard = "none",
    accumulate: int = 1,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The state's leaves after some steps on 8-bit batches, and the loss of each step as `losses`."""
    experiment = tiny.experiment(Path("unused"), kind, colour=colour)
    parallel = Parallel(strategy, devices(count), shard)
    method = dataclasses.replace(experiment.method, axis_name=parallel.axis_name, accumulate=accumulate)
    step = parallel.compile(with_augmentation(method, colour))
    return _steps(kind, parallel, step, tiny.state_of(experiment.method, dtype=dtype), steps)


def _steps(kind: str, parallel: Parallel, step: Any, state: Any, steps: int) -> dict[str, np.ndarray]:
    state, rng, losses = parallel.put_state(state), np.random.default_rng(1), []
    for number in range(steps):
        batch = tiny.bytes_batch(rng)
        batch.pop("corrupted" if kind == "segmentation" else "mask")
        state, metrics = step(state, parallel.put_batch(batch), tiny.hyper(), jax.random.key(number))
        losses.append(float(jax.block_until_ready((state, metrics))[1]["loss"]))
    return {**tiny.leaves(parallel.get_state(state)), "losses": np.asarray(losses)}


def measure(steps: int = 10) -> dict[str, Any]:
    """The largest relative difference of a loss from one device's, by kind, dtype and number of devices.

    Needs four devices (XLA's flag --xla_force_host_platform_device_count=4). CrackSeg with one unit in each block.
    """
    found: dict[str, Any] = {"steps": steps}
    with short_trunk():
        for kind in ("restoration", "segmentation"):
            for dtype in (np.float64, np.float32):
                with jax.enable_x64(dtype is np.float64):
                    losses = {count: run(kind, "jit", count, dtype, steps)["losses"] for count in COUNTS}
                apart = {count: float(np.max(np.abs(losses[count] / losses[1] - 1))) for count in COUNTS[1:]}
                found[f"{kind} {np.dtype(dtype).name}"] = apart
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

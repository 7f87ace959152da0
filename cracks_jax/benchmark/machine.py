"""The machine that a benchmark runs on: its measured matrix-product rate, its memory, its cores, its settings."""

import functools
import os
import time
from pathlib import Path

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.surroundings import cores, device_stats

# Settings from outside that change speed. A value with a path in it is this machine's own and left out.
_VARIABLES = (
    "XLA_FLAGS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "JAX_ENABLE_X64",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
)
_SIDES = {"cpu": (1024, 2048)}
_ACCELERATOR_SIDES = (4096, 8192)


def limit_threads(count: int) -> None:
    """Keeps this process to `count` cores; every thread pool that starts later counts those. Before jax starts."""
    available = cores()
    if not 1 <= count <= available:
        raise UsageError(f"--threads {count}: expected 1 to {available}, the cores that this process may use")
    if count == available:
        return
    try:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    except AttributeError as error:
        raise UsageError(f"--threads {count}: this system cannot limit a process's cores; leave it out") from error


def matrix_rates(precision: str, repeats: int = 5) -> dict[str, float]:
    """GFLOP/s of the best of a few large square products, by dtype: float32 at `precision`, bfloat16 on accelerators.

    This is the limit that shares refer to: what the machine is seen to reach, not what its maker prints. A process
    measures it once.
    """
    import jax

    sides = _SIDES.get(jax.default_backend(), _ACCELERATOR_SIDES)
    return dict(_matrix_rates(precision, repeats, tuple(sides)))


@functools.cache
def _matrix_rates(precision: str, repeats: int, sides: tuple[int, ...]) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    found: dict[str, float] = {}
    for dtype in (jnp.float32,) if jax.default_backend() == "cpu" else (jnp.float32, jnp.bfloat16):
        product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
        best = 0.0
        for side in sides:
            a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in range(2))
            product(a, b).block_until_ready()
            for _ in range(repeats):
                began = time.perf_counter()
                product(a, b).block_until_ready()
                best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
        found[jnp.dtype(dtype).name] = best
    return found


def available_memory() -> int | None:
    """Bytes that can still be taken: of the accelerator, or of the host within its limits; None where not known."""
    import jax

    stats = device_stats(jax.local_devices()[0])
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    found = [free for free in (_free_on_host(), _free_in_group()) if free is not None]
    return min(found) if found else None


def demand_memory(what: str, needed: int, batch: int) -> None:
    """CracksError, with a batch that may fit, where `needed` bytes, a lower bound, are more than there are."""
    available = available_memory()
    if available is None or needed <= available:
        return
    fits = batch * available // needed
    remedy = f"use --batch {fits} or less" if fits else "use a smaller --size"
    asked, free = (f"{size / 2**30:,.1f} GiB" for size in (needed, available))
    raise CracksError(f"{what} needs at least {asked} of memory, {free} are free here: {remedy}")


def processor() -> str | None:
    """The CPU's own name."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def settings() -> dict[str, str]:
    """Variables of the environment that change speed, without paths."""
    return {name: os.environ[name] for name in _VARIABLES if "/" not in os.environ.get(name, "/")}


def _free_on_host() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_in_group() -> int | None:
    """What a container's limit leaves."""
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if not limit or not used or not limit[0].isdecimal():
        return None
    return max(0, int(limit[0]) - int(used[0]))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

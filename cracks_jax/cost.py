"""What an accuracy costs: parameters, operations, images per second and memory, beside the metrics of an evaluation."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from cracks_jax.methods.detection import Detection
from cracks_jax.runtime.randomness import device_key
from cracks_jax.surroundings import device_peak_memory, peak_memory

# Operations are told for one image of this side, whatever was scored.
SIDE = 256
_NETWORKS = ("network", "generator", "discriminator")


@functools.lru_cache(maxsize=32)
def size(method: Any, how: Detection, side: int = SIDE) -> dict[str, Any]:
    """`parameters` (trainable) and `gflop` to score one image of side x side (2 operations per multiply-add).

    Counted from the traced program as detection runs it (`hidden` restores six times), taps on padding left out; no
    weights are drawn and nothing is computed. A method without a network has 0 parameters, and None for operations.
    """
    if not hasattr(method, "selection"):
        return {"parameters": 0, f"gflop_{side}": None}
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = device_key(0, "systems", 0)
    state = jax.eval_shape(lambda k: method.init(k, {"image": image}), key)
    score = jax.jit(lambda s, x: method.score(s, x, key, how))
    # In an accelerator's form, which has the published operations: a processor's saves multiplications.
    lowered = score.trace(state, image).lower(lowering_platforms=("tpu",))
    networks = [state[part]["params"] for part in _NETWORKS if part in state]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(networks))
    counted = lowered.cost_analysis()
    assert counted is not None
    return {"parameters": parameters, f"gflop_{side}": round(counted["flops"] / 1e9, 2)}


class Stopwatch:
    """Seconds of scoring, the first call of each size left out: it compiles."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, ...]] = set()
        self._seconds, self._calls = 0.0, 0

    @contextmanager
    def call(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Times what runs inside, of an image of this shape."""
        began = time.perf_counter()
        yield
        if shape in self._seen:
            self._seconds += time.perf_counter() - began
            self._calls += 1
        self._seen.add(shape)

    def cost(self) -> dict[str, Any]:
        """`images_per_second`: image in memory to filtered score map, one at a time, None where every call compiled;
        `peak_memory_mib`: of this process so far, data and compilation included; on an accelerator also the device's.
        """
        rate = round(self._calls / self._seconds, 3) if self._seconds else None
        found = {"images_per_second": rate, "peak_memory_mib": round(peak_memory() / 2**20)}
        device = device_peak_memory()
        return found if device is None else {**found, "device_peak_memory_mib": round(device / 2**20)}

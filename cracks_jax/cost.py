"""What an accuracy costs: parameters, operations, images per second and memory, beside the metrics of an evaluation."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from cracks_jax.methods.detection import Detection
from cracks_jax.runtime.randomness import device_key
from cracks_jax.surroundings import device_peak_memory, peak_memory

# Operations are told for one image of this side, whatever was scored.
SIDE = 256
PARTS = ("reading", "network", "filter", "metrics")
_NETWORKS = ("network", "generator", "discriminator")


@functools.lru_cache(maxsize=32)
def size(method: Any, how: Detection, side: int = SIDE) -> dict[str, Any]:
    """`parameters` (trainable) and `gflop` to score one image of side x side (2 operations per multiply-add).

    Counted from the traced program as detection runs it (`hidden` restores six times), taps on padding left out; no
    weights are drawn and nothing is computed. A method without a network has 0 parameters. Operations are None there,
    and where JAX_PLATFORMS leaves jax without its processor, which alone can count them.
    """
    if not hasattr(method, "selection"):
        return {"parameters": 0, f"gflop_{side}": None}
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = device_key(0, "systems", 0)
    state = jax.eval_shape(lambda k: method.init(k, {"image": image}), key)
    networks = [state[part]["params"] for part in _NETWORKS if part in state]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(networks))
    operations = _operations(lambda s, x, k: method.score(s, x, k, how), state, image, key)
    return {"parameters": parameters, f"gflop_{side}": None if operations is None else round(operations / 1e9, 2)}


def _operations(score: Callable[..., jax.Array], *arguments: Any) -> float | None:
    """Of a function of such arrays."""
    try:
        # An accelerator's own part of jax does not count what is not compiled.
        processor = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return None
    there = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=processor), arguments)
    # In an accelerator's form, which has the published operations: a processor's saves multiplications.
    counted = jax.jit(score).trace(*there).lower(lowering_platforms=("tpu",)).cost_analysis()
    return None if counted is None else counted["flops"]


class Stopwatch:
    """Seconds of an evaluation by its parts; the network's first call of each size is left out: it compiles."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, ...]] = set()
        self._seconds: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def part(self, name: str, shape: tuple[int, ...] | None = None) -> Iterator[None]:
        """Times what runs inside, of one image; of the network's part with the image's shape."""
        began = time.perf_counter()
        yield
        taken = time.perf_counter() - began
        if shape is None or shape in self._seen:
            self._seconds[name].append(taken)
        if shape is not None:
            self._seen.add(shape)

    def cost(self) -> dict[str, Any]:
        """What an image took on this device, in the mean.

        `images_per_second`: from an image in memory to its filtered score map, one at a time; None where every call of
        the network compiled. `seconds_per_image`: by part (`reading` decodes image and mask, `metrics` counts);
        other images are read, and beside an accelerator filtered, meanwhile: the sum of the parts is not the time.
        `peak_memory_mib`: of this process so far, data and compilation included; on an accelerator also the device's.
        """
        means = {part: sum(taken) / len(taken) if taken else None for part, taken in self._seconds.items()}
        network, behind = means["network"], means["filter"]
        rate = None if network is None or behind is None else round(1 / (network + behind), 3)
        found: dict[str, Any] = {
            "images_per_second": rate,
            "seconds_per_image": {part: None if mean is None else round(mean, 6) for part, mean in means.items()},
            "peak_memory_mib": round(peak_memory() / 2**20),
        }
        device = device_peak_memory()
        return found if device is None else {**found, "device_peak_memory_mib": round(device / 2**20)}

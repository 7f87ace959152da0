"""The model beside what can be measured: 1 to 8 devices that are threads of this machine, at one global batch.

  python -m cracks_jax.scaling.check '{"experiment": ..., "devices": [1, 2, 4, 8], "batch": 8, ...}'

Such devices share cores and memory, so a step over n of them can be no faster than over one. What can be checked is
that the model counts rightly: bytes of collectives against the parameters, memory against real arrays, operations
against their split, and the time that a step over n devices takes *more* than over one against the model's price of
what is done n times and of what is sent. Bandwidths and latencies for that price are measured here, apart from steps.
"""

import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cracks_jax.experiment import Experiment
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runtime.parallel import AXIS, Parallel, devices
from cracks_jax.runtime.randomness import device_key, host_rng
from cracks_jax.scaling.hlo import Program
from cracks_jax.scaling.predict import sent
from cracks_jax.scaling.program import described, load, shapes
from cracks_jax.surroundings import surroundings

SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 22)  # floats of an all-reduce
ENOUGH = 5  # repeats of what is measured apart from steps
CHAIN = 8  # all-reduces in one program, each waiting for the one before, so that starting it counts little
_STREAM = "scaling"
_TRAFFIC = 1 << 26  # floats that are read and written once to measure memory
Record = dict[str, Any]


def check(experiment: Experiment, counts: list[int], batch: int, repeats: int) -> Record:
    """Everything measured, and the model's figure beside each."""
    links = {n: measure_link(n, min(repeats, ENOUGH)) for n in counts if n > 1}
    bandwidth = measure_memory(min(repeats, ENOUGH))
    programs: dict[int, Record] = {}
    steps: dict[int, Callable[[], float]] = {}
    placed: dict[int, int] = {}
    for n in counts:
        say(f"compiling the step for {n} devices")
        found, compiled, parallel = described(experiment, n, batch, accelerator=False)
        programs[n], steps[n] = found, _timed_step(experiment, compiled, parallel, batch)
        placed[n] = _placed_bytes(experiment, parallel, batch)
    seconds: dict[int, list[float]] = {n: [] for n in counts}
    for turn in range(repeats):  # in turn: a machine that slows down slows all of them
        for n in counts:
            say(f"turn {turn + 1} of {repeats}: {n} devices")
            seconds[n].append(steps[n]())
    return {
        "batch": batch,
        "side": experiment.data.pipeline.crop,
        "memory_bandwidth": bandwidth,
        "links": {str(n): link for n, link in links.items()},
        "programs": [programs[n] for n in counts],
        "counts": counted(experiment, programs, placed),
        "times": timed(programs, seconds, links, bandwidth),
    }


# ------------------------------------------------------------------------------------ what can be counted


def counted(experiment: Experiment, programs: dict[int, Record], placed: dict[int, int]) -> Record:
    """By what: the count by hand, the program's, and whether they agree."""
    meshes = {n: one for n, one in programs.items() if n > 1}
    kernels, arrays = kernel_bytes(experiment)
    first, last = min(programs), max(programs)
    operations = {n: one["flop_compiled"] for n, one in programs.items()}
    # Work that every device does for itself, and work that is split: two meshes tell both, the others are predictions.
    split = (operations[first] - operations[last]) / (1 / first - 1 / last)
    own = operations[first] - split / first
    expected = {n: own + split / n for n in programs}
    return {
        "collective_bytes": {str(n): sent(one) for n, one in meshes.items()},
        "collectives": {str(n): len(one["collectives"]) for n, one in meshes.items()},
        "kernel_gradient_bytes": kernels,
        "other_gradient_bytes": arrays,
        "memory": {str(n): {"placed": placed[n], **_memory_by_hand(experiment, one)} for n, one in programs.items()},
        "operations": {
            str(n): {"found": operations[n], "expected": expected[n], "own_share": own / operations[n]}
            for n in programs
        },
    }


def kernel_bytes(experiment: Experiment) -> tuple[int, int]:
    """Bytes of gradients that devices must sum at each step: of the kernels, and of all smaller trained arrays.

    The discriminator's count twice: it sees real and restored images apart, and XLA sums devices before it adds both.
    """
    state = shapes(experiment, 1)[0]
    kernels = others = 0
    for part, times in (("network", 1), ("generator", 1), ("discriminator", 2)):
        for leaf in jax.tree.leaves(state.get(part, {}).get("params", {})):
            size = times * leaf.size * leaf.dtype.itemsize
            kernels, others = (kernels + size, others) if leaf.ndim > 1 else (kernels, others + size)
    return kernels, others


def _memory_by_hand(experiment: Experiment, program: Record) -> Record:
    """What one device is given: the state whole, its part of the images."""
    images = shapes(experiment, program["batch"])[1]
    used = sum(x.size * x.dtype.itemsize for name, x in images.items() if name != "keep")  # the step does not read it
    return {
        "expected": program["state_bytes"] + used // program["devices"],
        "arguments": program["memory"]["arguments"],
        "unread": (program["batch_bytes"] - used) // program["devices"],
    }


def _placed_bytes(experiment: Experiment, parallel: Parallel, batch: int) -> int:
    """Of state and images on the first device, as training places them."""
    state, images, _, _ = shapes(experiment, batch)
    placed = (_zeros_like(state, parallel), parallel.put_batch(_drawn(images)))
    here = parallel.devices[0]
    shards = [shard for leaf in jax.tree.leaves(placed) for shard in leaf.addressable_shards if shard.device == here]
    return sum(shard.data.nbytes for shard in shards)


# ----------------------------------------------------------------------------------- what can be measured


def timed(
    programs: dict[int, Record], seconds: dict[int, list[float]], links: dict[int, Record], bandwidth: float
) -> dict[str, Record]:
    """By devices: a step's seconds, and what the model says, from the step of one device.

    All devices share the memory and the cores: what n of them read and write more than one does is paid for once more,
    and so is what they send.
    """
    alone = statistics.median(seconds[1])
    found: dict[str, Record] = {}
    for n, program in programs.items():
        more = n * _all_traffic(program) - _all_traffic(programs[1])
        link = links.get(n)
        latency = 0.0 if link is None else len(program["collectives"]) * link["latency"]
        transfer = 0.0 if link is None else sent(program) / link["bandwidth"]
        parts = {"one_device": alone, "repeated": more / bandwidth, "latency": latency, "transfer": transfer}
        model, measured = sum(parts.values()), statistics.median(seconds[n])
        found[str(n)] = {
            "seconds": measured,
            "seconds_all": seconds[n],
            "model": model,
            "model_parts": parts,
            "ratio": measured / model,
        }
    return found


def _all_traffic(program: Record) -> int:
    return sum(program["traffic"].values())


def measure_link(count: int, repeats: int) -> Record:
    """Latency and bandwidth of an all-reduce over so many devices, from programs that do nothing else.

    The same chain without the all-reduces is taken off.
    """
    say(f"measuring all-reduces over {count} devices")
    points = []
    for floats in SIZES:
        with_sums, without = (_seconds(_chain(count, floats, summed), repeats) for summed in (True, False))
        points.append({"bytes": 4 * floats, "seconds": max(with_sums - without, 0.0) / CHAIN})
    latency = points[0]["seconds"]
    largest = points[-1]
    bandwidth = (largest["bytes"] - points[0]["bytes"]) / max(largest["seconds"] - latency, 1e-9)
    return {"latency": latency, "bandwidth": bandwidth, "points": points}


def measure_memory(repeats: int) -> float:
    """Bytes per second, read and written, of this machine's memory with all its cores."""
    double = jax.jit(lambda x: 2 * x)
    x = jnp.ones(_TRAFFIC, jnp.float32)
    return 2 * x.nbytes / _seconds(lambda: double(x), repeats)


def _chain(count: int, floats: int, summed: bool) -> Callable[[], Any]:
    """A program of CHAIN all-reduces of one array; each device weighs it anew before, or XLA would see through it."""
    parallel = Parallel("jit", devices(count))
    each, whole = NamedSharding(parallel.mesh, PartitionSpec(AXIS)), NamedSharding(parallel.mesh, PartitionSpec())

    @functools.partial(jax.shard_map, mesh=parallel.mesh, in_specs=(whole.spec, each.spec), out_specs=each.spec)
    def chain(x: jax.Array, weight: jax.Array) -> jax.Array:
        for _ in range(CHAIN):
            x = x * weight[0]
            x = jax.lax.psum(x, AXIS) if summed else x
        return (x + weight[0])[None]

    arguments = (
        jax.device_put(np.ones(floats, np.float32), whole),
        jax.device_put(np.full(count, 1 / count, np.float32), each),
    )
    compiled = jax.jit(chain).lower(*arguments).compile()
    found = len(Program(compiled.as_text() or "").collectives())
    assert found == (CHAIN if summed else 0), f"{found} collectives in a chain of {CHAIN}"
    return lambda: compiled(*arguments)


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """The median of several runs, after two that warm up."""
    taken = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def _timed_step(experiment: Experiment, compiled: Any, parallel: Parallel, batch: int) -> Callable[[], float]:
    """Seconds of one step on fresh arrays, after one that warms up; nothing is kept in between, memory is shared."""
    state_like, images, rates, _ = shapes(experiment, batch)

    def run() -> float:
        state, placed = _zeros_like(state_like, parallel), parallel.put_batch(_drawn(images))
        numbers = {name: np.ones(x.shape, x.dtype) for name, x in rates.items()}
        taken = 0.0
        for number in range(2):
            began = time.perf_counter()
            state, metrics = compiled(state, placed, numbers, device_key(0, _STREAM, number))
            jax.block_until_ready((state, metrics))
            taken = time.perf_counter() - began
        return taken

    return run


def _zeros_like(state: Any, parallel: Parallel) -> Any:
    """Arithmetic takes as long with these weights as with any: there are no branches on values."""
    return parallel.put_state(jax.tree.map(lambda x: np.full(x.shape, 0.01 if x.ndim > 1 else 1, x.dtype), state))


def _drawn(images: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = host_rng(0, _STREAM, 0)
    most = {"mask": 1, "keep": 1}
    return {name: rng.integers(0, most.get(name, 255), x.shape, np.uint8, True) for name, x in images.items()}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    spec = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        experiment = load(spec)
        found = check(experiment, spec["devices"], spec["batch"], spec["repeats"])
    restores = isinstance(experiment.method, Restoration)
    print(json.dumps({**surroundings(), "restores": restores, **found}, allow_nan=False))


if __name__ == "__main__":
    main()

"""One training step over several devices: by jit over a mesh (the default) or by pmap.

The step is `(state, batch, hyper, key) -> (state, metrics)`; the state is replicated, the batch split on its first
axis. Under jit batch-norm statistics are global by themselves; under pmap the step must average over `AXIS`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cracks_jax.errors import UsageError

AXIS = "data"
# A smaller array is not worth a gathering: half of a megabyte in float32.
LEAST_SHARDED = 2**17
Shard = Literal["none", "optimiser", "parameters"]
Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def devices(count: int | None) -> list[jax.Device]:
    """The first `count` devices of this host, or all; UsageError where there are fewer."""
    found = jax.local_devices()
    if count is not None and not 1 <= count <= len(found):
        raise UsageError(f"machine.devices is {count}; this machine has {len(found)} ({found[0].device_kind})")
    return found[:count]


def check_batch(batch_size: int, count: int, parts: int = 1) -> None:
    """UsageError unless each of `parts` of a batch can be split over `count` devices of every process."""
    total = count * jax.process_count() * parts
    if batch_size % total:
        nearest = max(total, round(batch_size / total) * total)
        of = f" in {parts} parts each (method.accumulate)" if parts > 1 else ""
        raise UsageError(
            f"training.batch_size {batch_size} cannot be split over {total // parts} devices{of}; use {nearest} or "
            "fewer devices"
        )


class Parallel:
    """Placement and compilation for one strategy; training code sees only `put`, `compile` and `get`.

    Args:
      strategy: `jit` or `pmap`.
      chosen: this process's devices.
      shard: what of the state is split over the devices too (jit alone): `none`, `optimiser` (every large array whose
        path names an optimiser) or `parameters` (every large array). Where the split lies is the compiler's matter:
        it gathers what a layer needs and scatters gradients; the step's meaning is the same.
    """

    def __init__(self, strategy: str, chosen: Sequence[jax.Device], shard: Shard = "none"):
        self.strategy, self.shard = strategy, shard
        self.devices = list(chosen)
        if strategy == "jit":
            everywhere = jax.devices() if jax.process_count() > 1 else self.devices
            self.mesh = Mesh(np.asarray(everywhere), (AXIS,), axis_types=(AxisType.Auto,))
            self.replicated = NamedSharding(self.mesh, PartitionSpec())
            self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        elif strategy != "pmap":
            raise UsageError(f"machine.parallel is {strategy!r}; expected jit or pmap")
        elif jax.process_count() > 1:
            raise UsageError("machine.parallel is 'pmap'; several processes train with jit")

    @property
    def axis_name(self) -> str | None:
        """What a method must be told so that its means cover all devices."""
        return AXIS if self.strategy == "pmap" else None

    def shardings(self, state: Any) -> Any:
        """Where each array of a state lies (jit)."""
        if self.shard == "none":
            return self.replicated
        return jax.tree.map_with_path(self._sharding, state)

    def _sharding(self, path: Any, leaf: Any) -> NamedSharding:
        wanted = self.shard == "parameters" or "optimiser" in jax.tree_util.keystr(path)
        count, shape = self.mesh.size, np.shape(leaf)
        fitting = [axis for axis, length in enumerate(shape) if length % count == 0]
        if not wanted or not fitting or np.prod(shape) < LEAST_SHARDED:
            return self.replicated
        longest = max(fitting, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * longest, AXIS))

    def put_state(self, state: Any) -> Any:
        if self.strategy == "jit":
            where = self.shardings(state)
            if jax.process_count() == 1:
                return jax.device_put(state, where)
            places = where if self.shard != "none" else jax.tree.map(lambda _: where, state)
            return jax.tree.map(_from_own_copy, state, places)
        return _replicate(state, self.devices)

    def get_state(self, state: Any) -> Any:
        """One whole copy of the state, on this process's devices."""
        # Devices that are threads of one processor wait for each other in a step: another program, begun meanwhile, can
        # take the thread that one of them needs.
        jax.block_until_ready(state)
        if self.strategy == "pmap":
            return jax.tree.map(lambda x: x[0], state)
        if self.shard != "none":
            state = jax.block_until_ready(jax.jit(lambda x: x, out_shardings=self.replicated)(state))
        # With several processes an array that is everywhere is looked at here.
        return state if jax.process_count() == 1 else jax.tree.map(lambda x: x.addressable_data(0), state)

    def memory(self, state: Any) -> tuple[int, int]:
        """Bytes of a placed state as a whole, and of what lies on one device."""
        leaves = jax.tree.leaves(state)
        device = self.devices[0]
        parts = [shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards if shard.device == device]
        whole = sum(leaf.nbytes for leaf in leaves)
        return whole // (len(self.devices) if self.strategy == "pmap" else 1), sum(parts)

    def put_batch(self, batch: dict[str, np.ndarray]) -> Any:
        if self.strategy == "jit":
            return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.split, x), batch)
        n = len(self.devices)
        return jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), batch)

    def compile(self, step: Step) -> Step:
        """The step, compiled when it is called; the old state's memory is reused for the new one."""
        if self.strategy == "jit" and self.shard == "none":  # where the state lies does not depend on what it is
            return self.jitted(step, None)
        program = self.program(step)

        def run(state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, Any]:
            return program.jitted(state)(state, batch, hyper, key)

        return run

    def program(self, step: Step) -> "Program":
        """The same, to be compiled when it is told to."""
        return Program(lambda state: self.jitted(step, state), self._one_copy)

    def jitted(self, step: Step, state: Any) -> Any:
        """jax's own compiled function of a step, for states of these shapes: it can be traced and lowered."""
        if self.strategy == "pmap":
            return jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, None, None), devices=self.devices, donate_argnums=0)
        where = self.shardings(state)
        return jax.jit(
            step,
            in_shardings=(where, self.split, self.replicated, self.replicated),
            out_shardings=(where, self.replicated),
            donate_argnums=0,
        )

    def _one_copy(self, metrics: Any) -> Any:
        return metrics if self.strategy == "jit" else jax.tree.map(lambda x: x[0], metrics)


class Program:
    """A step that is traced and compiled once for arguments of one shape: what another process compiled is read.

    Called with other shapes it raises instead of compiling in silence.
    """

    def __init__(self, wrap: Callable[[Any], Any], one_copy: Callable[[Any], Any]):
        self._wrap, self._one_copy = wrap, one_copy
        self._wrapped: Any = None
        self._compiled: dict[Any, Any] = {}

    def jitted(self, state: Any) -> Step:
        """The step, compiled when it is called, for states like this one."""
        wrapped = self._wrapped = self._wrap(state) if self._wrapped is None else self._wrapped

        def step(state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, Any]:
            state, metrics = wrapped(state, batch, hyper, key)
            return state, self._one_copy(metrics)

        return step

    def ready(self, state: Any, batch: Any, hyper: Any, key: Any) -> Step:
        """Compiles, unless arguments like these have been compiled for; takes no step."""
        arguments = (state, batch, hyper, key)
        leaves, tree = jax.tree.flatten(arguments)
        like = tree, tuple((np.shape(leaf), np.dtype(leaf.dtype) if not _is_key(leaf) else "key") for leaf in leaves)
        if like not in self._compiled:
            self._compiled[like] = self._wrap(state).lower(*arguments).compile()
        compiled = self._compiled[like]

        def step(state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, Any]:
            state, metrics = compiled(state, batch, hyper, key)
            return state, self._one_copy(metrics)

        return step


def _from_own_copy(leaf: Any, where: NamedSharding) -> jax.Array:
    """Every process has the whole array, and puts what lies on its own devices there."""
    own = np.asarray(leaf)
    return jax.make_array_from_callback(own.shape, where, lambda part: own[part])


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _replicate(tree: Any, chosen: Sequence[jax.Device]) -> Any:
    """A copy of each array per device, stacked on a new first axis as pmap wants it."""
    mesh = Mesh(np.asarray(chosen), (AXIS,), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.device_put(np.stack([np.asarray(x)] * len(chosen)), split), tree)

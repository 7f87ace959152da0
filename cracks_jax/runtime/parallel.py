"""One training step over several devices: by jit over a mesh (the default) or by pmap.

The step is `(state, batch, hyper, key) -> (state, metrics)`; the state is replicated, the batch split on its first
axis. Under jit batch-norm statistics are global by themselves; under pmap the step must average over `AXIS`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cracks_jax.errors import UsageError

AXIS = "data"
Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def devices(count: int | None) -> list[jax.Device]:
    """The first `count` devices of this host, or all; UsageError where there are fewer."""
    found = jax.local_devices()
    if count is not None and not 1 <= count <= len(found):
        raise UsageError(f"machine.devices is {count}; this machine has {len(found)} ({found[0].device_kind})")
    return found[:count]


def check_batch(batch_size: int, count: int) -> None:
    total = count * jax.process_count()
    if batch_size % total:
        nearest = max(total, round(batch_size / total) * total)
        raise UsageError(
            f"training.batch_size {batch_size} cannot be split over {total} devices; use {nearest} or fewer devices"
        )


class Parallel:
    """Placement and compilation for one strategy; training code sees only `put`, `compile` and `get`."""

    def __init__(self, strategy: str, chosen: Sequence[jax.Device]):
        self.strategy = strategy
        self.devices = list(chosen)
        if strategy == "jit":
            everywhere = [d for d in jax.devices() if jax.process_count() > 1] or self.devices
            self.mesh = Mesh(np.asarray(everywhere), (AXIS,), axis_types=(AxisType.Auto,))
            self.replicated = NamedSharding(self.mesh, PartitionSpec())
            self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        elif strategy != "pmap":
            raise UsageError(f"machine.strategy is {strategy!r}; expected jit or pmap")

    @property
    def axis_name(self) -> str | None:
        """What a method must be told so that its means cover all devices."""
        return AXIS if self.strategy == "pmap" else None

    def put_state(self, state: Any) -> Any:
        if self.strategy == "jit":
            return jax.device_put(state, self.replicated)
        return _replicate(state, self.devices)

    def get_state(self, state: Any) -> Any:
        """One copy of the state, on one device."""
        # Devices that are threads of one processor wait for each other in a step: another program, begun meanwhile, can
        # take the thread that one of them needs.
        jax.block_until_ready(state)
        return state if self.strategy == "jit" else jax.tree.map(lambda x: x[0], state)

    def put_batch(self, batch: dict[str, np.ndarray]) -> Any:
        if self.strategy == "jit":
            return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.split, x), batch)
        n = len(self.devices)
        return jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), batch)

    def compile(self, step: Step) -> Step:
        """The step, compiled when it is called; the old state's memory is reused for the new one."""
        wrapped = self._wrapped(step)
        if self.strategy == "jit":
            return wrapped

        def run(state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, Any]:
            state, metrics = wrapped(state, batch, hyper, key)
            return state, self._one_copy(metrics)

        return run

    def program(self, step: Step) -> "Program":
        """The same, to be compiled when it is told to."""
        return Program(self._wrapped(step), self._one_copy)

    def _wrapped(self, step: Step) -> Any:
        if self.strategy == "jit":
            return jax.jit(
                step,
                in_shardings=(self.replicated, self.split, self.replicated, self.replicated),
                out_shardings=(self.replicated, self.replicated),
                donate_argnums=0,
            )
        return jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, None, None), devices=self.devices, donate_argnums=0)

    def _one_copy(self, metrics: Any) -> Any:
        return metrics if self.strategy == "jit" else jax.tree.map(lambda x: x[0], metrics)


class Program:
    """A step that is traced and compiled once for arguments of one shape: what another process compiled is read.

    Called with other shapes it raises instead of compiling in silence.
    """

    def __init__(self, wrapped: Any, one_copy: Callable[[Any], Any]):
        self._wrapped, self._one_copy = wrapped, one_copy
        self._compiled: dict[Any, Any] = {}

    def ready(self, state: Any, batch: Any, hyper: Any, key: Any) -> Step:
        """Compiles, unless arguments like these have been compiled for; takes no step."""
        arguments = (state, batch, hyper, key)
        leaves, tree = jax.tree.flatten(arguments)
        like = tree, tuple((np.shape(leaf), np.dtype(leaf.dtype) if not _is_key(leaf) else "key") for leaf in leaves)
        if like not in self._compiled:
            self._compiled[like] = self._wrapped.lower(*arguments).compile()
        compiled = self._compiled[like]

        def step(state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, Any]:
            state, metrics = compiled(state, batch, hyper, key)
            return state, self._one_copy(metrics)

        return step


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _replicate(tree: Any, chosen: Sequence[jax.Device]) -> Any:
    """A copy of each array per device, stacked on a new first axis as pmap wants it."""
    mesh = Mesh(np.asarray(chosen), (AXIS,), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.device_put(np.stack([np.asarray(x)] * len(chosen)), split), tree)

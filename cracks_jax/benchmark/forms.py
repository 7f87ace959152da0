"""`forms`: every convolution of a system in XLA's form and in the one that the processor gets, layer by layer.

This is where the limits of ops/cpu_convolution.py come from: what counts is the time of value and both gradients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cracks_jax.benchmark import clock, workloads
from cracks_jax.benchmark.job import Job
from cracks_jax.layers.conv_transpose import ConvTranspose
from cracks_jax.ops.convolution import conv_transpose_parity
from cracks_jax.ops.cpu_convolution import Form, Geometry, form_for, plain_form, transposed_form
from cracks_jax.runtime.randomness import host_rng
from cracks_jax.surroundings import peak_memory

Forms = tuple[Form, Form | None]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution's shapes and geometry; `strides` of a transposed one enlarge."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, int]
    rates: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    transposed: bool

    @property
    def forms(self) -> Forms:
        """XLA's (the four parities of a transposed convolution) and the processor's, None where it is XLA's."""
        if self.transposed:
            return Form("parity", lambda kernel: kernel, conv_transpose_parity), transposed_form(self.x, self.kernel)
        how = Geometry(self.strides, self.pads, self.rates)
        return plain_form(how), form_for(self.x, self.kernel, how)


class _Ready:
    """One form of a layer as a contender."""

    def __init__(self, form: Form, layer: Layer, gradients: bool):
        def both(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
            y, pull_back = jax.vjp(form, x, kernel)
            return y, *pull_back(dy)

        self._call: Callable[..., Any] = jax.jit(both if gradients else form)
        self._count = 3 if gradients else 2

    def place(self, batch: dict[str, np.ndarray]) -> Any:
        return [jnp.asarray(array) for array in list(batch.values())[: self._count]]

    def run(self, placed: Any) -> Any:
        return jax.block_until_ready(self._call(*placed))


def measure_forms(job: Job) -> dict[str, Any]:
    """Seconds of each distinct layer: `xla` and `ours`, for the value alone and with both gradients."""
    workloads.prepare(job)
    found = []
    layers = layers_of(job)
    for number, (name, layer) in enumerate(layers.items(), 1):
        workloads.say(f"[{number}/{len(layers)}] {name}")
        found.append({"layer": name, **dataclasses.asdict(layer), **_measured(layer, job)})
    return {**workloads.head(job), "layers": found}


def layers_of(job: Job) -> dict[str, Layer]:
    """Every distinct convolution of the system's networks at the job's batch and size, by its first module's path."""
    found: dict[Layer, str] = {}

    def intercept(call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__" and isinstance(module, (nn.Conv, ConvTranspose)):
            layer = _layer(module, arguments[0].shape)
            found.setdefault(layer, "/".join(module.path))
        return call(*arguments, **keywords)

    method: Any = job.method
    image = jnp.zeros((job.batch, job.size, job.size, 3))

    def forward() -> None:
        key = jax.random.key(0)
        if not job.restores:
            method.network.init(key, image, mode="batch")
            return
        method.generator.init(key, image, mode="batch", dropout=False)
        method.discriminator.init(key, image, image, mode="batch")

    with nn.intercept_methods(intercept):
        jax.eval_shape(forward)
    return {f"{name} {_shapes(layer)}": layer for layer, name in found.items()}


def _layer(module: Any, x: tuple[int, ...]) -> Layer:
    transposed = isinstance(module, ConvTranspose)
    if transposed:
        return Layer(x, (4, 4, x[-1], module.features), (2, 2), (1, 1), ((0, 0), (0, 0)), True)
    side = tuple(module.kernel_size)
    strides, rates = (tuple(v) if isinstance(v, (tuple, list)) else (v or 1,) * 2 for v in _moves(module))
    padding = module.padding
    if isinstance(padding, str):
        reach = [(k - 1) * r + 1 for k, r in zip(side, rates, strict=True)]
        padding = jax.lax.padtype_to_pads(x[1:3], reach, strides, padding)
    elif isinstance(padding, int):
        padding = ((padding, padding),) * 2
    pads: Any = tuple((int(low), int(high)) for low, high in padding)
    return Layer(x, (*side, x[-1], module.features), strides, rates, pads, False)


def _moves(module: Any) -> tuple[Any, Any]:
    return module.strides, module.kernel_dilation


def _shapes(layer: Layer) -> str:
    return f"{'x'.join(map(str, layer.x))} by {'x'.join(map(str, layer.kernel))}"


def _measured(layer: Layer, job: Job) -> dict[str, Any]:
    xla, ours = layer.forms
    result: dict[str, Any] = {"form": "XLA's" if ours is None else ours.name}
    output = jax.eval_shape(
        xla, jax.ShapeDtypeStruct(layer.x, jnp.float32), jax.ShapeDtypeStruct(layer.kernel, jnp.float32)
    )
    shapes = {"x": layer.x, "kernel": layer.kernel, "dy": output.shape}
    multiplications = np.prod(layer.kernel) * np.prod((layer.x if layer.transposed else output.shape)[:3])

    def draw(repeat: int) -> dict[str, np.ndarray]:
        rng = host_rng(0, "benchmark", repeat)
        return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

    for what, gradients in (("value", False), ("gradients", True)):
        contenders = {"xla": _Ready(xla, layer, gradients)}
        if ours is not None:
            contenders["ours"] = _Ready(ours, layer, gradients)
        clock.alternate(contenders, draw, job.warmup, rest=0)
        seconds = clock.alternate(contenders, draw, job.repeats, rest=0)
        result[what] = {name: clock.summary(taken) for name, taken in seconds.items()}
    result["gflop"] = float(2 * multiplications / 1e9)
    result["peak_memory"] = peak_memory()
    return result

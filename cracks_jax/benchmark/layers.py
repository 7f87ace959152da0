"""Layers by themselves on an accelerator: the transposed convolution's three forms, and dilated convolutions."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cracks_jax.benchmark import flops
from cracks_jax.benchmark.accelerator import Sizes
from cracks_jax.benchmark.contenders import relative_error
from cracks_jax.benchmark.report import Record, Report
from cracks_jax.ops.convolution import conv_transpose_parity
from cracks_jax.ops.cpu_convolution import Geometry, blocks_form, plain_form

_NHWC = ("NHWC", "HWIO", "NHWC")
_DTYPES = ("bfloat16", "float32")
_COMPILERS = 4  # XLA compiles without Python's lock

FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "lax": lambda x, kernel: lax.conv_transpose(x, kernel, (2, 2), "SAME"),
    "parity": conv_transpose_parity,
    "one_product": blocks_form(plain_form(Geometry((1, 1), ((1, 1), (1, 1))))),
}


def measure_transposed(sizes: Sizes, report: Report) -> None:
    """Three forms of the transposed convolution at the decoder's shapes, forward and with both gradients."""
    layers = [(5, 16, 1024, 256), (6, 32, 512, 128), (7, 64, 256, 64), (8, 128, 128, 3), (4, 8, 1024, 512)]
    for dtype in _DTYPES:
        for number, side, inputs, outputs in layers[: sizes.layers]:
            side, inputs = max(side // sizes.sides, 2), inputs // sizes.sides
            shapes = (sizes.layer_batch, side, side, inputs), (4, 4, inputs, max(outputs // sizes.sides, 3))
            macs = sizes.layer_batch * flops.transposed("", side, inputs, shapes[1][-1]).macs
            name = f"dec{number}_{dtype}"
            if not report.enough(4.0 if sizes.sides == 1 else 0.0, name):
                return
            report.add(name, {"x": shapes[0], "kernel": shapes[1], **_timed(FORMS, shapes, dtype, macs, sizes)})


def measure_dilated(sizes: Sizes, report: Report) -> None:
    """3x3 convolutions of CrackSeg at dilation 1 to 8, forward and with both gradients; ratios to dilation 1."""
    for dtype in _DTYPES:
        for side, channels in ((32, 256), (16, 512)):
            side, channels = side // min(sizes.sides, 2), channels // sizes.sides
            shapes = (sizes.layer_batch, side, side, channels), (3, 3, channels, channels)
            macs = sizes.layer_batch * flops.convolution("", side, 3, channels, channels).macs
            name = f"side{side}_channels{channels}_{dtype}"
            if not report.enough(5.0 if sizes.sides == 1 else 0.0, name):
                return
            forms = {f"dilation{rate}": partial(_dilated, rate=rate) for rate in (1, 2, 4, 8)}
            found = _timed(forms, shapes, dtype, macs, sizes, alike=False)
            for row in found.values():
                for way in ("forward", "gradients"):
                    row[way]["to_dilation1"] = row[way]["seconds"] / found["dilation1"][way]["seconds"]
            report.add(name, {"x": shapes[0], "kernel": shapes[1], **found})


def _dilated(x: jax.Array, kernel: jax.Array, rate: int) -> jax.Array:
    pads = ((rate, rate), (rate, rate))
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, rhs_dilation=(rate, rate), dimension_numbers=_NHWC)


def _timed(
    forms: dict[str, Any], shapes: Any, dtype: str, macs: int, sizes: Sizes, *, alike: bool = True
) -> dict[str, Record]:
    """Seconds and GFLOP/s of every form, alone (`forward`) and with both gradients; and its error to the first."""
    x, kernel = (jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes))
    dy = jnp.ones_like(jax.eval_shape(next(iter(forms.values())), x, kernel))
    work: dict[tuple[str, str], tuple[Any, tuple[Any, ...]]]
    work = {(name, "forward"): (form, (x, kernel)) for name, form in forms.items()}
    work |= {(name, "gradients"): (partial(_with_gradients, form), (x, kernel, dy)) for name, form in forms.items()}
    with ThreadPoolExecutor(_COMPILERS if jax.default_backend() != "cpu" else 1) as pool:
        compiled = pool.map(lambda job: jax.jit(job[0]).lower(*job[1]).compile(), work.values())
        programs = dict(zip(work, compiled, strict=True))
    found: dict[str, Record] = {name: {} for name in forms}
    first: Any = None
    for (name, way), (_, arguments) in work.items():
        seconds, result = _seconds(programs[name, way], arguments, sizes)
        products = 1 if way == "forward" else 3
        found[name][way] = {"seconds": seconds, "gflops": 2 * products * macs / seconds / 1e9}
        if way == "forward" and alike:
            first = result if first is None else first
            found[name]["error"] = relative_error(*(np.asarray(y, np.float32) for y in (result, first)))
    return found


def _with_gradients(form: Any, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
    y, pull_back = jax.vjp(form, x, kernel)
    return y, *pull_back(dy)


def _seconds(program: Any, arguments: tuple[Any, ...], sizes: Sizes) -> tuple[float, Any]:
    """The median over repeats of one call's seconds in a row of calls: dispatching one is longer than a small layer."""
    result = jax.block_until_ready(program(*arguments))
    taken = []
    for _ in range(sizes.repeats):
        began = time.perf_counter()
        for _ in range(sizes.calls):
            last = program(*arguments)
        jax.block_until_ready(last)
        taken.append((time.perf_counter() - began) / sizes.calls)
    return statistics.median(taken), result

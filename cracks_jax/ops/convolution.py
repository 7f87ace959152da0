"""The two convolutions that networks use, and the one place that chooses their form by platform.

On a processor both take the forms of ops/cpu_convolution.py, elsewhere XLA's own (its libraries are made for those).
Every form computes the same sums: they differ by rounding. Channels last: (b, h, w, c), kernels (k, l, in, out).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cracks_jax.ops.cpu_convolution import Form, Geometry, form_for, plain_form, transposed_form

KERNEL = 4
STRIDE = 2

# An output row 2j + p sees the input rows j - 1 and j where p = 0, j and j + 1 where p = 1: one row of zeros
# before the first or after the last. Columns alike.
_PADDING = ((1, 0), (0, 1))


def conv_general_dilated(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k l i o"],
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **others: Any,
) -> Float[Array, "b H W o"]:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv(conv_general_dilated=...)`: same value, same gradients.

    Two-dimensional convolutions of float32 or float64, without groups or input dilation, get the form of the platform;
    all others are passed on as they are. Differentiable in reverse mode.
    """
    usual = x.ndim == 4 and feature_group_count == 1 and set(lhs_dilation or (1,)) == {1} and _wide(x)
    if usual:
        rates = tuple(rhs_dilation or (1, 1))
        if isinstance(padding, str):
            reach = [(side - 1) * rate + 1 for side, rate in zip(kernel.shape, rates, strict=False)]
            padding = lax.padtype_to_pads(x.shape[1:3], reach, window_strides, padding)
        pads = tuple((int(low), int(high)) for low, high in padding)
        how = Geometry(tuple(window_strides), pads, rates, precision)  # type: ignore[arg-type]
        form = form_for(_all_of(x), kernel.shape, how, frozen=_frozen())
        if form is not None:
            return _chosen(x, kernel, form, plain_form(how))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
        **others,
    )


def conv_transpose(x: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"]) -> Float[Array, "b 2*h 2*w o"]:
    """Transposed convolution with kernel 4 and stride 2: doubles height and width.

    Equal to `flax.linen.ConvTranspose(o, (4, 4), (2, 2), padding="SAME")` without its bias, and to PyTorch's
    `ConvTranspose2d(i, o, 4, stride=2, padding=1)` with its kernel flipped on both axes.

    Raises:
      ValueError: the kernel is not 4x4, or its input channels are not those of `x`.
    """
    if kernel.ndim != 4 or kernel.shape[:2] != (KERNEL, KERNEL):
        raise ValueError(
            f"kernel has shape {kernel.shape}; this form is for (4, 4, in, out) with stride 2"
            " (use jax.lax.conv_transpose for others)"
        )
    if x.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(f"input has shape {x.shape} and kernel {kernel.shape}; expected (b, h, w, {kernel.shape[2]})")
    if not _wide(x):
        return conv_transpose_parity(x, kernel)
    return _chosen(x, kernel, transposed_form(_all_of(x), kernel.shape, frozen=_frozen()), _PARITY)


def conv_transpose_parity(x: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"]) -> Float[Array, "b 2*h 2*w o"]:
    """The same by four stride-1 convolutions, one for each parity of output row and column.

    Output pixels of one parity see the same 2x2 taps of the kernel. The gradient of the dilated form that XLA has for
    this runs at about a hundredth of the speed of ordinary convolutions on a processor; the gradients of these do not.
    """
    parities = [
        lax.conv_general_dilated(
            x,
            kernel[p::STRIDE, q::STRIDE],
            (1, 1),
            (_PADDING[p], _PADDING[q]),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for p in range(STRIDE)
        for q in range(STRIDE)
    ]
    return _interleave(jnp.stack(parities))


_PARITY = Form("parity", lambda kernel: kernel, conv_transpose_parity)


def _interleave(parities: Float[Array, "4 b h w o"]) -> Float[Array, "b 2*h 2*w o"]:
    """(row parity, column parity) in row-major order -> the image whose pixels they are."""
    _, b, h, w, o = parities.shape
    grid = parities.reshape(STRIDE, STRIDE, b, h, w, o)
    return grid.transpose(2, 3, 0, 4, 1, 5).reshape(b, STRIDE * h, STRIDE * w, o)


def _wide(x: Array) -> bool:
    """Half precision keeps XLA's form: sums and differences of inputs would lose the digits that it has left."""
    return jnp.finfo(x.dtype).bits >= 32


# --------------------------------------------------------------------------------------- the choice of form


def _frozen() -> bool:
    """Kernels are prepared beforehand."""
    return _KERNELS.get() is not None


def _all_of(x: Array) -> tuple[int, ...]:
    """The shape of what one product will see: this array's and its likes', where the network is mapped over many."""
    kernels = _KERNELS.get()
    return x.shape if kernels is None else (kernels.mapped * x.shape[0], *x.shape[1:])


def _chosen(x: Array, kernel: Array, cpu: Form, default: Form) -> Array:
    kernels = _KERNELS.get()
    return _by_platform(x, kernel, cpu, default) if kernels is None else kernels.convolve(x, kernel, cpu)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_platform(x: Array, kernel: Array, cpu: Form, default: Form) -> Array:
    """One of two forms of one function; the platform that the program is lowered for decides, not the one at hand."""
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x: Array, kernel: Array, cpu: Form, default: Form) -> tuple[Array, tuple[Array, Array]]:
    return _by_platform(x, kernel, cpu, default), (x, kernel)


def _backward(cpu: Form, default: Form, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    # What a form computes again here, it has computed in the forward pass: the compiler finds and shares it.
    def pull_back(form: Form) -> Callable[..., tuple[Array, Array]]:
        return lambda x, kernel, dy: jax.vjp(form, x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=pull_back(cpu), default=pull_back(default))


_by_platform.defvjp(_forward, _backward)


# ---------------------------------------------------------------------------------------- frozen networks

Prepared = list[Any]


def prepare_kernels(forward: Callable[..., Any], *arguments: Any, mapped: int = 1) -> Prepared:
    """Every kernel of a network as its form wants it, for `with_kernels`: a frozen network does that work once.

    `forward(*arguments)` is run to see which convolutions it makes, of which shapes; under jit only what the kernels
    need is computed. Empty where the processor is not the platform: other forms take kernels as they are.

    Args:
      mapped: how many such calls `with_kernels` will make at a time by `jax.vmap`. Here only one is made.
    """
    found: Prepared = []
    if jax.default_backend() == "cpu":
        with _kernels(_Recorded(found, mapped)):
            forward(*arguments)
    return found


def with_kernels(prepared: Prepared, forward: Callable[..., Any], *arguments: Any, mapped: int = 1) -> Any:
    """`forward(*arguments)` with the kernels that `prepare_kernels` made of the same network and the same shapes.

    Args:
      mapped: as it was for `prepare_kernels`; `forward` maps the network over so many.
    """
    if not prepared:
        return forward(*arguments)
    with _kernels(_Given(iter(prepared), mapped)):
        return forward(*arguments)


@dataclass
class _Recorded:
    found: Prepared
    mapped: int

    def convolve(self, x: Array, kernel: Array, form: Form) -> Array:
        self.found.append(form.prepare(kernel))
        return form.apply(x, self.found[-1])


@dataclass
class _Given:
    prepared: Iterator[Any]
    mapped: int

    def convolve(self, x: Array, kernel: Array, form: Form) -> Array:
        return form.apply(x, next(self.prepared))


_KERNELS: ContextVar[_Recorded | _Given | None] = ContextVar("kernels", default=None)


@contextmanager
def _kernels(kernels: _Recorded | _Given) -> Iterator[None]:
    token = _KERNELS.set(kernels)
    try:
        yield
    finally:
        _KERNELS.reset(token)

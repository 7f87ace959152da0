"""Losses between an image and its restoration: MAE, SSIM, MSGMS, style (UP-CrackNet, eqs. 3 to 6).

Images are floats (b, h, w, c) in [-1, 1] unless a loss says otherwise. Half precision is raised to float32
before anything is summed, float64 stays. Every gradient is finite, also on flat and on equal images: a loss
weight of zero then gives a zero gradient, where 0 times infinity would give NaN.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cracks_jax.ops import windows
from cracks_jax.ops.precision import at_least_float32

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


@jax.named_scope("mae")
def mae(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Mean absolute error over pixels and channels, eq. 3 (it prints the norm; the authors take the mean)."""
    a, b = _pair("mae", a, b)
    return _mean_absolute(a - b)


@jax.named_scope("ssim")
def ssim(
    a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], *, data_range: float = 2.0, padding: int = 0
) -> Float[Array, ""]:
    """Mean structural similarity, per channel, 1 for equal images: the loss of eq. 4 is 1 - ssim.

    Gaussian windows of 11x11 px with sigma 1.5, population variances, K = (0.01, 0.03) (Wang et al. 2004).
    The paper prints no constants; its authors' code takes a data range of 1, although the images span 2, and
    pads by 5 zeros.

    Args:
      data_range: L, the span of the values: 2 for [-1, 1]; 1 in the authors' preset.
      padding: zeros around the images: 0 keeps to whole windows, 5 gives a window to every pixel (authors).

    Raises:
      ValueError: when the images differ in shape or are too small for one window.
    """
    a, b = _pair("ssim", a, b)
    _check_window(a.shape, padding)
    maps = jnp.stack([a, b, a * a + b * b, a * b])
    if padding:
        maps = jnp.pad(maps, [(0, 0), (0, 0), (padding, padding), (padding, padding), (0, 0)])
    # One pass for all windows. Only the sum of the two variances enters, so four maps do for the usual five.
    mean_a, mean_b, squares, product = windows.gaussian_mean(maps, SSIM_WINDOW, SSIM_SIGMA)
    mean_product = mean_a * mean_b
    mean_squares = mean_a * mean_a + mean_b * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_product + c1) / (mean_squares + c1)
    structure = (2 * (product - mean_product) + c2) / (squares - mean_squares + c2)
    return jnp.mean(luminance * structure)


def _check_window(shape: tuple[int, ...], padding: int) -> None:
    h, w = shape[1:3]
    least = SSIM_WINDOW - 2 * padding
    if min(h, w) < least:
        raise ValueError(
            f"ssim: images are {h}x{w} px, smaller than one window; with padding {padding} both sides "
            f"need at least {least} px"
        )


@jax.named_scope("msgms_loss")
def msgms_loss(
    a: Float[Array, "b h w c"],
    b: Float[Array, "b h w c"],
    *,
    scales: int = 4,
    median: bool = False,
    padding: int = 1,
    c: float = 0.0026,
) -> Float[Array, ""]:
    """Multi-scale gradient magnitude similarity, eq. 5: mean of 1 - GMS over pixels, then over the scales.

    0 for equal images, below 1. Channels are averaged first; scales halve by 2x2 averaging; Prewitt gradients
    are divided by 3. The paper prints no constants and the authors' file is missing; these are those of the
    RIAD implementation that their code names. The square root is kept off zero (x + 1e-8): its gradient is
    infinite there, and asphalt has flat regions.

    Args:
      scales: 4 in the paper: 1, 1/2, 1/4, 1/8.
      median: 3x3 median, zeros outside, before the gradients of each scale (the authors' preset).
      padding: pixels by which the border is repeated outwards before the gradients; 0 in the authors' preset.
      c: keeps the ratio of two small gradients near 1; made for grey values that span about 1.

    Raises:
      ValueError: when the images differ in shape, or when their sides do not halve scales - 1 times.
    """
    a, b = _pair("msgms_loss", a, b)
    _check_scales(a.shape, scales, padding)
    grey = jnp.stack([a, b]).mean(-1)
    total = _gms_distance(grey, median, padding, c)
    for _ in range(scales - 1):
        grey = windows.halve(grey)
        total = total + _gms_distance(grey, median, padding, c)
    return total / scales


def _gms_distance(grey: Float[Array, "2 b h w"], median: bool, padding: int, c: float) -> Float[Array, ""]:
    if median:
        grey = windows.median_3x3(grey)
    across, down = windows.prewitt(windows.repeat_border(grey, padding))
    first, second = jnp.sqrt(across * across + down * down + 1e-8)
    # 1 - (2 f s + c) / (f^2 + s^2 + c) without the cancellation: exactly 0 where the gradients agree.
    return jnp.mean(jnp.square(first - second) / (first * first + second * second + c))


def _check_scales(shape: tuple[int, ...], scales: int, padding: int) -> None:
    if scales < 1:
        raise ValueError(f"msgms_loss: scales is {scales}; it needs at least 1")
    h, w = shape[1:3]
    multiple = 2 ** (scales - 1)
    least = multiple * max(1, 3 - 2 * padding)
    if h % multiple or w % multiple or min(h, w) < least:
        fits = "x".join(str(max(least, -(-side // multiple) * multiple)) for side in (h, w))
        raise ValueError(
            f"msgms_loss: images are {h}x{w} px; {scales} scales with padding {padding} need sides that are "
            f"multiples of {multiple} and at least {least} px, such as {fits}"
        )


def gram(features: Float[Array, "b h w c"]) -> Float[Array, "b c c"]:
    """Gram matrix of the channels over all positions, F F^T / (c h w), per image."""
    _, h, w, c = features.shape
    features = at_least_float32(features)
    # Full precision: the sum runs over thousands of positions.
    product = jnp.einsum("bhwc,bhwd->bcd", features, features, precision=jax.lax.Precision.HIGHEST)
    return product / (c * h * w)


@jax.named_scope("style_loss")
def style_loss(
    features_a: Sequence[Float[Array, "b h w c"]], features_b: Sequence[Float[Array, "b h w c"]]
) -> Float[Array, ""]:
    """L1 distance of Gram matrices, eq. 6: mean over the entries of each layer, summed over the layers.

    The features come from a frozen pretrained extractor, one array per layer; layers may differ in size. The
    paper leaves layers and scaling open: both are those of the authors' code.

    Raises:
      ValueError: when there is no layer, or the two lists differ in length or shapes.
    """
    if len(features_a) != len(features_b) or not features_a:
        raise ValueError(
            f"style_loss: {len(features_a)} and {len(features_b)} feature maps; it needs the same number, at least one"
        )
    layers = [_pair("style_loss", a, b) for a, b in zip(features_a, features_b, strict=True)]
    distances = [_mean_absolute(gram(a) - gram(b)) for a, b in layers]
    return sum(distances[1:], start=distances[0])


def _mean_absolute(x: Array) -> Float[Array, ""]:
    """Mean of |x| with the derivative 0 where x is 0, as PyTorch has it: jax's `abs` has the derivative 1 there."""
    return jnp.mean(x * jax.lax.stop_gradient(jnp.sign(x)))


def _pair(name: str, a: Array, b: Array) -> tuple[Array, Array]:
    """Both arrays in one dtype of at least float32; refuses shapes that would only fit by broadcasting."""
    if a.shape != b.shape:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} differ; both must be the same")
    a, b = at_least_float32(a), at_least_float32(b)
    wider = max(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return a.astype(wider), b.astype(wider)

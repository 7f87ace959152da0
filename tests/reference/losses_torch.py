"""PyTorch twins of the losses, written from the formulas: NCHW, autograd derivatives, no code shared with ours."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mae(a: Tensor, b: Tensor) -> Tensor:
    return F.l1_loss(a, b)


def ssim(a: Tensor, b: Tensor, data_range: float = 2.0, padding: int = 0) -> Tensor:
    """Wang et al. 2004 as usually written in PyTorch: one 11x11 window, five grouped convolutions."""
    channels = a.shape[1]
    position = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    line = torch.exp(-(position**2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum()).expand(channels, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=padding, groups=channels)

    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return ((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean()


def median_3x3(x: Tensor) -> Tensor:
    """(b, 1, h, w) -> (b, 1, h, w), zeros outside."""
    b, _, h, w = x.shape
    return F.unfold(x, 3, padding=1).median(1).values.reshape(b, 1, h, w)


def msgms_loss(a: Tensor, b: Tensor, median: bool = False, padding: int = 1, c: float = 0.0026) -> Tensor:
    """Xue et al. 2014's similarity over four scales, as in public RIAD code, with the square root off zero."""
    across = torch.tensor([[-1.0, 0.0, 1.0]] * 3, dtype=a.dtype, device=a.device) / 3
    kernel = torch.stack([across, across.T])[:, None]

    def magnitude(x: Tensor) -> Tensor:
        x = x.mean(1, keepdim=True)
        if median:
            x = median_3x3(x)
        x = F.pad(x, (padding,) * 4, mode="replicate") if padding else x
        return torch.sqrt((F.conv2d(x, kernel) ** 2).sum(1, keepdim=True) + 1e-8)

    total = torch.zeros((), dtype=a.dtype, device=a.device)
    for scale in range(4):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        g_a, g_b = magnitude(a), magnitude(b)
        total = total + (1 - (2 * g_a * g_b + c) / (g_a**2 + g_b**2 + c)).mean()
    return total / 4


def style_loss(features_a: list[Tensor], features_b: list[Tensor]) -> Tensor:
    def gram(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        return flat @ flat.transpose(1, 2) / (c * h * w)

    return sum(F.l1_loss(gram(a), gram(b)) for a, b in zip(features_a, features_b, strict=True))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    return F.binary_cross_entropy(torch.sigmoid(real), torch.ones_like(real)) + F.binary_cross_entropy(
        torch.sigmoid(fake), torch.zeros_like(fake)
    )


def generator_loss(fake: Tensor, form: str) -> Tensor:
    probability = torch.sigmoid(fake)
    if form == "minimax":
        return torch.log(1 - probability).mean()
    return F.binary_cross_entropy(probability, torch.ones_like(probability))


def cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    return F.cross_entropy(logits, mask)

"""A PyTorch twin of UP-CrackNet's two networks, written from the reference table; its weights as our trees.

NCHW throughout. Modules bear the names that ours bear, so that a tensor's path is the same in both.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Activation, then (transposed) convolution of kernel 4 and padding 1, then batch norm, then dropout."""

    def __init__(self, inputs, outputs, *, act=None, up=False, stride=2, norm=True, dropout=False):
        super().__init__()
        self.act = act
        self.conv = (nn.ConvTranspose2d if up else nn.Conv2d)(inputs, outputs, 4, stride, 1)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()

    def forward(self, x):
        x = x if self.act is None else self.act(x)
        return self.dropout(self.norm(self.conv(x)))


def leaky(x):
    return F.leaky_relu(x, 0.2)


class Generator(nn.Module):
    """pix2pix's U-Net; with base 64 and depth 8 it is the table of the reference."""

    def __init__(self, base: int = 64, depth: int = 8, *, dropout: bool = True):
        super().__init__()
        widths = [min(base * 2**i, base * 8) for i in range(depth)]
        self.depth = depth
        self.enc1 = Layer(3, widths[0], norm=False)
        for i in range(2, depth + 1):
            self.add_module(f"enc{i}", Layer(widths[i - 2], widths[i - 1], act=leaky, norm=i < depth))
        inputs = widths[-1]
        for i in range(1, depth):
            skipped = widths[depth - i - 1]
            layer = Layer(inputs, skipped, act=F.relu, up=True, dropout=dropout and i <= 3)
            self.add_module(f"dec{i}", layer)
            inputs = 2 * skipped
        self.add_module(f"dec{depth}", Layer(inputs, 3, act=F.relu, up=True, norm=False))

    def forward(self, x):
        encoded = {}
        for i in range(1, self.depth + 1):
            encoded[i] = x = getattr(self, f"enc{i}")(x)
        for i in range(1, self.depth):
            x = torch.cat([getattr(self, f"dec{i}")(x), encoded[self.depth - i]], 1)
        return torch.tanh(getattr(self, f"dec{self.depth}")(x))


class Discriminator(nn.Module):
    """The 70x70 PatchGAN, up to the logits: the authors' sigmoid is left off."""

    def __init__(self, base: int = 64):
        super().__init__()
        self.layer1 = Layer(6, base, norm=False)
        self.layer2 = Layer(base, 2 * base, act=leaky)
        self.layer3 = Layer(2 * base, 4 * base, act=leaky)
        self.layer4 = Layer(4 * base, 8 * base, act=leaky, stride=1)
        self.layer5 = Layer(8 * base, 1, act=leaky, stride=1, norm=False)

    def forward(self, corrupted, image):
        x = torch.cat([corrupted, image], 1)
        for i in range(1, 6):
            x = getattr(self, f"layer{i}")(x)
        return x


def draw_norms(network: nn.Module, seed: int) -> None:
    """Batch norms away from their initial values, so that a forgotten one is seen."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.3, 0.3, generator=generator)


def variables(network: nn.Module) -> dict[str, Any]:
    """The twin's parameters and running averages as `{"params": ..., "batch_stats": ...}` of ours."""
    params = {name: p.detach() for name, p in network.named_parameters()}
    averages = {name: b for name, b in network.named_buffers() if "running" in name}
    return {"params": _tree(network, params), "batch_stats": _tree(network, averages)}


def gradients(network: nn.Module) -> dict[str, Any]:
    """The gradients of the last backward pass as a tree of our parameters."""
    return _tree(network, {name: p.grad for name, p in network.named_parameters()})


def _tree(network: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, module, leaf = name.split(".")
        array = tensor.numpy().copy()
        if array.ndim == 4 and isinstance(network.get_submodule(f"{layer}.{module}"), nn.ConvTranspose2d):
            # (in, out, h, w), and PyTorch's kernel is Flax's turned by 180 degrees.
            array = array[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
        elif array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        names = {"weight": "kernel" if module == "conv" else "scale", "bias": "bias"}
        names |= {"running_mean": "mean", "running_var": "var"}
        node = tree.setdefault(layer, {}).setdefault(module, {})
        node[names[leaf]] = np.ascontiguousarray(array)
    return tree

"""PyTorch twins of the dilated ResNets: version 1 with torchvision's tensor names, version 2 with Gluon's.

Weights are drawn, not pretrained. `to_flax` renames by rule, apart from the package's own mapping, so that each can be
held against the other.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}
RATES = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, rate: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, rate * (kernel // 2), rate, bias=False)


class Bottleneck(nn.Module):
    """torchvision's, but for the dilation, which every unit of a dilated block has (TF-slim's multi-grid 1, 1, 1)."""

    def __init__(self, inputs: int, width: int, stride: int, rate: int, project: bool):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, rate), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width), nn.BatchNorm2d(4 * width)
        if project:
            self.downsample = nn.Sequential(conv(inputs, 4 * width, stride=stride), nn.BatchNorm2d(4 * width))
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if self.project else x))


class ResNetV1(nn.Module):
    """`torchvision.models.resnet50` or `resnet101` without the classifier, at an output stride of 8, 16 or 32."""

    def __init__(self, depth: int = 50, output_stride: int = 16, narrow: int = 1):
        super().__init__()
        inputs = 64 // narrow
        self.conv1, self.bn1 = conv(3, inputs, 7, 2), nn.BatchNorm2d(inputs)
        for block, (units, stride, rate) in enumerate(
            zip(UNITS[depth], STRIDES[output_stride], RATES[output_stride], strict=True)
        ):
            width = 64 * 2**block // narrow
            layer = nn.Sequential()
            for unit in range(units):
                layer.append(Bottleneck(inputs, width, stride if unit == 0 else 1, rate, unit == 0))
                inputs = 4 * width
            setattr(self, f"layer{block + 1}", layer)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {"conv1": F.relu(self.bn1(self.conv1(x)))}
        x = F.max_pool2d(maps["conv1"], 3, 2, 1)
        for block in range(1, 5):
            maps[f"block{block}"] = x = getattr(self, f"layer{block}")(x)
        return maps


class ResNetV2(nn.Module):
    """Gluon's `resnet50_v2` without the classifier; modules are numbered in a stage as Gluon numbers them."""

    def __init__(self, output_stride: int = 16):
        super().__init__()
        self.strides, self.rates = STRIDES[output_stride], RATES[output_stride]
        self.batchnorm0, self.conv0, self.batchnorm1 = nn.BatchNorm2d(3), conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        inputs = 64
        for stage, units in enumerate(UNITS[50], 1):
            width, convs, norms = 32 * 2**stage, 0, 0
            for unit in range(units):
                stride, rate = (self.strides[stage - 1] if unit == 0 else 1), self.rates[stage - 1]
                layers = [conv(inputs, width), conv(width, width, 3, stride, rate), conv(width, 4 * width)]
                if unit == 0:
                    layers.append(conv(inputs, 4 * width, stride=stride))
                for layer in layers:
                    self.add_module(f"stage{stage}_conv{convs}", layer)
                    convs += 1
                for channels in (inputs, width, width):
                    self.add_module(f"stage{stage}_batchnorm{norms}", nn.BatchNorm2d(channels))
                    norms += 1
                inputs = 4 * width
        self.batchnorm2 = nn.BatchNorm2d(inputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {"conv1": F.relu(self.batchnorm1(self.conv0(self.batchnorm0(x))))}
        x = F.max_pool2d(maps["conv1"], 3, 2, 1)
        for stage, units in enumerate(UNITS[50], 1):
            convs = (m for name, m in self.named_children() if name.startswith(f"stage{stage}_conv"))
            norms = (m for name, m in self.named_children() if name.startswith(f"stage{stage}_batchnorm"))
            for unit in range(units):
                first = F.relu(next(norms)(x))
                y = next(convs)(first)
                y = next(convs)(F.relu(next(norms)(y)))
                y = next(convs)(F.relu(next(norms)(y)))
                x = y + (next(convs)(first) if unit == 0 else x)
            maps[f"block{stage}"] = x
        maps["block4"] = F.relu(self.batchnorm2(x))
        return maps


def draw(network: nn.Module, seed: int = 0) -> nn.Module:
    """He normal kernels, norms and averages away from their trivial values; quick, and well-conditioned.

    Two choices keep float32 rounding where it is. A pre-activation next to zero falls on either side of the ReLU
    when sums are taken in another order, and its gradient jumps: norms' offsets are 1.5 scales up or down, in turn, so
    that few are there (with offsets about 0, PyTorch's own float32 gradients are 5e-2 from its float64 ones). And a
    residual branch's last scale is small, as deep networks start in practice.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            module.weight.data.normal_(0, (2 / fan_out) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            size = 0.25 if name.endswith("bn3") else 1.0
            up_or_down = 1.5 - 3.0 * (torch.arange(module.num_features) % 2)
            module.weight.data.uniform_(0.75 * size, 1.25 * size, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator).add_(up_or_down * module.weight.data)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    return network


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def to_gluon(tensors: Mapping[str, Tensor], prefix: str = "resnetv24_") -> dict[str, np.ndarray]:
    """`ResNetV2`'s state as Gluon's file names it."""
    result = {}
    for name, tensor in tensors.items():
        module, leaf = name.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        if "batchnorm" in module:
            leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
        result[f"{prefix}{module}_{leaf}"] = tensor.detach().numpy()
    return result


LEAVES = {"running_mean": "mean", "running_var": "var"}


def to_flax(tensors: Mapping[str, Tensor], rename=None) -> dict[str, dict]:
    """A twin's tensors (weights, gradients or averages) as `{"params": ..., "batch_stats": ...}`.

    Args:
      rename: a module's name here -> its '/'-joined path there.
    """
    trees: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for name, tensor in tensors.items():
        module, leaf = name.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        collection = "batch_stats" if leaf in LEAVES else "params"
        value = tensor.detach().numpy()
        if leaf == "weight":
            leaf = "kernel" if value.ndim == 4 else "scale"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        *path, last = [*(rename or trunk_path)(module).split("/"), LEAVES.get(leaf, leaf)]
        tree = trees[collection]
        for part in path:
            tree = tree.setdefault(part, {})
        tree[last] = value
    return trees


def trunk_path(module: str) -> str:
    """A trunk's module name -> its path in `cracks_jax.networks.backbones.resnet.ResNet`."""
    fixed = {
        "conv1": "conv1/conv",
        "bn1": "conv1/norm",
        "batchnorm0": "input_norm",
        "conv0": "conv1/conv",
        "batchnorm1": "conv1/norm",
        "batchnorm2": "final_norm",
    }
    if module in fixed:
        return fixed[module]
    if version_1 := re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module):
        block, unit, part = version_1.groups()
        parts = {"downsample.0": "shortcut/conv", "downsample.1": "shortcut/norm"}
        parts |= {f"conv{i}": f"conv{i}/conv" for i in (1, 2, 3)} | {f"bn{i}": f"conv{i}/norm" for i in (1, 2, 3)}
        return f"block{block}/unit{int(unit) + 1}/{parts[part]}"
    stage, kind, number = re.fullmatch(r"stage(\d)_(conv|batchnorm)(\d+)", module).groups()
    if kind == "batchnorm":
        unit, index = divmod(int(number), 3)
        return f"block{stage}/unit{unit + 1}/norm{index + 1}"
    first = ("unit1/conv1", "unit1/conv2", "unit1/conv3", "unit1/shortcut")
    if int(number) < len(first):
        return f"block{stage}/{first[int(number)]}"
    unit, index = divmod(int(number) - 4, 3)
    return f"block{stage}/unit{unit + 2}/conv{index + 1}"

"""A PyTorch twin of CrackSeg in every reading of Figure 3; modules behind the trunk are named as in our tree."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.reference.resnet_torch import ResNetV1, ResNetV2, conv, to_flax, trunk_path

KERNELS = (1, 3, 5)


class Block(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, rate: int = 1):
        super().__init__()
        self.conv, self.norm = conv(inputs, outputs, kernel, rate=rate), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def branch(reading: str, inputs: int, width: int, kernel: int, rate: int) -> nn.Sequential:
    """One branch of Figure 3."""
    result = nn.Sequential()
    if reading == "R2":
        result.add_module("dilated", Block(inputs, width, kernel, rate))
        return result
    if reading == "R1n":
        result.add_module("standard", Block(inputs, width, kernel))
    else:
        result.add_module("reduce", Block(inputs, width))
        if kernel > 1:
            result.add_module("standard", Block(width, width, kernel))
    result.add_module("dilated", Block(width, width, 3, rate))
    return result


class Multiscale(nn.Module):
    """Figure 3."""

    def __init__(self, reading: str, inputs: int, width: int, out_width: int, rates: tuple[int, ...]):
        super().__init__()
        self.rates = rates
        for kernel, rate in zip(KERNELS, rates, strict=True):
            self.add_module(f"branch_d{rate}", branch(reading, inputs, width, kernel, rate))
        self.merge = Block(3 * width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([getattr(self, f"branch_d{rate}")(x) for rate in self.rates], 1))


class Upsampling(nn.Module):
    """Table 1's decoder, three 3x3 convolutions."""

    def __init__(self, high: int, low: int, width: int):
        super().__init__()
        self.low_level = Block(low, width)
        self.conv_1, self.conv_2, self.conv_3 = (
            Block(high + width, width, 3),
            Block(width, width, 3),
            Block(width, width, 3),
        )

    def forward(self, high: Tensor, conv1: Tensor, block1: Tensor) -> Tensor:
        size = block1.shape[2:]
        low = self.low_level(torch.cat([enlarge(conv1, size), block1], 1))
        return self.conv_3(self.conv_2(self.conv_1(torch.cat([enlarge(high, size), low], 1))))


class CrackSeg(nn.Module):
    """The default network (output stride 16, low-level maps from Conv1 and Block1) in one reading."""

    def __init__(
        self,
        reading: str = "R1",
        version: int = 1,
        narrow: int = 1,
        width: int = 256,
        out_width: int = 512,
        rates: tuple[int, ...] = (1, 3, 5),
        depth: int = 50,
    ):
        super().__init__()
        self.resnet = ResNetV1(depth, narrow=narrow) if version == 1 else ResNetV2()
        block3, block4 = 1024 // narrow, 2048 // narrow
        self.per_block = reading == "R3"
        if self.per_block:
            self.multiscale_dilated_module_block3 = Multiscale("R1", block3, width, out_width // 2, rates)
            self.multiscale_dilated_module_block4 = Multiscale("R1", block4, width, out_width // 2, rates)
        else:
            self.multiscale_dilated_module = Multiscale(reading, block3 + block4, width, out_width, rates)
        self.upsampling_module = Upsampling(out_width, 320 // narrow, width)
        self.classifier = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.resnet(x)
        high = [maps["block3"], maps["block4"]]
        if self.per_block:
            modules = (self.multiscale_dilated_module_block3, self.multiscale_dilated_module_block4)
            y = torch.cat([module(h) for module, h in zip(modules, high, strict=True)], 1)
        else:
            y = self.multiscale_dilated_module(torch.cat(high, 1))
        y = self.upsampling_module(y, maps["conv1"], maps["block1"])
        return enlarge(self.classifier(y), x.shape[2:])


def enlarge(x: Tensor, size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def crackseg_to_flax(tensors: Mapping[str, Tensor]) -> dict[str, dict]:
    """The twin's tensors as the variables of `cracks_jax.networks.crackseg.CrackSeg`."""
    return to_flax(tensors, _path)


def _path(module: str) -> str:
    if module.startswith("resnet."):
        return f"resnet/{trunk_path(module.removeprefix('resnet.'))}"
    return module.replace(".", "/")

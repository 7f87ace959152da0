"""Pretrained ResNet files -> the trees of `networks.backbones.resnet.ResNet`. NumPy only.

Two kinds of file are known: torchvision's `resnet50` and `resnet101` (version 1), and Gluon's `resnet50_v2`
(version 2 with `input_norm=True`). The classifier's tensors are left aside. Both expect ImageNet-standardised
RGB.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from cracks_jax.errors import CracksError
from cracks_jax.weights.files import Loaded, convolution_kernel, loaded_from, source_of, take

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
# Where the four tensors of a batch norm go: scale, offset, mean, variance.
NORM_LEAVES = (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))

_Tree = dict[str, Any]


def torchvision_resnet(tensors: Mapping[str, np.ndarray], depth: int) -> Loaded:
    """torchvision's `resnet50` or `resnet101` (`conv1.weight`, `layer1.0.bn1.running_mean`, ...) as version
    1.

    Raises:
      CracksError: a tensor is missing, has another shape, or belongs to no ResNet of this depth; names file
        and tensor.
    """
    reader = _Reader(tensors, ("weight", "bias", "running_mean", "running_var"), ".")
    reader.ignore(lambda name: name.startswith("fc.") or name.endswith(".num_batches_tracked"))
    reader.convolution("conv1", ("conv1", "conv"), (7, 7, 3, 64))
    reader.norm("bn1", ("conv1", "norm"), 64)
    for block, unit, inputs, width in _units(depth):
        theirs, ours = f"layer{block}.{unit - 1}", (f"block{block}", f"unit{unit}")
        shapes = ((1, 1, inputs, width), (3, 3, width, width), (1, 1, width, width * EXPANSION))
        for index, shape in enumerate(shapes, 1):
            reader.convolution(f"{theirs}.conv{index}", (*ours, f"conv{index}", "conv"), shape)
            reader.norm(f"{theirs}.bn{index}", (*ours, f"conv{index}", "norm"), shape[-1])
        if unit == 1:
            shape = (1, 1, inputs, width * EXPANSION)
            reader.convolution(f"{theirs}.downsample.0", (*ours, "shortcut", "conv"), shape)
            reader.norm(f"{theirs}.downsample.1", (*ours, "shortcut", "norm"), shape[-1])
    return reader.finish(f"torchvision's resnet{depth}")


def gluon_resnet50v2(tensors: Mapping[str, np.ndarray]) -> Loaded:
    """Gluon's `resnet50_v2` (`resnetv24_stage1_conv0_weight`, ...) as version 2 with `input_norm=True`.

    Stage 4's convolutions may be absent, in part or all: the whole of block4 and the final norm are then
    listed in `missing` and keep their drawn values, because averages and scales that were trained behind
    other convolutions let the activations of drawn ones explode.

    Raises:
      CracksError: any other tensor is missing, or one has another shape or belongs to no such network.
    """
    stem = next((name for name in tensors if re.fullmatch(r"(?!.*stage).*conv0_weight", name)), None)
    if stem is None:
        raise CracksError(
            f"{source_of(tensors)}: no tensor '*_conv0_weight' of a stem; expected Gluon's resnet50_v2"
            " (resnetv24_conv0_weight, ...)"
        )
    prefix = stem.removesuffix("conv0_weight")
    reader = _Reader(tensors, ("gamma", "beta", "running_mean", "running_var"), "_")
    reader.ignore(lambda name: name.startswith(f"{prefix}dense0_"))
    complete = all(f"{prefix}stage4_conv{index}_weight" in tensors for index in range(3 * UNITS[50][3] + 1))
    reader.norm(f"{prefix}batchnorm0", ("input_norm",), 3)
    reader.convolution(f"{prefix}conv0", ("conv1", "conv"), (7, 7, 3, 64))
    reader.norm(f"{prefix}batchnorm1", ("conv1", "norm"), 64)
    for block, unit, inputs, width in _units(50):
        theirs, ours = f"{prefix}stage{block}", (f"block{block}", f"unit{unit}")
        shapes = ((1, 1, inputs, width), (3, 3, width, width), (1, 1, width, width * EXPANSION))
        # Gluon counts within a stage; the projection comes fourth, behind the first unit's three
        # convolutions.
        first_norm, first_conv = 3 * (unit - 1), 3 * (unit - 1) + (1 if unit > 1 else 0)
        reader.drawn = block == 4 and not complete
        for index, shape in enumerate(shapes):
            reader.norm(f"{theirs}_batchnorm{first_norm + index}", (*ours, f"norm{index + 1}"), shape[2])
            place = (*ours, f"conv{index + 1}")
            reader.convolution(f"{theirs}_conv{first_conv + index}", place, shape)
        if unit == 1:
            shape = (1, 1, inputs, width * EXPANSION)
            reader.convolution(f"{theirs}_conv3", (*ours, "shortcut"), shape)
    reader.norm(f"{prefix}batchnorm2", ("final_norm",), WIDTHS[-1] * EXPANSION)
    return reader.finish("Gluon's resnet50_v2")


def _units(depth: int) -> list[tuple[int, int, int, int]]:
    """(block, unit, input channels, width) of every bottleneck, blocks and units counted from 1."""
    if depth not in UNITS:
        raise ValueError(f"ResNet depth {depth}; use one of {sorted(UNITS)}")
    result = []
    inputs = 64
    for block, (units, width) in enumerate(zip(UNITS[depth], WIDTHS, strict=True), 1):
        for unit in range(1, units + 1):
            result.append((block, unit, inputs, width))
            inputs = width * EXPANSION
    return result


class _Reader:
    """Takes tensors one by one into our trees, and remembers which are left over."""

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        norm_names: tuple[str, str, str, str],
        separator: str,
    ):
        self.tensors = tensors
        self.norm_names = norm_names
        self.separator = separator
        self.trees: dict[str, _Tree] = {"params": {}, "batch_stats": {}}
        self.missing: list[str] = []
        self.drawn = False  # while true, what is asked for is listed as missing instead of read
        self.left = set(tensors)

    def ignore(self, unwanted: Callable[[str], bool]) -> None:
        self.left = {name for name in self.left if not unwanted(name)}

    def convolution(self, theirs: str, ours: tuple[str, ...], shape: tuple[int, ...]) -> None:
        name = f"{theirs}{self.separator}weight"
        self._place("params", (*ours, "kernel"), name, lambda: convolution_kernel(self.tensors, name, shape))

    def norm(self, theirs: str, ours: tuple[str, ...], channels: int) -> None:
        for suffix, (collection, leaf) in zip(self.norm_names, NORM_LEAVES, strict=True):
            name = f"{theirs}{self.separator}{suffix}"
            self._place(collection, (*ours, leaf), name, partial(take, self.tensors, name, (channels,)))

    def _place(
        self, collection: str, path: tuple[str, ...], name: str, read: Callable[[], np.ndarray]
    ) -> None:
        self.left.discard(name)
        if self.drawn:
            self.missing.append("/".join((collection, *path)))
            return
        tree = self.trees[collection]
        for part in path[:-1]:
            tree = tree.setdefault(part, {})
        tree[path[-1]] = read()

    def finish(self, network: str) -> Loaded:
        if self.left:
            raise CracksError(
                f"{source_of(self.tensors)}: tensor {min(self.left)!r} belongs to no {network}, nor do"
                f" {len(self.left) - 1} others; expected the weights of that network (another depth?)"
            )
        return loaded_from(self.trees["params"], self.trees["batch_stats"], tuple(self.missing))

"""Operations counted by hand: multiply-adds of every convolution from its shape, 2 operations each.

The rule. A convolution that gives h x w x o values from kernels of k x k x i costs h w o k k i multiply-adds, the taps
that fall on padding included; a transposed one of kernel 4 costs its input's h w x 16 i o. Its kernel's gradient costs
the same again, and so does its input's. A training step counts what it needs and no more: every forward pass once,
kernel gradients of what is updated, input gradients of what has something to learn in front of it (never of the first
layer's image). Norms, activations, losses, resizing and the optimiser are left out: they are bound by memory. So is
recomputation: a program that does work twice gains nothing in this count.

Nothing here reads the networks; the shapes are written down again from the papers' tables.
"""

from dataclasses import dataclass

from cracks_jax.benchmark.job import Job
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Convolutions of VGG-19 up to relu5_2: width and number, halved after each.
VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 2))


@dataclass(frozen=True)
class Layer:
    """One convolution for one image: multiply-adds of its forward pass, and the values that it leaves."""

    name: str
    macs: int
    values: int


def convolution(name: str, side: int, kernel: int, inputs: int, outputs: int) -> Layer:
    """An ordinary convolution; `side` is its output's."""
    return Layer(name, side**2 * kernel**2 * inputs * outputs, side**2 * outputs)


def transposed(name: str, side: int, inputs: int, outputs: int) -> Layer:
    """Kernel 4, stride 2; `side` is its input's: every value of it meets all 16 taps."""
    return Layer(name, side**2 * 16 * inputs * outputs, (2 * side) ** 2 * outputs)


def macs(layers: list[Layer]) -> int:
    return sum(layer.macs for layer in layers)


def generator(side: int, base: int = 64, depth: int = 8) -> list[Layer]:
    """UP-CrackNet's U-Net: enc1 halves the image, dec`depth` gives three channels at its size."""
    widths = [base * min(2**i, 8) for i in range(depth)]
    layers = [
        convolution(f"enc{i + 1}", side >> (i + 1), 4, 3 if i == 0 else widths[i - 1], width)
        for i, width in enumerate(widths)
    ]
    inputs = widths[-1]
    for i in range(depth):
        outputs = 3 if i == depth - 1 else widths[depth - 2 - i]
        layers.append(transposed(f"dec{i + 1}", side >> (depth - i), inputs, outputs))
        inputs = 2 * outputs  # with the skipped map beside it
    return layers


def discriminator(side: int, base: int = 64) -> list[Layer]:
    """The PatchGAN on six channels: three strides of 2, then two layers that lose a pixel each."""
    sides = (side // 2, side // 4, side // 8, side // 8 - 1, side // 8 - 2)
    widths = (6, base, 2 * base, 4 * base, 8 * base, 1)
    return [
        convolution(f"layer{i + 1}", s, 4, widths[i], widths[i + 1]) for i, s in enumerate(sides)
    ]


def vgg19(side: int) -> list[Layer]:
    """The style loss's extractor up to relu5_2."""
    layers, inputs = [], 3
    for block, (width, count) in enumerate(VGG19, 1):
        for i in range(count):
            layers.append(convolution(f"conv{block}_{i + 1}", side, 3, inputs, width))
            inputs = width
        side //= 2
    return layers


def resnet(side: int, depth: int = 50, output_stride: int = 16, narrow: int = 1) -> list[Layer]:
    """The trunk, version 1: 7x7 stem at stride 2, pooling, four blocks of bottlenecks."""
    side = -(-side // 2)
    inputs = 64 // narrow
    layers = [convolution("conv1", side, 7, 3, inputs)]
    side, reached = -(-side // 2), 4
    for block, units in enumerate(UNITS[depth]):
        width = 64 * 2**block // narrow
        for unit in range(units):
            name = f"block{block + 1}/unit{unit + 1}"
            halves = unit == 0 and block > 0 and reached < output_stride
            layers.append(convolution(f"{name}/conv1", side, 1, inputs, width))
            if halves:
                side, reached = -(-side // 2), reached * 2
            layers.append(convolution(f"{name}/conv2", side, 3, width, width))
            layers.append(convolution(f"{name}/conv3", side, 1, width, 4 * width))
            if unit == 0:
                layers.append(convolution(f"{name}/shortcut", side, 1, inputs, 4 * width))
            inputs = 4 * width
    return layers


def crackseg(side: int, depth: int = 50, narrow: int = 1) -> list[Layer]:
    """The whole network of Figure 2 at output stride 16: trunk, multiscale module, upsampling module, classifier."""
    deep, quarter = -(-side // 16), -(-side // 4)
    width, out = 256 // narrow, 512 // narrow
    layers = resnet(side, depth, 16, narrow)
    for kernel, rate in ((1, 1), (3, 3), (5, 5)):
        name = f"branch_d{rate}"
        layers.append(convolution(f"{name}/reduce", deep, 1, 3072 // narrow, width))
        if kernel > 1:
            layers.append(convolution(f"{name}/standard", deep, kernel, width, width))
        layers.append(convolution(f"{name}/dilated", deep, 3, width, width))
    layers.append(convolution("merge", deep, 1, 3 * width, out))
    layers.append(convolution("low_level", quarter, 1, 320 // narrow, width))
    layers.append(convolution("conv_1", quarter, 3, out + width, width))
    layers += [convolution(f"conv_{i}", quarter, 3, width, width) for i in (2, 3)]
    layers.append(convolution("classifier", quarter, 1, width, 2))
    return layers


def forward_layers(job: Job) -> list[Layer]:
    """What one image passes through to be scored."""
    method = job.method
    if isinstance(method, Restoration):
        return generator(job.size, method.base, method.depth)
    return crackseg(job.size, _trunk_depth(method), method.narrow)


def infer_gflop(job: Job) -> float:
    """GFLOP of one image's forward pass."""
    return 2 * macs(forward_layers(job)) / 1e9


def step_gflop(job: Job) -> float:
    """GFLOP of one training step for one of its images."""
    method, layers = job.method, forward_layers(job)
    # Forward, kernel gradients, and input gradients of all but the first layer.
    learning = 3 * macs(layers) - layers[0].macs
    if not isinstance(method, Restoration):
        return 2 * learning / 1e9
    judge = discriminator(job.size, method.discriminator_base)
    # The discriminator's step: on the real image and on the restored one.
    judging = 2 * (3 * macs(judge) - judge[0].macs)
    # The generator's: once more forward, then down to the restored image, three of the first layer's six channels.
    guiding = 2 * macs(judge) - judge[0].macs // 2
    style = 3 * macs(vgg19(job.size)) if job.losses == "all" else 0
    return 2 * (learning + judging + guiding + style) / 1e9


def least_bytes(job: Job) -> int:
    """Bytes that a job cannot do without: all float32 maps of a step, the largest of a forward pass, a batch read."""
    if job.kind == "input":
        return 2 * 3 * job.batch * job.size**2
    layers = forward_layers(job)
    values = [layer.values for layer in layers]
    each = sum(values) if job.kind in ("step", "pipeline") else max(values)
    return 4 * job.batch * each


def _trunk_depth(method: Segmentation) -> int:
    return 101 if method.variant.endswith("r101") else 50

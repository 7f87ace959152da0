"""The PyTorch twins as contenders of `tools/benchmark.py`: as fast as PyTorch's own means make them, the same work.

Training: uint8 batches, channels_last, fused Adam, frozen what needs no gradient; eager and `torch.compile`. Scoring:
batch norms folded into their convolutions where they are frozen; eager and `torch.compile` with frozen weights, and on
a CPU ONNX Runtime and OpenVINO. Weights are drawn here and handed over, so that all compute the same.
"""

import copy
import importlib.metadata
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cracks_jax.benchmark.contenders import Offer, Peers
from cracks_jax.benchmark.job import Job
from cracks_jax.benchmark.ours import RATES
from cracks_jax.methods.restoration import Restoration
from tests.reference import losses_torch as losses
from tests.reference.crackseg_torch import CrackSeg, crackseg_to_flax
from tests.reference.resnet_torch import draw
from tests.reference.upcracknet_torch import Discriminator, Generator, draw_norms, variables
from tests.reference.vgg_torch import VGG19

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STYLE_MAPS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
# Names of a convolution and of the norm behind it, in the twins' modules.
PAIRS = (("conv", "norm"), ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))
PACKAGES = {"compile": ("torch",), "onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def peers(job: Job, contenders: Sequence[str]) -> Peers:
    """What PyTorch sets against ours for a job; `contenders` names the forms that are wanted."""
    torch.manual_seed(0)
    torch.set_num_threads(job.threads)
    if "compile" in contenders:
        _forget_programs()
    _set_precision(job.precision)
    device = _device()
    networks = networks_of(job)
    offers = (_step_offers if job.kind == "step" else _infer_offers)(job, networks, device)
    offers = [offer for offer in offers if offer.name in contenders]
    packages = {"torch"} | {package for name in contenders for package in PACKAGES.get(name, ())}
    return Peers(_weights(networks), offers, {name: _version(name) for name in sorted(packages)})


def _device() -> torch.device:
    """Where jax computes: a comparison across devices is none."""
    if jax.default_backend() == "cpu":
        return torch.device("cpu")
    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise RuntimeError(f"PyTorch has no device where jax computes ({jax.default_backend()})")


def _forget_programs() -> None:
    """A second batch size would otherwise be compiled for every batch size, and slower."""
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _set_precision(precision: str) -> None:
    torch.set_float32_matmul_precision({"default": "high"}.get(precision, precision))
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    torch.backends.cudnn.benchmark = True


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def networks_of(job: Job) -> dict[str, nn.Module]:
    """By the names of our state's parts."""
    method = job.method
    if isinstance(method, Restoration):
        generator = Generator(method.base, method.depth, dropout=job.kind == "step")
        discriminator = Discriminator(method.discriminator_base)
        draw_norms(generator, seed=1)
        return {"generator": generator, "discriminator": discriminator}
    depth = 101 if method.variant.endswith("r101") else 50
    width = 256 // method.narrow
    return {"network": draw(CrackSeg(depth=depth, narrow=method.narrow, width=width, out_width=2 * width))}


def _weights(networks: dict[str, nn.Module]) -> dict[str, Any]:
    return {
        name: crackseg_to_flax(network.state_dict()) if name == "network" else variables(network)
        for name, network in networks.items()
    }


def _copies(networks: dict[str, nn.Module], device: torch.device) -> dict[str, nn.Module]:
    """A contender trains its own."""
    return {
        name: copy.deepcopy(network).to(device, memory_format=torch.channels_last)
        for name, network in networks.items()
    }


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` as it is best on the device."""
    return torch.compile(function, mode="max-autotune" if torch.cuda.is_available() else None)


def scaled(images: Tensor) -> Tensor:
    """uint8 (b, h, w, c) -> float32 (b, c, h, w) in [0, 1]; the memory is channels_last as it was."""
    return images.permute(0, 3, 1, 2).float() / 255


def standardised(x: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(v, device=x.device).reshape(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return (x - mean) / deviation


def _adam(parameters: Any, rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, rate, betas=betas, fused=True)


# --------------------------------------------------------------------------------------------- training


def _step_offers(job: Job, networks: dict[str, nn.Module], device: torch.device) -> list[Offer]:
    kind = RestorationStep if job.restores else SegmentationStep
    return [
        Offer("eager", lambda: kind(job, _copies(networks, device), device, lambda function: function)),
        Offer("compile", lambda: kind(job, _copies(networks, device), device, compiled)),
    ]


class _Step:
    """What both training steps share: batches as uint8 tensors on the device, and waiting for the device.

    With `job.dtype` bfloat16 the networks run under autocast, and only they: losses are float32, as ours are.
    """

    job: Job
    device: torch.device

    def through(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.dtype == "bfloat16"):
            found = network(*inputs)
        return found.float()

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array).to(self.device) for name, array in batch.items()}

    def run(self, placed: dict[str, Tensor]) -> float:
        loss = self.step(placed)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def step(self, placed: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


class RestorationStep(_Step):
    """One discriminator and one generator step of UP-CrackNet, preset `default`; dropout as in training."""

    def __init__(self, job: Job, networks: dict[str, nn.Module], device: torch.device, wrap: Callable[..., Any]):
        self.job, self.device = job, device
        self.generator, self.discriminator = networks["generator"], networks["discriminator"]
        self.style = StyleFeatures().to(device, memory_format=torch.channels_last) if job.losses == "all" else None
        self.g_adam = _adam(self.generator.parameters(), RATES["learning_rate"], (0.5, 0.999))
        self.d_adam = _adam(self.discriminator.parameters(), RATES["discriminator_learning_rate"], (0.5, 0.999))
        self.restore, self.judge, self.guide = (wrap(f) for f in (self._restore, self._judge, self._guide))

    def step(self, placed: dict[str, Tensor]) -> Tensor:
        real = scaled(placed["image"]) * 2 - 1
        broken = scaled(placed["corrupted"][:, 0]) * 2 - 1
        fake = self.restore(broken)

        self.discriminator.requires_grad_(True)
        self.d_adam.zero_grad(set_to_none=True)
        self.judge(broken, real, fake.detach()).backward()
        self.d_adam.step()

        self.discriminator.requires_grad_(False)
        self.g_adam.zero_grad(set_to_none=True)
        loss = self.guide(broken, real, fake)
        loss.backward()
        self.g_adam.step()
        return loss

    def _restore(self, broken: Tensor) -> Tensor:
        return self.through(self.generator, broken)

    def _judge(self, broken: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        logits = (self.through(self.discriminator, broken, image) for image in (real, fake))
        return losses.discriminator_loss(*logits)

    def _guide(self, broken: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        # The averages of the discriminator, which this pass moves too, are never read: no time is spent on that.
        adversarial = losses.generator_loss(self.through(self.discriminator, broken, fake), "non_saturating")
        pixels = losses.mae(fake, real) + 1 - losses.ssim(fake, real) + losses.msgms_loss(fake, real)
        if self.style is not None:
            with torch.no_grad():
                target = self.style(real)
            pixels = pixels + 10 * losses.style_loss(self.style(fake), target)
        return 100 * pixels + adversarial


class SegmentationStep(_Step):
    """One step of CrackSeg: cross-entropy, Adam, L2 on kernels alone."""

    def __init__(self, job: Job, networks: dict[str, nn.Module], device: torch.device, wrap: Callable[..., Any]):
        self.job, self.device, self.network = job, device, networks["network"]
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1 - job.method.bn_momentum
        parameters = list(self.network.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": RATES["weight_decay"]},
            {"params": [p for p in parameters if p.ndim == 1]},
        ]
        self.adam = _adam(groups, RATES["learning_rate"], (0.9, 0.999))
        self.loss = wrap(self._loss)

    def step(self, placed: dict[str, Tensor]) -> Tensor:
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(scaled(placed["image"]), placed["mask"].long())
        loss.backward()
        self.adam.step()
        return loss

    def _loss(self, images: Tensor, mask: Tensor) -> Tensor:
        return losses.cross_entropy(self.through(self.network, standardised(images)), mask)


class StyleFeatures(nn.Module):
    """VGG-19 up to relu5_2, frozen, on images in [-1, 1]; the four maps of the style loss."""

    def __init__(self):
        super().__init__()
        network = VGG19()
        self.places = [network.outputs[name] for name in STYLE_MAPS]
        self.features = network.features[: self.places[-1] + 1].requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = standardised((x + 1) / 2), []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.places:
                maps.append(x)
        return maps


# ---------------------------------------------------------------------------------------------- scoring


def _infer_offers(job: Job, networks: dict[str, nn.Module], device: torch.device) -> list[Offer]:
    network = scoring_network(job, networks)
    channels_last = partial(copy.deepcopy(network).to, device, memory_format=torch.channels_last)
    offers = [
        Offer("eager", lambda: Forward(channels_last(), device)),
        Offer("compile", lambda: Forward(_frozen(channels_last()), device)),
    ]
    if device.type == "cpu":
        offers += [
            Offer("onnxruntime", lambda: OnnxRuntime(job, network)),
            Offer("openvino", lambda: OpenVino(job, network)),
        ]
    return offers


def scoring_network(job: Job, networks: dict[str, nn.Module]) -> nn.Module:
    """(b, 3, h, w) as the method's network takes it -> restored images, or crack probabilities (b, h, w)."""
    network = copy.deepcopy(networks["generator" if job.restores else "network"]).eval().requires_grad_(False)
    if job.norm == "running":
        _fold(network)
    else:
        _take_window_statistics(network, job.batch)
    return network if job.restores else Probability(network).eval()


class Probability(nn.Module):
    """CrackSeg from images in [0, 1] to the softmax probability of crack."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(standardised(x))
        return torch.sigmoid(logits[:, 1] - logits[:, 0])


class WindowNorm(nn.Module):
    """A batch norm that takes each image's own statistics and has no averages."""

    def __init__(self, norm: nn.BatchNorm2d, alone: bool):
        super().__init__()
        self.weight, self.bias, self.eps, self.alone = norm.weight, norm.bias, norm.eps, alone

    def forward(self, x: Tensor) -> Tensor:
        # Of one image alone they are the batch's; PyTorch's batch norm keeps channels_last, its instance norm does not.
        if self.alone and not torch.jit.is_tracing():
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _fold(network: nn.Module) -> None:
    for module in list(network.modules()):
        children = dict(module.named_children())
        for conv, norm in PAIRS:
            if isinstance(children.get(norm), nn.BatchNorm2d):
                transpose = isinstance(children[conv], nn.ConvTranspose2d)
                setattr(module, conv, fuse_conv_bn_eval(children[conv], children[norm], transpose))
                setattr(module, norm, nn.Identity())


def _take_window_statistics(network: nn.Module, batch: int) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, WindowNorm(child, alone=batch == 1))


def _frozen(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compiled with its weights as constants, which lets the compiler lay them out beforehand."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return compiled(network)


class Forward:
    """The network in PyTorch itself."""

    def __init__(self, network: Callable[[Tensor], Tensor], device: torch.device):
        self.network, self.device = network, device

    def place(self, batch: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(self.device)

    def run(self, placed: Tensor) -> "_Result":
        with torch.no_grad():
            result = self.network(placed)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return _Result(result)


class _Result:
    """An output that travels to the host, channels last, when somebody looks at it: not on the clock."""

    def __init__(self, value: Any):
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array = self.value.cpu().numpy() if isinstance(self.value, Tensor) else np.asarray(self.value)
        array = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        return array.astype(dtype) if dtype is not None else array


class OnnxRuntime:
    """The exported network in ONNX Runtime."""

    def __init__(self, job: Job, network: nn.Module):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        model = _exported(job, network)
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def place(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return _channels_first(batch)

    def run(self, placed: np.ndarray) -> _Result:
        return _Result(self.session.run(None, {self.input: placed})[0])


class OpenVino:
    """The exported network in OpenVINO, in float32 as the others."""

    def __init__(self, job: Job, network: nn.Module):
        # It would fork this process, full of threads, to report that it is used.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": job.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.model = core.compile_model(core.read_model(_exported(job, network)), "CPU", settings)
        self.request = self.model.create_infer_request()

    def place(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return _channels_first(batch)

    def run(self, placed: np.ndarray) -> _Result:
        self.request.infer([placed], share_inputs=True)
        return _Result(self.request.get_output_tensor().data)


def _exported(job: Job, network: nn.Module) -> bytes:
    """The network as ONNX, for images of the job's batch and size."""
    buffer = io.BytesIO()
    example = torch.zeros(job.batch, 3, job.size, job.size)
    with warnings.catch_warnings():
        # It warns that instance norms take their input's statistics: they shall.
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), buffer, dynamo=False, opset_version=17)
    return buffer.getvalue()


def _channels_first(batch: dict[str, np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(batch["image"].transpose(0, 3, 1, 2))

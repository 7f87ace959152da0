"""What is measured: one system at one batch and size, checked before anything is compiled."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from cracks_jax.errors import UsageError
from cracks_jax.methods.registry import SYSTEMS
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.networks.crackseg import LEAST_SIDE
from cracks_jax.networks.upcracknet import MIN_PATCH_SIDE

KINDS = ("step", "infer", "input", "pipeline", "forms", "members")
TRAINABLE = tuple(name for name, (method, _, _) in SYSTEMS.items() if hasattr(method, "selection"))
NARROW = (1, 2, 4, 8, 16)
_FULL_DEPTH = 8


@dataclass(frozen=True)
class Job:
    """One measurement. Wrong values raise UsageError.

    Attributes:
      kind: one of KINDS.
      system: a trainable name of `methods.registry.SYSTEMS`.
      batch, size: images, and the side of each in px.
      repeats: timed runs of every contender.
      warmup: untimed runs before them.
      losses: of UP-CrackNet's step: `core4` (MAE, SSIM, MSGMS, adversarial) or `all` (style by VGG-19 too).
      batch_norm: of `infer`: `window` (each window's own statistics) or `running`; None is detection's default.
      narrow: every channel count is divided by it (1 is the published network).
      dtype: of the networks' layers, as the methods' `dtype`.
      precision: of matrix products and convolutions, jax's `jax_default_matmul_precision`.
      threads: of every contender on a CPU.
    """

    kind: str
    system: str
    batch: int = 4
    size: int = 256
    repeats: int = 5
    warmup: int = 2
    losses: Literal["core4", "all"] = "core4"
    batch_norm: Literal["window", "running"] | None = None
    narrow: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    precision: Literal["default", "high", "highest"] = "highest"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.system not in TRAINABLE:
            raise UsageError(f"--system {self.system}: expected one of {', '.join(TRAINABLE)}")
        for name in ("batch", "size", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)}: expected a whole number, at least 1")
        if self.narrow not in NARROW:
            raise UsageError(f"--narrow {self.narrow}: expected one of {', '.join(map(str, NARROW))}")
        if self.losses != "core4" and not self.restores:
            raise UsageError(f"--losses {self.losses}: losses are UP-CrackNet's; {self.system} has one, cross-entropy")
        self._check_size()

    @property
    def restores(self) -> bool:
        """Whether the system is UP-CrackNet, which learns by restoring."""
        return isinstance(SYSTEMS[self.system][0], Restoration)

    @property
    def method(self) -> Restoration | Segmentation:
        """The system's method at this size and width; UP-CrackNet's depth takes a window below 256 px to one pixel."""
        method: Any = SYSTEMS[self.system][0]
        if not self.restores:
            return dataclasses.replace(method, narrow=self.narrow, dtype=self.dtype)
        return dataclasses.replace(
            method,
            base=method.base // self.narrow,
            discriminator_base=method.discriminator_base // self.narrow,
            depth=min(_FULL_DEPTH, self.size.bit_length() - 1),
            dtype=self.dtype,
            style_extractor="vgg19" if self.losses == "all" else "none",
        )

    @property
    def norm(self) -> Literal["window", "running"]:
        """Statistics of the batch norms while scoring."""
        return self.batch_norm or ("window" if self.restores else "running")

    @property
    def label(self) -> str:
        """The name of this measurement's record."""
        parts = [self.kind, self.system, f"b{self.batch}", str(self.size)]
        parts += ["all"] if self.losses == "all" and self.kind in ("step", "pipeline") else []
        parts += [self.norm] if self.kind == "infer" else []
        parts += [self.dtype] if self.dtype != "float32" else []
        return "-".join(parts + ([f"narrow{self.narrow}"] if self.narrow > 1 else []))

    def _check_size(self) -> None:
        full = 2**_FULL_DEPTH
        if not self.restores:
            if self.size < LEAST_SIDE:
                raise UsageError(f"--size {self.size}: CrackSeg needs at least {LEAST_SIDE} px; use {LEAST_SIDE}")
            return
        power = self.size & (self.size - 1) == 0
        if self.size % full and not (power and MIN_PATCH_SIDE <= self.size < full):
            fits = [side for side in (32, 64, 128) if self.size <= side] or [-(-self.size // full) * full]
            raise UsageError(
                f"--size {self.size}: UP-CrackNet halves its windows to one pixel; use {fits[0]} "
                f"(32, 64, 128 or a multiple of {full})"
            )

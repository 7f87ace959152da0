"""UP-CrackNet (Ma et al. 2024): learn to restore undamaged roads; where restoration fails, there is a crack.

Pure functions over one state. Images arrive as float32 (b, h, w, 3) RGB in [0, 1]; inside, networks see [-1, 1].
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from cracks_jax.errors import UsageError
from cracks_jax.layers.norm import BatchNorm
from cracks_jax.losses import adversarial, restoration
from cracks_jax.methods import optimiser
from cracks_jax.methods.accumulation import accumulated, key_of, parts_of
from cracks_jax.methods.detection import Detection
from cracks_jax.networks.backbones.squeezenet import SqueezeNetFeatures
from cracks_jax.networks.backbones.vgg import VGG19Features
from cracks_jax.networks.upcracknet import Discriminator, Generator
from cracks_jax.ops.colour import imagenet_standardise
from cracks_jax.ops.corruption import multiscale_squares

State = dict[str, Any]
Batch = dict[str, Any]

# The order of terms in UP-CrackNet's eq. 2 and 3; weights of the paper. `restoration` multiplies the first four.
LOSS_WEIGHTS = {
    "mae": 1.0,
    "ssim": 1.0,
    "msgms": 1.0,
    "style": 10.0,
    "restoration": 100.0,
    "adversarial": 1.0,
    "discriminator": 1.0,
}


@dataclass(frozen=True)
class Losses:
    """What the paper, its authors' code and we read differently (UPCRACKNET.md 6b); the defaults are ours."""

    adversarial: Literal["non_saturating", "minimax"] = "non_saturating"
    generator_again: bool = False
    bgr: bool = False
    ssim_range: float = 2.0
    ssim_padding: int = 0
    msgms_median: bool = False
    msgms_padding: int = 1
    style_standardised: bool = True


@dataclass(frozen=True)
class Restoration:
    """U-Net generator and PatchGAN discriminator, trained as UP-CrackNet's section III.

    Attributes:
      base: channels of the first layer (64).
      depth: number of strided layers (8 at 256 px); sides of windows are multiples of 2**depth.
      discriminator_base: channels of the discriminator's first layer (64).
      style_extractor: frozen pretrained network of the style loss; `none` leaves the term out.
      losses: forms of the loss terms.
      beta1, beta2: Adam's.
      bn_momentum: share of the old batch-norm average kept at a step.
      accumulate: parts that a batch is taken in, for memory; batch norm then sees a part at a time.
      dtype: of the two networks' layers. Parameters, statistics, losses and the optimiser stay float32, and so does the
        style loss's extractor.
      axis_name: the mapped axis under pmap; None under jit.
    """

    base: int = 64
    depth: int = 8
    discriminator_base: int = 64
    style_extractor: Literal["none", "vgg19", "squeezenet1.1"] = "none"
    losses: Losses = field(default_factory=Losses)
    beta1: float = 0.5
    beta2: float = 0.999
    bn_momentum: float = 0.9
    unbiased_running_var: bool = False
    accumulate: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("base", 1), ("discriminator_base", 1), ("depth", 2), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"method.{name} is {getattr(self, name)}; expected at least {least}")
        optimiser.check_shares(self, "beta1", "beta2", "bn_momentum")

    @property
    def side_multiple(self) -> int:
        return 2**self.depth

    @property
    def selection(self) -> tuple[str, Literal["min", "max"]]:
        return "restoration_loss", "min"

    @property
    def generator(self) -> Generator:
        return Generator(base=self.base, depth=self.depth, norm=self._norm, dtype=optimiser.layer_dtype(self.dtype))

    @property
    def discriminator(self) -> Discriminator:
        dtype = optimiser.layer_dtype(self.dtype)
        return Discriminator(base=self.discriminator_base, norm=self._norm, dtype=dtype)

    @property
    def _norm(self) -> Any:
        return partial(
            BatchNorm,
            momentum=self.bn_momentum,
            unbiased_running_var=self.unbiased_running_var,
            axis_name=self.axis_name,
        )

    @property
    def _optimiser(self) -> Any:
        return optimiser.transform("adam", beta1=self.beta1, beta2=self.beta2, momentum=0.0)

    def init(self, key: PRNGKeyArray, batch: Batch) -> State:
        """A fresh state for images of the batch's size; the style extractor is random until weights are adopted."""
        g_key, d_key, s_key = jax.random.split(key, 3)
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        generator = self.generator.init(g_key, image, mode="batch", dropout=False)
        discriminator = self.discriminator.init(d_key, image, image, mode="batch")
        state = {
            "generator": dict(generator),
            "discriminator": dict(discriminator),
            "generator_optimiser": self._optimiser.init(generator["params"]),
            "discriminator_optimiser": self._optimiser.init(discriminator["params"]),
            "step": jnp.zeros((), jnp.int32),
        }
        if self.style_extractor != "none":
            state["style"] = dict(self._extractor.init(s_key, image))
        return state

    def train_step(
        self, state: State, batch: Batch, hyper: dict[str, Array], key: PRNGKeyArray
    ) -> tuple[State, dict[str, Array]]:
        """One discriminator step and one generator step on one batch.

        The generator runs once and its gradient is pulled back through that pass; with `losses.generator_again` it
        runs anew after the discriminator's update, as the authors' code does. Either way the generator is judged by
        the updated discriminator, whose arrays its step leaves untouched.
        """
        parts = parts_of({name: batch[name] for name in ("image", "corrupted")}, self.accumulate)
        keys = [self._keys(key_of(key, number, len(parts))) for number in range(len(parts))]
        # Of a batch in parts only one part's activations are kept: each part is generated again, the same.
        again = self.losses.generator_again or len(parts) > 1
        generated: list[tuple[Array, Any]] = []

        def discriminated(part: Batch, number: int, carried: Any) -> tuple[Any, Any]:
            g_stats, d_stats = carried
            real, corrupted = self._pair(part)
            fake, pull_back, g_stats = self._generate(state, g_stats, corrupted, keys[number][0])
            if not again:
                generated.append((fake, pull_back))
            loss, gradient, d_stats = self._discriminator_gradient(state, d_stats, corrupted, real, fake)
            return (loss, gradient), (g_stats, d_stats)

        old = state["generator"]["batch_stats"], state["discriminator"]["batch_stats"]
        (d_loss, d_gradient), (g_stats, d_stats) = accumulated(parts, discriminated, old)
        discriminator, d_optimiser = self._discriminator_update(state, d_stats, d_gradient, hyper)

        def restored(part: Batch, number: int, g_stats: Any) -> tuple[Any, Any]:
            real, corrupted = self._pair(part)
            if again:
                which = 1 if self.losses.generator_again else 0
                fake, pull_back, g_stats = self._generate(state, g_stats, corrupted, keys[number][which])
            else:
                fake, pull_back = generated[number]

            def total(restored: Array) -> tuple[Array, dict[str, Array]]:
                logits, _ = self.discriminator.apply(
                    discriminator, corrupted, restored, mode="batch", mutable=["batch_stats"]
                )[0]
                return self.generator_loss(restored, real, logits, state.get("style"), hyper)

            (loss, terms), d_fake = jax.value_and_grad(total, has_aux=True)(fake)
            (gradient,) = pull_back(d_fake)
            return (loss, terms, gradient), g_stats

        # The same pass again counts once in the running averages.
        g_stats = old[0] if again and not self.losses.generator_again else g_stats
        (g_loss, terms, g_gradient), g_stats = accumulated(parts, restored, g_stats)
        g_params, g_optimiser = optimiser.update(
            self._optimiser,
            self._mean(g_gradient),
            state["generator_optimiser"],
            state["generator"]["params"],
            hyper["learning_rate"],
        )
        new = {
            **state,
            "generator": {"params": g_params, "batch_stats": g_stats},
            "discriminator": discriminator,
            "generator_optimiser": g_optimiser,
            "discriminator_optimiser": d_optimiser,
            "step": state["step"] + 1,
        }
        return new, self._mean({"loss": g_loss, "discriminator_loss": d_loss, **terms})

    def generator_loss(
        self, restored: Array, real: Array, logits: Array, style: State | None, hyper: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Eq. 2 and 3: restoration * (mae + ssim + msgms + style) + adversarial, and each term unweighted."""
        how = self.losses
        terms = {
            "mae": restoration.mae(restored, real),
            "ssim": 1 - restoration.ssim(restored, real, data_range=how.ssim_range, padding=how.ssim_padding),
            "msgms": restoration.msgms_loss(
                restored, real, median=how.msgms_median, padding=how.msgms_padding
            ),
            "adversarial": adversarial.generator_loss(logits, how.adversarial),
        }
        if style is not None:
            # The target's features carry no gradient.
            target = self._style_features(style, jax.lax.stop_gradient(real))
            terms["style"] = restoration.style_loss(self._style_features(style, restored), target)
        pixels = sum(hyper[name] * terms[name] for name in ("mae", "ssim", "msgms", "style") if name in terms)
        return hyper["restoration"] * pixels + hyper["adversarial"] * terms["adversarial"], terms

    def score(
        self, state: State, images: Float[Array, "b h w 3"], key: PRNGKeyArray, how: Detection
    ) -> Float[Array, "b h w"]:
        """The restoration error of images, each window by itself; in [0, 1] (section III-D, eq. 1)."""
        if how.stretch_input:
            low = images.min((1, 2, 3), keepdims=True)
            span = jnp.maximum(images.max((1, 2, 3), keepdims=True) - low, 1e-12)
            images = jnp.floor((images - low) / span * 255) / 255
        x = self._to_network(images)
        a, b = (x + 1) / 2, (self._restored(state, x, key, how) + 1) / 2
        if how.error == "square":
            return jnp.mean(jnp.square(a - b), -1)
        a, b = self._grey(a), self._grey(b)
        if how.error == "absolute":
            return jnp.abs(a - b)
        if how.error == "darker":
            return jnp.maximum(b - a, 0)
        difference = _stretched(jnp.abs(_stretched(a) - _stretched(b)))
        return jnp.floor(difference * 255) / 255

    def shown(
        self,
        state: State,
        images: Float[Array, "b h w 3"],
        keep: Float[Array, "h w 1"],
        key: PRNGKeyArray,
        how: Detection,
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """What the generator sees and answers, RGB in [0, 1], for eyes (Figure 1).

        `corrupted`: the images with what `keep` removes at 0; `filled`: those restored; `restored`: what detection
        compares the images with.
        """
        x = self._to_network(images)
        corrupted = jnp.where(keep > 0, x, -1.0)
        found = {
            "corrupted": corrupted,
            "filled": self.restore(state, corrupted, key, how),
            "restored": self._restored(state, x, key, how),
        }
        return {name: (self._rgb(image) + 1) / 2 for name, image in found.items()}

    def validation_terms(
        self,
        state: State,
        images: Float[Array, "b h w 3"],
        keep: Float[Array, "h w 1"],
        key: PRNGKeyArray,
        how: Detection,
    ) -> dict[str, Float[Array, " b"]]:
        """MAE, 1 - SSIM and MSGMS of each undamaged window restored under one mask; their sum selects the checkpoint.

        Always in our own loss forms, unweighted, so that runs with different training losses can be compared.
        """
        x = self._to_network(images)
        restored = self.restore(state, jnp.where(keep > 0, x, -1.0), key, how)

        def of_one(a: Array, b: Array) -> dict[str, Array]:
            a, b = a[None], b[None]
            return {
                "mae": restoration.mae(a, b),
                "ssim": 1 - restoration.ssim(a, b),
                "msgms": restoration.msgms_loss(a, b),
            }

        return jax.vmap(of_one)(restored, x)

    def restore(self, state: State, x: Array, key: PRNGKeyArray, how: Detection) -> Array:
        """The generator's answer to images in [-1, 1], batch norm and dropout as detection has them."""
        mode = "window" if how.batch_norm == "batch" else "running"
        restored, _ = self.generator.apply(
            state["generator"], x, mode=mode, dropout=how.dropout, rngs={"dropout": key}
        )
        return restored

    def _restored(self, state: State, x: Array, key: PRNGKeyArray, how: Detection) -> Array:
        return (self.restore if how.restore == "whole" else self.restore_hidden)(state, x, key, how)

    def restore_hidden(self, state: State, x: Array, key: PRNGKeyArray, how: Detection) -> Array:
        """Every pixel restored while it is hidden: mean over the three sizes of the training's squares.

        The squares are those of a window of `side_multiple` px (16 at least), repeated over the image: a generator
        as deep as the paper's was trained on windows of that side.
        """
        side = max(self.side_multiple, 16)
        squares = multiscale_squares(side)
        repeats = [-(-length // side) for length in x.shape[1:3]]
        keep = jnp.asarray(np.tile(squares, (1, *repeats, 1))[:, : x.shape[1], : x.shape[2]] > 0)

        def one(image: Array) -> Array:
            restored = self.restore(state, jnp.where(keep, image, -1.0), key, how)
            return jnp.where(keep, 0.0, restored).sum(0) / (len(squares) // 2)

        # One image after another: six masks of one window are a batch already.
        return jnp.stack([one(image) for image in x])

    def _pair(self, part: Batch) -> tuple[Array, Array]:
        return self._to_network(part["image"]), self._to_network(part["corrupted"][:, 0])

    def _generate(self, state: State, stats: Any, corrupted: Array, key: PRNGKeyArray) -> tuple[Array, Any, Any]:
        """Restored images, how a gradient is pulled back through them, and the running averages after them."""

        def forward(params: Any) -> tuple[Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            (restored, _), updated = self.generator.apply(
                variables, corrupted, mode="batch", dropout=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return restored, updated["batch_stats"]

        return jax.vjp(forward, state["generator"]["params"], has_aux=True)

    def _discriminator_gradient(
        self, state: State, stats: Any, corrupted: Array, real: Array, fake: Array
    ) -> tuple[Array, Any, Any]:
        """Loss, gradient, running averages; real and restored images in separate passes, each with its own batch
        statistics, as the authors do."""
        fake = jax.lax.stop_gradient(fake)

        def loss_of(params: Any) -> tuple[Array, Any]:
            now, logits = stats, []
            for image in (real, fake):
                (out, _), updated = self.discriminator.apply(
                    {"params": params, "batch_stats": now}, corrupted, image, mode="batch", mutable=["batch_stats"]
                )
                now = updated["batch_stats"]
                logits.append(out)
            return adversarial.discriminator_loss(*logits), now

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state["discriminator"]["params"])
        return loss, gradient, stats

    def _discriminator_update(
        self, state: State, stats: Any, gradient: Any, hyper: dict[str, Array]
    ) -> tuple[State, Any]:
        gradient = jax.tree.map(lambda g: hyper["discriminator"].astype(g.dtype) * g, self._mean(gradient))
        params, opt_state = optimiser.update(
            self._optimiser,
            gradient,
            state["discriminator_optimiser"],
            state["discriminator"]["params"],
            hyper["discriminator_learning_rate"],
        )
        return {"params": params, "batch_stats": stats}, opt_state

    @property
    def _extractor(self) -> Any:
        return VGG19Features() if self.style_extractor == "vgg19" else SqueezeNetFeatures()

    def _style_features(self, style: State, x: Array) -> list[Array]:
        if self.losses.style_standardised or self.style_extractor == "squeezenet1.1":
            x = imagenet_standardise((self._rgb(x) + 1) / 2)
        return list(self._extractor.apply(style, x).values())

    def _to_network(self, images: Array) -> Array:
        return self._rgb(images * 2 - 1)

    def _rgb(self, x: Array) -> Array:
        """RGB <-> the network's channel order (its own inverse)."""
        return x[..., ::-1] if self.losses.bgr else x

    def _grey(self, x: Array) -> Array:
        x = self._rgb(x)
        return 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]

    def _keys(self, key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
        if self.axis_name is not None:  # each device draws its own dropout
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
        first, second = jax.random.split(key)
        return first, second

    def _mean(self, tree: Any) -> Any:
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)


def _stretched(x: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Each image to its own full range; a flat one to 0."""
    low = x.min((1, 2), keepdims=True)
    return (x - low) / jnp.maximum(x.max((1, 2), keepdims=True) - low, 1e-12)

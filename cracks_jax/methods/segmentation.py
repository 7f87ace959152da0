"""Supervised crack segmentation: CrackSeg (Song et al. 2020) and every variant of its Tables 4 and 5.

Pure functions over one state. Images arrive as float32 (b, h, w, 3) RGB in [0, 1].
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cracks_jax.errors import UsageError
from cracks_jax.layers.norm import BatchNorm
from cracks_jax.losses.segmentation import cross_entropy
from cracks_jax.methods import optimiser
from cracks_jax.methods.accumulation import accumulated, parts_of
from cracks_jax.methods.detection import Detection
from cracks_jax.networks.crackseg import READINGS, VARIANTS, CrackSeg, narrowed
from cracks_jax.ops.colour import imagenet_standardise

State = dict[str, Any]
Batch = dict[str, Any]

NETWORKS = {**VARIANTS, **{f"reading_{name}": make for name, make in READINGS.items() if name != "R1"}}


@dataclass(frozen=True)
class Segmentation:
    """A network that labels each pixel, trained with softmax cross-entropy (eq. 2).

    Attributes:
      variant: a row of Table 4 or 5 (the full network is `table5_both_x3`), or another reading of Figure 3 with
        ResNet-50 (`reading_R1n`, `reading_R2`, `reading_R3`).
      version: ResNet v1 or v2 (pre-activation, with Gluon's batch norm on the input).
      output_stride: 8, 16 or 32.
      narrow: every channel count is divided by it (1 in the paper; more for quick small forms).
      optimiser, beta1, beta2, momentum: see `optimiser.transform`.
      bn_momentum: share of the old batch-norm average kept at a step (0.9997 in the paper), averages debiased.
      accumulate: parts that a batch is taken in, for memory; batch norm then sees a part at a time.
      dtype: of the network's layers. Parameters, statistics, logits, loss and optimiser stay float32.
      axis_name: the mapped axis under pmap; None under jit.
    """

    variant: str = "table5_both_x3"
    version: Literal[1, 2] = 1
    output_stride: Literal[8, 16, 32] = 16
    narrow: int = 1
    optimiser: Literal["adam", "sgd"] = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    momentum: float = 0.9
    bn_momentum: float = 0.9997
    accumulate: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        if self.variant not in NETWORKS:
            raise UsageError(f"method.variant is {self.variant!r}; expected one of {', '.join(NETWORKS)}")
        if self.narrow not in (1, 2, 4, 8, 16):
            raise UsageError(f"method.narrow is {self.narrow}; expected 1 (the paper's channels), 2, 4, 8 or 16")
        if self.accumulate < 1:
            raise UsageError(f"method.accumulate is {self.accumulate}; expected 1 (the whole batch at once) or more")
        optimiser.check_shares(self, "beta1", "beta2", "momentum", "bn_momentum")

    @property
    def side_multiple(self) -> int:
        return 32

    @property
    def selection(self) -> tuple[str, Literal["min", "max"]]:
        return "iou", "max"

    @property
    def network(self) -> CrackSeg:
        norm = partial(BatchNorm, momentum=self.bn_momentum, debias=True, axis_name=self.axis_name)
        network = NETWORKS[self.variant](
            version=self.version,
            output_stride=self.output_stride,
            input_norm=self.version == 2,
            norm=norm,
            dtype=optimiser.layer_dtype(self.dtype),
        )
        return narrowed(network, self.narrow)

    @property
    def _optimiser(self) -> Any:
        return optimiser.transform(
            self.optimiser, beta1=self.beta1, beta2=self.beta2, momentum=self.momentum
        )

    def init(self, key: PRNGKeyArray, batch: Batch) -> State:
        # Weights do not depend on the image's size, and the smallest is traced soonest.
        image = jnp.zeros((1, self.side_multiple, self.side_multiple, batch["image"].shape[-1]), jnp.float32)
        network = self.network.init(key, image, mode="batch")
        return {
            "network": dict(network),
            "optimiser": self._optimiser.init(network["params"]),
            "step": jnp.zeros((), jnp.int32),
        }

    def train_step(
        self, state: State, batch: Batch, hyper: dict[str, Array], key: PRNGKeyArray
    ) -> tuple[State, dict[str, Array]]:
        """One step on images and their masks. The key is unused: CrackSeg has no randomness of its own."""

        def of_part(part: Batch, _number: int, stats: Any) -> tuple[Any, Any]:
            def loss_of(params: Any) -> tuple[Array, tuple[Any, Array]]:
                variables = {"params": params, "batch_stats": stats}
                x = imagenet_standardise(part["image"])
                (logits, _), updated = self.network.apply(variables, x, mode="batch", mutable=["batch_stats"])
                return cross_entropy(logits, part["mask"]), (updated["batch_stats"], logits)

            params = state["network"]["params"]
            (loss, (stats, logits)), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
            correct = jnp.mean(((logits[..., 1] > logits[..., 0]) == (part["mask"] > 0)).astype(jnp.float32))
            return (gradient, {"loss": loss, "accuracy": correct}), stats

        images = {name: batch[name] for name in ("image", "mask")}
        (gradient, terms), stats = accumulated(
            parts_of(images, self.accumulate), of_part, state["network"]["batch_stats"]
        )
        params, opt_state = optimiser.update(
            self._optimiser,
            self._mean(gradient),
            state["optimiser"],
            state["network"]["params"],
            hyper["learning_rate"],
            hyper["weight_decay"],
        )
        new = {
            "network": {"params": params, "batch_stats": stats},
            "optimiser": opt_state,
            "step": state["step"] + 1,
        }
        return new, self._mean(terms)

    def score(
        self, state: State, images: Float[Array, "b h w 3"], key: PRNGKeyArray, how: Detection
    ) -> Float[Array, "b h w"]:
        """The softmax probability of the class crack; above 0.5 is argmax."""
        mode = "window" if how.batch_norm == "batch" else "running"
        logits, _ = self.network.apply(state["network"], imagenet_standardise(images), mode=mode)
        return jax.nn.sigmoid((logits[..., 1] - logits[..., 0]).astype(jnp.float32))

    def features(self, state: State, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b H W c"]]:
        """The network's feature maps by name (conv1, block1 to block4, ...), with the averages of training."""
        found: Any = self.network.apply(state["network"], imagenet_standardise(images), mode="running")
        return found[1]

    def _mean(self, tree: Any) -> Any:
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

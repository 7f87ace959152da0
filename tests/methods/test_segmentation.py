"""CrackSeg's training step: PyTorch's Adam on an independent gradient, and no compilation for a new number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cracks_jax.errors import UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.ops.colour import IMAGENET_MEAN, IMAGENET_STD
from tests import tiny
from tests.tiny import quick_compile, short_trunk  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile", "short_trunk")
KEY = jax.random.key(0)


def test_three_steps_equal_pytorchs_adam_with_decay_on_kernels_alone(rng):
    """In float64. The gradient is of optax's cross-entropy, what follows is torch.optim.Adam under a poly schedule."""
    torch = pytest.importorskip("torch")
    method = tiny.crackseg(version=2)
    with jax.enable_x64(True):
        state = tiny.state_of(method, dtype=np.float64)

        @jax.jit
        def reference_gradient(variables, image, mask):
            x = (image - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)

            def loss(params):
                (logits, _), updated = method.network.apply(
                    {**variables, "params": params}, x, mode="batch", mutable=["batch_stats"]
                )
                return optax.softmax_cross_entropy_with_integer_labels(logits, mask).mean(), updated

            return jax.value_and_grad(loss, has_aux=True)(variables["params"])

        variables = state["network"]
        theirs = {path: torch.tensor(x, requires_grad=True) for path, x in tiny.leaves(variables["params"]).items()}
        kernels = [t for path, t in theirs.items() if path.endswith("kernel")]
        others = [t for path, t in theirs.items() if not path.endswith("kernel")]
        decay = float(np.float32(0.02))
        adam = torch.optim.Adam([{"params": kernels, "weight_decay": decay}, {"params": others}], betas=(0.9, 0.999))
        step = jax.jit(method.train_step)
        for number in range(3):
            batch = tiny.batch(rng, dtype=np.float64)
            rate = np.float32(1e-3 * (1 - number / 3) ** 0.9)
            (loss, updated), gradient = reference_gradient(
                variables, batch["image"], batch["mask"].astype(np.int32)
            )
            for group in adam.param_groups:
                group["lr"] = float(rate)
            for path, array in tiny.leaves(gradient).items():
                theirs[path].grad = torch.tensor(array)
            adam.step()
            treedef = jax.tree.structure(variables["params"])
            moved = [t.detach().numpy().copy() for t in theirs.values()]
            variables = {**updated, "params": jax.tree.unflatten(treedef, moved)}

            hyper = tiny.hyper(learning_rate=rate, weight_decay=0.02)
            state, metrics = step(state, batch, hyper, KEY)
            np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-9)
        ours, reference = tiny.leaves(state["network"]), tiny.leaves(variables)
    assert ours.keys() == reference.keys() and int(state["step"]) == 3
    for path, array in reference.items():
        np.testing.assert_allclose(ours[path], array, rtol=1e-9, atol=1e-9, err_msg=path)


def test_changing_any_number_compiles_nothing(rng):
    method, traces = tiny.crackseg(), 0

    @functools.wraps(method.train_step)
    def counted(*arguments):
        nonlocal traces
        traces += 1
        return method.train_step(*arguments)

    step, state, batch = jax.jit(counted), tiny.state_of(method), tiny.batch(rng)
    names = ("learning_rate", "weight_decay")
    base = {name: tiny.hyper()[name] for name in names}
    step(state, batch, base, KEY)
    for name in names:
        for value in (0.0, 0.5):
            step(state, batch, base | {name: np.float32(value)}, KEY)
    assert traces == 1


def test_score_is_the_softmax_probability_of_crack(rng):
    method = tiny.crackseg()
    state = tiny.state_of(method)
    image = jnp.asarray(rng.uniform(0, 1, (2, 40, 48, 3)), jnp.float32)
    score = jax.jit(lambda: method.score(state, image, KEY, Detection()))()
    x = (image - jnp.asarray(IMAGENET_MEAN, jnp.float32)) / jnp.asarray(IMAGENET_STD, jnp.float32)
    logits, _ = jax.jit(lambda: method.network.apply(state["network"], x, mode="running"))()
    assert score.shape == (2, 40, 48) and score.dtype == jnp.float32
    np.testing.assert_allclose(score, jax.nn.softmax(logits)[..., 1], atol=1e-5)
    np.testing.assert_array_equal(score > 0.5, jnp.argmax(logits, -1) == 1)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="method.variant is 'table6'; expected one of .*table5_both_x3.*reading_R3"):
        Segmentation(variant="table6")

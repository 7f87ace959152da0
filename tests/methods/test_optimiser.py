"""Optimisers against PyTorch's, schedules against hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.methods import optimiser


def _tree(rng):
    return {"kernel": rng.normal(0, 1, (3, 3, 2, 4)), "bias": rng.normal(0, 1, (4,)), "scale": rng.normal(0, 1, (4,))}


@pytest.mark.parametrize(
    ("name", "momentum", "betas"),
    [("sgd", 0.9, (0.0, 0.0)), ("sgd", 0.0, (0.0, 0.0)), ("adam", 0.0, (0.9, 0.999)), ("adam", 0.0, (0.5, 0.999))],
)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_ten_steps_equal_pytorch_in_float64(rng, name, momentum, betas, decay):
    """Weight decay is coupled, and on kernels alone; the rate changes at every step, as with a schedule."""
    torch = pytest.importorskip("torch")
    params = _tree(rng)
    theirs = {key: torch.tensor(value, requires_grad=True) for key, value in params.items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": decay},
        {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0},
    ]
    adam = name == "adam"
    twin = torch.optim.Adam(groups, betas=betas) if adam else torch.optim.SGD(groups, lr=1, momentum=momentum)
    with jax.enable_x64(True):
        tx = optimiser.transform(name, beta1=betas[0], beta2=betas[1], momentum=momentum)
        ours = jax.tree.map(jnp.asarray, params)
        state = tx.init(ours)
        for step in range(10):
            gradients = _tree(rng)
            rate = 0.01 * 0.9**step
            for group in twin.param_groups:
                group["lr"] = rate
            for key, value in theirs.items():
                value.grad = torch.tensor(gradients[key])
            twin.step()
            ours, state = optimiser.update(
                tx, gradients, state, ours, jnp.asarray(rate), jnp.asarray(decay) if decay else None
            )
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value.detach(), rtol=1e-12, atol=1e-13)


def test_an_unknown_optimiser_or_schedule_is_refused():
    with pytest.raises(ValueError, match="'rmsprop'; use adam or sgd"):
        optimiser.transform("rmsprop", beta1=0, beta2=0, momentum=0)
    with pytest.raises(ValueError, match="'cosine'; use constant, exponential or poly"):
        _schedule("cosine")


def _schedule(kind, **changes):
    settings = {"steps": 100, "steps_per_epoch": 33.75, "decay": 0.99, "power": 0.9, "end": 0.01}
    return optimiser.schedule(kind, **{**settings, **changes})


def test_exponential_is_set_once_per_epoch():
    """270 windows in batches of 8: epoch 1 begins in the middle of batch 33, so with step 34."""
    factor = _schedule("exponential")
    assert [factor(step) for step in (0, 33, 34, 67, 68)] == [1.0, 1.0, 0.99, 0.99, 0.99**2]
    assert factor(6_749) == pytest.approx(0.99**199)  # the last step of 200 epochs


def test_poly_by_hand():
    """From 1 down to `end`, power 0.9; after the last step it stays at the end."""
    factor = _schedule("poly")
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.99 * 0.5**0.9 + 0.01)
    assert factor(90) == pytest.approx(0.99 * 0.1**0.9 + 0.01)
    assert factor(100) == factor(150) == pytest.approx(0.01)
    assert _schedule("poly", power=1.0, end=0.0)(25) == pytest.approx(0.75)


def test_constant_is_one():
    assert {_schedule("constant")(step) for step in (0, 7, 10**6)} == {1.0}

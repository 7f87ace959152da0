"""UP-CrackNet's training step: PyTorch's step, the rules of its game, and no compilation for a new number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.experiment import with_training_preset
from cracks_jax.methods.presets import LOSSES
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration
from tests import tiny
from tests.reference.parity import assert_parity, flatten
from tests.tiny import quick_compile, without_dropout  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def compiled(quick_compile):  # noqa: F811
    """The default step compiled once, and a state and a batch for it."""
    method = tiny.restoration()
    return jax.jit(method.train_step), tiny.state_of(method), tiny.batch(np.random.default_rng(0))


# --- the step against PyTorch


@pytest.mark.parametrize("preset", ["default", "authors"])
def test_three_steps_equal_pytorch_in_float64(preset, rng, tmp_path, without_dropout):  # noqa: F811
    """Loss terms, both networks' parameters and averages, by an independent step with torch.optim.Adam."""
    torch = pytest.importorskip("torch")
    from tests.reference import upcracknet_torch as twin
    from tests.reference.upcracknet_step_torch import TrainingStep

    # Our presets as an experiment has them, so that a wrong row of the table is seen too.
    experiment = tiny.experiment(tmp_path)
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data, pipeline=dataclasses.replace(experiment.data.pipeline, resize=36)
        ),
    )
    experiment = with_training_preset(experiment, preset)
    method = experiment.method
    rates = tiny.hyper(**experiment.training.loss_weights)

    torch.manual_seed(0)
    generator = twin.Generator(method.base, method.depth, dropout=False).double()
    discriminator = twin.Discriminator(4).double()
    for seed, network in enumerate((generator, discriminator)):
        twin.draw_norms(network, seed)
    with jax.enable_x64(True):
        state = tiny.state_of(method, dtype=np.float64)
        state |= {"generator": twin.variables(generator), "discriminator": twin.variables(discriminator)}
        step = jax.jit(method.train_step)
        theirs = TrainingStep(
            generator,
            discriminator,
            authors=preset == "authors",
            rate=float(rates["learning_rate"]),
            discriminator_rate=float(rates["discriminator_learning_rate"]),
            discriminator_weight=0.5 if preset == "authors" else 1.0,
        )
        for number in range(3):
            batch = tiny.batch(rng, dtype=np.float64)
            state, metrics = step(state, batch, rates, jax.random.fold_in(KEY, number))
            expected = theirs(batch["image"], batch["corrupted"][:, 0])
            assert metrics.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(metrics[name], value, rtol=1e-9, err_msg=f"step {number}, {name}")

    for name, network in (("generator", generator), ("discriminator", discriminator)):
        ours, reference = flatten(state[name]), flatten(twin.variables(network))
        enlarged = tiny.enlarged_rounding(reference)
        if preset == "default":  # the unbiased running variance is the authors' alone
            ours, reference = ({k: v for k, v in tree.items() if "/var" not in k} for tree in (ours, reference))
        for path in enlarged:
            np.testing.assert_allclose(ours.pop(path), reference.pop(path), atol=1e-6, err_msg=path)
        assert_parity(ours, reference, tolerance=1e-9)


class _Extractor:
    """Two maps that show what an extractor was fed: the image itself and a product of its neighbouring channels."""

    @staticmethod
    def apply(style, x):
        return {"early": x * style["scale"], "late": x[:, ::2, ::2] * x[:, ::2, ::2][..., [1, 2, 0]]}


@pytest.mark.parametrize(
    ("preset", "extractor", "standardised", "bgr"),
    [
        ("default", "vgg19", True, False),
        ("authors", "vgg19", False, True),  # "the same layers, input as it is"
        ("authors", "squeezenet1.1", True, False),  # always normalised, so RGB
    ],
)
def test_the_style_term_equals_pytorch_with_each_presets_input(preset, extractor, standardised, bgr, rng, monkeypatch):
    """Value and gradient, weighted 100 x 10; the target's features carry none. VGG and SqueezeNet have own tests."""
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    monkeypatch.setattr(Restoration, "_extractor", _Extractor)
    method = tiny.restoration(style_extractor=extractor, losses=LOSSES[preset])
    rgb = [rng.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32) for _ in range(2)]
    fake, real = (x[..., ::-1] if preset == "authors" else x for x in rgb)  # as the network has them
    weights, style = tiny.hyper(mae=0, ssim=0, msgms=0, adversarial=0), {"scale": np.float32(0.5)}

    def ours(restored):
        return method.generator_loss(restored, jnp.asarray(real), jnp.zeros((2, 2, 2, 1)), style, weights)[0]

    value, gradient = jax.jit(jax.value_and_grad(ours))(fake)

    def features(x):
        if standardised:
            mean, std = (torch.tensor(row) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            x = ((x + 1) / 2 - mean) / std
        x = (x.flip(-1) if bgr else x).permute(0, 3, 1, 2)
        half = x[:, :, ::2, ::2]
        return [x * 0.5, half * half[:, [1, 2, 0]]]

    a, b = (torch.from_numpy(x.copy()) for x in rgb)
    a.requires_grad_()
    expected = 100 * 10 * losses_torch.style_loss(features(a), [f.detach() for f in features(b)])
    expected.backward()
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)
    theirs = a.grad.numpy()
    assert_parity(gradient, theirs[..., ::-1] if preset == "authors" else theirs)


# --- the rules of the game


def test_one_step_of_each_network_per_batch(compiled, rng):
    step, state, _ = compiled
    for number in range(3):
        state, _ = step(state, tiny.batch(rng), tiny.hyper(), jax.random.fold_in(KEY, number))
    assert int(state["step"]) == 3
    for name in ("generator_optimiser", "discriminator_optimiser"):
        assert int(state[name].count) == 3


def test_the_generators_step_leaves_every_array_of_the_discriminator(compiled):
    """Bit for bit the same discriminator and moments, whatever the generator's rate and losses are."""
    step, state, batch = compiled
    one, _ = step(state, batch, tiny.hyper(), KEY)
    other, _ = step(state, batch, tiny.hyper(learning_rate=0.5, mae=0, ssim=7, adversarial=3), KEY)
    for name in ("discriminator", "discriminator_optimiser"):
        jax.tree.map(np.testing.assert_array_equal, one[name], other[name])
    ours, others = (jax.tree.leaves(state["generator"]["params"]) for state in (one, other))
    assert not any(np.array_equal(a, b) for a, b in zip(ours, others, strict=True))


def test_the_discriminators_step_leaves_every_parameter_of_the_generator(compiled):
    """With no rate of its own the generator stays bit for bit, while the discriminator moves."""
    step, state, batch = compiled
    after, _ = step(state, batch, tiny.hyper(learning_rate=0), KEY)
    jax.tree.map(np.testing.assert_array_equal, after["generator"]["params"], state["generator"]["params"])
    before, now = state["discriminator"]["params"], after["discriminator"]["params"]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), before, now)))


def test_no_gradient_of_the_discriminators_loss_reaches_the_generator(compiled):
    """Without losses of its own the generator's gradient, seen in Adam's first moment, is exactly zero."""
    step, state, batch = compiled
    after, metrics = step(state, batch, tiny.hyper(restoration=0, adversarial=0), KEY)
    for moment in jax.tree.leaves(after["generator_optimiser"].mu):
        np.testing.assert_array_equal(moment, 0)
    jax.tree.map(np.testing.assert_array_equal, after["generator"]["params"], state["generator"]["params"])
    assert float(metrics["discriminator_loss"]) > 0
    assert any(np.any(m != 0) for m in jax.tree.leaves(after["discriminator_optimiser"].mu))


def test_a_zero_weight_on_the_discriminator_stops_it(compiled):
    step, state, batch = compiled
    after, _ = step(state, batch, tiny.hyper(discriminator=0), KEY)
    jax.tree.map(
        np.testing.assert_array_equal, after["discriminator"]["params"], state["discriminator"]["params"]
    )


# --- numbers that travel


def test_changing_any_number_compiles_nothing():
    method, traces = tiny.restoration(), 0

    @functools.wraps(method.train_step)
    def counted(*arguments):
        nonlocal traces
        traces += 1
        return method.train_step(*arguments)

    step = jax.jit(counted)
    state, batch = tiny.state_of(method), tiny.batch(np.random.default_rng(0))
    step(state, batch, tiny.hyper(), KEY)
    compiled_before = step._cache_size()
    for name in tiny.hyper():
        for value in (0.0, 0.25):
            step(state, batch, tiny.hyper(**{name: value}), KEY)
    assert (traces, step._cache_size()) == (1, compiled_before)


@pytest.mark.parametrize("losses", [LOSSES["default"], LOSSES["paper"], LOSSES["authors"]])
def test_a_zero_weight_gives_a_zero_gradient_where_a_term_is_extreme(losses):
    """Flat and equal images, a discriminator that is sure: every term's gradient is finite, and none with weight 0."""
    method = tiny.restoration(losses=losses)
    flat = jnp.zeros((1, 32, 32, 3))
    logits = jnp.asarray([-1e30, 1e30, 0.0, 80.0]).reshape(1, 2, 2, 1)

    @jax.jit
    def gradients(restored, logits, weights):
        loss = lambda r, d: method.generator_loss(r, flat, d, None, weights)[0]  # noqa: E731
        return jax.grad(loss, (0, 1))(restored, logits)

    off = tiny.hyper(mae=0, ssim=0, msgms=0, adversarial=0)
    for restored in (flat, flat + 1, flat - 1):
        for gradient in gradients(restored, logits, off):
            np.testing.assert_array_equal(gradient, 0)
        for name in ("mae", "ssim", "msgms", "adversarial"):
            on_image, on_logits = gradients(restored, logits, off | {name: np.float32(1)})
            assert np.isfinite(on_image).all() and np.isfinite(on_logits).all(), name
            np.testing.assert_array_equal(on_image if name == "adversarial" else on_logits, 0)


def test_the_total_is_the_papers_sum(rng):
    """Eq. 2 and 3: 100 x (mae + ssim + msgms + 10 x style) + adversarial, style left out without an extractor."""
    method = tiny.restoration()
    a, b = (jnp.asarray(rng.uniform(-1, 1, (1, 32, 32, 3)), jnp.float32) for _ in range(2))
    loss, terms = jax.jit(lambda: method.generator_loss(a, b, jnp.ones((1, 2, 2, 1)), None, tiny.hyper()))()
    assert set(terms) == {"mae", "ssim", "msgms", "adversarial"}
    expected = 100 * (terms["mae"] + terms["ssim"] + terms["msgms"]) + terms["adversarial"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert LOSS_WEIGHTS["restoration"] == 100 and LOSS_WEIGHTS["style"] == 10


# --- validation


def test_validation_is_the_same_whatever_the_training_losses(rng):
    """Our own forms of MAE, 1 - SSIM and MSGMS, unweighted, on windows whose removed part the network sees as black."""
    from cracks_jax.losses import restoration as forms
    from cracks_jax.methods.detection import Detection

    images = jnp.asarray(rng.uniform(0, 1, (2, 32, 32, 3)), jnp.float32)
    keep = jnp.asarray(rng.uniform(0, 1, (32, 32, 1)) > 0.5, jnp.float32)
    how = Detection(batch_norm="batch")
    default, authors = tiny.restoration(), tiny.restoration(losses=dataclasses.replace(LOSSES["authors"], bgr=False))
    state = tiny.state_of(default)

    @jax.jit
    def all_three():
        x = images * 2 - 1
        black = jnp.where(keep > 0, x, -1.0)
        restored, _ = default.generator.apply(state["generator"], black, mode="window", dropout=False)
        ours = {"mae": forms.mae(restored, x), "ssim": 1 - forms.ssim(restored, x)}
        ours["msgms"] = forms.msgms_loss(restored, x)
        return ours, *(method.validation_terms(state, images, keep, KEY, how) for method in (default, authors))

    expected, *found = all_three()
    for terms in found:
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(np.mean(terms[name]), value, rtol=1e-5)

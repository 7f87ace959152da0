"""Batch norm: which statistics are taken, which averages are kept, by hand arithmetic and by PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.layers.norm import BatchNorm

KEY = jax.random.key(0)


def _fresh(norm, x):
    return norm.init(KEY, x, "batch")


def _train(norm, variables, x):
    y, updated = norm.apply(variables, x, "batch", mutable=["batch_stats"])
    return y, {**variables, **updated}


def test_initialising_leaves_the_averages_as_they_are(rng):
    x = jnp.asarray(rng.normal(3, 2, (2, 4, 4, 3)), jnp.float32)
    stats = _fresh(BatchNorm(debias=True), x)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(3))
    np.testing.assert_array_equal(stats["var"], np.ones(3))
    np.testing.assert_array_equal(stats["count"], 0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_training_equals_pytorch_over_three_batches(rng, unbiased, strict):
    """Outputs in both modes, and averages: PyTorch's unbiased, ours n/(n-1) less unless asked."""
    torch = pytest.importorskip("torch")
    twin = torch.nn.BatchNorm2d(5)
    norm = BatchNorm(momentum=0.9, unbiased_running_var=unbiased)
    variables = None
    n = 2 * 3 * 4
    for _ in range(3):
        x = rng.normal(1, 2, (2, 3, 4, 5)).astype(np.float32)
        variables = variables or _fresh(norm, x)
        y, variables = _train(norm, variables, x)
        theirs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        np.testing.assert_allclose(y, theirs.detach().numpy().transpose(0, 2, 3, 1), atol=2e-6)
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], twin.running_mean, rtol=1e-5)
    # 0.9^3 of the initial 1 is left; the rest is an average of three batch variances.
    learned = twin.running_var.numpy() - 0.9**3
    expected = learned if unbiased else learned * (n - 1) / n
    np.testing.assert_allclose(stats["var"] - 0.9**3, expected, rtol=1e-5)
    if unbiased:
        twin.eval()
        theirs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        y = norm.apply(variables, x, "running")
        np.testing.assert_allclose(y, theirs.detach().numpy().transpose(0, 2, 3, 1), atol=2e-6)


def test_debiased_averages_are_the_weighted_mean_of_what_was_seen():
    """Decay d, batches x_1 .. x_t: sum d^(t-i) x_i / sum d^(t-i), by hand; nothing of the initial value is left."""
    decay = 0.75
    norm = BatchNorm(momentum=decay, debias=True)
    batches = [jnp.asarray([[m - s], [m + s]], jnp.float32) for m, s in ((4, 1), (8, 2), (-2, 0.5))]
    variables = _fresh(norm, batches[0])
    for t, x in enumerate(batches, 1):
        _, variables = _train(norm, variables, x)
        weights = decay ** np.arange(t)[::-1]
        weights /= weights.sum()
        stats = variables["batch_stats"]
        np.testing.assert_allclose(stats["mean"][0], weights @ [4, 8, -2][:t], rtol=1e-5)
        np.testing.assert_allclose(stats["var"][0], weights @ [1, 4, 0.25][:t], rtol=1e-5)
    assert float(stats["count"]) == 3
    # Three steps by hand: (0.5625 x 4 + 0.75 x 8 - 2) / (0.5625 + 0.75 + 1).
    np.testing.assert_allclose(stats["mean"][0], 6.25 / 2.3125, rtol=1e-5)


def test_the_papers_decay_is_usable_after_one_step(rng):
    """0.9997 debiased: running statistics are the batch's after the first step, where plain ones are 99.97 % of 0."""
    x = jnp.asarray(rng.normal(5, 3, (4, 8, 8, 2)), jnp.float32)
    norm = BatchNorm(momentum=0.9997, debias=True)
    y, variables = _train(norm, _fresh(norm, x), x)
    np.testing.assert_allclose(norm.apply(variables, x, "running"), y, atol=2e-3)
    plain = BatchNorm(momentum=0.9997)
    _, variables = _train(plain, _fresh(plain, x), x)
    assert float(jnp.abs(variables["batch_stats"]["mean"]).max()) < 0.01


def test_running_mode_reads_the_averages_and_changes_nothing(rng):
    x = jnp.asarray(rng.normal(0, 1, (2, 4, 4, 2)), jnp.float32)
    norm = BatchNorm()
    stats = {"mean": np.float32([1, -2]), "var": np.float32([4, 0.25])}
    params = {"scale": np.float32([2, 3]), "bias": np.float32([0.5, -0.5])}
    y, updated = norm.apply({"params": params, "batch_stats": stats}, x, "running", mutable=["batch_stats"])
    np.testing.assert_allclose(y[..., 0], 2 * (x[..., 0] - 1) / np.sqrt(4 + 1e-5) + 0.5, atol=1e-6)
    np.testing.assert_allclose(y[..., 1], 3 * (x[..., 1] + 2) / np.sqrt(0.25 + 1e-5) - 0.5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], stats)


def test_window_mode_is_batch_mode_of_each_image_alone_and_changes_nothing(rng):
    x = jnp.asarray(rng.normal(0, 1, (3, 5, 4, 2)) * np.array([1, 5, 9])[:, None, None, None], jnp.float32)
    norm = BatchNorm()
    variables = _fresh(norm, x)
    y, updated = norm.apply(variables, x, "window", mutable=["batch_stats"])
    for i in range(3):
        alone, _ = _train(norm, variables, x[i : i + 1])
        np.testing.assert_allclose(y[i], alone[0], atol=2e-6)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("unbiased", [False, True])
def test_over_a_mapped_axis_statistics_are_those_of_the_whole_batch(rng, unbiased):
    """Output, averages and gradient as without devices, to float64's precision."""
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(2, 3, (4, 2, 3, 3, 2)))
        settings = {"debias": True, "unbiased_running_var": unbiased}
        whole, part = BatchNorm(**settings), BatchNorm(**settings, axis_name="data")
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), _fresh(whole, x[0]))
        flat = x.reshape(8, 3, 3, 2)
        y, after = _train(whole, variables, flat)
        mapped, after_mapped = jax.vmap(
            lambda v, x: _train(part, v, x), in_axes=(None, 0), axis_name="data"
        )(variables, x)
        np.testing.assert_allclose(mapped.reshape(flat.shape), y, rtol=1e-12, atol=1e-12)
        for path, array in after["batch_stats"].items():
            for copy in after_mapped["batch_stats"][path]:
                np.testing.assert_allclose(copy, array, rtol=1e-12)

        def loss(apply):
            return lambda x: jnp.sum(jnp.sin(apply(x)))

        ours = jax.grad(
            loss(lambda x: jax.vmap(lambda x: _train(part, variables, x)[0], axis_name="data")(x))
        )(x)
        theirs = jax.grad(loss(lambda x: _train(whole, variables, x)[0]))(flat)
        np.testing.assert_allclose(ours.reshape(flat.shape), theirs, rtol=1e-9, atol=1e-12)


def test_half_precision_keeps_its_type_with_statistics_in_float32(rng):
    """A mean of 1000 with a spread of 1 has no digit left in bfloat16's variance, were it computed there."""
    x = jnp.asarray(1000 + 8 * rng.normal(0, 1, (2, 16, 16, 1)), jnp.bfloat16)
    norm = BatchNorm()
    y, variables = _train(norm, _fresh(norm, x), x)
    assert y.dtype == jnp.bfloat16 and variables["batch_stats"]["var"].dtype == jnp.float32
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], 0.1 * wide.mean(), rtol=1e-4)
    np.testing.assert_allclose(variables["batch_stats"]["var"], 0.9 + 0.1 * wide.var(), rtol=1e-3)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode is 'train'; use 'batch', 'running' or 'window'"):
        BatchNorm().init(KEY, jnp.zeros((1, 2, 2, 1)), "train")

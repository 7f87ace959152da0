"""bfloat16 is asked for by name, and only layers compute in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.errors import CracksError
from cracks_jax.experiment import apply_settings, from_json, to_json
from tests import tiny

METHODS = {"restoration": tiny.restoration, "segmentation": tiny.crackseg}


def _step(method):
    """(shapes of a step's results, its program as text); nothing is compiled."""
    state = jax.eval_shape(lambda key: method.init(key, {"image": jnp.zeros((1, 32, 32, 3))}), jax.random.key(0))
    arguments = (state, tiny.batch(np.random.default_rng(0), 2), tiny.hyper(), jax.random.key(0))
    return state, jax.eval_shape(method.train_step, *arguments), jax.jit(method.train_step).lower(*arguments).as_text()


@pytest.mark.parametrize("kind", METHODS)
def test_layers_compute_in_bfloat16_and_all_that_is_kept_is_float32(kind):
    state, (new, metrics), program = _step(METHODS[kind](dtype="bfloat16"))
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    floats = {leaf.dtype for leaf in jax.tree.leaves((new, metrics)) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {jnp.dtype(jnp.float32)}
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert sum("bf16" in line for line in convolutions) > 20


@pytest.mark.parametrize("kind", METHODS)
def test_without_its_name_there_is_none(kind):
    assert "bf16" not in _step(METHODS[kind]())[2]


@pytest.mark.parametrize("kind", METHODS)
def test_it_is_a_setting_of_an_experiment_and_part_of_its_science(kind, tmp_path):
    one = tiny.experiment(tmp_path, kind)
    half = apply_settings(one, ["method.dtype=bfloat16"])
    assert half.method.dtype == "bfloat16" and half.run_id != one.run_id
    assert from_json(to_json(half)).method == half.method
    with pytest.raises(CracksError, match="method.dtype"):
        apply_settings(one, ["method.dtype=float16"])

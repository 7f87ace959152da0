"""Both systems' training steps lower for accelerators, under jit and pmap, on a machine that has none."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from cracks_jax.methods.guard import SKIPS_LEFT, guarded
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runtime.parallel import Parallel, devices
from cracks_jax.training_step import with_augmentation
from tests import tiny
from tests.tiny import short_trunk  # noqa: F401

DEVICES = 2
# Products that are none of a convolution's forms: Gram matrices (4 layers, fake and target, and 2 for each gradient of
# the fake's), and bilinear enlarging (3 times 2 axes, with gradients).
PRODUCTS = {"upcracknet": 0, "upcracknet with style": 16, "crackseg": 12}
METHODS = {
    "upcracknet": lambda: tiny.restoration(base=8, depth=5, discriminator_base=8),
    "upcracknet with style": lambda: tiny.restoration(
        base=8, depth=5, discriminator_base=8, style_extractor="squeezenet1.1"
    ),
    "crackseg": tiny.crackseg,
}


def _programs(name, strategy, dtype="float32"):
    """The step as training compiles it, from bytes and with colour augmentation: its StableHLO by platform."""
    method = dataclasses.replace(METHODS[name](), dtype=dtype)
    kind = "segmentation" if name == "crackseg" else "restoration"
    experiment = dataclasses.replace(tiny.experiment(Path("unused"), kind, colour=0.3), method=method)
    parallel = Parallel(strategy, devices(DEVICES))
    mapped = dataclasses.replace(method, axis_name=parallel.axis_name)
    step = parallel.compile(guarded(with_augmentation(mapped, experiment.training.colour)))
    step = jax.jit(step) if strategy == "pmap" else step
    arguments = _shapes(method, strategy)
    return {
        platform: jax.export.export(step, platforms=[platform])(*arguments).mlir_module()
        for platform in ("tpu", "cuda", "cpu")
    }


def _shapes(method, strategy):
    like = {"image": jax.ShapeDtypeStruct((1, tiny.SIDE, tiny.SIDE, 3), np.float32)}
    state = jax.eval_shape(lambda key: method.init(key, like), jax.random.key(0))
    batch = tiny.bytes_batch(np.random.default_rng(0))
    batch.pop("mask" if isinstance(method, Restoration) else "corrupted")
    if strategy == "pmap":
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((DEVICES, *x.shape), x.dtype), state)
        batch = {k: v.reshape(DEVICES, len(v) // DEVICES, *v.shape[1:]) for k, v in batch.items()}
    return state, batch, {**tiny.hyper(), SKIPS_LEFT: np.int32(0)}, jax.random.key(0)


def _count(program, operation):
    return program.count(f"stablehlo.{operation}")


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
@pytest.mark.parametrize("name", METHODS)
def test_steps_lower_for_tpu_and_cuda_with_convolutions_and_none_of_a_processors_forms(
    name, strategy, short_trunk  # noqa: F811
):
    """A processor's program of the same step, from the same machine, has those forms: products for convolutions."""
    programs = _programs(name, strategy)
    for platform in ("tpu", "cuda"):
        assert _count(programs[platform], "convolution") > 80
        assert _count(programs[platform], "dot_general") == PRODUCTS[name]
        # Under jit the compiler adds them; pmapped means over devices are there by name.
        assert (_count(programs[platform], "all_reduce") > 50) == (strategy == "pmap")
    assert _count(programs["cpu"], "convolution") < 15 and _count(programs["cpu"], "dot_general") > 80
    assert _count(programs["tpu"], "convolution") == _count(programs["cuda"], "convolution")


@pytest.mark.parametrize("name", ["upcracknet", "crackseg"])
def test_bfloat16_lowers_too_and_convolves_in_it(name, short_trunk):  # noqa: F811
    program = _programs(name, "jit", "bfloat16")["tpu"]
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert sum("bf16" in line for line in convolutions) > 50

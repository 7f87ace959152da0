"""Tiny methods, batches and experiments for tests of training: seconds, most of them compiling.

`quick_compile` is a fixture for modules that compile training steps: XLA's optimisations cost more there than they
save, and what is compiled twice in one session (a resumed training, say) is read back from a folder.
"""

import contextlib
import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from cracks_jax.data.elements import Pipeline
from cracks_jax.experiment import Data, Experiment, Machine, Training
from cracks_jax.methods import segmentation
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.presets import DETECTION_PRESETS
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.networks import upcracknet
from cracks_jax.networks.backbones import resnet

SIDE = 32
RATES = {"learning_rate": 1e-3, "discriminator_learning_rate": 4e-3, "weight_decay": 5e-4}


@pytest.fixture(scope="module")
def quick_compile(tmp_path_factory):
    before = {name: jax.config.values[name] for name in _QUICK}
    folder = before["jax_compilation_cache_dir"] or str(tmp_path_factory.getbasetemp() / "compiled")
    for name, value in {**_QUICK, "jax_compilation_cache_dir": folder}.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


_QUICK = {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}


@contextlib.contextmanager
def no_dropout():
    """The generator without its noise: what devices or another program draw differently, they then agree on."""
    before, upcracknet.DROPOUT_LAYERS = upcracknet.DROPOUT_LAYERS, 0
    try:
        yield
    finally:
        upcracknet.DROPOUT_LAYERS = before


@pytest.fixture
def without_dropout():
    with no_dropout():
        yield


@pytest.fixture
def short_trunk(monkeypatch):
    """ResNet-50 with one unit in each of its blocks: every kind of layer, a quarter of the compiling."""
    monkeypatch.setitem(resnet.UNITS, 50, (1, 1, 1, 1))


def restoration(**settings) -> Restoration:
    return Restoration(**{"base": 4, "depth": 4, "discriminator_base": 4, **settings})


def crackseg(**settings) -> Segmentation:
    assert segmentation.NETWORKS
    return Segmentation(**{"variant": "table5_conv1_x2", "narrow": 16, "bn_momentum": 0.9, **settings})


def hyper(**changes) -> dict[str, np.ndarray]:
    """Rates, decay and loss weights as training passes them: float32 scalars."""
    return {name: np.float32(value) for name, value in {**LOSS_WEIGHTS, **RATES, **changes}.items()}


def batch(rng: np.random.Generator, b: int = 4, side: int = SIDE, dtype=np.float32) -> dict[str, np.ndarray]:
    """Images in [0, 1], their corrupted forms and masks, in one batch that fits both methods."""
    image = rng.uniform(0, 1, (b, side, side, 3)).astype(dtype)
    keep = (rng.uniform(0, 1, (b, 1, side, side, 1)) > 0.5).astype(dtype)
    mask = (rng.uniform(0, 1, (b, side, side)) > 0.8).astype(np.uint8)
    return {"image": image, "corrupted": image[:, None] * keep, "mask": mask}


def bytes_batch(rng: np.random.Generator, b: int = 4, side: int = SIDE) -> dict[str, np.ndarray]:
    """The same as the pipeline makes it: 8 bits."""
    found = batch(rng, b, side)
    return {name: value if name == "mask" else np.round(value * 255).astype(np.uint8) for name, value in found.items()}


def state_of(method, seed: int = 0, side: int = SIDE, dtype=np.float32):
    """A fresh state as NumPy arrays, every floating array in `dtype`."""
    like = {"image": jax.ShapeDtypeStruct((1, side, side, 3), np.float32)}
    state = jax.jit(lambda key: method.init(key, like))(jax.random.key(seed))
    return jax.tree.map(lambda x: _cast(np.asarray(x), dtype), state)


def _cast(array: np.ndarray, dtype) -> np.ndarray:
    return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array


def experiment(folder: Path, kind: str = "restoration", **training) -> Experiment:
    """A training of four steps on drawn pavements in `folder`."""
    restores = kind == "restoration"
    settings = {
        "steps": 4,
        "batch_size": 4,
        "schedule": "exponential" if restores else "poly",
        "learning_rate": 1e-3,
        "loss_weights": LOSS_WEIGHTS if restores else {},
        "validate_every": 2,
        **training,
    }
    return Experiment(
        name=f"tiny_{kind}",
        form="smoke",
        method=restoration(depth=3) if restores else crackseg(),
        data=Data(
            name="drawn",
            split="undamaged" if restores else "train",
            recipe_settings={"train": 8, "test": 2, "undamaged": 10, "size": [48, 48]},
            validation=0.2,
            pipeline=Pipeline(crop=SIDE, corruption="squares" if restores else None),
        ),
        training=Training(**settings),
        detection=DETECTION_PRESETS["default"] if restores else Detection(),
        machine=Machine(devices=1, log_every=1, checkpoint_every=100, cache=str(folder)),
    )


def with_machine(one: Experiment, **changes) -> Experiment:
    return dataclasses.replace(one, machine=dataclasses.replace(one.machine, **changes))


def enlarged_rounding(paths) -> set[str]:
    """UP-CrackNet's biases in front of a batch norm, and the norms' running means, which contain them.

    Such a bias has no gradient but rounding, and Adam divides by that rounding's size: between two exact computations
    these differ by up to the rate times 1e-4 a step, and nothing depends on them.
    """
    layers = {path.removesuffix("/norm/scale").rpartition("params/")[2] for path in paths if "/norm/scale" in path}
    ends = [f"params/{layer}/conv/bias" for layer in layers] + [f"batch_stats/{layer}/norm/mean" for layer in layers]
    return {path for path in paths if "optimiser" not in path and path.endswith(tuple(ends))}


def leaves(tree) -> dict[str, np.ndarray]:
    """'/'-joined path -> array."""
    flat, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in flat}

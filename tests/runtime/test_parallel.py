"""Several devices do what one does: equal to 1e-9 in float64, by jit over a mesh and by pmap."""

from pathlib import Path

import jax
import numpy as np
import pytest

from cracks_jax.errors import UsageError
from cracks_jax.runtime import parallel as parallel_module
from cracks_jax.runtime.parallel import Parallel, check_batch, devices
from cracks_jax.training_step import with_augmentation
from tests import tiny
from tests.reliability.devices import measure, run
from tests.tiny import quick_compile, short_trunk, without_dropout  # noqa: F401

STEPS = 5


def _experiment(kind, colour):
    return tiny.experiment(Path("unused"), kind, colour=colour)


def _on_one_device(kind, dtype, colour=0.0):
    experiment = _experiment(kind, colour)
    step = jax.jit(with_augmentation(experiment.method, experiment.training.colour))
    state, rng, losses = tiny.state_of(experiment.method, dtype=dtype), np.random.default_rng(1), []
    for number in range(STEPS):
        batch = tiny.bytes_batch(rng)
        batch.pop("corrupted" if kind == "segmentation" else "mask")
        state, metrics = step(state, batch, tiny.hyper(), jax.random.key(number))
        losses.append(float(metrics["loss"]))
    return {**tiny.leaves(state), "losses": np.asarray(losses)}


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.mark.parametrize(
    ("kind", "strategy", "count"),
    [
        ("restoration", "jit", 4),
        ("restoration", "pmap", 4),
        ("segmentation", "jit", 4),
        pytest.param("segmentation", "pmap", 4, marks=pytest.mark.long),
        pytest.param("restoration", "jit", 2, marks=pytest.mark.long),
        pytest.param("segmentation", "jit", 2, marks=pytest.mark.long),
    ],
)
def test_every_array_and_loss_equals_one_devices(
    kind, strategy, count, references, quick_compile, short_trunk, without_dropout  # noqa: F811
):
    """Parameters, moments, batch-norm averages; ten steps in the long form. No dropout: pmap draws it by device."""
    with jax.enable_x64(True):
        if kind not in references:
            references[kind] = _on_one_device(kind, np.float64)
        found = run(kind, strategy, count, np.float64, STEPS)
    reference = references[kind]
    assert found.keys() == reference.keys()
    enlarged = tiny.enlarged_rounding(reference) if kind == "restoration" else set()
    assert kind != "restoration" or enlarged
    for path, array in reference.items():
        assert found[path].dtype == array.dtype, path
        tolerance = 1e-6 if path in enlarged else 1e-9
        np.testing.assert_allclose(found[path], array, rtol=1e-9, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(
    ("kind", "shard"), [("restoration", "optimiser"), ("restoration", "parameters"), ("segmentation", "parameters")]
)
def test_a_state_in_shards_takes_the_same_steps(
    kind, shard, references, quick_compile, short_trunk, without_dropout, monkeypatch  # noqa: F811
):
    monkeypatch.setattr(parallel_module, "LEAST_SHARDED", 16)  # the tests' networks are small
    with jax.enable_x64(True):
        if kind not in references:
            references[kind] = _on_one_device(kind, np.float64)
        found = run(kind, "jit", 4, np.float64, STEPS, shard=shard)
    enlarged = tiny.enlarged_rounding(references[kind]) if kind == "restoration" else set()
    for path, array in references[kind].items():
        tolerance = 1e-6 if path in enlarged else 1e-9
        np.testing.assert_allclose(found[path], array, rtol=1e-9, atol=tolerance, err_msg=path)


def test_each_device_holds_its_share_of_what_is_sharded_and_all_of_the_rest(monkeypatch):
    monkeypatch.setattr(parallel_module, "LEAST_SHARDED", 64)
    state = {
        "network": {"params": {"kernel": np.ones((3, 3, 8, 16), np.float32), "bias": np.ones(16, np.float32)}},
        "optimiser": {"mu": {"kernel": np.ones((3, 3, 8, 16), np.float32), "odd": np.ones((9, 9), np.float32)}},
    }
    ways = ("none", "optimiser", "parameters")
    placed = {shard: Parallel("jit", devices(4), shard).put_state(state) for shard in ways}
    shares = {shard: jax.tree.map(lambda x: x.addressable_shards[0].data.size, one) for shard, one in placed.items()}
    whole, fourth = 3 * 3 * 8 * 16, 3 * 3 * 8 * 4
    rest = {"bias": 16, "odd": 81}  # too small, and no side that four divides
    for shard, parameters, moments in (
        ("none", whole, whole), ("optimiser", whole, fourth), ("parameters", fourth, fourth)
    ):  # fmt: skip
        assert shares[shard] == {
            "network": {"params": {"kernel": parameters, "bias": rest["bias"]}},
            "optimiser": {"mu": {"kernel": moments, "odd": rest["odd"]}},
        }


def test_eight_devices_by_jit_and_by_pmap_take_the_steps_of_one(tmp_path):
    """UP-CrackNet in float64; the long form (`tools/reliability.py devices`) has more of everything."""
    found = measure(tmp_path, steps=4, kinds=["restoration"], counts=[8], dtypes=["float64"])
    for strategy in ("jit", "pmap"):
        assert found[f"restoration {strategy} float64"]["8"] < 1e-9


@pytest.mark.long
def test_under_jit_randomness_does_not_depend_on_the_devices(quick_compile, short_trunk):  # noqa: F811
    """Colour is drawn for the whole batch, wherever its images lie."""
    with jax.enable_x64(True):
        found = [run("segmentation", "jit", count, np.float64, STEPS, colour=0.3) for count in (1, 4)]
    for path, array in found[0].items():
        np.testing.assert_allclose(found[1][path], array, rtol=1e-9, atol=1e-9, err_msg=path)


@pytest.mark.parametrize(("strategy", "count"), [("jit", 4), ("pmap", 4)])
def test_a_batch_is_split_and_a_state_is_copied(strategy, count, rng):
    parallel = Parallel(strategy, devices(count))
    batch = parallel.put_batch({"image": rng.integers(0, 255, (8, 4, 4, 3), np.uint8)})
    state = parallel.put_state({"w": np.arange(3.0, dtype=np.float32)})
    if strategy == "jit":
        assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(2, 4, 4, 3)}
        assert len(state["w"].addressable_shards) == 4 and state["w"].is_fully_replicated
    else:
        assert batch["image"].shape == (4, 2, 4, 4, 3) and state["w"].shape == (4, 3)
    np.testing.assert_array_equal(parallel.get_state(state)["w"], [0, 1, 2])


def test_what_does_not_fit_the_devices_is_refused():
    with pytest.raises(UsageError, match="training.batch_size 6 cannot be split over 4 devices; use 8 or fewer"):
        check_batch(6, 4)
    with pytest.raises(UsageError, match="training.batch_size 8 .* over 4 devices in 3 parts each .*; use 12 or fewer"):
        check_batch(8, 4, 3)
    check_batch(8, 4)
    with pytest.raises(UsageError, match=f"machine.devices is 99; this machine has {len(jax.local_devices())}"):
        devices(99)
    with pytest.raises(UsageError, match="machine.parallel is 'magic'; expected jit or pmap"):
        Parallel("magic", devices(1))

"""A batch in parts: the whole batch's step where batch norm is frozen, and how far from it where it is not."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from cracks_jax.errors import UsageError
from cracks_jax.experiment import apply_settings
from cracks_jax.layers.norm import BatchNorm
from cracks_jax.methods.accumulation import accumulated, parts_of
from cracks_jax.methods.presets import LOSSES
from tests import tiny
from tests.tiny import quick_compile, short_trunk, without_dropout  # noqa: F401

KINDS = ("restoration", "segmentation")


@pytest.fixture
def frozen(monkeypatch):
    """Batch norm by its running averages, which nothing updates, also while training."""
    plain = BatchNorm.__call__
    monkeypatch.setattr(BatchNorm, "__call__", lambda self, x, mode: plain(self, x, "running"))


def step_of(kind, parts, **changes):
    """The state after one step in so many parts, and its metrics; float64."""
    method = dataclasses.replace(tiny.experiment(Path("unused"), kind).method, accumulate=parts, **changes)
    rng = np.random.default_rng(3)
    batch = {name: x if name == "mask" else x / 255.0 for name, x in tiny.bytes_batch(rng).items()}
    batch.pop("corrupted" if kind == "segmentation" else "mask")
    state, metrics = jax.jit(method.train_step)(
        tiny.state_of(method, dtype=np.float64), batch, tiny.hyper(), jax.random.key(0)
    )
    return tiny.leaves(state), {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("kind", "again"),
    [
        ("restoration", False),
        pytest.param("restoration", True, marks=pytest.mark.long),
        ("segmentation", False),
    ],
)
def test_with_frozen_statistics_parts_are_the_whole_batch(
    kind, again, frozen, quick_compile, short_trunk, without_dropout  # noqa: F811
):
    changes = {"losses": dataclasses.replace(LOSSES["default"], generator_again=again)} if kind == "restoration" else {}
    with jax.enable_x64(True):
        (whole, losses), (parts, in_parts) = (step_of(kind, count, **changes) for count in (1, 4))
    for path, array in whole.items():
        np.testing.assert_allclose(parts[path], array, rtol=1e-9, atol=1e-9, err_msg=path)
    assert in_parts == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("kind", ["restoration", pytest.param("segmentation", marks=pytest.mark.long)])
def test_with_each_parts_own_statistics_the_step_differs_and_stays_close(
    kind, quick_compile, short_trunk, without_dropout  # noqa: F811
):
    with jax.enable_x64(True):
        (_, whole), (_, parts) = (step_of(kind, count) for count in (1, 2))
    apart = abs(parts["loss"] / whole["loss"] - 1)
    assert 1e-6 < apart < 0.5, apart


def test_parts_are_taken_so_that_a_split_batch_stays_split():
    batch = {"image": np.arange(8)}
    assert [list(part["image"]) for part in parts_of(batch, 2)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert parts_of(batch, 1)[0] is batch


def test_what_is_carried_goes_from_part_to_part_and_the_rest_is_averaged():
    parts = parts_of({"image": np.arange(6.0)}, 3)
    mean, carried = jax.jit(lambda: accumulated(parts, lambda part, n, seen: (part["image"].sum(), [*seen, n]), []))()
    assert float(mean) == (0 + 3 + 1 + 4 + 2 + 5) / 3 and [int(n) for n in carried] == [0, 1, 2]


@pytest.mark.parametrize("value", ["0", "3"])
def test_parts_that_a_batch_does_not_have_are_refused(tmp_path, value):
    with pytest.raises(UsageError, match=f"method.accumulate is {value}; expected"):
        apply_settings(tiny.experiment(tmp_path), [f"method.accumulate={value}"])

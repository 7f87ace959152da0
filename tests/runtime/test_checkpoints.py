"""Checkpoints come back bit for bit; what is damaged, foreign or too large is said, and harms nothing."""

import hashlib
import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.errors import CracksError
from cracks_jax.runtime.checkpoints import Checkpoints, first_not_finite, state_sha256


def _state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "network": {"params": {"conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 8, 16)), jnp.float32)}}},
        "step": jnp.asarray(seed, jnp.int32),
    }


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def _saved(checkpoints, steps, best=None):
    for step in steps:
        checkpoints.save(step, _state(step), best=best)
    checkpoints.wait()


def test_another_process_would_get_the_same_bits(checkpoints):
    """A second object on the same folder knows nothing of the first, as after a restart."""
    _saved(checkpoints, [7])
    again = Checkpoints(checkpoints.folder)
    state = again.restore(7, jax.tree.map(jnp.zeros_like, _state()))
    assert state_sha256(state) == state_sha256(_state(7)) and state["step"].dtype == jnp.int32


def test_what_is_saved_is_what_the_state_was_then(checkpoints):
    """Training gives the state's memory away to the next step while the save is under way."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.tree.map(jnp.copy, _state(3))
    checkpoints.save(3, state, best=None)
    for _ in range(5):
        state = step(state)
    checkpoints.wait()
    assert state_sha256(checkpoints.restore(3, _state())) == state_sha256(_state(3))


def test_the_newest_and_the_best_are_kept(checkpoints):
    for step in range(1, 7):
        checkpoints.save(step, _state(step), best=2 if step >= 2 else 1)
    checkpoints.prune(best=2)
    assert checkpoints.steps() == [2, 6]
    assert sorted(int(p.name) for p in checkpoints.folder.iterdir() if p.name.isdigit()) == [2, 6]


def test_saving_a_step_again_changes_nothing(checkpoints):
    _saved(checkpoints, [4, 4])
    assert checkpoints.steps() == [4]


def test_a_state_of_another_shape_is_refused_by_the_name_of_the_array(checkpoints):
    _saved(checkpoints, [1])
    other = _state()
    other["network"]["params"]["conv"]["kernel"] = jnp.zeros((3, 3, 8, 32))
    with pytest.raises(
        CracksError, match=r"does not fit .* network/params/conv/kernel is \(3, 3, 8, 16\), expected \(3, 3, 8, 32\)"
    ):
        checkpoints.restore(1, other)
    with pytest.raises(CracksError, match="more/bias is None, expected"):
        checkpoints.restore(1, {**_state(), "more": {"bias": jnp.zeros(3)}})
    del other["network"]
    with pytest.raises(CracksError, match="network/params/conv/kernel is .*, expected None"):
        checkpoints.restore(1, other)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(checkpoints):
    with pytest.raises(CracksError, match="there is no checkpoint 5; there are none"):
        checkpoints.restore(5, _state())
    _saved(checkpoints, [1, 2], best=1)
    with pytest.raises(CracksError, match=r"there is no checkpoint 5; there are \[1, 2\]"):
        checkpoints.restore(5, _state())


# orbax leaves a read of its own hanging where another one failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_truncated_files_are_said_and_the_other_checkpoint_still_reads(checkpoints):
    """Every file of some size in turn would be slow; the array data is what a full disk cuts."""
    _saved(checkpoints, [1, 2], best=1)
    for path in sorted((checkpoints.folder / "2").rglob("*")):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = Checkpoints(checkpoints.folder)
    with pytest.raises(CracksError, match="2: the checkpoint.* cannot be read .* delete that folder to go on"):
        again.restore(2, _state())
    assert state_sha256(again.restore(1, _state())) == state_sha256(_state(1))
    shutil.rmtree(checkpoints.folder / "2")
    assert Checkpoints(checkpoints.folder).steps() == [1]


@pytest.mark.parametrize("damage", ["description", "everything"])
def test_a_checkpoint_without_description_or_files_is_said(checkpoints, damage):
    _saved(checkpoints, [1, 2], best=1)
    folder = checkpoints.folder / "2"
    if damage == "description":
        (folder / "default" / "_METADATA").write_text("{")
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(CracksError, match="2: the checkpoint.* cannot be read .*; else delete that folder to go on"):
        Checkpoints(checkpoints.folder).restore(2, _state())


def test_a_full_disk_is_said_before_anything_is_written(checkpoints, monkeypatch):
    _saved(checkpoints, [1])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 2**20))
    with pytest.raises(CracksError, match=r"1 MB are free, a checkpoint needs 64 MB; free space .* from step 1\)"):
        checkpoints.save(2, _state(2), best=None)
    monkeypatch.undo()
    assert checkpoints.steps() == [1]
    assert state_sha256(checkpoints.restore(1, _state())) == state_sha256(_state(1))


def test_the_digest_is_over_sorted_paths_dtypes_shapes_and_bytes():
    """By hand, so that anyone can recompute it; leaves' order in the tree does not matter, a dtype does."""
    tree = {"b": {"x": np.arange(3, dtype=np.int32)}, "a": np.float32(1.5)}
    expected = hashlib.sha256(
        b"a\0float32\0()\0" + np.float32(1.5).tobytes() + b"b/x\0int32\0(3,)\0" + np.arange(3, dtype="<i4").tobytes()
    ).hexdigest()
    assert state_sha256(tree) == expected
    assert state_sha256(dict(reversed(tree.items()))) == expected
    assert state_sha256({**tree, "a": np.float64(1.5)}) != expected
    big_endian = jax.tree.map(lambda x: np.asarray(x, np.asarray(x).dtype.newbyteorder(">")), tree)
    assert state_sha256(big_endian) == expected


def test_the_first_array_that_is_not_finite_is_named():
    state = {"a": jnp.ones(3), "b": {"c": jnp.asarray([1.0, jnp.inf])}, "n": jnp.asarray([jnp.nan])}
    assert first_not_finite(state) == "b/c"
    assert first_not_finite({"a": jnp.ones(3), "step": jnp.ones((), int)}) is None

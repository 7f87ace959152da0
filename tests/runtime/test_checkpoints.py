"""Checkpoints come back bit for bit; what is damaged, foreign or too large is said, and harms nothing."""

import hashlib
import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.errors import CracksError, WriteError
from cracks_jax.runtime import checkpoints as module
from cracks_jax.runtime.checkpoints import Checkpoints, DamagedCheckpoint, first_not_finite, state_sha256

RUN = "0badcafe"


def _state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "network": {"params": {"conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 8, 16)), jnp.float32)}}},
        "step": jnp.asarray(seed, jnp.int32),
    }


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", RUN)
    yield opened
    opened.close()


def _saved(checkpoints, steps, best=None):
    for step in steps:
        checkpoints.save(step, _state(step), best=best)
    checkpoints.wait()


def test_another_process_would_get_the_same_bits(checkpoints):
    """A second object on the same folder knows nothing of the first, as after a restart."""
    _saved(checkpoints, [7])
    again = Checkpoints(checkpoints.folder, RUN)
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


def test_the_two_newest_and_the_best_are_kept(checkpoints):
    for step in range(1, 7):
        checkpoints.save(step, _state(step), best=2 if step >= 2 else 1)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 5, 6]
    checkpoints.prune(best=5)
    assert checkpoints.steps() == [5, 6]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["5", "6"]


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


def test_a_state_that_is_not_finite_is_not_saved(checkpoints):
    _saved(checkpoints, [1])
    bad = _state(2)
    bad["network"]["params"]["conv"]["kernel"] = bad["network"]["params"]["conv"]["kernel"].at[0, 0, 0, 0].set(jnp.inf)
    checkpoints.save(2, bad, best=None)
    with pytest.raises(CracksError, match="step 2: network/params/conv/kernel is not finite, so it is not saved"):
        checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_the_newest_intact_one_is_restored_and_the_damaged_file_is_named(checkpoints):
    _saved(checkpoints, [1, 2, 3], best=1)
    (data,) = (checkpoints.folder / "3" / "arrays" / "d").iterdir()
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    shutil.rmtree(checkpoints.folder / "2" / "arrays")
    said = []
    step, state = Checkpoints(checkpoints.folder, RUN).newest(_state(), said.append)
    assert step == 1 and state_sha256(state) == state_sha256(_state(1))
    assert len(said) == 2 and all("the newest intact checkpoint is 1" in text for text in said)
    assert str(data) in said[0] and "checkpoints/2/arrays/" in said[1] and "is missing" in said[1]
    with pytest.raises(DamagedCheckpoint, match="its bytes are not those that were written"):
        checkpoints.restore(3, _state())


def test_where_nothing_was_saved_there_is_nothing_to_restore(checkpoints):
    (checkpoints.folder / "notes").mkdir()
    (checkpoints.folder / "007").mkdir()
    (checkpoints.folder / "8").write_text("a file")
    assert checkpoints.newest(_state(), pytest.fail) is None


def test_what_is_retaken_is_set_aside_until_it_is_saved_again(checkpoints):
    _saved(checkpoints, [1, 2], best=1)
    (checkpoints.folder / "2" / "digests.json").unlink()
    checkpoints.set_aside(newer_than=1)
    assert checkpoints.steps() == [1] and (checkpoints.folder / "2.damaged").is_dir()
    _saved(checkpoints, [2])
    assert checkpoints.steps() == [1, 2] and not (checkpoints.folder / "2.damaged").exists()


def test_a_wrong_array_is_noticed_even_where_every_file_is_right(checkpoints, monkeypatch):
    """As memory that fails between the disk and the network would make it."""
    _saved(checkpoints, [1])
    monkeypatch.setattr(checkpoints._orbax, "restore", lambda *_, **__: _state(4))
    with pytest.raises(DamagedCheckpoint, match="network/params/conv/kernel is not the array that was saved"):
        checkpoints.restore(1, _state())


def test_a_save_that_fails_is_said_leaves_nothing_behind_and_the_next_one_works(checkpoints, monkeypatch):
    _saved(checkpoints, [1])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_sync", full)
        checkpoints.save(2, _state(2), best=None)
        with pytest.raises(WriteError, match="checkpoint 2 could not be written .No space left .* intact; free space"):
            checkpoints.wait()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]
    _saved(checkpoints, [3])
    assert checkpoints.steps() == [1, 3]


def test_leftovers_of_a_kill_are_cleaned_by_the_next_start_and_not_by_a_reader(checkpoints):
    (checkpoints.folder / "5.saving" / "arrays").mkdir(parents=True)
    Checkpoints(checkpoints.folder, RUN, read_only=True)
    assert (checkpoints.folder / "5.saving").exists()
    Checkpoints(checkpoints.folder, RUN)
    assert list(checkpoints.folder.iterdir()) == []


def test_what_must_not_be_older_than_the_checkpoint_is_done_before_it_has_its_name(checkpoints):
    seen = []
    checkpoints.save(1, _state(), best=None, before=lambda: seen.append(checkpoints.steps()))
    checkpoints.wait()
    assert seen == [[]] and checkpoints.steps() == [1]


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

"""Calls of a network: how windows share them, and what happens where memory does not suffice."""

import jax
import numpy as np
import pytest

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.runtime import calls as module
from cracks_jax.runtime.calls import CALL_PIXELS, NetworkCalls, OutOfMemory


class Red:
    """Score = red channel; `sizes` are the windows of each call, more than `room` of them do not fit."""

    def __init__(self, room=10**9, error=None):
        self.room, self.sizes = room, []
        self.error = error or jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    def __call__(self, stack):
        self.sizes.append(len(stack))
        if len(stack) > self.room:
            raise self.error
        return stack[..., 0] / np.float32(255)


@pytest.fixture
def windows(rng):
    return list(rng.integers(0, 256, (7, 8, 16, 3), dtype=np.uint8))


def _check(found, windows):
    np.testing.assert_array_equal(found, np.stack(windows)[..., 0] / np.float32(255))


def test_full_stacks_first_and_the_rest_fills_one_with_copies(windows):
    score = Red()
    _check(NetworkCalls(score, 3)(windows), windows)
    assert score.sizes == [3, 3, 3]


def test_what_never_filled_a_stack_goes_one_by_one_so_that_few_programs_are_compiled(windows):
    score = Red()
    calls = NetworkCalls(score, 20)
    for count in (7, 3, 1):
        _check(calls(windows[:count]), windows[:count])
    assert set(score.sizes) == {1}


def test_a_stack_holds_as_many_pixels_as_the_largest_single_window():
    calls = NetworkCalls(Red(), None)
    assert [calls.batch((side, side)) for side in (64, 256, 1024, 4000)] == [256, 16, 1, 1]
    assert calls.batch((256, 256)) * 256 * 256 == CALL_PIXELS
    assert NetworkCalls(Red(), 5).batch((4000, 4000)) == 5


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_without_windows_is_refused(batch):
    with pytest.raises(UsageError, match=f"--tile-batch {batch}: expected 1"):
        NetworkCalls(Red(), batch)


@pytest.mark.parametrize("error", [None, MemoryError()])
def test_out_of_memory_halves_the_stack_says_so_once_and_loses_nothing(windows, capsys, error):
    score = Red(room=2, error=error)
    calls = NetworkCalls(score, 4)
    _check(calls(windows), windows)
    _check(calls(windows), windows)
    assert score.sizes[:2] == [4, 2] and max(score.sizes[1:]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "out of memory with 4 windows of 16x8 px in one call: 2 from here on"
    ]


def test_what_memory_holds_is_counted_in_pixels_so_that_other_shapes_learn_from_it(windows):
    calls = NetworkCalls(Red(room=2), 4)
    calls(windows)
    assert calls.batch((8, 16)) == 2 and calls.batch((16, 16)) == 1 and calls.batch((4, 16)) == 4


def test_a_single_window_that_does_not_fit_ends_it_with_the_remedy(windows):
    calls = NetworkCalls(Red(room=0), 4)
    with pytest.raises(OutOfMemory, match="a window of 16x8 px does not fit into memory .*--tile 64") as caught:
        calls(windows)
    assert isinstance(caught.value, CracksError) and caught.value.exit_code == 1


def test_other_failures_are_not_mistaken_for_memory(windows):
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        NetworkCalls(Red(room=0, error=error), 4)(windows)


def test_scores_of_another_number_are_refused(windows):
    with pytest.raises(ValueError, match="7 windows got scores of shape"):
        NetworkCalls(lambda stack: np.zeros((1, 8, 16)), 7)(windows)


def test_each_call_is_told(windows):
    calls, told = NetworkCalls(Red(), 3), []
    calls.after_call = lambda: told.append(1)
    calls(windows)
    assert len(told) == 3 and module.CALL_PIXELS == 2**20

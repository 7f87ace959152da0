"""Contenders take turns on the same inputs; medians, quartiles and ratios are those of the repeats."""

import numpy as np
import pytest

from cracks_jax.benchmark import clock


class Recorded:
    """A contender that writes down what it is asked."""

    def __init__(self, name: str, log: list):
        self.name, self.log = name, log

    def place(self, batch):
        self.log.append((self.name, "placed", int(batch["image"])))
        return batch

    def run(self, placed):
        self.log.append((self.name, "ran", int(placed["image"])))


def test_contenders_alternate_on_the_same_fresh_inputs():
    log: list = []
    contenders = {name: Recorded(name, log) for name in "AB"}
    drawn: list[int] = []

    def draw(repeat):
        drawn.append(repeat)
        return {"image": np.int64(10 + repeat)}

    clock.alternate(contenders, draw, 3, rest=0)
    ran = [(name, value) for name, what, value in log if what == "ran"]
    assert ran == [("A", 10), ("B", 10), ("A", 11), ("B", 11), ("A", 12), ("B", 12)]
    assert drawn == [0, 1, 2]


def test_each_turn_begins_with_a_run_that_is_not_timed():
    log: list = []
    ticks = iter(range(100))

    class Ticking(Recorded):
        def run(self, placed):
            next(ticks)
            super().run(placed)

    contenders = {name: Ticking(name, log) for name in "AB"}
    seconds = clock.alternate(contenders, lambda i: {"image": i}, 2, rest=1e-6, now=lambda: float(next(ticks)))
    assert seconds == {"A": [2.0, 2.0], "B": [2.0, 2.0]}  # between two looks at the clock: one run alone
    ran = [(name, value) for name, what, value in log if what == "ran"]
    assert ran == [("A", 0), ("A", 0), ("B", 0), ("B", 0), ("A", 1), ("A", 1), ("B", 1), ("B", 1)]


def test_placing_a_batch_is_not_on_the_clock():
    ticks = iter(range(100))
    log: list = []

    class Slow(Recorded):
        def place(self, batch):
            next(ticks)  # ten of these would be seen
            return super().place(batch)

    seconds = clock.alternate(
        {"A": Slow("A", log), "B": Slow("B", log)}, lambda i: {"image": 0}, 4, rest=0, now=lambda: float(next(ticks))
    )
    assert seconds == {"A": [1.0] * 4, "B": [1.0] * 4}


def test_the_summary_holds_median_quartiles_and_every_repeat():
    found = clock.summary([5.0, 1.0, 3.0, 2.0, 4.0])
    assert found["seconds"] == 3.0 and found["seconds_quartiles"] == [2.0, 4.0]
    assert found["seconds_all"] == [5.0, 1.0, 3.0, 2.0, 4.0]


def test_the_ratio_is_taken_pair_by_pair():
    """The machine halves its speed for both in the second half: the medians' ratio would not see that it is 2."""
    ours, theirs = [1.0, 1.0, 2.0, 2.0, 1.0], [2.0, 2.0, 4.0, 4.0, 5.0]
    found = clock.ratio(theirs, ours)
    assert found["ratio"] == 2.0 and found["ratio_all"] == pytest.approx([2, 2, 2, 2, 5])

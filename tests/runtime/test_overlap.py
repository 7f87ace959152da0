"""Reading ahead and finishing behind: in order, bounded, and nothing swallowed."""

import threading

import pytest

from cracks_jax.runtime.overlap import Behind, ahead


def _one(_):
    return 1


def test_items_come_in_order_and_no_more_than_the_limit_is_made_ahead():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    with ahead(items(), _one, 3) as read:
        for number in read:
            assert made[-1] <= number + 5
            assert number == len(made[: number + 1]) - 1
    assert made == list(range(50))


def test_the_thread_makes_items_before_they_are_asked_for():
    third = threading.Event()

    def items():
        yield from (0, 1)
        third.set()
        yield 2

    with ahead(items(), _one, 3) as read:
        assert third.wait(60)
        assert list(read) == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_is_raised_where_its_item_would_have_been(error):
    def items():
        yield 0
        raise error

    taken = []
    with pytest.raises(type(error)), ahead(items(), _one, 3) as read:
        for item in read:
            taken.append(item)
    assert taken == [0]


def test_leaving_early_stops_the_thread():
    made = []

    def items():
        for number in range(10**9):
            made.append(number)
            yield number

    before = threading.active_count()
    with ahead(items(), _one, 2) as read:
        next(read)
    assert threading.active_count() == before and len(made) < 10


def test_results_are_handed_on_in_order_and_no_more_than_the_limit_waits():
    first, results, running = threading.Event(), [], []

    def work(number):
        running.append(number)
        if number == 0:
            assert first.wait(60)
        return number

    with Behind(4, 3, results.append) as behind:
        for number in range(3):
            behind.give(1, work, number)
        assert results == []
        first.set()
        for number in range(3, 20):
            behind.give(1, work, number)
            assert len(running) <= len(results) + 4
    assert results == list(range(20))


def test_without_threads_the_giving_one_works_at_once():
    results, workers = [], []
    with Behind(0, 9, results.append) as behind:
        for number in range(3):
            behind.give(1, lambda n: workers.append(threading.get_ident()) or n, number)
            assert len(workers) == number + 1
    assert results == [0, 1, 2] and set(workers) == {threading.get_ident()}


def test_what_was_given_is_finished_when_the_block_is_interrupted():
    results = []
    with pytest.raises(KeyboardInterrupt), Behind(1, 9, results.append) as behind:
        for number in range(5):
            behind.give(1, int, number)
        raise KeyboardInterrupt
    assert results == list(range(5))


@pytest.mark.parametrize("place", ["work", "hand_on"])
def test_after_a_failure_nothing_later_is_handed_on(place):
    results = []

    def fail(number):
        if number == 2:
            raise OSError("full")
        return number

    def hand_on(number):
        results.append(fail(number) if place == "hand_on" else number)

    with pytest.raises(OSError, match="full"), Behind(2, 9, hand_on) as behind:
        for number in range(6):
            behind.give(1, fail if place == "work" else int, number)
    assert results == [0, 1]

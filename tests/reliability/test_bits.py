"""Short forms: the same bits from every interruption, the same records on every number of hosts, and the spread."""

import pytest

from cracks_jax import train as story
from tests.reliability import bits, kills
from tests.tiny import quick_compile, short_trunk  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_every_interruption_and_every_number_of_workers_gives_the_same_bits(tmp_path, short_trunk):  # noqa: F811
    found = bits.measure(tmp_path, steps=3)
    assert found["wrong"] == [] and found["trainings"] == 2 * 9


def test_what_makes_a_state_differ_is_seen(tmp_path, short_trunk, monkeypatch):  # noqa: F811
    """A training that counts its steps anew after a resume, as a schedule kept in memory would."""
    original, began = story.hyper, []
    monkeypatch.setattr(bits, "KINDS", ("restoration",))
    monkeypatch.setattr(story, "hyper", lambda e, factor, *rest: original(e, factor * (1 + len(began)), *rest))
    whole = bits.train
    monkeypatch.setattr(bits, "train", lambda *a: (began.append(1), whole(*a))[1])
    assert bits.measure(tmp_path, steps=3)["wrong"]


def test_hosts_together_take_the_same_records_in_each_global_step(tmp_path):
    assert bits.hosts(tmp_path) == []


def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    """UP-CrackNet's; the long form kills both methods'."""
    found = kills.measure("restoration", 4, tmp_path, steps=20)
    assert found["wrong"] == [] and found["kills"] >= 4 and found["during_save"] >= 1

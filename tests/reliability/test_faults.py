"""The short form of the faults: every fourth operation of a save, a training for each policy, two reports."""

import pytest

from tests.reliability import faults
from tests.reliability.failing_disks import Disturbed, Reports, Trainings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    try:
        started = faults.Server(tmp_path_factory.mktemp("faults"))
    except faults.Unavailable as reason:
        pytest.skip(str(reason))
    with started:
        yield started


@pytest.fixture(scope="module")
def trainings(server):
    return Trainings(server)


def test_a_save_that_is_interrupted_leaves_the_old_state_or_the_new_one_and_each_step_on_record_once(server, tmp_path):
    found = faults.measure(tmp_path, ("crash", "ENOSPC", "EIO"), every=4, server=server)
    assert found["wrong"] == [] and found["cases"] > 90 and found["committed"] > 5
    assert found["by_operation"].keys() >= {"open", "write", "sync", "rename", "unlink", "mkdir"}


def test_nor_does_a_power_cut_a_disk_that_turns_read_only_or_one_that_recovers(server, tmp_path):
    others = [name for name in faults.KINDS if name not in ("crash", "ENOSPC", "EIO")]
    found = faults.measure(tmp_path, others, every=24, server=server)
    assert found["wrong"] == [] and found["cases"] > 20


def test_the_harness_sees_what_it_looks_for(server, tmp_path):
    """Files written in place, a checkpoint before its records: a crash finds the one, a power cut the other."""
    found = faults.measure(tmp_path, ("crash", "power"), every=2, careless=True, server=server)
    assert {one["kind"] for one in found["wrong"]} == {"crash", "power"}


def test_a_full_disk_stops_a_training_with_one_message_and_the_same_command_finishes_it(trainings):
    assert trainings.wrong(Disturbed(faults.KINDS["ENOSPC"], 5, "checkpoints/10.saving")) == []


def test_a_training_that_may_go_on_catches_up_once_there_is_room_again(trainings):
    assert trainings.wrong(Disturbed(faults.KINDS["ENOSPC for a while"], 18, "records.jsonl")) == []


def test_a_report_is_written_whole_or_not_at_all(server):
    found = Reports(server).measure(("evaluate", "report"), every=5)
    assert found["wrong"] == [] and found["cases"] > 4

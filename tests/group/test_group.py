"""Two and four real processes on one machine train one model over loopback, lose one of them, and go on."""

import os
import re
import signal
import socket
import time

import pytest

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.group.meeting import Group
from cracks_jax.group.processes import LOST, NAMED, join
from cracks_jax.runtime.records import Records, read_json
from tests.processes import children, commands, ended, until

FILE = """
from pathlib import Path

from cracks_jax.runtime import parallel
from tests import tiny

parallel.LEAST_SHARDED = 16  # the tests' networks are small


def experiment(form):
    base = tiny.experiment(Path({cache!r}), steps=60, validate_every=30)
    return tiny.with_machine(base, checkpoint_every=5, shard={shard!r})
"""
# What jax prints where a group falls apart, and we do not.
TRACE = re.compile(r"stack trace|@ +0x|terminate called|Terminating process|coordination_service|Traceback|Gloo. Rank")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("group")


@pytest.fixture
def started(shared):
    """Starts `cracks-jax train` as so many processes of a group."""
    with commands(shared) as begin:

        def start(count, run, *words, only=None, shard="none", changes=None):
            file = shared / f"grouped_{shard}.py"
            file.write_text(FILE.format(cache=str(shared / "cache"), shard=shard))
            port, found = free_port(), []
            for index in range(count) if only is None else only:
                group = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process", str(index)]
                mine = (group if count > 1 else []) + list((changes or {}).get(index, ()))
                found.append(begin(["train", str(file), "--run", str(run), *words, *mine]))
            return found

        yield start


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def all_ended(processes):
    """(exit code, standard output, standard error) of each."""
    return [ended(process) for process in processes]


def supervised(process):
    (child,) = children(process)
    return child


def logged(run):
    return [record["step"] for record in Records(run / "records.jsonl") if record["event"] == "train"]


def losses(run):
    return [record["loss"] for record in Records(run / "records.jsonl") if record["event"] == "train"]


@pytest.mark.long
def test_a_group_loses_one_and_another_number_of_processes_goes_on(started, tmp_path):
    run = tmp_path / "run"
    four = started(4, run, shard="parameters")
    until(lambda: (run / "checkpoints" / "10" / "digests.json").exists(), "a checkpoint of all four")
    os.kill(supervised(four[2]), signal.SIGKILL)
    killed = time.monotonic()
    answers = all_ended(four)
    assert time.monotonic() - killed < LOST + NAMED + 10
    for index, (code, out, err) in enumerate(answers):
        assert code == 1 and out == "" and not TRACE.search(err), err
        if index != 2:
            assert "process 2 of this training was lost; start all processes again with the same command" in err, err
    assert "this process was killed by signal 9" in answers[2][2]
    said = [err for _, _, err in answers]
    before = logged(run)
    assert before == list(range(1, len(before) + 1)) and len(before) < 60
    # Two go on, one of them is told to stop, and both do after the same step.
    two = started(2, run, shard="parameters")
    until(lambda: len(read_json(run / "experiment.json")["attempts"]) == 2, "the second attempt")
    until(lambda: "to" not in read_json(run / "experiment.json")["attempts"][-1] and len(logged(run)) > 12, "a step")
    os.kill(two[1].pid, signal.SIGTERM)
    answers = all_ended(two)
    codes = {code for code, _, _ in answers}
    assert codes in ({75}, {0}) and not any(TRACE.search(err) for _, _, err in answers), answers
    # One alone ends it. Its batches are those of one process from the start: so are its losses, but for rounding.
    (one,) = all_ended(started(1, run, shard="parameters"))
    whole = tmp_path / "whole"
    (reference,) = all_ended(started(1, whole))
    assert one[0] == reference[0] == 0, one[2]
    assert logged(run) == list(range(1, 61))
    found, expected = (losses(folder) for folder in (run, whole))
    assert found[0] == pytest.approx(expected[0], rel=1e-5) and found == pytest.approx(expected, rel=0.05)
    # A third of the state's bytes at most lay on each of four devices, and it was said.
    assert re.search(r"state: [\d.]+ MB, [\d.]+ MB on each of 4 devices", said[0]), said[0]
    first = read_json(run / "experiment.json")["attempts"][0]["memory"]
    assert first["state_bytes_a_device"] < first["state_bytes"] / 3


def test_process_0_alone_writes_and_prints_and_when_it_is_lost_the_others_say_so(started, tmp_path):
    run = tmp_path / "run"
    two = started(2, run, "--set", "training.steps=4", "training.validate_every=2")
    answers = all_ended(two)
    assert [code for code, _, _ in answers] == [0, 0], answers
    assert '"state_sha256"' in answers[0][1] and answers[1][1] == ""
    assert logged(run) == [1, 2, 3, 4] and len(read_json(run / "experiment.json")["attempts"]) == 1
    two = started(2, tmp_path / "other")
    until(lambda: (tmp_path / "other" / "checkpoints" / "5").exists(), "a checkpoint")
    os.kill(supervised(two[0]), signal.SIGKILL)
    code, out, err = all_ended(two)[1]
    assert code == 1 and "of this training was lost" in err and not TRACE.search(err), err
    (alone,) = all_ended(started(1, tmp_path / "other"))
    assert alone[0] == 0 and logged(tmp_path / "other") == list(range(1, 61)), alone[2]


def test_processes_that_disagree_are_told_who(started, tmp_path):
    answers = all_ended(started(2, tmp_path / "run", changes={1: ("--set", "seed=7")}))
    for code, _, err in answers:
        assert code == 1 and "processes disagree on the experiment: 1 differ from 0" in err, err
        assert not TRACE.search(err), err
    assert not (tmp_path / "run").exists()


def test_a_group_that_never_is_complete_is_said(started, tmp_path):
    began = time.monotonic()
    (first,) = all_ended(started(2, tmp_path / "run", "--wait", "8", only=[0]))
    assert first[0] == 1 and "not all of the 2 processes have come to 127.0.0.1:" in first[2], first[2]
    (second,) = all_ended(started(2, tmp_path / "run", "--wait", "3", only=[1]))
    assert second[0] == 1 and "does not answer (Connection refused, for 3 s); start process 0" in second[2], second[2]
    assert time.monotonic() - began < 90 and not TRACE.search(first[2] + second[2])


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (Group("nowhere", 2, 0), "--coordinator nowhere: expected HOST:PORT of process 0, or auto"),
        (Group("host:0", 2, 0), "--coordinator host:0: expected HOST:PORT"),
        (Group("host:http", 2, 0), "--coordinator host:http: expected HOST:PORT"),
        (Group("host:12", None, 0), "needs --processes N and --process I"),
        (Group("host:12", 2, 2), "--process 2: expected 0 to 1 with --processes 2"),
        (Group("host:12", 0, 0), "--process 0: expected"),
        (Group("auto", 2, 0), "--coordinator auto: the cluster says how many"),
    ],
)
def test_a_group_that_cannot_be_is_refused(group, message):
    with pytest.raises(UsageError, match=message):
        join(group)


def test_a_host_that_is_not_there_is_said():
    with pytest.raises(CracksError, match="there is no such host"):
        join(Group("no-such-host.invalid:123", 2, 1, wait=5))

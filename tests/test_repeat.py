"""What rebuilds a run's environment, and what is said where a repetition ends in another state."""

import json

import pytest

from cracks_jax.repeat import compared, rebuild

RUN = {
    "software": {"cracks-jax": "0.1.0", "python": "3.11.7", "jax": "0.10.2"},
    "device": {"kind": "x86_64 CPU, 2 cores", "count": 1, "platform": "cpu"},
    "threads": 2,
    "xla_flags": "--xla_force_host_platform_device_count=4",
    "git_revision": "0123abc+changes",
    "lock": {"file": "locks/py311.txt", "sha256": "f" * 64},
    "science": {"seed": 0},
    "data": {"digest": "d" * 64},
}


def _run(folder, digest, **changes):
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps(RUN | changes))
    (folder / "metrics.json").write_text(json.dumps({"state_sha256": digest}))
    return folder


def test_the_commands_check_out_install_and_set_what_the_record_names():
    lines = rebuild(RUN).splitlines()
    assert lines[:3] == [
        "git checkout 0123abc",
        "python3.11 -m venv .venv && .venv/bin/pip install -c locks/py311.txt .",
        "export XLA_FLAGS='--xla_force_host_platform_device_count=4'",
    ]
    assert all(line.startswith("# ") for line in lines[3:])
    notes = "\n".join(lines[3:])
    assert "changes that are not in that revision" in notes and "ffff" in notes and "1 x x86_64 CPU, 2 cores" in notes


def test_without_a_checkout_the_versions_are_named_one_by_one():
    text = rebuild(RUN | {"git_revision": None, "lock": None, "xla_flags": ""})
    assert "pip install jax==0.10.2 ." in text and "no git revision is on record" in text and "XLA_FLAGS" not in text


def test_a_record_of_an_earlier_version_that_knows_less_still_gives_commands():
    assert "-m venv .venv" in rebuild({})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"software": RUN["software"] | {"jax": "0.11.0"}}, "software.jax: 0.10.2 -> 0.11.0"),
        ({"threads": 8}, "threads: 2 -> 8"),
        ({"device": RUN["device"] | {"count": 4}}, "device.count: 1 -> 4"),
        ({"science": {"seed": 1}}, "science.seed: 0 -> 1"),
        ({"data": {"digest": "e" * 64}}, f"data.digest: {'d' * 64} -> {'e' * 64}"),
        ({"git_revision": None}, "git_revision: 0123abc+changes -> None"),
    ],
)
def test_another_state_names_what_differs_and_nothing_else(tmp_path, changes, line):
    before, now = _run(tmp_path / "before", "a"), _run(tmp_path / "now", "b", **changes)
    text = compared({"state_sha256": "b"}, now, before)
    assert text.startswith(f"another final state than {before}") and text.splitlines()[1:] == [f"  {line}"]


def test_the_same_state_is_said_whatever_else_differs_and_an_unfinished_run_is_no_judge(tmp_path):
    before, now = _run(tmp_path / "before", "a"), _run(tmp_path / "now", "a", threads=9)
    assert compared({"state_sha256": "a"}, now, before) == f"the same final state as {before}, bit for bit"
    same = compared({"state_sha256": "b"}, before, before)
    assert "although the environment on record is the same" in same
    (before / "metrics.json").unlink()
    assert "has not ended" in compared({"state_sha256": "a"}, now, before)

"""Some hundred mutated inputs through every door, and that the fuzzing sees what is wrong."""

import os
import random
import sys
from pathlib import Path

import pytest

from cracks_jax.errors import CracksError
from tests.reliability.fuzz import NotSound, Target, fuzz
from tests.reliability.target_commands import TARGETS


def test_mutated_input_is_read_right_or_refused_in_words(tmp_path):
    """The same inputs in every run; `python -m tests.reliability.fuzz` feeds ten thousand, by any seed."""
    found = fuzz(600, 1, tmp_path / "work")
    assert found["wrong"] == []
    assert found["count"] == 600 and found["targets"].keys() == {target.name for target in TARGETS}
    for name, one in found["targets"].items():
        few = one["accepted"] + one["refused"] < 20
        assert few or (one["accepted"] and one["refused"]), f"{name} is not fuzzed, but {one}"
    assert found["peak_mb"] < 500


def planted(wrong):
    """A target in which one input in ten does what must not be."""

    def prepare(folder: Path):
        assert Path.cwd() == folder.resolve()

        def give(draw: random.Random) -> None:
            chance = draw.random()
            if chance < 0.1:
                wrong()
            if chance < 0.5:
                raise CracksError("road.png: not an image; give one")

        return give

    return Target("planted", 1, prepare)


def raising(error: BaseException):
    def wrong() -> None:
        raise error

    return wrong


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (raising(IndexError("out of range")), "IndexError: out of range"),
        (raising(ValueError("no CracksError")), "ValueError: no CracksError"),
        (raising(RecursionError()), "RecursionError"),
        (raising(SystemExit(3)), "SystemExit: 3"),
        (raising(NotSound("a mask of three values")), "a mask of three values"),
        (raising(CracksError("bad")), "a message of no help: bad"),
    ],
)
def test_a_planted_bug_is_found_and_can_be_repeated_by_its_number(tmp_path, wrong, part):
    found = fuzz(200, 7, tmp_path / "work", targets=[planted(wrong)])
    assert 5 < len(found["wrong"]) < 50 and found["count"] == 200
    counts = found["targets"]["planted"]
    assert counts["accepted"] + counts["refused"] + len(found["wrong"]) == 200
    assert found["shown"].startswith("200 inputs through 1 doors: ")
    assert found["shown"].endswith(f" refused, {len(found['wrong'])} otherwise")
    assert all(part in one["fault"] and one["target"] == "planted" for one in found["wrong"])
    numbers = [one["number"] for one in found["wrong"]]
    again = fuzz(200, 7, tmp_path / "again", targets=[planted(wrong)], numbers=numbers)
    assert [one["number"] for one in again["wrong"]] == numbers and again["count"] == len(numbers)
    other = fuzz(200, 8, tmp_path / "other", targets=[planted(wrong)])
    assert [one["number"] for one in other["wrong"]] != numbers


def test_what_is_printed_beside_python_is_told(tmp_path):
    def prints() -> None:
        os.write(2, b"libroad: a warning\n")

    found = fuzz(50, 7, tmp_path / "work", targets=[planted(prints)])
    assert found["wrong"] == [] and found["stray"]["inputs"] > 0
    assert all(one["printed"] == "libroad: a warning\n" for one in found["stray"]["samples"])


def test_every_target_gives_the_same_inputs_for_the_same_number(tmp_path, monkeypatch):
    """Whatever was fed before: what files were written for ten inputs, alone and behind forty others."""
    written: list[bytes] = []
    for_real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(data) or for_real(path, data))
    targets = [target for target in TARGETS if target.name in ("image", "mask", "score", "experiment", "weights")]
    fuzz(50, 3, tmp_path / "all", targets=targets)
    behind = written[-10:]
    written.clear()
    fuzz(50, 3, tmp_path / "ten", targets=targets, numbers=range(40, 50))
    assert written[-10:] == behind and len(set(behind)) > 5
    assert "torch" in sys.modules or "weights" not in {target.name for target in targets}

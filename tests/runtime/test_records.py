"""A run's log: each step once, whatever was cut off or repeated."""

import json
import os

import pytest

from cracks_jax.errors import CracksError
from cracks_jax.runtime.records import Records, read_json, write_json


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "records.jsonl")


def _fill(records):
    for step, iou in ((10, 0.3), (20, 0.5), (30, 0.5), (40, 0.2)):
        records.append("train", step, loss=1 / step)
        records.append("validation", step, iou=iou, f1=None)


def test_one_json_object_per_line_in_the_order_of_events(records):
    _fill(records)
    lines = [json.loads(line) for line in records.path.read_text().splitlines()]
    assert lines == list(records) and len(lines) == 8
    assert lines[1] == {"event": "validation", "step": 10, "iou": 0.3, "f1": None}


def test_rewinding_forgets_later_steps_so_that_a_resumed_run_has_each_once(records):
    _fill(records)
    records.rewind(20)
    assert [(r["event"], r["step"]) for r in records] == [
        (event, step) for step in (10, 20) for event in ("train", "validation")
    ]
    records.append("train", 30, loss=0.1)
    assert [r["step"] for r in records if r["event"] == "train"] == [10, 20, 30]


def test_the_best_is_the_earliest_of_equals_in_its_direction(records):
    assert records.best("iou", "max") is None and records.validations_since_best("iou", "max") == 0
    _fill(records)
    assert records.best("iou", "max") == (20, 0.5) and records.validations_since_best("iou", "max") == 2
    assert records.best("iou", "min") == (40, 0.2) and records.validations_since_best("iou", "min") == 0
    assert records.best("f1", "max") is None  # undefined everywhere


def test_a_line_cut_off_by_a_kill_is_passed_over(records):
    _fill(records)
    with records.path.open("a") as file:
        file.write('{"event": "train", "st')
    assert len(list(records)) == 8
    records.rewind(40)
    records.append("train", 50, loss=0.0)
    assert [r["step"] for r in records][-1] == 50


def test_a_damaged_line_in_the_middle_is_named(records):
    _fill(records)
    lines = records.path.read_text().splitlines()
    lines[2] = lines[2][:5]
    records.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CracksError, match="records.jsonl: line 3 is no record"):
        list(records)


def test_a_value_that_json_does_not_have_is_not_written(records):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.append("train", 1, loss=float("nan"))
    assert list(records) == []


def test_json_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CracksError, match=r"metrics.json: cannot be written \(No space left on device\); free space"):
        write_json(path, {"step": 2})
    assert read_json(path) == {"step": 1} and [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00\x01"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, content):
    path = tmp_path / "experiment.json"
    with pytest.raises(CracksError, match="experiment.json: is missing; expected a run directory"):
        read_json(path)
    path.write_text(content)
    with pytest.raises(CracksError, match="experiment.json: cannot be read as JSON"):
        read_json(path)


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    records = Records(tmp_path / "gone" / "records.jsonl")
    with pytest.raises(CracksError, match="records.jsonl: cannot be written .* choose another --run"):
        records.append("train", 1)

"""The quickstart, shrunk to seconds: everything it promises is there, says the truth, and is not done twice."""

import json

import cv2
import numpy as np
import pytest

from cracks_jax import cli, figures, quickstart
from cracks_jax.data.datasets import open_dataset
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.evaluate import evaluate
from cracks_jax.scoring import Request, open_scoring
from cracks_jax.train import Stopped
from tests.tiny import quick_compile, short_trunk  # noqa: F401  (fixtures)

TINY = quickstart._Settings(
    train=10,
    test=3,
    undamaged=10,
    side=64,
    validation=0.2,
    shown=2,
    up_crop=32,
    up_base=4,
    up_depth=4,
    up_batch=4,
    up_steps=4,
    up_validate_every=2,
    seg_variant="table5_conv1_x2",
    seg_narrow=16,
    seg_crop=32,
    seg_batch=4,
    seg_steps=4,
    seg_validate_every=2,
)
FILES = (
    "data/pavement/manifest.json",
    "report/report.html",
    "report/report.md",
    "pictures/first_look.png",
    "pictures/overlays.png",
    "pictures/curves.png",
    "runs/upcracknet/metrics.json",
    "runs/crackseg/metrics.json",
    "table.md",
    "results.json",
)


def test_runs_end_to_end_and_again_without_training(tmp_path, capsys, monkeypatch, quick_compile, short_trunk):  # noqa: F811
    out = tmp_path / "quick"
    text = quickstart.quickstart(out, TINY)
    shown = capsys.readouterr()
    assert shown.out == "", "what is printed last is returned; everything else belongs on standard error"
    assert [f"{n}/5" in shown.err for n in range(1, 6)] == [True] * 5
    for name in FILES:
        assert (out / name).stat().st_size > 0, name
    for name in ("first_look", "overlays", "curves"):
        assert str(out / "pictures" / f"{name}.png") in text
        picture = cv2.imread(str(out / "pictures" / f"{name}.png"))
        assert picture.shape[0] > 100 and picture.std() > 10
    results = json.loads((out / "results.json").read_text())
    assert {"seed", "software", "device", "data_digest", "git_revision"} <= results.keys()
    _check_rows(results["rows"], text)
    _check_floor_against_evaluate(out, results["rows"])
    _check_goes_on(out, text, results, monkeypatch)


def _check_rows(rows, text):
    assert [(row["method"], row["rule"]) for row in rows] == [
        ("floor", "undamaged:0.995"),
        ("floor", "otsu"),
        ("floor", "validation"),
        ("UP-CrackNet", "undamaged:0.995"),
        ("UP-CrackNet", "otsu"),
        ("UP-CrackNet", "validation"),
        ("CrackSeg", "value:0.5"),
        ("CrackSeg", "validation"),
    ]
    floor = {row["rule"]: row["f1"] for row in rows[:3]}
    for row in rows[3:]:
        rule = "validation" if row["rule"] == "value:0.5" else row["rule"]
        assert row["f1_above_floor"] == pytest.approx(row["f1"] - floor[rule])
    assert text.count("points above the floor") + text.count("points below the floor") == 5


def _check_floor_against_evaluate(out, rows):
    """The verb `evaluate` finds the same for the floor from the same calibration."""
    test = open_dataset(out / "data" / "pavement", "test", need_masks=True)
    windows = str(out / "runs" / "upcracknet" / "undamaged")
    for row, rule, calibration in ((rows[0], "undamaged:0.995", windows), (rows[1], "otsu", None)):
        request = Request(method="background_difference", rule=rule, calibration=calibration)
        found = evaluate(test, open_scoring(request)).metrics
        assert {name: found[name] for name in quickstart.METRIC_NAMES} == {
            name: row[name] for name in quickstart.METRIC_NAMES
        }


def _check_goes_on(out, text, results, monkeypatch):
    def refuse(*_):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(quickstart, "train", refuse)
    again = quickstart.quickstart(out, TINY)
    assert again.split("revision")[0] == text.split("revision")[0]
    assert json.loads((out / "results.json").read_text())["rows"] == results["rows"]
    with pytest.raises(UsageError, match=r"upcracknet: was trained by a quickstart of other settings.*--out"):
        quickstart._trained(
            quickstart._upcracknet(out / "data" / "pavement", quickstart._Settings()), out / "runs" / "upcracknet"
        )


def test_a_stop_keeps_the_exit_code_that_says_resumable(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise Stopped("stopped after step 3; run the same command again to go on")

    monkeypatch.setattr(quickstart, "train", stop)
    experiment = quickstart._crackseg(tmp_path / "pavement", TINY)
    with pytest.raises(CracksError, match="run the same command again") as caught:
        quickstart._trained(experiment, tmp_path / "run")
    assert caught.value.exit_code == cli.EXIT_STOPPED
    assert CracksError("another").exit_code == 1


def test_command_prints_what_the_quickstart_returns(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "quickstart", lambda out: f"pictures in {out}")
    assert cli.main(["quickstart", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"pictures in {tmp_path}\n"


def test_the_table_says_in_words_where_a_method_stands():
    row = {"f1_above_floor": -0.1234, "floor_rule": "otsu"}
    assert quickstart._stands(row) == "12.3 points below the floor by Otsu"
    assert quickstart._stands({**row, "f1_above_floor": 0.05}) == "5.0 points above the floor by Otsu"
    assert quickstart._stands({"f1_above_floor": None}) == "is the floor"


def test_an_answer_colours_hits_false_alarms_and_misses(rng):
    photograph = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    found, truth = np.array([[1, 1], [0, 0]], bool), np.array([[1, 0], [1, 0]], bool)
    coloured = figures.answer(photograph, found, truth)
    assert [tuple(coloured[y, x]) for y, x in ((0, 0), (0, 1), (1, 0))] == [
        figures.FOUND,
        figures.FALSE_ALARM,
        figures.MISSED,
    ]
    assert coloured[1, 1].max() < 0.5 * 256 and len(set(coloured[1, 1].tolist())) == 1

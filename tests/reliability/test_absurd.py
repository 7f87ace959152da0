"""Settings, records and flags beyond all measure: one message that shows a little of them, and no time spent."""

import json

import pytest

from cracks_jax.data.manifest import MANIFEST
from cracks_jax.experiment import to_json
from cracks_jax.runs import EXPERIMENT, METRICS, RECORDS
from tests import tiny
from tests.tiny_runs import command, labelled, pavements, photo  # noqa: F401

FLOOR = ("--method", "darkness")
DEEP = {"lists": "[" * 100_000, "closed lists": "[" * 3000 + "]" * 3000, "objects": '{"a":' * 3000 + "1" + "}" * 3000}
DEEP |= {"a few too many": "[" * 80 + "]" * 80}


@pytest.mark.parametrize("kind", DEEP)
def test_settings_of_absurd_depth(tmp_path, photo, kind):  # noqa: F811
    value = DEEP[kind]
    smoke, out = "experiments/upcracknet_deepcrack.py:smoke", ("--out", tmp_path / "out")
    said = [
        command("train", smoke, "--run", tmp_path / "run", "--set", f"training.steps={value}"),
        command("train", smoke, "--run", tmp_path / "run", "--set", f"data.recipe_settings.size={value}"),
        command("train", smoke, "--run", tmp_path / "run", "--set", f"method.losses={value}"),
        command("detect", photo, *out, *FLOOR, "--set", f"detection.tile={value}"),
        command("evaluate", *FLOOR, "--data", f"{pavements()}:test", "--set", f"detection.filter={value}"),
        command("data", "prepare", "undamaged", f"{pavements()}:test", *out, "--set", f"min_side={value}"),
    ]
    for answer in said:
        answer.refused(2)
        assert len(answer.err) < 500 and ("nested deeper than 64 levels" in answer.err or "is a group" in answer.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_a_message_shows_the_beginning_of_a_long_value(tmp_path, digits):
    words = ("train", "experiments/upcracknet_deepcrack.py:smoke", "--run", tmp_path / "run", "--set")
    for value in ("9" * digits, f"[{'9' * digits}]", f"-{'9' * digits}"):
        answer = command(*words, f"training.steps={value}")
        answer.refused(2, f"--set training.steps={value[:20]}", "beyond 64 bits" if digits < 5000 else "4300 digits")
        assert len(answer.err) < 400


@pytest.mark.parametrize("kind", DEEP)
def test_records_of_absurd_depth(tmp_path, kind):
    """A run's files, whichever of them it is; all but the last are refused where the run is opened."""
    described = json.dumps(to_json(tiny.experiment(tmp_path)))
    run = tmp_path / "run"
    run.mkdir()
    whole = {EXPERIMENT: described, RECORDS: '{"event": "train", "step": 1}\n', METRICS: "{}"}
    inner = described.replace('"recipe_settings": {', f'"recipe_settings": {{"deep": {DEEP[kind]}, ')
    assert inner != described
    deep = DEEP[kind]
    for name, text in ((EXPERIMENT, deep), (EXPERIMENT, inner), (RECORDS, deep + "\n"), (METRICS, deep)):
        for other, content in whole.items():
            (run / other).write_text(text if other == name else content)
        answer = command("evaluate", run, "--data", f"{pavements()}:test", "--rule", "0.3")
        assert answer.code == 1 and "Traceback" not in answer.err and len(answer.err) < 1000, answer.err[-2000:]
        if name == EXPERIMENT:
            answer.refused(1, f"{run / EXPERIMENT}: ")
        report = command("report", run, "--out", tmp_path / "report")
        assert report.code in (0, 1) and "Traceback" not in report.err, report.err[-2000:]


def test_a_manifest_of_absurd_depth(tmp_path):
    words = ("data", "prepare", "undamaged", f"{pavements()}:test", "--out", tmp_path / "out", "--set", "min_side=16")
    command(*words).ok()
    for text in (*DEEP.values(), "[]", "3"):
        (tmp_path / "out" / MANIFEST).write_text(text)
        command(*words).refused(1, f"{tmp_path / 'out' / MANIFEST}: unreadable (", "delete the folder")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--mm-per-px", "1e308"), ("mm-per-px is 1e+308", "at most 1e+06")),
        (("--set", "detection.filter_sigma=1e9", "detection.filter=gaussian"), ("sigma is 1000000000.0", "at most")),
        (("--set", "detection.filter_sigma=1e308", "detection.filter=gaussian"), ("sigma is 1e+308", "at most 1000")),
        (("--set", "detection.filter_sigma=1e999"), ("not finite",)),
        (("--set", f"detection.tile={'9' * 400}"), ("beyond 64 bits",)),
        (("--set", "detection.window_pixels=0"), ("window_pixels is 0", "at least 1")),
    ],
)
def test_numbers_beyond_what_is_computed_with(tmp_path, photo, words, parts):  # noqa: F811
    command("detect", photo, "--out", tmp_path / "out", *FLOOR, *words).refused(2, *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["clearance=99999999999", "max_side=99999999999", f"seed={'9' * 400}"])
def test_numbers_beyond_a_recipe(tmp_path, setting):
    words = ("data", "prepare", "undamaged", f"{pavements()}:test", "--out", tmp_path / "out", "--set", "min_side=16")
    command(*words, setting).refused(2, setting.partition("=")[0])
    assert not (tmp_path / "out").exists()


def test_more_workers_than_pairs_are_not_started(labelled):  # noqa: F811
    """More than a C integer holds, at that."""
    few = command("score", labelled / "masks", labelled / "masks", "--workers", "0", "--json").ok()
    many = command("score", labelled / "masks", labelled / "masks", "--workers", "9" * 30, "--json").ok()
    assert many.out == few.out

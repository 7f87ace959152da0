"""Studies: every way of scoring one run, on record; the tables are made of records, the README's among them."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from cracks_jax import pages, study
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.report.entries import entries
from cracks_jax.report.gather import gather
from cracks_jax.runs import open_run
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import command, pavements, runs

pytestmark = pytest.mark.usefixtures("quick_compile")
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def studied(quick_compile, tmp_path_factory):  # noqa: F811
    """The tiny restoration run and the floor, scored on three drawn pavements."""
    folder = tmp_path_factory.mktemp("records")
    run = folder / "tiny-smoke-restoration"
    run.mkdir()
    for name in ("experiment.json", "metrics.json"):
        shutil.copy(runs().restoration / name, run / name)
    data, labelled = [f"{pavements()}:test"], f"{pavements()}:train"
    study.score_run(runs().restoration, data, run / "scores", lambda line: None, labelled)
    study.score_floor(labelled, runs().restoration, data, folder / "floor", lambda line: None)
    study.factorial(runs().restoration, data[0], "native", run / "factorial-native", lambda line: None)
    return folder


def test_each_record_is_what_its_command_prints(studied, monkeypatch):
    """Three records, three commands typed anew: the same numbers. Data and runs are told by name, not by folder."""
    monkeypatch.setenv("CRACKS_DATA", str(pavements().parent))
    found = sorted(studied.rglob("*undamaged_0.995*.json"))
    chosen = [found[0], next(p for p in found if "hidden" in p.name), next(p for p in found if "floor" in p.parts)]
    for path in chosen:
        row = json.loads(path.read_text())
        assert str(pavements().parent) not in path.read_text()
        name = f"runs/{runs().restoration.name}"
        words = [word.replace(name, str(runs().restoration)) for word in row["command"].split()[1:]]
        answer = command(*words).ok().json
        for of_machine in ("images_per_second", "seconds_per_image", "peak_memory_mib"):
            del answer["cost"][of_machine]
        assert answer["cost"].items() <= row["cost"].items()
        row["cost"] = answer["cost"]  # the rest is the machine's
        assert {name: row[name] for name in answer} == answer


def test_a_study_that_is_there_is_not_made_again(studied):
    said: list[str] = []
    before = {path: path.stat().st_mtime_ns for path in studied.rglob("*.json")}
    run = studied / "tiny-smoke-restoration"
    study.score_run(runs().restoration, [f"{pavements()}:test"], run / "scores", said.append, f"{pavements()}:train")
    assert said == [] and before == {path: path.stat().st_mtime_ns for path in studied.rglob("*.json")}


def test_the_factorial_has_its_forty_rows_and_the_table_each_figure(studied):
    grid = [json.loads(path.read_text()) for path in studied.glob("*/factorial-native/*.json")]
    choices = {
        (row["detection"]["batch_norm"], row["detection"]["dropout"], row["detection"]["filter"], row["rule"])
        for row in grid
    }
    assert len(grid) == len(choices) == 40
    shown = pages.everything(studied)
    for path in studied.rglob("*.json"):
        row = json.loads(path.read_text())
        if row.get("f1") is not None:
            assert f"{100 * row['f1']:.1f}" in shown, path


def test_a_study_trains_what_is_missing_scores_all_of_it_beside_the_floor_and_is_not_done_twice(tmp_path, monkeypatch):
    """One tiny training, one data set; the second time nothing is trained or scored."""
    experiment = open_run(runs().restoration).experiment
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, name=str(runs().drawn(runs().restoration))),
        training=dataclasses.replace(experiment.training, steps=2, validate_every=2),
    )
    spec = f"{pavements()}:test"
    one = study.Study((experiment,), (spec,), {f"{pavements()}:train": experiment})
    said: list[str] = []
    one.carry_out(tmp_path / "runs", tmp_path / "records", said.append)
    name = f"{experiment.label}-{experiment.run_id}"
    kept = tmp_path / "records" / name
    assert {path.name for path in kept.iterdir()} == {"experiment.json", "metrics.json", "records.jsonl", "scores"}
    assert said[0] == f"training {name}" and (tmp_path / "runs" / name / "checkpoints").is_dir()
    found = [entry for entry in entries(gather([tmp_path / "records"])) if entry.geometry == "native"]
    assert {(e.method, e.detection, e.rule) for e in found} >= {
        ("floor", "default", "otsu"), ("floor", "default", "validation"), ("floor", "default", "undamaged:0.995"),
        ("UP-CrackNet", "default", "undamaged:0.995"), ("UP-CrackNet", "hidden", "otsu"),
    }  # fmt: skip
    again: list[str] = []
    monkeypatch.setattr(study, "train", None)
    one.carry_out(tmp_path / "runs", tmp_path / "records", again.append)
    assert again == []


@pytest.mark.parametrize("name", ["cross_dataset", "crackseg_multisource", "robustness"])
def test_each_study_of_the_experiments_is_defined_in_every_form(name):
    for form in ("paper", "cpu", "smoke"):
        found = study.load_study(f"{EXPERIMENTS / name}.py:{form}")
        assert all(one.form == form for one in found.trainings)


def test_a_study_is_no_training_and_the_message_says_what_carries_it_out():
    path = EXPERIMENTS / "cross_dataset.py"
    command("train", f"{path}:smoke").refused(2, f"{path}: a study", f"python tools/study.py carry-out {path}")


def test_a_file_without_a_study_or_a_form_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="defines no study"):
        study.load_study(f"{EXPERIMENTS}/crackseg_deepcrack.py:cpu")
    with pytest.raises(UsageError, match="expected FILE.py"):
        study.load_study(f"{EXPERIMENTS}/cross_dataset.py:huge")


# -------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_the_pages_tables_are_those_of_the_records(page, tmp_path):
    """No figure of a table is typed by hand; a drawing beside the page is that of the record too."""
    copy = tmp_path / "README.md"
    shutil.copy(EXPERIMENTS.parent / page, copy)
    pages.write_tables(EXPERIMENTS / "records", [copy])
    assert copy.read_text() == (EXPERIMENTS.parent / page).read_text()
    for drawing in tmp_path.rglob("*.svg"):
        assert drawing.read_text() == (EXPERIMENTS / "pictures" / drawing.name).read_text()


def test_a_changed_figure_is_put_right_and_the_text_around_it_is_kept(tmp_path):
    """The test above can fail: it compares figures, not only the page's frame."""
    page = tmp_path / "README.md"
    text = (EXPERIMENTS.parent / "README.md").read_text()
    page.write_text(text.replace("| 27.1 |", "| 99.9 |"))
    assert page.read_text() != text
    pages.write_tables(EXPERIMENTS / "records", [page])
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [("nothing here\n", "page.md: has no lines <!-- NAME: begin -->"),
     ("<!-- wrong: begin -->\n<!-- wrong: end -->\n", "no table 'wrong'; expected one of quickstart")],
)  # fmt: skip
def test_a_page_without_a_table_that_we_know_is_refused_and_kept(text, message, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(CracksError, match=message):
        pages.write_tables(EXPERIMENTS / "records", [page])
    assert page.read_text() == text

"""Studies: every way of scoring one run, on record; the tables are made of records, the README's among them."""

import json
import shutil
from pathlib import Path

import pytest

from cracks_jax import study
from cracks_jax.errors import CracksError
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
        del answer["cost"]["images_per_second"], answer["cost"]["peak_memory_mib"]
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
    shown = study.table(studied)
    for path in studied.rglob("*.json"):
        row = json.loads(path.read_text())
        if row.get("f1") is not None:
            assert f"{100 * row['f1']:.1f}" in shown, path


def test_the_readmes_table_is_that_of_the_records(tmp_path):
    """No figure of the page is typed by hand."""
    page = tmp_path / "README.md"
    shutil.copy(EXPERIMENTS / "README.md", page)
    study.write_table(EXPERIMENTS / "records", page)
    assert page.read_text() == (EXPERIMENTS / "README.md").read_text()


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(CracksError, match="page.md: has no lines <!-- records: begin --> and"):
        study.write_table(EXPERIMENTS / "records", page)
    assert page.read_text() == "nothing here\n"

"""What lies on disk is told as it is: runs in every state, damage by run and file, and all that is whole is shown."""

import json
import os
import shutil
import time

import pytest

from cracks_jax.errors import CracksError
from cracks_jax.report.gather import gather
from cracks_jax.report.make import report
from tests.report import made
from tests.tiny_runs import command

HOUR = 3600


@pytest.fixture
def folder(tmp_path):
    """Two finished runs with a score each, and the floor's."""
    for name, share, f1 in (("first", 0.1, 0.12345), ("second", 0.2, 0.22345)):
        one = made.smoke(data__validation=share)
        made.run(tmp_path / "runs" / name, one)
        made.score(tmp_path / "runs" / name / "scores", "otsu", one, f1=f1)
    made.score(tmp_path / "runs" / "floor", "otsu", f1=0.98765)
    return tmp_path / "runs"


def age(path, seconds: float = HOUR) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def reported(folder) -> tuple[str, list[str]]:
    """report.md of a folder, which must be made, and the problems in it; no file names a folder of this machine."""
    out = folder.parent / "out"
    assert command("report", folder, "--out", out).ok().out == f"{out / 'report.html'}\n"
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert str(folder.parent) not in path.read_text(), path
    text = (out / "report.md").read_text()
    told = text.partition("## What is not whole\n\n")[2].partition("\n\n")[0]
    return text, [line.removeprefix("- ") for line in told.splitlines()]


# ---------------------------------------------------------------------------------------------------- states


def test_whole_runs_and_records_are_no_problem(folder):
    found = gather([folder])
    states = [(run.name, run.state, run.step) for run in found.runs]
    assert states == [("first", "finished", 4), ("second", "finished", 4)]
    assert [len(score.images) for score in found.scores] == [3, 3, 3]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("attempt", "seconds", "state"),
    [
        ({"to_step": 3, "seconds": 60}, HOUR, "not finished: stopped at step 3 of 4; its training command goes on"),
        ({"to_step": 3, "seconds": 60}, 0, "not finished: stopped at step 3 of 4; its training command goes on"),
        ({}, HOUR, "not finished: at step 2 of 4, not running; its training command goes on from its last checkpoint"),
        ({}, 0, "not finished: at step 2 of 4, still running or killed just now"),
    ],
    ids=["stopped", "stopped-just-now", "crashed", "running"],
)
def test_an_unfinished_run_says_what_it_is_and_shows_what_it_has(tmp_path, attempt, seconds, state):
    run = made.run(tmp_path / "half", made.smoke(), steps=2, finished=False, **attempt)
    age(run / "records.jsonl", seconds)
    found = gather([run])
    assert found.runs[0].state.startswith(state)
    assert found.problems == (f"half: {found.runs[0].state}",)
    text, _ = reported(run)
    assert f"steps: {attempt.get('to_step', 2)} of 4" in text and found.runs[0].state in text
    assert len(found.runs[0].records) == 3


def test_a_last_line_that_was_cut_off_is_a_crash_and_no_damage(tmp_path):
    run = made.run(tmp_path / "crashed", made.smoke(), finished=False)
    with (run / "records.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    age(run / "records.jsonl")
    found = gather([run])
    assert found.problems == (f"crashed: {found.runs[0].state}",) and "not running" in found.runs[0].state
    assert len(found.runs[0].records) == 5


# ---------------------------------------------------------------------------------------------------- damage


def _version(run) -> str:
    described = json.loads((run / "experiment.json").read_text())
    described["science"]["method"]["new_field"] = 1
    return json.dumps(described)


def _cut(path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def _pipe(path) -> None:
    path.unlink()
    os.mkfifo(path)


# What is broken, how, and what is said of it.
DAMAGE = {
    "experiment lost": ("experiment.json", lambda path: path.unlink(), "is missing"),
    "experiment garbage": ("experiment.json", lambda path: path.write_bytes(b"\xff\x00{"), "cannot be read as JSON"),
    "experiment a list": ("experiment.json", lambda path: path.write_text("[1]"), "cannot be read as JSON"),
    "experiment newer": ("experiment.json", lambda path: path.write_text(_version(path.parent)), "not an experiment"),
    "experiment odd": ("experiment.json", lambda path: path.write_text('{"science": 3}'), "science cannot be what was"),
    "experiment a pipe": ("experiment.json", _pipe, "is no regular file"),
    "records garbage": ("records.jsonl", lambda path: path.write_text("x\n" + path.read_text()), "no records in line"),
    "records binary": ("records.jsonl", lambda path: path.write_bytes(b"\xff\xfe\n"), "no records in line"),
    "records a pipe": ("records.jsonl", _pipe, "is no regular file"),
    "metrics garbage": ("metrics.json", lambda path: path.write_text("{"), "cannot be read as JSON"),
    "metrics a pipe": ("metrics.json", _pipe, "is no regular file"),
    "score garbage": ("scores/otsu.json", lambda path: path.write_text("}{"), "cannot be read as JSON"),
    "score binary": ("scores/otsu.json", lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
    "score deep": ("scores/otsu.json", lambda path: path.write_text("[" * 100_000), "cannot be read as JSON"),
    "score of words": ("scores/otsu.json", lambda path: path.write_text('{"f1": 1, "rule": "otsu"}'), "has no 'data'"),
    "images cut": ("scores/otsu.images.csv", lambda path: _cut(path, 12), "is damaged"),
    "images words": ("scores/otsu.images.csv", lambda path: path.write_text("image,tp\na,x\n"), "cannot be read as a"),
    "images no f1": ("scores/otsu.images.csv", lambda path: path.write_text("image,tp,fp,fn,tn\na,1,1,1,1\n"), "is da"),
    "images a pipe": ("scores/otsu.images.csv", _pipe, "is no regular file"),
    "curve cut": ("scores/otsu.curve.csv", lambda path: _cut(path, 4), "is damaged"),
    "curve binary": ("scores/otsu.curve.csv", lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read as a record"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_by_run_and_file_and_all_else_is_shown(folder, damage):
    file, break_it, words = DAMAGE[damage]
    break_it(folder / "second" / file)
    text, problems = reported(folder)
    about = [problem for problem in problems if words in problem]
    assert about, problems
    assert all("runs/second/" in one for one in about) and file.partition(".")[0] in about[0]
    for shown in ("### first", "### second", "12.3", "98.8"):
        assert shown in text
    if "scores" not in file or "csv" in file:
        assert "22.3" in text, "the second's own score stands"
    if damage in ("experiment newer", "records garbage", "images cut"):
        assert "method: UP-CrackNet" in text.partition("### second")[2], "and what is known of the run"


def test_a_run_whose_end_cannot_be_read_is_not_said_to_go_on(folder):
    (folder / "second" / "metrics.json").write_text("{")
    assert gather([folder]).runs[1].state == "ended at step 4 of 4, but its metrics.json cannot be read"


def test_a_run_without_its_experiment_is_not_said_to_go_on(folder):
    (folder / "second" / "experiment.json").unlink()
    (folder / "second" / "metrics.json").unlink()
    assert gather([folder]).runs[1].state == "not finished: at step 4; without its experiment.json it cannot go on"


ODD = (None, True, -1, 10**400, "x", [], [None], {}, {"a": None})


def _places(tree, path=()):
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from _places(value, (*path, name))


@pytest.mark.parametrize("file", ["experiment.json", "metrics.json", "scores/otsu.json"])
def test_no_value_of_another_kind_stops_a_report(folder, file, monkeypatch):
    """Every place of a file, one after the other, holds something odd: a report is made and shows the other run."""
    monkeypatch.setattr("cracks_jax.report.make.write", lambda made, out: (made, out))
    monkeypatch.setattr("cracks_jax.report.make._from_records", lambda *_: [])  # drawings take long, and come below
    path = folder / "second" / file
    whole = json.loads(path.read_text())
    for place in _places(whole):
        if place[0] in ("machine", "intervals") and len(place) > 1 and place[1] != "f1":
            continue
        for odd in ODD:
            tree = json.loads(json.dumps(whole))
            inner = tree
            for name in place[:-1]:
                inner = inner[name]
            inner[place[-1]] = odd
            path.write_text(json.dumps(tree))
            page = report([folder], folder / "out")
            shown = {cell.text for table in page.tables for row in table.rows for cell in row.cells}
            assert "12.3" in shown, (place, odd)


@pytest.mark.parametrize("odd", [None, True, -1, 10**400, float("inf"), float("nan"), "x", []])
def test_no_recorded_number_stops_the_curves(folder, odd):
    lines = [{"event": "train", "step": 1, "loss": odd}, {"event": "train", "step": odd, "loss": 1}]
    lines += [{"event": odd, "step": 2}, {"event": "train", "step": 3, "loss": 1.5}]
    (folder / "second" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = folder.parent / "out"
    command("report", folder, "--out", out, "--figures", "curves").ok()
    assert (out / "figures" / "curves-UP-CrackNet.svg").is_file()


# ---------------------------------------------------------------------------------------------------- folders


def test_a_folder_with_nothing_and_a_folder_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "other.json").write_text('{"tree": 1}')
    command("report", tmp_path / "empty", "--out", tmp_path / "out").refused(
        1, "empty: no run and no record", "`cracks-jax train`"
    )
    command("report", tmp_path / "nowhere", "--out", tmp_path / "out").refused(1, "nowhere: there is no such folder")
    command("report", tmp_path / "empty" / "other.json", "--out", tmp_path / "out").refused(1, "is a file; name")
    assert not (tmp_path / "out").exists()


def test_one_folder_named_twice_nested_or_linked_is_one(folder, monkeypatch):
    (folder / "link").symlink_to(folder / "first")
    monkeypatch.chdir(folder)
    once = gather([folder])
    several = gather([folder, folder / "first", folder / "..", folder / "link", folder.parent / "runs" / "."])
    assert len(once.runs) == len(several.runs) == 2 and len(several.scores) == 3
    assert [run.name for run in gather([folder / "second", folder]).runs] == ["second", "first"]


@pytest.mark.timeout(60)
def test_links_that_lead_in_circles_do_not_hang(folder):
    for name in ("a", "b", "c"):
        (folder / "first" / name).symlink_to(folder)
        (folder / "second" / name).symlink_to(folder / "first")
    (folder / "self").symlink_to(folder / "self")
    assert len(gather([folder]).runs) == 2


def test_folders_of_pictures_and_hidden_ones_are_passed_over(folder):
    for name in (".git", "first/checkpoints", "first/undamaged"):
        (folder / name).mkdir()
        (folder / name / "broken.json").write_text("{")
    assert gather([folder]).problems == ()


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("second"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = gather([folder])
    assert [run.name for run in found.runs] == ["first"]
    assert found.problems == ("runs/second: cannot be read (Permission denied); left out",)


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b", "c/a"):
        made.run(tmp_path / place / "same", made.smoke())
    names = [run.name for run in gather([tmp_path / "a", tmp_path / "b", tmp_path / "c" / "a"]).runs]
    assert names == ["same", "b/same", "a/same"]


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x01", b"$a$ $\\frac$", b"_hidden", b"x" * 250])
def test_a_name_that_no_page_can_show_is_shown_as_far_as_it_goes(folder, name):
    os.rename(folder / "second", os.path.join(os.fsencode(folder), name))
    out = folder.parent / "out"
    command("report", folder, "--out", out).ok()
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "22.3" in text and ">first<" in text.replace("\n", "")


def test_a_page_is_made_where_scores_lie_alone(folder):
    shutil.rmtree(folder / "first")
    for name in ("experiment.json", "records.jsonl", "metrics.json"):
        (folder / "second" / name).unlink()
    text, problems = reported(folder)
    assert "22.3" in text and "98.8" in text and problems == []


def test_nothing_but_damage_is_a_page_too(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text("{")
    _, problems = reported(tmp_path / "runs")
    assert len(problems) == 1 and problems[0].startswith("runs/a.json: cannot be read as JSON")


def test_gather_raises_what_the_command_prints(tmp_path):
    with pytest.raises(CracksError, match="no run and no record"):
        gather([tmp_path])

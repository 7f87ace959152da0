"""A run that is damaged, another's, or not there, and data or weights that training cannot use.

One message that names the thing and the remedy, exit code 1 (2 where the command is wrong), and every file stays.
"""

import json
import shutil

import numpy as np
import pytest

from cracks_jax.data import images
from cracks_jax.runtime import checkpoints
from tests.tiny import quick_compile, short_trunk  # noqa: F401
from tests.tiny_runs import command, contents, first, labelled, pavements, photo, runs, truncate  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def run(tmp_path):
    """A copy of the trained run, to be damaged."""
    shutil.copytree(runs().restoration, tmp_path / "run")
    return tmp_path / "run"


def again(run, *settings):
    """The command that trained the run, or one that differs in `settings`."""
    words = ("train", f"{runs().file}:smoke", "--member", "restoration", "--run", run)
    return command(*words, *(("--set", *settings) if settings else ()))


def scored(run, *words):
    return command("evaluate", run, "--data", f"{pavements()}:test", "--rule", "0.3", *words)


def edit(run, **changes):
    path = run / "experiment.json"
    described = json.loads(path.read_text())
    for name, value in changes.items():
        described["science"]["method"][name] = value
    path.write_text(json.dumps(described))


def test_a_folder_that_is_no_run(tmp_path, photo):  # noqa: F811
    scored(tmp_path / "nowhere").refused(1, "nowhere: there is no such run directory", "cracks-jax train")
    scored(photo).refused(1, photo.name, "no such run directory")
    scored(tmp_path).refused(1, "experiment.json: is missing", "made by `cracks-jax train`")
    command("train", "--repeat", tmp_path).refused(1, "experiment.json: is missing")
    command("train", "--repeat", tmp_path, "--member", "a").refused(2, "--member a", "leave one")


@pytest.mark.parametrize("text", ["", '{"run_id": "1', "null", "[1, 2]", "{}", '{"science": 3, "machine": {}}', "\xff"])
def test_a_damaged_experiment_json(run, text):
    (run / "experiment.json").write_bytes(text.encode("latin-1"))
    before = contents(run)
    scored(run).refused(1, "experiment.json: ", "train")
    if "science" not in text and text != "{}":
        again(run).refused(1, "experiment.json: cannot be read as JSON", "restore it")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"kind": "magic"}, "magic"),
        ({"base": "four"}, "method.base is 'four'"),
        ({"base": 0}, "method.base is 0"),
        ({"future": 1}, "future"),
    ],
)
def test_an_experiment_json_of_another_version_names_the_field(run, change, part):
    edit(run, **change)
    scored(run).refused(1, "experiment.json: not an experiment of this version", part)


def test_a_checkpoint_of_another_network_is_said_to_be_anothers(run):
    edit(run, base=8)
    scored(run).refused(1, "checkpoints", "is the checkpoint of another experiment", "run_id")


def test_a_checkpoint_that_is_not_there(run):
    scored(run, "--checkpoint", "999").refused(2, "--checkpoint 999", "best, last and the steps", "4")
    scored(run, "--checkpoint", "newest").refused(2, "--checkpoint newest", "best, last")
    shutil.rmtree(run / "checkpoints" / "4")
    best = json.loads((run / "metrics.json").read_text())["best_step"]
    if best == 4 and len(list((run / "checkpoints").iterdir())):
        scored(run).refused(1, "checkpoints/4: the best checkpoint is not there", "--checkpoint last")
    shutil.rmtree(run / "checkpoints")
    scored(run).refused(1, "checkpoints: holds no checkpoint", "train")
    assert not (run / "checkpoints").exists()


def damage(run) -> None:
    """Cuts every array file of every checkpoint in half."""
    for path in (run / "checkpoints").glob("*/arrays/**/*"):
        if path.is_file() and path.stat().st_size > 64:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_is_named_when_scored_and_when_resumed_and_nothing_is_lost(run):
    damage(run)
    before = contents(run)
    scored(run, "--checkpoint", "4").refused(1, "checkpoints/4/arrays/", "bytes", "--checkpoint last")
    again(run).refused(1, "checkpoints/4/arrays/", "no intact checkpoint is left", "restore one from a copy")
    assert contents(run) == before


@pytest.mark.parametrize("bad", ["{not json}", '{"event": "train"}', "[]", '"word"'])
def test_a_damaged_line_of_the_records_is_named_and_nothing_is_overwritten(run, bad):
    lines = (run / "records.jsonl").read_text().splitlines()
    (run / "records.jsonl").write_text("\n".join([lines[0], bad, *lines[1:]]) + "\n")
    before = contents(run)
    scored(run).refused(1, "records.jsonl: line 2", "delete what is damaged")
    again(run).refused(1, "records.jsonl: line 2")
    assert contents(run) == before


def test_records_that_a_kill_cut_off_or_that_are_no_text(run):
    with (run / "records.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    assert scored(run).code == 0
    (run / "records.jsonl").write_bytes(b"\xff\xfe\x00" * 9)
    scored(run).refused(1, "records.jsonl: line 1 is no record", "restore")


def test_damaged_metrics_are_written_anew_by_the_same_command(run):
    good = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text('{"run_id"')
    assert again(run).ok().last == json.loads(good)
    assert (run / "metrics.json").read_text() == good


def test_a_run_directory_of_another_experiment_stays_as_it_is(run, tmp_path):
    before = contents(run)
    again(run, "training.learning_rate=0.002").refused(1, "run: holds another experiment", "another --run")
    assert contents(run) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    again(tmp_path / "mine").refused(1, "mine: exists and is no run directory", "another --run")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"..."}
    again(tmp_path / "mine" / "thesis.tex").refused(1, "thesis.tex: exists and is no run directory")
    again(tmp_path / "mine" / "thesis.tex" / "run").refused(1, "thesis.tex/run", "another --run")


def test_a_disk_without_room_for_a_checkpoint_keeps_the_run_and_says_how_to_go_on(run, monkeypatch):
    """The last checkpoint is taken away, so that training has something to save again."""
    shutil.rmtree(run / "checkpoints")
    usage = checkpoints.shutil.disk_usage(run)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    again(run).refused(1, "checkpoints: 0 MB are free", "a checkpoint needs", "run the same command again")
    monkeypatch.undo()
    done = again(run).ok().last
    assert done["state_sha256"] == json.loads((runs().restoration / "metrics.json").read_text())["state_sha256"]


def test_a_preset_or_rule_that_the_run_cannot_follow(run):
    scored(run, "--preset", "mine").refused(2, "--preset mine", "default, hidden, paper, authors")
    words = ("evaluate", run, "--data", f"{pavements()}:test", "--rule")
    command(*words, "undamaged", "--preset", "authors").refused(2, "preset authors stretches", "otsu")
    command(*words, "validation").refused(1, "'drawn'", "--calibration")
    shutil.rmtree(run / "undamaged")
    command(*words, "undamaged").refused(2, "needs undamaged windows", "--calibration")


# -------------------------------------------------------------------------------- training data and weights


def train_on(tmp_path, member, *settings):
    words = ("train", f"{runs().file}:smoke", "--member", member, "--run", tmp_path / "run")
    return command(*words, "--set", *settings)


def test_training_names_a_photograph_or_mask_that_cannot_be_read(tmp_path, labelled, short_trunk):  # noqa: F811
    named = (f"data.name={labelled}", "data.split=none")
    bad = first(labelled / "images")
    whole = bad.read_bytes()
    truncate(bad)
    train_on(tmp_path, "restoration", *named).refused(1, "images/0000.png: the file is truncated", "again")
    bad.write_bytes(whole)
    for mask in (labelled / "masks").iterdir():
        images.write_mask(mask, np.ones((9, 7)))
    train_on(tmp_path, "segmentation", *named).refused(1, ".png: mask is 7x9 but its image is 64x48")
    shutil.rmtree(labelled / "masks")
    train_on(tmp_path, "segmentation", *named).refused(1, "has no mask")


def test_one_photograph_is_too_few_to_hold_any_out(tmp_path, labelled):  # noqa: F811
    for part in ("images", "masks"):
        for path in sorted((labelled / part).iterdir())[1:]:
            path.unlink()
    answer = train_on(tmp_path, "restoration", f"data.name={labelled}", "data.split=none")
    answer.refused(1, "none can be held out", "add images")


def test_a_missing_trunk_is_said_and_the_other_members_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CRACKS_WEIGHTS", str(tmp_path))
    answer = command("train", "experiments/crackseg_deepcrack.py:cpu", "--run", tmp_path / "run")
    answer.refused(1, "resnet50.pth", "CRACKS_WEIGHTS", "imagenet_v2", "scratch", "training.pretrained=FILE")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_and_damaged_ones_are_named(tmp_path, short_trunk):  # noqa: F811
    np.savez(tmp_path / "other.npz", squeezenet0_conv0_weight=np.zeros((64, 3, 3, 3), np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    for name, part in (("other.npz", "tensor 'conv1.weight' is missing"), ("cut.npz", "cannot be read")):
        train_on(tmp_path, "segmentation", f"training.pretrained={tmp_path / name}").refused(1, name, part)


@pytest.mark.parametrize("policy", ["replace", "drop"])
def test_a_training_completes_without_a_bad_photograph_and_its_record_lists_it(tmp_path, labelled, policy):  # noqa: F811
    bad = first(labelled / "images")
    truncate(bad)
    named = (f"data.name={labelled}", "data.split=none", f"data.bad_images={policy}", "training.batch_size=2")
    train_on(tmp_path, "restoration", *named).ok()
    described = json.loads((tmp_path / "run" / "experiment.json").read_text())["data"]
    ((found,),) = [described["bad"]]
    assert found["file"] == bad.name and "truncated" in found["reason"] and str(tmp_path) not in json.dumps(described)

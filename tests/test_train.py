"""Training from end to end: it ends with the same bits whatever interrupts it, and says clearly what went wrong."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import time
from collections import namedtuple
from datetime import datetime
from pathlib import Path

import pytest

from cracks_jax import train as story
from cracks_jax.data.manifest import read_manifest
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import apply_settings, load_file
from cracks_jax.runs import alone_in, open_run
from cracks_jax.runtime.checkpoints import Checkpoints, state_sha256
from cracks_jax.runtime.records import read_json
from cracks_jax.runtime.spent import PARTS
from cracks_jax.train import Stopped, train
from cracks_jax.training_data import open_training_data
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile")
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if "def experiment(" in path.read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def short_trunks():
    """CrackSeg with one unit per block, for the whole module (`tiny.short_trunk` is for one test)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.resnet.UNITS, 50, (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory, quick_compile, short_trunks):  # noqa: F811
    """Each method trained without interruption: kind -> (folder, metrics)."""
    runs = {}

    def get(kind):
        if kind not in runs:
            folder = tmp_path_factory.mktemp("whole") / kind
            runs[kind] = (folder, train(tiny.experiment(cache, kind), folder))
        return runs[kind]

    return get


def _signal_before_step(monkeypatch, number, kind=signal.SIGTERM):
    """A real signal while training step `number` (from 1) is being prepared."""
    original, calls = story.hyper, []

    def wrapped(*arguments):
        calls.append(1)
        if len(calls) == number + 1:  # the first call is the compilation's
            os.kill(os.getpid(), kind)
            time.sleep(0.2)  # on a busy machine the thread that hears it comes late
        return original(*arguments)

    monkeypatch.setattr(story, "hyper", wrapped)


def _checkpoints(folder):
    return Checkpoints(folder / "checkpoints", open_run(folder).experiment.run_id, read_only=True)


def _records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


# --- the same bits


def test_what_a_run_leaves_behind(whole):
    folder, metrics = whole("restoration")
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics.keys() >= {"run_id", "step", "best_step", "best_restoration_loss", "validation", "state_sha256"}
    run = open_run(folder)
    step, state = run.state("last")
    assert step == metrics["step"] == 4 and state_sha256(state) == metrics["state_sha256"]
    described = run.description
    assert described["run_id"] == run.experiment.run_id == metrics["run_id"]
    assert described["data"]["train"] + len(described["data"]["validation"]) == 10
    assert described["seed"] == 0 if "seed" in described else described["science"]["seed"] == 0
    assert described.keys() >= {"software", "device", "git_revision", "science", "machine", "attempts"}
    text = (folder / "experiment.json").read_text()
    assert str(folder.parent) not in text and "cache" not in described["machine"]
    assert 0 < described["attempts"][0]["seconds_to_first_step"] <= described["attempts"][0]["seconds"] + 1
    events = [(r["event"], r["step"]) for r in _records(folder)]
    assert events == [
        ("train", 1), ("train", 2), ("validation", 2), ("train", 3), ("train", 4), ("validation", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["restoration", "segmentation"])
def test_stopped_by_signals_and_resumed_it_ends_with_the_same_bits(kind, whole, cache, tmp_path, monkeypatch):
    """SIGTERM in step 1, SIGINT in step 3: each time saved and resumable; every step is recorded once."""
    folder, expected = whole(kind)
    experiment, run = tiny.experiment(cache, kind), tmp_path / "run"
    for number, (first, sent) in enumerate([(1, signal.SIGTERM), (2, signal.SIGINT)]):
        with monkeypatch.context() as patch:
            _signal_before_step(patch, first, sent)
            done = (1, 3)[number]
            with pytest.raises(Stopped, match=f"stopped after step {done}, saved in .*run the same command again"):
                train(experiment, run)
        assert done in _checkpoints(run).steps()
        assert not (run / "metrics.json").exists()
    assert train(experiment, run) == expected
    assert _records(run) == _records(folder)
    attempts = open_run(run).description["attempts"]
    assert [attempt["from_step"] for attempt in attempts] == [0, 1, 3]


def test_a_repeat_with_a_worker_process_gives_the_same_bits_and_another_seed_others(whole, cache, tmp_path):
    _, expected = whole("restoration")
    experiment = tiny.experiment(cache)
    repeated = train(tiny.with_machine(experiment, workers=1), tmp_path / "workers")
    assert repeated == expected
    other = train(dataclasses.replace(experiment, seed=1), tmp_path / "other")
    assert other["run_id"] != expected["run_id"] and other["state_sha256"] != expected["state_sha256"]


def test_training_a_finished_run_again_changes_nothing(whole, cache):
    folder, expected = whole("restoration")
    before = _records(folder)
    assert train(tiny.experiment(cache), folder) == expected
    assert _records(folder) == before


# --- the best checkpoint


def _scripted(monkeypatch, metric, values):
    """Validation gives these values one after the other."""
    given = iter(values)
    monkeypatch.setattr(story, "validator", lambda *_: lambda state: {metric: next(given)})


@pytest.mark.parametrize(
    ("kind", "metric", "values"),
    [("restoration", "restoration_loss", [3.0, 1.0, 2.0, 1.0]), ("segmentation", "iou", [0.1, 0.4, None, 0.4])],
)
def test_the_best_is_kept_beside_the_newest_and_the_rest_goes(
    kind, metric, values, short_trunks, cache, tmp_path, monkeypatch
):
    """A loss is best at its least, IoU at its greatest; the earliest of equals wins, an undefined one never."""
    _scripted(monkeypatch, metric, values)
    experiment = tiny.with_machine(tiny.experiment(cache, kind, validate_every=1), checkpoint_every=1)
    metrics = train(experiment, tmp_path / "run")
    assert (metrics["best_step"], metrics["step"]) == (2, 4) and metrics[f"best_{metric}"] == values[1]
    run = open_run(tmp_path / "run")
    assert _checkpoints(run.folder).steps() == [2, 3, 4]
    found = {which: run.state(which) for which in ("best", "last", "2")}
    assert [found[which][0] for which in found] == [2, 4, 2]
    assert int(found["best"][1]["step"]) == 2 and state_sha256(found["last"][1]) == metrics["state_sha256"]
    with pytest.raises(UsageError, match="--checkpoint 1: this run has best, last and the steps 2, 3, 4"):
        run.state("1")


def test_patience_counts_validations_and_ends_training(cache, tmp_path, monkeypatch):
    """Best at the second of ten validations, patience 3: the fifth is the last; going on changes nothing."""
    _scripted(monkeypatch, "restoration_loss", [3.0, 1.0, 1.5, 1.0, 2.0, 0.1])
    experiment = tiny.experiment(cache, validate_every=1, patience=3, steps=10)
    metrics = train(experiment, tmp_path / "run")
    assert (metrics["step"], metrics["best_step"]) == (5, 2)
    assert train(experiment, tmp_path / "run") == metrics
    assert max(r["step"] for r in _records(tmp_path / "run")) == 5


# --- one program, and where the time went


@pytest.mark.parametrize(("kind", "steps"), [("restoration", 100), ("segmentation", 30)])
def test_each_program_is_traced_once_whatever_number_changes(kind, steps, short_trunks, tmp_path, monkeypatch):
    """With validations on the way, their last call ragged: 5 windows in calls of 3. Then other rates, weights, seed."""
    traces = {"train_step": 0, "validation_terms": 0, "score": 0}
    method = type(tiny.experiment(tmp_path, kind).method)

    def counted(name):
        original = getattr(method, name)

        def wrapped(self, *arguments, **named):
            traces[name] += 1
            return original(self, *arguments, **named)

        monkeypatch.setattr(method, name, wrapped)

    for name in traces.keys() & set(dir(method)):
        counted(name)
    monkeypatch.setattr("cracks_jax.validation._MOST", 3)
    one = tiny.experiment(tmp_path / "cache", kind, steps=steps, validate_every=10)
    one = dataclasses.replace(one, data=dataclasses.replace(one.data, validation=0.5))
    metrics = train(one, tmp_path / "run")
    first = dict(traces)
    assert metrics["step"] == steps and first["train_step"] == 1
    assert first["validation_terms"] == (kind == "restoration") and first["score"] <= 2  # its kernels, then it
    changes = [f"training.steps={steps // 10}", "training.learning_rate=0.01", "seed=7"]
    changes += ["training.loss_weights.mae=0", "training.skip_non_finite=2"] if kind == "restoration" else []
    train(apply_settings(one, changes), tmp_path / "other")
    assert traces == first


def test_every_attempt_says_when_it_was_and_where_its_time_went(cache, tmp_path, monkeypatch):
    experiment, run = tiny.experiment(cache, steps=30, validate_every=10), tmp_path / "run"
    with monkeypatch.context() as patch:
        _signal_before_step(patch, 12)
        with pytest.raises(Stopped):
            train(experiment, run)
    train(experiment, run)
    first, second = open_run(run).description["attempts"]
    assert (first["ended"], first["to_step"], second["from_step"], second["ended"]) == ("signal", 12, 12, "finished")
    for attempt in (first, second):
        began, ended = (datetime.fromisoformat(attempt[name]) for name in ("started", "stopped"))
        wall = (ended - began).total_seconds()
        assert set(attempt["spent"]) == set(PARTS) and min(attempt["spent"].values()) >= 0
        assert abs(sum(attempt["spent"].values()) - wall) <= max(0.01 * wall, 0.02)
        assert attempt["spent"]["other"] < 0.1 * wall, attempt["spent"]
        assert attempt["threads"] >= 1 and attempt["lock"]["file"].startswith("locks/py3")


def test_other_data_than_a_run_began_with_are_refused(cache, tmp_path):
    experiment, run = tiny.experiment(tmp_path / "own", steps=2), tmp_path / "run"
    train(experiment, run)
    data = open_training_data(experiment)
    shutil.copyfile(data.train.records[0].image, data.train.records[1].image)
    with pytest.raises(CracksError, match="experiment.json: this run began on other data .* restore it"):
        train(experiment, run)


# --- what goes wrong


def test_a_full_disk_stops_training_and_loses_nothing(whole, cache, tmp_path, monkeypatch):
    """Once there is space, the same command goes on to the same bits."""
    _, expected = whole("restoration")
    experiment, run = tiny.with_machine(tiny.experiment(cache), checkpoint_every=1), tmp_path / "run"
    usage, calls = namedtuple("usage", "total used free"), []

    def filling(_):
        calls.append(1)
        return usage(2**40, 0, 2**40) if len(calls) < 3 else usage(2**40, 2**40, 0)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", filling)
        with pytest.raises(CracksError, match="0 MB are free, a checkpoint needs .*it goes on from step 2"):
            train(experiment, run)
    assert _checkpoints(run).steps()[-1] == 2
    assert train(experiment, run) == expected


def test_another_experiments_run_directory_is_not_touched(whole, cache, tmp_path):
    folder, _ = whole("restoration")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CracksError, match="holds another experiment .run_id .*; give another --run, or leave it out"):
        train(tiny.experiment(cache, learning_rate=0.5), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "road.jpg").write_bytes(b"")
    with pytest.raises(CracksError, match="photographs: exists and is no run directory; give another --run"):
        train(tiny.experiment(cache), tmp_path / "photographs")


def test_two_processes_do_not_train_one_run(cache, tmp_path, monkeypatch):
    run, experiment = tmp_path / "run", tiny.experiment(cache, steps=2, validate_every=2)
    monkeypatch.setattr("cracks_jax.runs._TRIES", 2)
    run.mkdir()
    with alone_in(run), pytest.raises(CracksError, match="another process is training this run; wait for it or stop"):
        train(experiment, run)
    assert not list(run.iterdir())
    assert train(experiment, run)["step"] == 2
    with alone_in(run):  # who has ended has let go
        pass


def test_checkpoints_and_a_log_that_are_gone_are_missed(cache, tmp_path, capsys):
    run, experiment = tmp_path / "run", tiny.experiment(cache, steps=2, validate_every=2)
    expected = train(experiment, run)
    attempt = read_json(run / "experiment.json")["attempts"][-1]
    assert attempt["saved_step"] == 2
    (run / "records.jsonl").unlink()
    train(experiment, run)
    assert "records.jsonl: is missing; what was logged up to step 2 is lost" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert train(experiment, run) == expected
    said = capsys.readouterr().err
    assert "checkpoints: holds none, though step 2 was saved; training from the beginning" in said
    (run / "experiment.json").unlink()
    with pytest.raises(CracksError, match="experiment.json is missing; restore it, or give another --run"):
        train(experiment, run)


def test_a_save_that_failed_is_not_on_record_as_saved(cache, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if Path(source).suffix == ".saving":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CracksError, match="checkpoint 2 could not be written .No space.*; there is none before it"):
        train(tiny.experiment(cache, steps=2, validate_every=2), tmp_path / "run")
    assert "saved_step" not in read_json(tmp_path / "run" / "experiment.json")["attempts"][-1]


def test_a_checkpoint_of_another_network_is_refused_by_name(whole, cache, tmp_path):
    """As when the package has changed between two attempts."""
    folder, _ = whole("restoration")
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    other = tiny.experiment(cache)
    other = dataclasses.replace(other, method=dataclasses.replace(other.method, base=8))
    described = json.loads((run / "experiment.json").read_text())
    (run / "experiment.json").write_text(json.dumps({**described, "run_id": other.run_id}))
    with pytest.raises(CracksError, match=r"checkpoint of another experiment .* no intact checkpoint is left"):
        train(other, run)


# --- data


def test_drawn_data_are_drawn_once_and_split(cache):
    experiment = tiny.experiment(cache)
    data = open_training_data(experiment)
    assert (len(data.train), len(data.validation), data.folder) == (8, 2, None)
    assert not set(data.train.stems) & set(data.validation.stems)
    written = data.train.records[0].image.stat().st_mtime_ns
    again = open_training_data(experiment)
    assert again == data and data.train.records[0].image.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data.recipe=undamaged", "data.recipe is 'undamaged' but data.name is 'drawn'"),
        ("data.recipe_settings.colour=3", "data.recipe_settings.colour: drawn data take seed, train, test"),
    ],
)
def test_drawn_data_take_no_recipe_and_no_unknown_setting(cache, text, message):
    with pytest.raises(UsageError, match=message):
        open_training_data(apply_settings(tiny.experiment(cache), [text]))


def test_a_recipes_windows_are_cut_once_and_the_run_keeps_its_validation(cache, tmp_path):
    """The windows of drawn, labelled photographs; what calibrates later lies in the run, with its manifest."""
    drawn = open_training_data(tiny.experiment(cache, "segmentation")).train.records[0].image.parents[2]
    experiment = tiny.experiment(tmp_path / "prepared")
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data,
            name=str(drawn),
            split="undamaged",
            recipe="undamaged-unlabelled",
            recipe_settings={"min_side": 32, "max_side": 48},
        ),
    )
    data = open_training_data(experiment)
    assert data.folder is not None and data.folder.parent == tmp_path / "prepared"
    assert len(data.train) + len(data.validation) > 2
    again = open_training_data(experiment)
    assert again == data

    train(experiment, tmp_path / "run")
    kept = tmp_path / "run" / "undamaged"
    assert sorted(path.stem for path in (kept / "images").iterdir()) == sorted(data.validation.stems)
    items = read_manifest(kept)["items"]
    assert sorted(item["stem"] for item in items) == sorted(data.validation.stems)
    described = read_json(tmp_path / "run" / "experiment.json")["data"]
    assert described["validation_photographs"] == sorted({item["source"] for item in items})


# --- the experiment files


@pytest.mark.parametrize("stem", FILES)
def test_every_files_smoke_form_trains_without_data_on_disk(stem, tmp_path, monkeypatch):
    for name in ("CRACKS_DATA", "CRACKS_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    experiment = load_file(f"{Path(__file__).parents[1] / 'experiments' / stem}.py:smoke")
    if stem.startswith("crackseg"):
        monkeypatch.setitem(tiny.resnet.UNITS, 50, (1, 1, 1, 1))
    experiment = tiny.with_machine(experiment, devices=1, cache=str(tmp_path / "cache"))
    metrics = train(experiment, tmp_path / "run")
    assert metrics["step"] == experiment.training.steps and metrics["validation"] is not None
    assert open_run(tmp_path / "run").state("best")[0] == metrics["best_step"]

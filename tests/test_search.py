"""A search draws what its seed says, trains each draw once, goes on where it was stopped, and names the best."""

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cracks_jax import search as searching
from cracks_jax.errors import CracksError, UsageError, WriteError
from cracks_jax.experiment import apply_settings, load_file
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runtime.stopping import Stopped
from cracks_jax.search import plan, search
from cracks_jax.search_space import Axis, parse_space
from cracks_jax.watch import NotFinite
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401

FILE = """
from pathlib import Path

from tests import tiny


def experiment(form):
    one = tiny.with_machine(tiny.experiment(Path({cache!r}), steps={steps}, validate_every={steps}), checkpoint_every=2)
    return {{"one": one}}
"""
SPACE = ("training.learning_rate=log:1e-5:1e-2", "training.loss_weights.mae=0:5")
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def optuna():
    return pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'cracks-jax[search]'")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An experiment file of a table with one member; its drawn pavements are kept for all tests."""
    place = tmp_path_factory.mktemp("search")
    path = place / "table.py"
    path.write_text(FILE.format(cache=str(place / "cache"), steps=2))
    return path


def _plan(file, out, space=SPACE, seed=3):
    return plan(f"{file}:smoke", out, space, member="one", settings=["training.weight_decay=0.001"], seed=seed)


def _lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "trials.csv").read_text())))


@pytest.fixture
def pretended(monkeypatch):
    """Trainings that take no time: what comes out is a function of the rate, or raised where `raising` says so."""
    raising = {}

    def do(job, say):
        number = len(list(job.folder.parent.glob("*/metrics.json")))
        if error := raising.pop(number, None):
            raise error
        job.folder.mkdir()
        loss = abs(job.experiment.training.learning_rate - 0.001) + job.experiment.training.loss_weights["mae"]
        metrics = {"run_id": job.experiment.run_id, "best_step": 2, "best_restoration_loss": loss}
        (job.folder / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(searching, "do", do)
    monkeypatch.setattr(searching, "open_training_data", lambda experiment: None)
    return raising


def test_trials_share_one_program_and_the_best_is_the_best_on_disk(quick_compile, file, tmp_path, monkeypatch):  # noqa: F811
    """Witness: the method's step runs as Python only while it is traced; the runs' own metrics."""
    traced, after = [], []
    step, do = Restoration.train_step, searching.do
    monkeypatch.setattr(Restoration, "train_step", lambda *given, **named: (traced.append(1), step(*given, **named))[1])
    monkeypatch.setattr(searching, "do", lambda job, say: (do(job, say), after.append(len(traced))))
    found = _plan(file, tmp_path / "out")
    table, code = search(found, 3)
    assert code == 0
    assert len(after) == 3 and after[0] >= 1 and set(after) == {after[0]}

    runs = {path.parent: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/metrics.json")}
    best = min(runs, key=lambda run: runs[run]["best_restoration_loss"])
    assert len(runs) == 3
    assert f"in {best}; trained anew by" in table
    assert table.splitlines()[4].endswith(f"{best.name} |")
    # The command that is printed trains the very same experiment.
    words = shlex.split(table.splitlines()[-1])
    assert words[:5] == ["cracks-jax", "train", f"{file}:smoke", "--member", "one"] and words[5] == "--set"
    again = apply_settings(load_file(words[2], "one"), words[6:])
    assert again.run_id == runs[best]["run_id"] and again.training.weight_decay == 0.001
    assert {line["best_restoration_loss"] for line in _lines(tmp_path / "out")} == {
        str(metrics["best_restoration_loss"]) for metrics in runs.values()
    }


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(pretended, file, tmp_path):
    """Also past the trials that are drawn blindly, and with half a line at the journal's end, as a kill leaves it."""
    whole = _plan(file, tmp_path / "whole")
    search(whole, 14)
    pretended |= {5: Stopped("a signal"), 12: WriteError("the disk is full")}
    pieces = _plan(file, tmp_path / "pieces")
    with pytest.raises(Stopped):
        search(pieces, 14)
    with (tmp_path / "pieces" / "search.jsonl").open("a") as journal:
        journal.write('{"op_code":4,"wor')
    with pytest.raises(WriteError):
        search(pieces, 14)
    search(pieces, 13)
    table, code = search(pieces, 14)
    assert code == 0
    assert (tmp_path / "pieces" / "trials.csv").read_text() == (tmp_path / "whole" / "trials.csv").read_text()
    assert len(_lines(tmp_path / "whole")) == 14
    search(_plan(file, tmp_path / "other", seed=4), 2)
    assert _lines(tmp_path / "other") != _lines(tmp_path / "whole")[:2]
    # Done is done: nothing is trained again.
    pretended[14] = AssertionError("trained again")
    assert search(pieces, 14) == (table, 0)


def test_a_trial_that_fails_is_reported_and_stops_no_other(pretended, file, tmp_path, capsys):
    blown = NotFinite.__new__(NotFinite)
    ValueError.__init__(blown, "step 3 blew up")
    pretended |= {0: CracksError("no room for it"), 1: blown, 2: RuntimeError("RESOURCE_EXHAUSTED")}
    table, code = search(_plan(file, tmp_path / "out"), 6)
    assert code == 0
    states = [line["state"] for line in _lines(tmp_path / "out")]
    assert states == ["failed", "done", "diverged", "done", "failed", "done"]
    assert "trial 0 failed: no room for it" in table and "trial 2 diverged: step 3 blew up" in table
    assert "trial 4 failed: RuntimeError: RESOURCE_EXHAUSTED" in capsys.readouterr().err


def test_where_no_trial_could_be_trained_that_is_the_exit_code(pretended, file, tmp_path):
    pretended[0] = CracksError("no room for it")
    table, code = search(_plan(file, tmp_path / "out"), 1)
    assert code == 1 and "trained anew" not in table


def test_data_that_are_not_there_are_said_before_a_trial_is_spent(file, tmp_path):
    found = plan(str(file), tmp_path / "out", SPACE, settings=["data.name=nowhere", "data.recipe_settings={}"])
    with pytest.raises(CracksError, match="nowhere"):
        search(found, 3)
    assert "trial" not in (tmp_path / "out" / "search.jsonl").read_text()


def test_a_folder_belongs_to_one_search_and_to_one_process(pretended, file, tmp_path):
    found = _plan(file, tmp_path / "out")
    search(found, 1)
    with pytest.raises(UsageError, match=r"holds another search \(seed 3, here 4\); give another --out"):
        search(_plan(file, tmp_path / "out", seed=4), 1)
    with pytest.raises(UsageError, match="holds another search"):
        search(_plan(file, tmp_path / "out", space=SPACE[:1]), 1)
    with searching._alone(found.out), pytest.raises(CracksError, match="a search is under way there"):
        search(found, 1)


def test_without_optuna_the_remedy_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"a search needs Optuna: pip install 'cracks-jax\[search\]'"):
        search(_plan(file, tmp_path / "out"), 1)


def test_the_space_is_what_was_written(tmp_path):
    texts = ["training.learning_rate=log:1e-5:1e-3", "training.loss_weights.style=0:20", "training.steps=4:64",
             "training.batch_size=choice:4,8", "data.pipeline.corruption=choice:squares, stripes"]  # fmt: skip
    axes = parse_space(texts, tiny.experiment(tmp_path))
    assert axes == (
        Axis("training.learning_rate", (), 1e-5, 1e-3, True),
        Axis("training.loss_weights.style", (), 0.0, 20.0),
        Axis("training.steps", (), 4, 64),
        Axis("training.batch_size", ("4", "8")),
        Axis("data.pipeline.corruption", ("squares", "stripes")),
    )
    assert isinstance(axes[1].low, float) and isinstance(axes[2].low, int)
    assert axes[0].setting(0.000123456) == "training.learning_rate=0.0001235"
    assert axes[0].setting(1e-5) == "training.learning_rate=1e-05" and axes[2].setting(7) == "training.steps=7"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "--space: give one setting to search at least"),
        (["training.learning_rate"], "expected PATH=LOW:HIGH"),
        (["training.learning_rate=1e-3"], "expected PATH=LOW:HIGH"),
        (["training.learning_rate=1:2:3"], "expected PATH=LOW:HIGH"),
        (["training.speed=1:2"], "there is no setting 'speed'"),
        (["training.loss_weights.nothing=1:2"], "there is no such loss term"),
        (["training.learning_rate=1e-3:1e-5"], "the low end must lie below the high end"),
        (["training.learning_rate=-1:1"], "learning_rate"),
        (["training.loss_weights.mae=log:0:1"], "a logarithmic range begins above 0; try log:0.001:1"),
        (["training.steps=1.5:3"], "expected int"),
        (["training.schedule=0:1"], "expected one of"),
        (["training.batch_size=choice:4"], "give two different choices"),
        (["training.batch_size=choice:4,4"], "give two different choices"),
        (["training.batch_size=choice:4,many"], "expected int"),
        (["machine.workers=0:2"], "machine settings change no result"),
        (["data.validation=0.1:0.3"], "changes what is validated on, so trials could not be compared"),
        (["data.pipeline.crop=choice:32,64"], "changes what is validated on, so trials could not be compared"),
        (["seed=0:2", "seed=0:3"], "seed is searched already"),
        (["training.weight_decay=0:1"], "training.weight_decay is set already"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(texts, message, tmp_path):
    with pytest.raises(UsageError) as refused:
        parse_space(texts, tiny.experiment(tmp_path), ["training.weight_decay=0.1"])
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert all(str(refused.value).startswith(f"--space {text}: ") for text in texts[-1:])


def test_the_command_stops_politely_and_goes_on(file, tmp_path):
    long = tmp_path / "long.py"
    long.write_text(FILE.format(cache=str(file.parent / "cache"), steps=60))
    command = [sys.executable, "tools/search.py", f"{long}:smoke", "--out", str(tmp_path / "out"), "--trials", "1",
               "--space", SPACE[0]]  # fmt: skip
    env = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    how = {"cwd": REPOSITORY, "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = subprocess.Popen(command, **how)
    while not (saved := list((tmp_path / "out").glob("*/checkpoints/[0-9]*"))) and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=240)
    assert first.returncode == 75 and saved, said
    second = subprocess.Popen(command, **how)
    table, said = second.communicate(timeout=240)
    assert second.returncode == 0, said
    assert "resuming from step" in said and "trained anew by" in table
    run = saved[0].parents[1]
    attempts = json.loads((run / "experiment.json").read_text())["attempts"]
    assert [one["ended"] for one in attempts] == ["signal", "finished"]
    wrong = subprocess.run(
        [*command[:-1], "training.speed=1:2"], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("search: --space training.speed=1:2: "), wrong.stderr

"""Members trained at a time, and a whole sweep beside Optuna and PyTorch: all ways and both sides do the same work."""

import json
import sys

import numpy as np
import pytest

from cracks_jax.benchmark import members, page, sweeps
from cracks_jax.benchmark.job import Job
from cracks_jax.errors import CracksError, UsageError
from tests.tiny import quick_compile  # noqa: F401

JOB = Job("members", "upcracknet", batch=2, size=32, narrow=16, repeats=2, warmup=1)


@pytest.mark.long
def test_one_program_over_members_takes_the_same_steps_as_one_after_another(quick_compile):  # noqa: F811
    """Members differ in a rate, so their losses part after the first step; vmap and the mesh's axis keep them apart."""
    taken = {way: members._MAKERS[way](JOB, [0, 1]) for way in ("in_turn", "axis", "vmap")}
    losses = {way: np.asarray([take(number) for number in range(3)]) for way, take in taken.items()}
    assert losses["in_turn"].shape == (3, 2) and np.ptp(losses["in_turn"][0]) == 0 != np.ptp(losses["in_turn"][2])
    for way in ("axis", "vmap"):
        np.testing.assert_allclose(losses[way], losses["in_turn"], rtol=1e-4)


def test_fewer_than_two_members_are_refused():
    with pytest.raises(UsageError, match="--members 1: give 2 or more"):
        members.measure_members(JOB, 1)


@pytest.mark.long
def test_each_way_runs_in_processes_of_its_own(monkeypatch):
    monkeypatch.setattr(members, "TURNS", 1)
    record = members.measure_members(JOB, 2)
    assert list(record["ways"]) == list(members.WAYS)
    for one in record["ways"].values():
        assert one["speed"] > 0 and len(one["seconds_all"]) == JOB.repeats and max(one["loss_error"]) < 1e-4
    assert "members, upcracknet, batch 2, 32 px" in page.lines(json.loads(json.dumps(record)))


def test_a_peer_finds_nothing_compiled_by_an_earlier_one(tmp_path):
    code = "import json, os; print(json.dumps({'cache': os.environ['TORCHINDUCTOR_CACHE_DIR']}))"
    found = sweeps._theirs([sys.executable, "-c", code], tmp_path / "empty")
    assert found["cache"] == str(tmp_path / "empty") and found["seconds"] > 0
    with pytest.raises(CracksError, match="exit code 3"):
        sweeps._theirs([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


FILE = """
from pathlib import Path

from cracks_jax.members import rows
from tests import tiny


def experiment(form):
    base = tiny.experiment(Path({cache!r}), steps=3, validate_every=2)
    return rows(base, {{"plain": {{}}, "mae": {{"training.loss_weights.adversarial": 0.0}}}})
"""


@pytest.mark.long
def test_a_whole_sweep_is_timed_beside_the_same_members_by_optuna_and_pytorch(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    file = tmp_path / "two.py"
    file.write_text(FILE.format(cache=str(tmp_path / "cache")))
    peer = [sys.executable, "-m", "tests.reference.sweep_torch"]
    record = sweeps.measure_sweep(f"{file}:smoke", [], {"optuna_eager": peer})
    theirs = record["peers"]["optuna_eager"]
    assert record["members"] == 2 and record["steps"] == 3
    assert theirs["members"].keys() == {"plain", "mae"} and all(map(np.isfinite, theirs["members"].values()))
    assert record["spent"]["step"] > 0 and theirs["spent"]["step"] > 0
    assert record["ratio"] == pytest.approx(theirs["seconds"] / record["seconds"])
    text = page.lines(json.loads(json.dumps(record)))
    assert "two.py:smoke" in text and "optuna_eager" in text

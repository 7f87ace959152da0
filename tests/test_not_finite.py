"""A number that is not finite never reaches the state: the run stops within one step, or leaves the step out."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax import train as story
from cracks_jax.methods import optimiser
from cracks_jax.methods.guard import FINITE, SKIPS_LEFT, guarded, names_of
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.runs import open_run
from cracks_jax.runtime.checkpoints import state_sha256
from cracks_jax.train import train
from cracks_jax.watch import NotFinite
from tests import tiny
from tests.conftest import forget_programs
from tests.tiny import quick_compile, short_trunk  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile", "short_trunk")
BAD = 3  # the step that goes wrong, from 1


def _when_bad(state, value):
    """`value` in step BAD, 0 in every other."""
    return jnp.where(state["step"] == BAD - 1, value, 0.0)


def _image(monkeypatch, value):
    for method in (Restoration, Segmentation):
        step = method.train_step

        def wrapped(self, state, batch, hyper, key, step=step):
            return step(self, state, {**batch, "image": batch["image"] + _when_bad(state, value)}, hyper, key)

        monkeypatch.setattr(method, "train_step", wrapped)


def _loss(monkeypatch, value):
    for method in (Restoration, Segmentation):
        step = method.train_step

        def wrapped(self, state, batch, hyper, key, step=step):
            new, metrics = step(self, state, batch, hyper, key)
            return new, {**metrics, "loss": metrics["loss"] + _when_bad(state, value)}

        monkeypatch.setattr(method, "train_step", wrapped)


def _gradient(monkeypatch, value):
    """In one array of the gradient that the optimiser gets (the discriminator's is the first of UP-CrackNet's two)."""
    original = optimiser.update

    def wrapped(tx, gradients, state, params, *rates):
        leaves, tree = jax.tree.flatten(gradients)
        (count,) = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
        leaves[0] = leaves[0] + jnp.where(count == BAD - 1, value, 0.0)
        return original(tx, jax.tree.unflatten(tree, leaves), state, params, *rates)

    monkeypatch.setattr(optimiser, "update", wrapped)


def _discriminator(monkeypatch, value):
    """The discriminator's update alone: the generator's step of that batch uses the spoilt discriminator."""
    original, calls = optimiser.update, []

    def wrapped(tx, gradients, state, params, *rates):
        first = not calls
        calls.append(1)
        params, state = original(tx, gradients, state, params, *rates)
        if first:
            leaves, tree = jax.tree.flatten(params)
            (count,) = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
            leaves[0] = leaves[0] + jnp.where(count == BAD, value, 0.0)
            params = jax.tree.unflatten(tree, leaves)
        return params, state

    monkeypatch.setattr(optimiser, "update", wrapped)


INJECTIONS = {"image": _image, "loss": _loss, "gradient": _gradient, "discriminator": _discriminator}
CASES = [
    *(("restoration", where, "nan") for where in INJECTIONS),
    ("segmentation", "image", "nan"),
    *(
        pytest.param(*case, marks=pytest.mark.long)
        for case in (
            ("segmentation", "loss", "nan"),
            ("segmentation", "gradient", "nan"),
            ("restoration", "gradient", "inf"),
        )
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def _experiment(cache, kind, steps=6, **settings):
    """Saves seldom, so that what is on disk after the stop was saved by the stop."""
    return tiny.experiment(cache, kind, schedule="constant", steps=steps, validate_every=100, **settings)


def _state_before(cache, kind, folder):
    """The digest after step BAD - 1, by the program that goes wrong later: another one would round differently."""
    return train(_experiment(cache, kind, steps=BAD - 1), folder)["state_sha256"]


@pytest.mark.parametrize(("kind", "where", "value"), CASES)
def test_the_run_stops_and_the_last_finite_state_is_on_disk(kind, where, value, cache, tmp_path, monkeypatch):
    INJECTIONS[where](monkeypatch, float(value))
    expected = _state_before(cache, kind, tmp_path / "before")
    run = tmp_path / "run"
    with pytest.raises(NotFinite, match=f"step {BAD}: not finite: .*nan_report.json .*training.skip_non_finite=N"):
        train(_experiment(cache, kind), run)
    step, state = open_run(run).state("last")
    assert step == BAD - 1 and state_sha256(state) == expected
    report = json.loads((run / "nan_report.json").read_text())
    assert report.keys() == {"step", "records", "loss_terms", "arrays", "images"} and report["step"] == BAD
    assert len(report["records"]) == len(report["images"]) == 4 and report["loss_terms"].keys() >= {"loss"}
    if where == "loss":
        assert report["arrays"] == [] and report["loss_terms"]["loss"] == value
    elif where == "discriminator":
        assert report["arrays"][0].startswith("discriminator/params/")
    else:
        assert report["arrays"]
    taken = [json.loads(line)["step"] for line in (run / "records.jsonl").read_text().splitlines()]
    assert taken == list(range(1, BAD)), "nothing of the bad step is on record"
    attempt = open_run(run).description["attempts"][-1]
    assert attempt["ended"] == "NotFinite"


def test_the_records_and_images_of_the_report_are_the_batchs(cache, tmp_path, monkeypatch):
    from cracks_jax.data.pipeline import batches
    from cracks_jax.training_data import open_training_data

    _loss(monkeypatch, math.nan)
    one = _experiment(cache, "restoration")
    with pytest.raises(NotFinite):
        train(one, tmp_path / "run")
    data = open_training_data(one)
    stream = batches(data.train, one.data.pipeline, batch_size=4, seed=one.seed, start=BAD - 1, steps=1)
    numbers = [int(number) for number in next(stream)["index"]]
    report = json.loads((tmp_path / "run" / "nan_report.json").read_text())
    assert report["records"] == numbers and report["images"] == [data.train.stems[number] for number in numbers]


def test_started_again_it_stops_at_the_same_step_and_mended_it_goes_on(cache, tmp_path, monkeypatch):
    one, run = _experiment(cache, "restoration"), tmp_path / "run"
    with monkeypatch.context() as patch:
        _gradient(patch, math.nan)
        for _ in range(2):
            with pytest.raises(NotFinite, match=f"step {BAD}"):
                train(one, run)
    forget_programs()
    whole = train(one, tmp_path / "whole")
    assert train(one, run) == whole


def test_an_option_leaves_the_step_out_and_counts(cache, tmp_path, monkeypatch):
    """The state after a skipped step is the one before it; what follows is trained on."""
    _gradient(monkeypatch, math.inf)
    expected = _state_before(cache, "restoration", tmp_path / "before")
    # The injection comes with the optimiser's own count, which stands still: every step from BAD on goes wrong.
    with pytest.raises(NotFinite, match=f"step {BAD + 2}"):
        train(_experiment(cache, "restoration", skip_non_finite=2), tmp_path / "run")
    step, state = open_run(tmp_path / "run").state("last")
    assert step == BAD + 1 and state_sha256(state) == expected
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert [(r["event"], r["step"]) for r in records] == [
        *(("train", step) for step in range(1, BAD)), ("skipped", BAD), ("skipped", BAD + 1),
    ]  # fmt: skip
    assert len(records[-1]["records"]) == 4 and records[-1]["arrays"]


@pytest.mark.parametrize("stop", [BAD - 1, BAD, BAD + 1])
def test_the_count_survives_a_stop(stop, cache, tmp_path, monkeypatch):
    """One bad batch at a given step, one skip allowed: with or without a stop before or after it, the same end."""
    from tests.reliability.bits import signal_before_step

    one = tiny.experiment(cache, schedule="poly", steps=6, validate_every=100, skip_non_finite=1)
    original, factor_there = story.hyper, one.training.rate_factor(1.0)(BAD - 1)

    def poisoned(experiment, factor, *skips):
        bad = {"mae": np.float32("nan")} if factor == factor_there else {}
        return {**original(experiment, factor, *skips), **bad}

    monkeypatch.setattr(story, "hyper", poisoned)
    whole = train(one, tmp_path / "whole")
    with signal_before_step(stop), pytest.raises(story.Stopped):
        train(one, tmp_path / "run")
    assert train(one, tmp_path / "run") == whole
    assert (tmp_path / "run" / "records.jsonl").read_text() == (tmp_path / "whole" / "records.jsonl").read_text()


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_the_guard_over_several_devices_keeps_every_copy(strategy, rng):
    from cracks_jax.runtime.parallel import Parallel, devices

    def step(state, batch, hyper, key):
        return {"w": state["w"] + batch["x"].mean() + hyper["poison"]}, {"loss": hyper["poison"]}

    parallel = Parallel(strategy, devices(2))
    program = parallel.compile(guarded(step))
    state, left = parallel.put_state({"w": np.zeros(3, np.float32)}), np.int32(1)
    for poison, expected in ((0.0, 1.0), (np.nan, 1.0), (0.0, 2.0), (np.inf, 2.0), (0.0, 2.0)):
        hyper = {"poison": np.float32(poison), SKIPS_LEFT: left}
        batch = parallel.put_batch({"x": np.ones((4, 2), np.float32)})
        state, metrics = program(state, batch, hyper, jax.random.key(0))
        left = metrics[SKIPS_LEFT]
        np.testing.assert_array_equal(parallel.get_state(state)["w"], np.full(3, expected, np.float32))
        assert bool(np.all(metrics[FINITE])) == np.isfinite(poison)
    assert int(left) == -1, "frozen for good once no skip is left"
    names = names_of({"w": np.zeros(3, np.float32), "n": np.int32(1)}, {"loss": np.float32(0), FINITE: 0})
    assert names == ["w", "loss"]


def test_a_rate_that_is_not_finite_is_a_step_that_is_not_finite(cache, tmp_path, monkeypatch):
    original = story.hyper
    monkeypatch.setattr(story, "hyper", lambda *a: {**original(*a), "learning_rate": np.float32("inf")})
    with pytest.raises(NotFinite, match="step 1"):
        train(_experiment(cache, "restoration"), tmp_path / "run")
    step, state = open_run(tmp_path / "run").state("last")
    assert step == 0 and all(np.isfinite(array).all() for array in tiny.leaves(state).values())
    shutil.rmtree(tmp_path / "run")

"""Traces: of the steps that were asked for, and with operations named as the modules and losses are."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cracks_jax import cli
from cracks_jax.command_line import parser
from cracks_jax.errors import CracksError
from cracks_jax.methods.detection import Detection
from cracks_jax.runtime.profile import profile
from tests import tiny
from tests.tiny import short_trunk  # noqa: F401


@pytest.fixture
def profiler(monkeypatch):
    """jax's profiler, writing down what it is told."""
    told = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: told.append(("start", folder)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append(("stop",)))
    return told


def test_the_steps_asked_for_are_traced_and_no_others(profiler, tmp_path):
    with profile(tmp_path / "trace", 5, 8) as after:
        for step in range(1, 12):
            profiler.append(step)
            after(jnp.ones(3))
    assert profiler == [1, 2, 3, 4, ("start", str(tmp_path / "trace")), 5, 6, 7, 8, ("stop",), 9, 10, 11]


def test_a_trace_ends_with_what_it_traces_even_by_an_error(profiler, tmp_path):
    with pytest.raises(KeyError), profile(tmp_path, 2, 8) as after:
        after()
        after()
        raise KeyError
    assert [told[0] for told in profiler] == ["start", "stop"]


def test_too_few_steps_are_said_and_without_a_folder_nothing_happens(profiler, tmp_path, capsys):
    with profile(None, 1, 2) as after:
        after()
    with profile(tmp_path, 5, 8) as after:
        after()
    assert profiler == []
    assert capsys.readouterr().err == "--profile traces from step 5 on, and there were 1: nothing was traced\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CracksError, match="file: cannot be written .*--profile"), profile(tmp_path / "file", 1, 2):
        pass


def test_the_real_profiler_leaves_a_trace(tmp_path):
    with profile(tmp_path / "trace", 2, 3) as after:
        for _ in range(4):
            after(jnp.ones(3) + 1)
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


SCOPES = {
    "upcracknet": (
        tiny.restoration,
        ["Generator/enc1/conv", "Generator/dec2/norm", "Discriminator/layer3/conv",
         "mae", "ssim", "msgms_loss", "generator_loss", "discriminator_loss", "optimiser"],
        ["Generator/enc1/conv", "Generator/dec2/norm"],
    ),
    "crackseg": (
        tiny.crackseg,
        ["resnet/block1/unit1/conv1", "upsampling_module", "classifier", "cross_entropy", "optimiser"],
        ["resnet/block1/unit1/conv1", "upsampling_module", "classifier"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCOPES)
def test_operations_are_named_by_module_and_loss(rng, short_trunk, name):  # noqa: F811
    """In the lowered programs, from where compiler and profiler take their names."""
    make, in_step, in_score = SCOPES[name]
    method, key = make(), jax.random.key(0)
    batch = tiny.batch(rng)
    state = jax.eval_shape(lambda k: method.init(k, batch), key)
    step = jax.jit(method.train_step).lower(state, batch, tiny.hyper(), key)
    score = jax.jit(lambda s, x: method.score(s, x, key, Detection())).lower(state, batch["image"])
    for lowered, expected in ((step, in_step), (score, in_score)):
        places = re.findall(r'loc\("(jit\([^"]*)"', lowered.as_text(debug_info=True))
        names = {re.sub(r"(jit|jvp|transpose)\(|\)", "", place) + "/" for place in places}
        for scope in expected:
            assert any(f"/{scope}/" in name for name in names), scope


@pytest.mark.parametrize("verb", ["evaluate", "detect"])
def test_the_flag_of_evaluate_and_detect_follows_the_networks_calls(verb, profiler, tmp_path):
    calls = SimpleNamespace(after_call=None)
    scoring = SimpleNamespace(scorer=SimpleNamespace(calls=calls))
    arguments = {"evaluate": ["RUN", "--data", "x"], "detect": ["x", "--out", "o", "--run", "RUN"]}[verb]
    options = parser().parse_args([verb, *arguments, "--profile", str(tmp_path)])
    with cli._profiled_calls(options.profile, scoring):
        for _ in range(9):
            calls.after_call()
    assert [told[0] for told in profiler] == ["start", "stop"]

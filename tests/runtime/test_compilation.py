"""Compiled programs outlive the process: where they are kept, and that a second start reads them."""

import os
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cracks_jax import cli
from cracks_jax.runtime.compilation import SHORTEST, USER, keep_compiled, one_process_at_a_time, user_folder
from cracks_jax.train import train
from tests import tiny
from tests.conftest import forget_programs
from tests.tiny import quick_compile  # noqa: F401

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def untold(monkeypatch, tmp_path):
    """As in a process that nobody told where to keep programs, with a home of its own."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def heard():
    """The events of jax's compilation cache, by their last name, as they come."""
    events, listening = [], [True]  # jax has no public way to take a listener away again

    def listen(event, **_):
        if listening and event.startswith("/jax/compilation_cache/"):
            events.append(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(listen)
    yield events
    listening.clear()


def told():
    return jax.config.values["jax_compilation_cache_dir"]


def test_by_default_programs_are_kept_in_the_users_cache_folder(untold, tmp_path, monkeypatch):
    assert keep_compiled() == tmp_path / ".cache" / "cracks_jax" / "compiled" == user_folder()
    assert told() == str(user_folder()) and user_folder().is_dir()
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == SHORTEST
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert user_folder() == tmp_path / "elsewhere" / "cracks_jax" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_folder() == tmp_path / ".cache" / "cracks_jax" / "compiled"


def test_a_path_moves_it_and_none_disables_it(untold, tmp_path):
    assert keep_compiled(str(tmp_path / "here")) == tmp_path / "here"
    assert told() == str(tmp_path / "here")
    assert keep_compiled(None) is None and told() is None
    assert not user_folder().exists()


def test_what_jax_was_told_stays_unless_a_setting_says_otherwise(untold, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    assert keep_compiled() == tmp_path / "told" and not user_folder().exists()
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 7
    assert keep_compiled(str(tmp_path / "set")) == tmp_path / "set"


def test_a_place_that_cannot_be_written_is_one_line_and_nothing_else(untold, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    for place in (str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        assert keep_compiled(place) is None and told() is None
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        assert f"compiled programs are not kept: {place}: cannot be written" in said.err


def test_the_second_start_of_a_training_reads_every_program(quick_compile, untold, tmp_path, heard, monkeypatch):  # noqa: F811
    """Witness: jax's own events. How long a program took to compile is left out of it."""
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    keep_compiled(str(tmp_path / "kept"))
    seen = []
    for run in ("first", "second"):
        forget_programs()  # what a training keeps for the next one of its process, and what jax does
        jax.clear_caches()
        heard.clear()
        train(tiny.experiment(tmp_path / "cache", steps=1, validate_every=1), tmp_path / run)
        seen.append({name: heard.count(name) for name in ("cache_hits", "cache_misses")})
    assert seen[0]["cache_misses"] == len(list((tmp_path / "kept").glob("*-cache"))) >= 2
    assert seen[1]["cache_hits"] >= seen[0]["cache_misses"] and seen[1]["cache_misses"] == 0


HOLDS = """
import sys, time
import jax
from cracks_jax.runtime.compilation import one_process_at_a_time

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
with one_process_at_a_time("this one"):
    print("held", flush=True)
    sys.stdin.readline()
    time.sleep(0.3)
    open(sys.argv[1] + "/written", "w").close()
"""


def test_a_process_waits_for_another_that_compiles_the_same_program_and_for_no_other(untold, tmp_path):
    keep_compiled(str(tmp_path))
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with one_process_at_a_time("another one"):
        pass
    assert not (tmp_path / "written").exists() and other.poll() is None
    other.stdin.write("go on\n")
    other.stdin.flush()
    with one_process_at_a_time("this one"):
        assert (tmp_path / "written").exists()
    other.communicate()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "nowhere"))
    with one_process_at_a_time("this one"):  # a folder that is not there
        pass


def test_every_verb_that_compiles_keeps_its_programs_and_a_setting_reaches_training(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("cracks_jax.runtime.compilation.keep_compiled", lambda place=USER: asked.append(place))
    monkeypatch.setattr("cracks_jax.train.train", lambda *_: {})
    monkeypatch.setattr("cracks_jax.quickstart.quickstart", lambda out: "")
    file = tmp_path / "one.py"
    file.write_text("from pathlib import Path\nfrom tests import tiny\n\n\ndef experiment(form):\n"
                    "    return tiny.experiment(Path('cache'))\n")  # fmt: skip
    assert cli.main(["train", str(file)]) == 0
    assert cli.main(["train", str(file), "--set", "machine.compilation_cache=none"]) == 0
    assert cli.main(["train", str(file), "--set", "machine.compilation_cache=there"]) == 0
    assert cli.main(["quickstart", "--out", str(tmp_path / "quick")]) == 0
    assert cli.main(["detect", "--method", "darkness", "none.png", "--out", str(tmp_path / "out")]) == 1
    assert asked == [USER, None, "there", USER, USER]


def test_a_command_in_a_process_of_its_own_fills_the_users_folder_and_no_other(tmp_path):
    """The command as a user starts it, in a home of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "XDG_"))} | {
        "HOME": str(tmp_path),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    code = (
        "import jax, jax.numpy as jnp, sys\nfrom cracks_jax.runtime.compilation import keep_compiled\nkeep_compiled()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "events = []\njax.monitoring.register_event_listener(lambda e, **_: events.append(e))\n"
        "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()\n"
        "print(sum('cache_hits' in e for e in events), sum('cache_misses' in e for e in events))\n"
    )
    counts = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        counts.append([int(word) for word in done.stdout.split()])
    assert counts[0][0] == 0 and counts[0][1] > 0
    assert counts[1][0] == counts[0][1] and counts[1][1] == 0
    assert list((tmp_path / ".cache" / "cracks_jax" / "compiled").iterdir())

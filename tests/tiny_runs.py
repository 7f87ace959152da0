"""The command line as tests call it, and two tiny runs that are trained through it once per session."""

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest

from cracks_jax import cli
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.networks.backbones import resnet

# One file, two families: a table whose members are those of tests/tiny.py.
FILE = """
from pathlib import Path

from tests import tiny


def experiment(form):
    cache = Path(__file__).with_name("cache")
    return {kind: tiny.experiment(cache, kind) for kind in ("restoration", "segmentation")}
"""
QUICK = (
    "jax_disable_most_optimizations",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """All of standard output, which must be one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def last(self) -> dict[str, Any]:
        """The last line of standard output as JSON."""
        return json.loads(self.out.strip().splitlines()[-1])

    def ok(self) -> "Answer":
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self

    def refused(self, code: int, *parts: str) -> "Answer":
        """One message on standard error, no traceback, that holds every part; no result was printed."""
        assert self.code == code, (self.code, self.err)
        assert "Traceback" not in self.err and self.out == ""
        messages = [line for line in self.err.splitlines() if line.startswith("cracks-jax: ")]
        assert len(messages) == 1, self.err
        for part in parts:
            assert part in messages[0], messages[0]
        return self


def command(*arguments: object) -> Answer:
    """One command in this process. argparse leaves by SystemExit, as it would leave the real process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def start(*arguments: object, program: Sequence[str] = ("-m", "cracks_jax.cli")) -> subprocess.Popen:
    """The same command in a process of its own, from the repository's root, compiled as here (`quick_compile`)."""
    quick = {name.upper(): str(jax.config.values[name]) for name in QUICK if jax.config.values[name] is not None}
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **quick},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> Answer:
    out, err = process.communicate(timeout=240)
    return Answer(process.returncode, out, err)


class Runs:
    """The two runs, each trained when a test first asks for it.

    A test that asks for a run must use `quick_compile`; one that asks for CrackSeg's also `short_trunk`, because the
    run is opened with the trunk that it was trained with.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "tiny.py"
        self.file.write_text(FILE)

    @functools.cached_property
    def restoration(self) -> Path:
        return self._train("restoration")

    @functools.cached_property
    def segmentation(self) -> Path:
        assert resnet.UNITS[50] == (1, 1, 1, 1), "use the fixture short_trunk"
        return self._train("segmentation")

    def drawn(self, run: Path) -> Path:
        """The drawn data set that a run was trained on; both runs share it."""
        assert run.is_dir()
        (found,) = (self.folder / "cache").glob("drawn-*")
        return found

    def _train(self, member: str) -> Path:
        run = self.folder / member
        (self.folder / f"{member}.json").write_text(
            command("train", f"{self.file}:smoke", "--member", member, "--run", run).ok().out
        )
        return run


@functools.cache
def runs() -> Runs:
    return Runs(Path(_session_folder().name) / "runs")


@functools.cache
def _session_folder() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="cracks-jax-tests-")
    (Path(folder.name) / "runs").mkdir()
    return folder


@functools.cache
def pavements() -> Path:
    """A drawn data set, wider than high: train and test with masks, undamaged without."""
    folder = Path(_session_folder().name) / "pavements"
    draw_dataset(folder, train=5, test=3, undamaged=3, size=(48, 64))
    return folder


@pytest.fixture
def photo() -> Path:
    """One drawn photograph."""
    return sorted((pavements() / "test" / "images").iterdir())[0]


@pytest.fixture
def labelled(tmp_path):
    """A copy of three labelled pavements, to be broken."""
    shutil.copytree(pavements() / "test", tmp_path / "roads")
    return tmp_path / "roads"


def first(folder: Path) -> Path:
    return sorted(folder.iterdir())[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

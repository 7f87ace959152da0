"""A sweep on a real Ray cluster of this machine: two worker processes, one of which is killed in mid-training."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cracks_jax import cli
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import UsageError
from cracks_jax.launch import on_ray
from cracks_jax.launch.board import Board
from cracks_jax.launch.job import Job
from cracks_jax.surroundings import cores
from tests import tiny

# Data by a name that only $CRACKS_DATA explains, with nothing to score on; `bad` has no data at all.
FILE = """
import dataclasses
from pathlib import Path

from tests import tiny


def experiment(form):
    one = tiny.experiment(Path("cache"), steps=40, validate_every=40)
    one = tiny.with_machine(one, checkpoint_every=4)
    data = dataclasses.replace(one.data, name="mine", recipe_settings={})
    one = dataclasses.replace(one, data=data)
    bad = dataclasses.replace(one, data=dataclasses.replace(data, name="nowhere"))
    return {"a": one, "b": dataclasses.replace(one, seed=1), "bad": bad}
"""
REPOSITORY = Path(__file__).parents[2]
_LONGEST = 800.0  # seconds to wait for a process on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The experiment file and its data."""
    place = tmp_path_factory.mktemp("ray")
    draw_dataset(place / "drawn", seed=0, train=1, test=1, undamaged=10, size=(48, 48))
    shutil.copytree(place / "drawn" / "undamaged", place / "data" / "mine" / "undamaged")
    (place / "table.py").write_text(FILE)
    return place


@pytest.fixture(scope="module")
def environment(folder):
    """Of a sweep's process and whatever it starts; Ray's sockets need a short path."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cracks-jax[ray]'")
    short = tempfile.mkdtemp(prefix="ray-")
    yield {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "CRACKS_DATA": "data",  # as seen from where the sweep is started
        "HOME": short,
        "RAY_TMPDIR": short,
        "RAY_ADDRESS": "local",
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="module")
def solo(folder, environment):
    """`a` trained alone, with as many threads as its share of the cluster; what it compiled, the others read."""
    done = subprocess.run(
        [sys.executable, "-m", "cracks_jax.cli", "train", "table.py:smoke", "--member", "a", "--run", "solo"],
        cwd=folder,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        capture_output=True,
        text=True,
        timeout=_LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def start(folder, environment):
    """Starts a sweep; one that a failed test leaves is ended, and its cluster with it."""
    started = []

    def one(only: str, *more: str) -> _Sweep:
        started.append(_Sweep(folder, environment, only, *more))
        return started[-1]

    yield one
    for sweep in started:
        if sweep.process.poll() is None:
            sweep.process.terminate()
            sweep.process.wait(_LONGEST)


class _Sweep:
    def __init__(self, folder: Path, environment: dict[str, str], only: str, *more: str):
        words = ["sweep", "table.py:smoke", "--out", "out", "--launcher", "ray", "--jobs", "2", "--only", only, *more]
        self.out = folder / "out"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cracks_jax.cli", *words],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, member: str) -> Path | None:
        return next(self.out.glob(f"*-{member}-*"), None)

    def saved(self, member: str) -> bool:
        """Whether a member has a checkpoint to go on from, and steps to take."""
        run = self.run(member)
        if run is None or (run / "metrics.json").exists():
            return False
        return any(path.name.isdecimal() for path in (run / "checkpoints").glob("*"))

    def worker(self, member: str) -> int:
        said = (self.out / "logs" / f"{member}.log").read_text()
        return int(said.rpartition(f"{member}: process ")[2].split()[0])

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + _LONGEST
        while not reached():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)

    def ended(self) -> tuple[int, str, str]:
        out, said = self.process.communicate(timeout=_LONGEST)
        return self.process.returncode, out, said


def _attempts(run: Path) -> list[dict]:
    return json.loads((run / "experiment.json").read_text())["attempts"]


def _steps(run: Path) -> list[int]:
    lines = map(json.loads, (run / "records.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["event"] == "train"]


def _metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.skipif(cores() < 2, reason="two workers at a time need two cores")
@pytest.mark.timeout(1200)
def test_a_worker_that_is_killed_costs_its_member_nothing_but_time(solo, start, environment):
    """Witness: the member trained alone, with as many threads as its share of the cluster."""
    sweep = start("[ab]")
    sweep.until(lambda: sweep.saved("a") and bool(sweep.run("b")))
    killed, other = sweep.worker("a"), sweep.worker("b")
    os.kill(killed, signal.SIGKILL)
    code, table, said = sweep.ended()
    assert code == 0, said
    assert killed != other
    assert "a: waiting: its worker was lost (WorkerCrashedError); tried again, 1 of 3" in said and "a: done" in said
    a, b = sweep.run("a"), sweep.run("b")
    assert sweep.worker("a") != killed and sweep.worker("b") == other
    first, second = _attempts(a)
    assert "ended" not in first and second["from_step"] >= 4 and second["ended"] == "finished"
    assert len(_attempts(b)) == 1 and [one["threads"] for one in (first, second, *_attempts(b))] == [1, 1, 1]
    assert _steps(a) == list(range(1, 41))
    assert _metrics(a)["state_sha256"] == solo["state_sha256"]

    # Nothing of Ray's own reaches the terminal, and the cluster that was begun has ended.
    assert [line for line in table.splitlines() if line.startswith("| a ")] and "aylet" not in table
    assert all(line.startswith(("2 members:", "a: ", "b: ")) for line in said.splitlines()), said
    assert "A worker died or was killed" in (sweep.out / "logs" / "ray.log").read_text()
    assert not (sweep.out / on_ray._TOKEN).exists()
    assert not [one for one in _commands() if environment["RAY_TMPDIR"] in one and "gcs_server" in one]


def _commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended in the meantime
    return found


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_sweep_told_to_stop_goes_on_and_a_member_that_fails_stops_no_other(solo, start, folder):
    shutil.rmtree(folder / "out", ignore_errors=True)
    # The sweep hears a signal within a second: there must be steps left to take by then.
    more = "--set", "training.steps=120", "training.validate_every=120"
    sweep = start("*a*", *more)
    sweep.until(lambda: sweep.saved("a"))
    sweep.process.terminate()
    code, _, said = sweep.ended()
    assert code == 75 and "a: stopped" in said and "bad: failed: data set 'nowhere'" in said, said
    run = sweep.run("a")
    first = _attempts(run)[0]
    assert first["ended"] == "signal" and first["saved_step"] == first["to_step"]

    again = start("*a*", *more)
    code, _, said = again.ended()
    assert code == 1 and "a: done" in said and "bad failed: data set 'nowhere'" in said, said
    first, second = _attempts(run)
    assert second["from_step"] == first["to_step"] and second["ended"] == "finished"
    assert _steps(run) == list(range(1, 121))


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A member as a task, called in this process; it would be trained to `run`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    token = tmp_path / "out" / on_ray._TOKEN
    token.parent.mkdir()
    token.write_text("this sweep")
    there = on_ray._There(tmp_path, (token, "this sweep"), tmp_path / "logs", {})
    return Job("one", tiny.experiment(tmp_path / "cache"), tmp_path / "run"), there


def test_a_worker_without_the_sweeps_folder_says_so_and_trains_nothing(task):
    job, there = task
    there.token[0].write_text("another sweep, of this machine's own disk")
    for change in (lambda: None, there.token[0].unlink):
        change()
        answer = on_ray._task(job, there)
        assert answer["state"] == "failed" and not job.folder.exists()
        assert answer["words"].startswith(f"{there.token[0].parent}: a machine of the cluster does not see this folder")
        assert "disk that all of them share" in answer["words"]


def test_a_worker_without_the_folder_that_the_sweep_was_started_in_says_so(task, tmp_path):
    job, there = task
    elsewhere = on_ray._There(tmp_path / "gone", there.token, there.logs, {})
    assert on_ray._task(job, elsewhere)["words"].startswith(f"{tmp_path / 'gone'}: a machine of the cluster")


def test_members_of_one_machine_have_cores_of_their_own_while_there_are_enough(tmp_path, monkeypatch):
    """Also after one has ended: what it had is free again. A lock is another's where another opened the file."""
    taken = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 8})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, part: taken.append(part))

    def member() -> list:
        monkeypatch.setattr(on_ray, "_part", [])
        on_ray._keep_to_cores(2)
        on_ray._keep_to_cores(2)  # its process's second member keeps what the first one had
        return on_ray._part

    held = [member() for _ in range(3)]
    assert taken[:2] == [[2, 3], [5, 7]] and len(taken) >= 3 and all(len(part) == 2 for part in taken)
    assert held[2] == []
    held[0][0].close()
    member()[0].close()
    assert taken[-1] == [2, 3]
    held[1][0].close()


def test_a_worker_with_another_version_says_so(task):
    job, there = task
    other = on_ray._There(there.folder, there.token, there.logs, {}, version="0.0.1")
    assert "a worker has cracks-jax" in on_ray._task(job, other)["words"]


@pytest.mark.parametrize(
    ("machines", "jobs", "options", "threads"),
    [
        ([{"CPU": 8.0}, {"CPU": 8.0}], None, {"num_cpus": 8}, 8),
        ([{"CPU": 8.0}, {"CPU": 8.0}], 3, {"num_cpus": 4}, 4),
        ([{"CPU": 2.0}], 2, {"num_cpus": 1}, 1),
        ([{"CPU": 2.0}], 5, {"num_cpus": 1}, 1),
        ([{"CPU": 0.0}, {"CPU": 4.0}], None, {"num_cpus": 4}, 4),
        ([{"CPU": 9.0, "GPU": 4.0}, {"CPU": 64.0}], None, {"num_gpus": 1, "num_cpus": 1, "max_calls": 1}, None),
        ([{"GPU": 4.0}, {"GPU": 4.0}], 2, {"num_gpus": 4, "num_cpus": 1, "max_calls": 1}, None),
        ([{"GPU": 4.0}, {"GPU": 4.0}], 3, {"num_gpus": 2, "num_cpus": 1, "max_calls": 1}, None),
        ([{"TPU": 4.0}], None, {"resources": {"TPU": 1}, "num_cpus": 1, "max_calls": 1}, None),
    ],
)
def test_a_member_takes_an_accelerator_or_its_part_of_the_processors(machines, jobs, options, threads):
    found = on_ray.share(machines, jobs)
    assert (found.options, found.at_once, found.threads) == (options, jobs, threads)


@pytest.mark.parametrize(("machines", "jobs"), [([{"GPU": 2.0}], 3), ([{"CPU": 2.0}], 0)])
def test_more_members_at_a_time_than_devices_are_refused(machines, jobs):
    with pytest.raises(UsageError, match=f"--jobs {jobs}"):
        on_ray.share(machines, jobs)


def test_without_ray_the_command_names_the_remedy(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("CRACKS_DATA", str(folder / "data"))
    command = ["sweep", f"{folder / 'table.py'}:smoke", "--only", "a", "--launcher", "ray", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "cracks-jax: --launcher ray needs Ray: pip install 'cracks-jax[ray]', or leave --launcher out"


def test_an_address_without_a_cluster_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cracks-jax[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    job = Job("one", tiny.experiment(tmp_path), tmp_path / "run")
    with pytest.raises(on_ray.CracksError, match="RAY_ADDRESS=127.0.0.1:1: there is no Ray cluster"):
        on_ray.run_on_ray([job], None, tmp_path, Board([job]))

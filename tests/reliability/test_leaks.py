"""The short form of the leaks, and proof that they are seen."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from grain._src.python.dataset.transformations import process_prefetch

from tests.reliability import leaks
from tests.reliability.children import REPOSITORY

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells of other processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("leaks")


@pytest.mark.timeout(1200)
def test_a_training_gives_back_what_it_took(folder):
    found = leaks.measure(folder, 200, quick=True)
    # So early buffers are still being filled: 2,000 steps may take 50 MB.
    assert found["growth_mb"]["all"] < 60, found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["killed", "stopped, twice"])
def test_nothing_outlives_a_training(folder, way):
    """Processes have longer here than the 10 s that are measured: tests run on busy machines."""
    found = leaks.orphans(folder, 1, ways=(way,), within=60, quick=True)
    assert found["wrong"] == [] and found["by_way"][way]["processes"] == 4  # two workers, and who unlinks semaphores


# As grain's worker: told to stop, it still has a message that a pipe has no room for.
WORKER = """
import multiprocessing, sys
from cracks_jax.data.workers import begin_worker


def work(buffer, should_stop, begin):
    if begin:
        begin_worker(0, 1)
    should_stop.wait()
    buffer.put(bytes(2**20))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    given = {"buffer": context.Queue(2), "should_stop": context.Event()}
    worker = context.Process(target=work, kwargs={**given, "begin": sys.argv[1] == "begun"})
    worker.start()
    given["should_stop"].set()
    worker.join(float(sys.argv[2]))
    print(worker.exitcode, given["buffer"].empty())
    worker.kill()
"""


@pytest.mark.parametrize(("begun", "seconds", "ended"), [("begun", 60, "0 True"), ("as it is", 3, "None False")])
def test_a_worker_does_not_wait_for_a_reader_that_has_closed(tmp_path, begun, seconds, ended):
    (tmp_path / "worker.py").write_text(WORKER)
    words = [sys.executable, str(tmp_path / "worker.py"), begun, str(seconds)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, timeout=120)
    assert done.stdout.decode().strip() == ended, done.stderr.decode()
    given = inspect.signature(process_prefetch._put_dataset_elements_in_buffer).parameters
    assert {"buffer", "should_stop"} <= given.keys()  # what begin_worker looks for


# Writes what a training writes, keeps some MB a step, and its worker does not look after it.
BARE = """
import json, multiprocessing, sys, time

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    semaphore = context.Semaphore(1)
    worker = context.Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    kept = []
    with open(sys.argv[1], "w", buffering=1) as records:
        for step in range(1, 101):
            kept.append(b"x" * 2**20)
            records.write(json.dumps({"event": "train", "step": step}) + "\\n")
            time.sleep(0.03)
"""


@pytest.fixture
def bare(tmp_path):
    (tmp_path / "bare.py").write_text(BARE)
    words = [sys.executable, str(tmp_path / "bare.py"), str(tmp_path / "records.jsonl")]
    with subprocess.Popen(words, start_new_session=True) as process:
        yield process
        process.kill()


def test_the_harness_sees_memory_that_is_kept(tmp_path, bare):
    samples = leaks.watch(bare, tmp_path / "records.jsonl", every=0.02)
    found = leaks.growth(samples, 100)
    assert found["trainer"] == pytest.approx(70, abs=10) and abs(found["workers"]) < 10


def test_the_harness_sees_a_worker_and_semaphores_that_are_left_behind(tmp_path, bare):
    before = leaks.shared()
    while not (tmp_path / "records.jsonl").exists():
        assert bare.poll() is None
    bare.kill()
    bare.wait()
    _, left = leaks.left_behind(bare.pid, before, within=0.5)
    assert sorted(name.split("multiprocessing.")[1][:16] for name in left) == ["resource_tracker", "spawn import spa"]
    assert leaks.left_behind(bare.pid, before, within=60)[1] == []  # what is left is ended


def test_the_harness_sees_shared_memory_that_nobody_owns():
    before = leaks.shared()
    stray = Path("/dev/shm") / f"stray-{os.getpid()}"
    stray.touch()
    try:
        assert stray.name in leaks.left_behind(os.getpid() + 2**23, before, within=0.1)[1]
    finally:
        stray.unlink()

"""Peers that fail, differ or run: each is on record; what cannot fit is refused before it is compiled."""

import numpy as np
import pytest

from cracks_jax.benchmark import machine, program, reading, workloads
from cracks_jax.benchmark.contenders import Offer, Peers, reason, relative_error
from cracks_jax.benchmark.job import Job
from cracks_jax.errors import CracksError
from tests.benchmark.quick import quick_benchmark  # noqa: F401
from tests.tiny import quick_compile  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile", "quick_benchmark")


class Constant:
    """A peer that answers one half everywhere."""

    def place(self, batch):
        return batch["image"]

    def run(self, placed):
        return np.full_like(placed, 0.5)


def _broken():
    raise OSError("no such library: /srv/somewhere/lib/thing.so\nand more lines")


OWN_CACHE = program._own_cache
JOB = Job("infer", "upcracknet", batch=1, size=32, repeats=2, narrow=16)


def test_a_peer_that_fails_or_differs_is_on_record_and_not_timed():
    peers = Peers({}, [Offer("broken", _broken), Offer("other", Constant)])
    record = workloads.infer(JOB, lambda job: peers)
    assert record["peers"]["broken"] == {"missing": "OSError: no such library: thing.so"}
    assert record["peers"]["other"]["missing"].startswith("its output differs from ours by")
    assert record["ratio"] is None and "seconds" not in record["peers"]["other"]
    assert len(record["seconds_all"]) == 2


def test_ours_alone_is_a_whole_record(monkeypatch):
    monkeypatch.setattr(program, "_own_cache", OWN_CACHE)
    record = workloads.infer(JOB)
    assert record["seconds"] > 0 and record["images_per_second"] == pytest.approx(1 / record["seconds"])
    expected = record["gflop_per_image"]["hand"] / record["seconds"] / record["matrix_gflops"]["float32"]
    assert record["matrix_share"] == pytest.approx(expected)
    assert record["compile_seconds"]["cold"] > record["compile_seconds"]["warm"] > 0
    assert record["memory"]["process_peak"] >= record["memory"]["process_peak_ours_alone"] > 0
    assert "peers" not in record


def test_too_little_memory_is_said_before_compiling_with_a_batch_that_fits(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 2**20)
    with pytest.raises(CracksError, match=r"step of upcracknet needs at least .* GiB of memory, .* use --batch \d+ or"):
        workloads.step(Job("step", "upcracknet", batch=64, size=32, narrow=16))
    with pytest.raises(CracksError, match="use a smaller --size"):
        workloads.step(Job("step", "upcracknet", batch=1, size=256))


def test_memory_that_runs_out_is_one_message_and_other_errors_are_not_hidden():
    def run_out():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nmore")

    with pytest.raises(CracksError, match="step: memory ran out .* use a smaller --batch or --size"):
        workloads.run(run_out, "step")
    with pytest.raises(RuntimeError, match="a bug"):
        workloads.run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")), "step")


def test_reasons_hold_one_line_and_no_path():
    assert reason(ValueError("bad /data/me/x/model.onnx here\nand there")) == "ValueError: bad model.onnx here"
    assert reason(MemoryError()) == "MemoryError"


def test_the_error_is_relative_to_the_largest_value():
    assert relative_error([1.0, 3.0], [1.0, 4.0]) == 0.25
    assert relative_error([1.0], [1.0, 2.0]) == relative_error([np.nan], [1.0]) == float("inf")


def test_workers_are_planned_for_less_than_five_percent_of_waiting():
    """100 images/s from cores that give 10 each: ten would never wait, 9.5 wait for 5 %."""
    workers = reading.plan(100.0, {"decoding": 10.0, "cached": 1000.0, "unknown": None})["workers"]
    assert workers == {"decoding": 10, "cached": 1, "unknown": None}
    assert reading.plan(100.0, {"decoding": 9.5})["workers"]["decoding"] == 10


@pytest.mark.parametrize("fake", [True, False])
def test_training_fed_says_which_share_of_its_steps_it_waits(fake):
    job = Job("pipeline", "upcracknet", batch=2, size=32, repeats=3, narrow=16)
    record = reading.train_fed(job, "drawn", workers=0, fake=fake)
    assert len(record["seconds_all"]) == len(record["waiting_seconds_all"]) == 3
    waited = sum(record["waiting_seconds_all"]) / sum(record["seconds_all"])
    assert record["waiting_share"] == pytest.approx(waited) and 0 <= waited < 1
    assert (record["data"] is None) == fake and ("compute" in record) == (not fake)

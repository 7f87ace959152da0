"""`input` and `pipeline`: the data pipeline alone, and training steps fed by it.

Decoding is measured twice: `decoding` decodes every image anew (files are in the system's cache after the warm-up),
`cached` has every decoded image in memory already.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cracks_jax.benchmark import clock, flops, machine, ours
from cracks_jax.benchmark.job import Job
from cracks_jax.benchmark.workloads import compute, head, prepare, say
from cracks_jax.data.datasets import Dataset, open_dataset, parse_spec
from cracks_jax.data.elements import Pipeline
from cracks_jax.data.pipeline import batches
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import UsageError
from cracks_jax.surroundings import cores, peak_memory

DRAWN = "drawn"  # the data set that needs no download, as training names it
# Waiting that a pipeline is planned for, as a share of a step.
WAITING = 0.05
_PICTURES = 48
_CACHE_MB = 4096
_UNTIMED = 8


def pipeline_settings(job: Job) -> Pipeline:
    """The paper form's, at the job's size: UP-CrackNet resizes by 286/256 and removes squares, CrackSeg enlarges."""
    if job.restores:
        return Pipeline(crop=job.size, resize=round(job.size * 286 / 256), corruption="squares")
    return Pipeline(crop=job.size, scale=(1.0, 2.0), flip_vertical=True)


def read_input(job: Job, data: str, *, workers: int, target_rate: float | None) -> dict[str, Any]:
    """The pipeline alone: seconds of a batch and images per second, decoding anew and from decoded images.

    Args:
      data: `drawn`, or NAME_OR_PATH[:SPLIT].
      workers: processes that decode; 0 decodes in this process.
      target_rate: images per second of a training that must not wait; None plans for no rate.
    """
    _check_workers(workers)
    prepare(job)
    with _opened(job, data) as dataset:
        ways = {
            way: _reading(job, dataset, workers, cached=way == "cached") for way in ("decoding", "cached")
        }
        record = {**head(job), "data": dataset.label, "images": len(dataset), "workers": workers, **ways["decoding"]}
    record |= {"cached": ways["cached"], "process_peak": peak_memory()}
    if target_rate is not None:
        rates = {way: found["images_per_second_per_core"] for way, found in ways.items()}
        record["plan"] = plan(target_rate, rates)
    return record


def plan(target_rate: float, per_core: dict[str, float | None]) -> dict[str, Any]:
    """Workers, one core each, with which a training of `target_rate` images per second waits less than WAITING.

    A pipeline of w workers gives w r images per second; a training that could take more waits for the share
    1 - w r / target of its time. Linear in the workers, so it holds up to the machine's cores.
    """
    needed = {
        way: None if rate is None else max(1, math.ceil((1 - WAITING) * target_rate / rate))
        for way, rate in per_core.items()
    }
    return {"target_images_per_second": target_rate, "waiting": WAITING, "workers": needed, "cores": cores()}


def train_fed(job: Job, data: str, *, workers: int, fake: bool) -> dict[str, Any]:
    """Real training steps: their time, and the share of it spent in waiting for the next batch.

    The loop is training's: a batch is asked for while the step before is under way, so `waiting_share` is an upper
    bound of the time in which the device has nothing to do. The same steps on batches that lie in memory (`compute`)
    show what input costs beside waiting: on a CPU it takes cores from the step. With `fake` there is nothing else.
    """
    _check_workers(workers)
    prepare(job)
    say(f"{job.label}: compiling")
    step = ours.Step(job, {})
    machine.demand_memory(f"pipeline of {job.system}", step.program.memory.get("total", 0), job.batch)
    step.start()
    memory = [ours.draw_batch(job, number) for number in range(4)]
    say(f"{job.label}: {job.repeats} steps on batches in memory")
    took, waits = _steps(step, itertools.cycle(memory), job)
    record = {**head(job), "data": None, "workers": 0, "fake_data": fake}
    if not fake:
        compute_only = clock.summary(took)
        with _opened(job, data) as dataset, contextlib.closing(_stream(job, dataset, workers, _CACHE_MB)) as stream:
            say(f"{job.label}: {job.repeats} steps on {dataset.label}")
            took, waits = _steps(step, _named(stream, memory[0]), job)
            record |= {"data": dataset.label, "workers": workers}
        record["compute"] = {**compute_only, "images_per_second": job.batch / compute_only["seconds"]}
    times = clock.summary(took)
    record |= {**times, **compute(step.program, flops.step_gflop(job), job, times["seconds"])}
    record |= {"waiting_seconds_all": waits, "waiting_share": sum(waits) / sum(took)}
    if not fake:
        record["input_cost"] = 1 - record["compute"]["seconds"] / times["seconds"]
    return record


def _steps(step: ours.Step, stream: Iterator[dict[str, np.ndarray]], job: Job) -> tuple[list[float], list[float]]:
    """Seconds of each timed step, and of them waiting; the step before is looked at while one runs, as in training."""
    took, waits, pending = [], [], None
    for _ in range(job.warmup + job.repeats):
        began = time.perf_counter()
        batch = next(stream)
        got = time.perf_counter()
        metrics = step.dispatch(step.parallel.put_batch(batch))
        if pending is not None:
            jax.device_get(pending)
        pending = metrics
        took.append(time.perf_counter() - began)
        waits.append(got - began)
    jax.block_until_ready((step.state, pending))
    return took[job.warmup :], waits[job.warmup :]


def _named(stream: Iterator[dict[str, np.ndarray]], like: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each batch that the step takes."""
    return ({name: batch[name] for name in like} for batch in stream)


def _reading(job: Job, dataset: Dataset, workers: int, *, cached: bool) -> dict[str, Any]:
    """Times of `job.repeats` batches; the warm-up empties what was made ahead, and fills the cache."""
    say(f"{job.label}: {job.repeats} batches of {dataset.label}, {'from decoded images' if cached else 'decoding'}")
    untimed = _UNTIMED
    if cached:
        # Each worker decodes for itself what it meets.
        untimed = max(untimed, 2 * max(1, workers) * math.ceil(len(dataset) / job.batch))
    with contextlib.closing(_stream(job, dataset, workers, _CACHE_MB if cached else 0)) as stream:
        for _ in range(untimed):
            next(stream)
        seconds, busy = _timed(lambda: next(stream), job.repeats)
    times, images = clock.summary(seconds), job.batch * job.repeats
    return {
        **times,
        # Batches of several workers come in bursts: their rate is over all repeats.
        "images_per_second": images / sum(seconds),
        "images_per_second_per_core": images / busy if busy else None,
    }


def _timed(work: Callable[[], Any], repeats: int) -> tuple[list[float], float]:
    """Seconds of each run, and processor seconds of this process and its workers over all of them."""
    seconds, before = [], _processor_seconds()
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds, _processor_seconds() - before


def _processor_seconds() -> float:
    """Of this process and of its living children (where /proc tells)."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError, ValueError, IndexError):
            # Fields 14 and 15, counted behind the name, which may hold spaces.
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _stream(job: Job, dataset: Dataset, workers: int, cache_mb: int) -> Any:
    return batches(
        dataset, pipeline_settings(job), batch_size=job.batch, seed=0, workers=workers, cache_mb=cache_mb
    )


@contextlib.contextmanager
def _opened(job: Job, data: str) -> Iterator[Dataset]:
    """The named data set, or pavements drawn for the time being: windows for UP-CrackNet, photographs for CrackSeg."""
    if data != DRAWN:
        yield open_dataset(*parse_spec(data), need_masks=not job.restores)
        return
    part = "undamaged" if job.restores else "train"
    size = (job.size, job.size) if job.restores else (job.size * 3 // 2, job.size * 2)
    with tempfile.TemporaryDirectory() as folder:
        say(f"drawing {_PICTURES} pavements of {size[1]}x{size[0]}")
        train, undamaged = (0, _PICTURES) if job.restores else (_PICTURES, 0)
        draw_dataset(Path(folder) / DRAWN, train=train, test=0, undamaged=undamaged, size=size)
        yield open_dataset(Path(folder) / DRAWN, part)


def _check_workers(workers: int) -> None:
    if workers < 0:
        raise UsageError(f"--workers {workers}: expected 0 (decode in this process) or more")

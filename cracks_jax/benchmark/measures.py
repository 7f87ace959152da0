"""The measurements of the accelerator check, each run in a process of its own (see accelerator.py).

What has been found is written after every row, and each measurement looks at its clock before the next one: where the
time ends, what is there stays there. float32 is at precision `highest` throughout, as training has it.
"""

import contextlib
import gc
import json
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cracks_jax.benchmark import machine, ours, workloads
from cracks_jax.benchmark.accelerator import Sizes
from cracks_jax.benchmark.contenders import Contender, Offer, Peers, reason
from cracks_jax.benchmark.job import Job
from cracks_jax.benchmark.layers import measure_dilated, measure_transposed
from cracks_jax.benchmark.program import compiled_once
from cracks_jax.benchmark.report import Record, Report
from cracks_jax.surroundings import cores, surroundings

_LAST = 10  # steps whose mean is a curve's end


def child(request: str, peers: Callable[[Job, tuple[str, ...]], Peers] | None) -> int:
    """One measurement as `accelerator.Check.measure` asks for it; the exit code.

    Args:
      peers: (job, names of contenders) -> the twins of a training step; None where there are none.
    """
    asked = json.loads(request)
    given: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in asked["sizes"].items()}
    sizes = Sizes(**given)
    report = Report(asked["seconds"], Path(asked["to"]))
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    arguments = dict(asked["arguments"], peers=peers) if asked["measure"] == "step" else asked["arguments"]
    with contextlib.redirect_stdout(sys.stderr):  # standard output is the record's path alone
        try:
            MEASURES[asked["measure"]](sizes, report, **arguments)
        except Exception as error:  # whatever it is, the record says it in one line and the other parts go on
            report.add("failed", reason(error))
            return 1
    report.keep()
    return 0


def measure_machine(sizes: Sizes, report: Report) -> None:
    """Device, versions, memory and the rates that shares refer to."""
    for name, value in surroundings().items():
        report.add(name, value)
    report.found["device"] |= {"processor": machine.processor(), "threads": cores()}
    report.add("environment", machine.settings())
    report.add("precision", "highest")
    report.add("memory", machine.available_memory())
    report.add("matrix_gflops", machine.matrix_rates("highest", repeats=2 if sizes.narrow > 1 else 5))


# ------------------------------------------------------------------------------------------- training steps


def measure_step(sizes: Sizes, report: Report, system: str, peers: Any = None) -> None:
    """The training step in bfloat16 at growing batches beside its twins, until time or memory end."""
    report.add("system", system)
    report.add("rows", [])
    took = 0.0
    for batch in sizes.batches:
        if took and not report.enough(1.2 * took, f"batch {batch}"):
            return
        began = time.monotonic()
        job = _job(sizes, system, batch, "bfloat16")
        # Of a batch's time the twins may use all that is left but a little, for what comes after they are compiled.
        offered = None if peers is None else partial(_hurried, peers, sizes.contenders, report)
        try:
            row = workloads.step(job, offered, compiled_once)
        except Exception as error:
            if not workloads.out_of_memory(error) and "of memory" not in str(error):
                raise
            report.add("out_of_memory", {"batch": batch, "reason": reason(error)})
            return
        took = time.monotonic() - began
        report.add("rows", [*report.found["rows"], {**_kept(row), "row_seconds": took}])
        _free()


def _kept(row: Record) -> Record:
    """A row without what the whole record says once."""
    once = ("software", "device", "git_revision", "environment", "method", "kind", "system", "precision")
    return {name: value for name, value in row.items() if name not in once}


def _hurried(make: Any, contenders: tuple[str, ...], report: Report, job: Job) -> Peers:
    peers = make(job, contenders)
    offers = [Offer(offer.name, partial(_Hurried, offer, report)) for offer in peers.offers]
    return Peers(peers.weights, offers, peers.software)


class _Hurried:
    """A contender whose making and first runs, where a compiler may take minutes, end with the time that is left."""

    def __init__(self, offer: Offer, report: Report):
        self.report, self.warm = report, 2
        with within(0.8 * report.left(), f"{offer.name} was not compiled"):
            self.inner: Contender = offer.make()

    def place(self, batch: dict[str, np.ndarray]) -> Any:
        return self.inner.place(batch)

    def run(self, placed: Any) -> Any:
        if not self.warm:
            return self.inner.run(placed)
        with within(0.8 * self.report.left(), "it was not compiled"):
            result = self.inner.run(placed)
        self.warm -= 1
        return result


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """TimeoutError where the block takes longer; of the main thread, and as soon as Python is reached again."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"{what} within {seconds:.0f} s")

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    before, _ = signal.setitimer(signal.ITIMER_REAL, min(max(seconds, 0.01), 1e6))
    try:
        yield
    finally:
        # Somebody else's alarm goes on where it was.
        rest = max(before - (time.monotonic() - began), 0.01) if before else 0.0
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, rest)


def measure_curves(sizes: Sizes, report: Report) -> None:
    """Losses of both systems over some steps in float32 and in bfloat16, from one seed on the same batches."""
    took = 0.0
    for system in (sizes.restores, sizes.segments):
        if took and not report.enough(1.2 * took, system):
            return
        began = time.monotonic()
        curves = {dtype: _losses(sizes, report, system, dtype) for dtype in ("bfloat16", "float32")}
        report.add(system, {"batch": sizes.batch, **compared(curves["float32"], curves["bfloat16"])})
        took = time.monotonic() - began


def _losses(sizes: Sizes, report: Report, system: str, dtype: str) -> list[float]:
    job = _job(sizes, system, sizes.batch, dtype)
    step = _started(job)
    batches = [step.place(_drawn(job, number)) for number in range(min(sizes.steps, 12))]
    losses = [step.dispatch(batches[i % len(batches)])["loss"] for i in range(sizes.steps)]
    found = [float(loss) for loss in losses]
    report.add(f"{system}_{dtype}_losses", [round(loss, 6) if math.isfinite(loss) else None for loss in found])
    del step, batches
    _free()
    return found


def compared(reference: list[float], other: list[float]) -> Record:
    """Ends (means of the last steps), the largest difference of smoothed curves, areas, and of the ends the ratio."""
    a, b = np.asarray(reference), np.asarray(other)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ArithmeticError("a loss is not finite")
    width = min(_LAST, len(a))
    smooth = [np.convolve(curve, np.ones(width) / width, "valid") for curve in (a, b)]
    return {
        "final": {"float32": float(a[-width:].mean()), "bfloat16": float(b[-width:].mean())},
        "final_ratio": float(b[-width:].mean() / a[-width:].mean()),
        "largest_difference": float(np.abs(smooth[0] - smooth[1]).max()),
        "largest_relative_difference": float((np.abs(smooth[0] - smooth[1]) / np.abs(smooth[0])).max()),
        "area": {"float32": float(a.sum()), "bfloat16": float(b.sum())},
        "area_between": float(np.abs(a - b).sum()),
    }


def _drawn(job: Job, number: int) -> dict[str, np.ndarray]:
    """A batch of drawn pavements, with cracks where they are to be found."""
    from cracks_jax.data.synthetic import draw_pavement

    batch = ours.draw_batch(job, number)
    size, first = (job.size, job.size), number * job.batch
    drawn = [draw_pavement(0, first + i, size, cracked=not job.restores) for i in range(job.batch)]
    image = np.stack([picture for picture, _ in drawn])
    if not job.restores:
        return {"image": image, "mask": np.stack([mask for _, mask in drawn]).astype(np.uint8)}
    # Where the random batch has nothing at all, a square was removed.
    kept = batch["corrupted"][:, 0].any(-1, keepdims=True)
    return {"image": image, "corrupted": (image * kept)[:, None]}


def measure_digests(sizes: Sizes, report: Report, count: int) -> None:
    """SHA-256 of the state behind some steps, `count` times from the same start, and seconds of a step."""
    from cracks_jax.runtime.checkpoints import state_sha256

    took = 0.0
    for system in sizes.digested:
        if took and not report.enough(1.2 * took, system):
            return
        began = time.monotonic()
        job = _job(sizes, system, sizes.batch, "float32")
        step = ours.Step(job, {}, compiled_once)
        digests, seconds = [], []
        for _ in range(count):
            step.start()
            step.taken = 0
            for number in range(sizes.digest_steps):
                placed = step.place(ours.draw_batch(job, number))
                started = time.perf_counter()
                step.run(placed)
                seconds.append(time.perf_counter() - started)
            digests.append(state_sha256(jax.device_get(step.state)))
        report.add(system, {"seconds": statistics.median(seconds), "digests": digests, "batch": job.batch})
        del step
        _free()
        took = time.monotonic() - began


def measure_largest(sizes: Sizes, report: Report) -> None:
    """The largest batch whose training step runs, in bfloat16: doubled until one does not, then between the two."""
    for number, system in enumerate((sizes.restores, sizes.segments)):
        search = Search(*sizes.largest)
        took, until = 0.0, report.left() * number / 2  # half of the time each
        while (batch := search.next()) is not None:
            if report.left() - until < 1.3 * took or not report.enough(1.3 * took, f"{system}, batch {batch}"):
                break
            began = time.monotonic()
            search.tell(batch, _fits(_job(sizes, system, batch, "bfloat16")))
            took = time.monotonic() - began
            report.add(system, {"fits": search.fits, "fails": search.fails, "tried": search.tried})
        workloads.say(f"{system}: batch {search.fits} fits, {search.fails} does not")


class Search:
    """Doubling from `first` until a size fails or `last` is reached, then bisection to an eighth of what fits."""

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last
        self.fits = 0
        self.fails: int | None = None
        self.tried: list[tuple[int, bool]] = []

    def next(self) -> int | None:
        """What to try; None where nothing is left to learn."""
        if self.fails is None:
            batch = min(max(self.first, 2 * self.fits), self.last)
            return batch if batch > self.fits else None
        if not self.fits:
            return self.fails // 2 or None
        middle = (self.fits + self.fails) // 2
        return middle if self.fails - self.fits > max(self.fits // 8, 1) else None

    def tell(self, batch: int, fits: bool) -> None:
        self.tried.append((batch, fits))
        if fits:
            self.fits = batch
        else:
            self.fails = batch


def _fits(job: Job) -> bool:
    workloads.say(f"{job.label}: does it fit?")
    try:
        step = _started(job)
        for number in range(2):  # the first step's state is the second one's memory
            step.run(step.place(ours.draw_batch(job, number)))
        return True
    except Exception as error:
        if not workloads.out_of_memory(error):
            raise
        return False
    finally:
        step = None  # type: ignore[assignment]
        _free()


def _job(sizes: Sizes, system: str, batch: int, dtype: Any) -> Job:
    return Job(
        "step",
        system,
        batch=batch,
        size=sizes.size,
        repeats=sizes.repeats,
        narrow=sizes.narrow,
        dtype=dtype,
        threads=cores(),
    )


def _started(job: Job) -> ours.Step:
    step = ours.Step(job, {}, compiled_once)
    step.start()
    return step


def _free() -> None:
    """Programs and arrays of what was measured before."""
    jax.clear_caches()
    gc.collect()


MEASURES: dict[str, Callable[..., None]] = {
    "machine": measure_machine,
    "step": measure_step,
    "curves": measure_curves,
    "digests": measure_digests,
    "largest": measure_largest,
    "transposed": measure_transposed,
    "dilated": measure_dilated,
}

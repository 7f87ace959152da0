"""`step` and `infer`: our program against its peers, in turn, on fresh inputs; one record for each."""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from cracks_jax.benchmark import clock, flops, machine, ours
from cracks_jax.benchmark.contenders import Contender, Offer, Peers, reason, relative_error
from cracks_jax.benchmark.job import Job
from cracks_jax.benchmark.program import Builder, Program, measured
from cracks_jax.errors import CracksError
from cracks_jax.surroundings import device_peak_memory, peak_memory, surroundings

PeerMaker = Callable[[Job], Peers]
# A peer whose output differs by more computes another function and is not timed; the second without full precision.
TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 5e-2
_WARM_UP = 1_000_000  # batches of the warm-up: numbers that no timed repeat has


def step(job: Job, peers: PeerMaker | None = None, build: Builder = measured) -> dict[str, Any]:
    """One training step. Peers start from our weights; their dropout draws otherwise, so losses are only noted."""
    return _compared(job, peers, partial(ours.Step, build=build), ours.draw_batch, flops.step_gflop(job), check=False)


def infer(job: Job, peers: PeerMaker | None = None) -> dict[str, Any]:
    """One forward pass. Every peer's output is held against ours, with the same weights, before it is timed."""
    return _compared(job, peers, ours.Forward, ours.draw_images, flops.infer_gflop(job), check=True)


def prepare(job: Job) -> None:
    """Precision as the job has it; a job that cannot fit is refused before anything is compiled."""
    jax.config.update("jax_default_matmul_precision", job.precision)
    machine.demand_memory(f"{job.kind} of {job.system}", flops.least_bytes(job), job.batch)


def head(job: Job) -> dict[str, Any]:
    """What every record says first: the job and what surrounds it."""
    found = surroundings()
    found["device"] |= {"processor": machine.processor(), "threads": job.threads}
    settings = {k: v for k, v in dataclasses.asdict(job).items() if k != "batch_norm"}
    return {
        "label": job.label,
        **settings,
        "method": dataclasses.asdict(job.method),
        "environment": machine.settings(),
        **found,
    }


def compute(program: Program, gflop: float, job: Job, seconds: float) -> dict[str, Any]:
    """Operations, the share of the machine's rate that they make, memory and compile times of a program."""
    rates = machine.matrix_rates(job.precision)
    compiled = None if program.flop is None else program.flop / job.batch / 1e9
    return {
        "images_per_second": job.batch / seconds,
        "gflop_per_image": {"hand": gflop, "compiled": compiled},
        "matrix_gflops": rates,
        "matrix_share": gflop * job.batch / seconds / rates.get(job.dtype, rates["float32"]),
        "compile_seconds": program.compile_seconds,
        "memory": {
            "program": program.memory,
            "process_peak": peak_memory(),
            "device_peak": device_peak_memory(),
        },
    }


def _compared(
    job: Job, peers: PeerMaker | None, make: Any, draw: Any, gflop: float, *, check: bool
) -> dict[str, Any]:
    prepare(job)
    offered = peers(job) if peers is not None else Peers({}, [])
    say(f"{job.label}: compiling")
    own = make(job, offered.weights)
    machine.demand_memory(f"{job.kind} of {job.system}", own.program.memory.get("total", 0), job.batch)
    own.start()
    batches = [draw(job, _WARM_UP + i) for i in range(job.warmup)]
    reference = _first(own, batches)
    alone = peak_memory()

    contenders, found = _opened(offered.offers, batches, reference, _tolerance(job) if check else None)
    say(f"{job.label}: {job.repeats} repeats of {', '.join([ours.NAME, *contenders])}")
    everyone = {ours.NAME: own, **contenders}
    seconds = clock.alternate(everyone, lambda i: draw(job, i), job.repeats, rest=clock.REST_SECONDS)
    times = clock.summary(seconds.pop(ours.NAME))
    record = {**head(job), **times, **compute(own.program, gflop, job, times["seconds"])}
    record["memory"]["process_peak_ours_alone"] = alone
    if job.kind == "infer":
        record["batch_norm"] = job.norm
    if peers is not None:
        for name, taken in seconds.items():
            found[name] |= clock.summary(taken)
            found[name]["images_per_second"] = job.batch / found[name]["seconds"]
        record |= {"peers": found, "peer_software": offered.software, **_against_best(times, seconds)}
    return record


def _against_best(times: dict[str, Any], seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The peer with the least median counts."""
    if not seconds:
        return {"best_peer": None, "ratio": None}
    best = min(seconds, key=lambda name: clock.summary(seconds[name])["seconds"])
    return {"best_peer": best, **clock.ratio(seconds[best], times["seconds_all"])}


def _first(contender: Contender, batches: list[Any]) -> np.ndarray:
    """Runs every warm-up batch; the result of the first, copied before a next run may write over it."""
    results = [np.asarray(contender.run(contender.place(batch))).copy() for batch in batches]
    return results[0]


def _opened(
    offers: list[Offer], batches: list[Any], reference: Any, tolerance: float | None
) -> tuple[dict[str, Contender], dict[str, dict[str, Any]]]:
    """The peers that run, and what is known of each: its error against ours, or why it is missing."""
    contenders: dict[str, Contender] = {}
    found: dict[str, dict[str, Any]] = {}
    for offer in offers:
        say(f"preparing {offer.name}")
        try:
            contender = offer.make()
            error = relative_error(reference, _first(contender, batches))
        except Exception as problem:  # a peer may fail in any way; the record says how
            found[offer.name] = {"missing": reason(problem)}
            say(f"{offer.name} is missing: {found[offer.name]['missing']}")
            continue
        finite = error if error != float("inf") else None
        found[offer.name] = {"error" if tolerance is not None else "first_loss_error": finite}
        if tolerance is not None and error > tolerance:
            found[offer.name]["missing"] = f"its output differs from ours by {error:.1e}: not the same function"
            say(f"{offer.name} is left out: {found[offer.name]['missing']}")
            continue
        contenders[offer.name] = contender
    return contenders, found


def _tolerance(job: Job) -> float:
    full = job.precision == "highest" or jax.default_backend() == "cpu"
    return TOLERANCE if full else LOW_PRECISION_TOLERANCE


def out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "ut of memory" in text


def run(measure: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    """A measurement, with memory that ran out after all as one message."""
    try:
        return measure()
    except CracksError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise CracksError(f"{what}: memory ran out ({reason(error)}); use a smaller --batch or --size") from error


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

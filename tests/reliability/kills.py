"""A training that is killed again and again: SIGKILL at random steps and in the middle of saves.

A process is started on a run, killed, started again, and so on to the run's end, then the next run begins. After every
kill the run directory must be readable; at every end the state must be the undisturbed training's, bit for bit, and
each step must be on record once.
"""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from cracks_jax.errors import CracksError
from cracks_jax.experiment import from_json
from cracks_jax.pretrained import state_like
from cracks_jax.runtime.checkpoints import Checkpoints
from cracks_jax.runtime.records import Records
from tests.reliability.children import Trainings, records, taken
from tests.reliability.devices import short_trunk

_LONGEST = 300.0  # seconds that a process may take to its next step


def measure(
    method: str, kills: int, folder: Path, *, seed: int = 0, steps: int = 30, say: Any = print
) -> dict[str, Any]:
    """Kills trainings of one method, every second kill during a save; returns counts and all that was wrong."""
    trainings = Trainings(folder, steps)
    expected = trainings.undisturbed(method)
    rng = np.random.default_rng([seed, len(method)])
    wrong: list[str] = []
    counts = {"kills": 0, "during_save": 0, "runs": 0, "starts": 0, "checkpoints_passed_over": 0}
    began = time.monotonic()
    while counts["kills"] < kills:
        run = folder / f"{method}-{counts['runs']}"
        while not (run / "metrics.json").exists():
            counts["starts"] += 1
            enough = counts["kills"] >= kills
            killed, saving = _one_life(trainings, method, run, rng, in_save=counts["kills"] % 2 == 0, spare=enough)
            counts["kills"] += killed
            counts["during_save"] += saving
            if killed:
                wrong += _unreadable(run)
            elif not (run / "metrics.json").exists():
                wrong.append(f"{run.name}: ended by itself: {_tail(folder / f'{run.name}.log')}")
                break
        wrong += _not_as_expected(run, expected)
        log = (folder / f"{run.name}.log").read_text(errors="replace")
        counts["checkpoints_passed_over"] += log.count("passed over")
        wrong += [f"{run.name}: a traceback"] if "Traceback" in log else []
        counts["runs"] += 1
        say(f"{method}: {counts} after {time.monotonic() - began:.0f} s, {len(wrong)} wrong")
    return {**counts, "wrong": wrong, "seconds": round(time.monotonic() - began)}


def exactly_once(folder: Path, kills: int = 20, epochs: int = 3, *, seed: int = 0) -> dict[str, Any]:
    """Whether each epoch's set of record numbers is the data set, whatever was killed and whoever decoded."""
    records_per_epoch, batch = 40, 4
    trainings = Trainings(folder, steps=epochs * records_per_epoch // batch, undamaged=50)
    run, rng, killed, starts = folder / "restoration", np.random.default_rng(seed), 0, 0
    while not (run / "metrics.json").exists():
        # Decoded in the process itself, then by a worker process, and so on.
        settings = ("machine.checkpoint_every=1", f"machine.workers={starts % 2}")
        killed += _one_life(
            trainings, "restoration", run, rng, in_save=False, spare=killed >= kills, most=3, settings=settings
        )[0]
        starts += 1
    by_step: dict[int, set[tuple[int, ...]]] = {}
    for step, numbers in taken(run):
        by_step.setdefault(step, set()).add(numbers)
    wrong = [f"step {step} was taken with {numbers}" for step, numbers in by_step.items() if len(numbers) != 1]
    order = [number for step in sorted(by_step) for number in min(by_step[step])]
    for epoch in range(epochs):
        found = sorted(order[epoch * records_per_epoch : (epoch + 1) * records_per_epoch])
        wrong += [] if found == list(range(records_per_epoch)) else [f"epoch {epoch + 1} held {found}"]
    retaken = sum(1 for _ in taken(run)) - len(by_step)
    return {"kills": killed, "epochs": epochs, "records": records_per_epoch, "steps_retaken": retaken, "wrong": wrong}


def _one_life(
    trainings: Trainings, method: str, run: Path, rng: np.random.Generator, *, in_save: bool, spare: bool,
    most: int = 12, settings: tuple[str, ...] = ()
) -> tuple[bool, bool]:  # fmt: skip
    """Starts the training and kills it; (whether it was killed, whether a save was under way)."""
    steps = int(rng.integers(1, most))  # to be taken before the kill
    saves = int(rng.integers(1, 3))  # to be seen before it, where it shall come in one
    delay = float(rng.uniform(0, 0.03))
    process = trainings.start(method, run, *settings)
    if spare:
        process.wait(_LONGEST)
        return False, False
    before, seen, last = _steps(run), 0, None
    deadline = time.monotonic() + _LONGEST
    while process.poll() is None and time.monotonic() < deadline:
        saving = _saving(run)
        if in_save:
            if saving is not None and saving != last:
                seen += 1
            if saving is not None and seen >= saves:
                time.sleep(delay / 3)
                break
            last = saving or last
        elif _steps(run) >= before + steps or (_steps(run) < before and _steps(run) >= steps):
            time.sleep(delay)
            break
        time.sleep(0.001)
    if process.poll() is not None:
        return False, False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True, _saving(run) is not None


def _steps(run: Path) -> int:
    """Lines on record so far."""
    try:
        return (run / "records.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _saving(run: Path) -> str | None:
    """The temporary directory of a save under way."""
    try:
        return next((path.name for path in (run / "checkpoints").iterdir() if path.name.endswith(".saving")), None)
    except OSError:
        return None


def _unreadable(run: Path) -> list[str]:
    """What of a run that was just killed cannot be read."""
    if not (run / "experiment.json").exists():
        return []  # killed before the run began: the next start makes it
    try:
        experiment = from_json(json.loads((run / "experiment.json").read_text()))
        taken = [record["step"] for record in Records(run / "records.jsonl") if record["event"] == "train"]
        found = Checkpoints(run / "checkpoints", experiment.run_id, read_only=True)
        with short_trunk():  # as the trainings have it
            for step in found.steps():
                found.restore(step, state_like(experiment))
    except (CracksError, OSError, ValueError) as error:
        return [f"{run.name}: after a kill: {error}"]
    return [] if taken == list(range(1, len(taken) + 1)) else [f"{run.name}: after a kill: steps {taken}"]


def _not_as_expected(run: Path, expected: dict[str, Any]) -> list[str]:
    if not (run / "metrics.json").exists():
        return []
    wrong = []
    if json.loads((run / "metrics.json").read_text()) != expected["metrics"]:
        wrong.append(f"{run.name}: another end than the undisturbed training's")
    if records(run) != expected["records"]:
        wrong.append(f"{run.name}: other records than the undisturbed training's")
    ends = (".saving", ".tmp", ".damaged", ".partial")
    leftovers = [path.name for path in run.rglob("*") if path.name.endswith(ends)]
    return [*wrong, *([f"{run.name}: leftovers {leftovers}"] if leftovers else [])]


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-400:]

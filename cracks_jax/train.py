"""Training from top to bottom: data, method, state, the loop, and what is left on disk.

The step itself is `methods/<family>.py:train_step`; everything here surrounds it. Started again on the same run
directory, training resumes from its newest intact checkpoint and ends with the same bits. A run directory is whole
whenever the process is killed: a step is on record once, and a checkpoint is there or is not.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cracks_jax import __version__
from cracks_jax.data.bad_images import naming_remedy
from cracks_jax.data.pipeline import batches
from cracks_jax.errors import CracksError, WriteError
from cracks_jax.experiment import Experiment
from cracks_jax.group.checkpoints import SharedCheckpoints
from cracks_jax.group.meeting import Group
from cracks_jax.group.processes import (
    agree,
    first,
    from_all,
    from_first,
    in_turn,
    join,
    together,
    while_all_live,
)
from cracks_jax.group.vote import Vote
from cracks_jax.methods.guard import SKIPS_LEFT
from cracks_jax.pretrained import initial_state, resolve_weights, state_like
from cracks_jax.runs import (
    CHECKPOINTS,
    METRICS,
    RECORDS,
    Attempt,
    check_same_run,
    describe_run,
    lost_since,
    open_checkpoints,
)
from cracks_jax.runtime.checkpoints import Checkpoints, state_sha256
from cracks_jax.runtime.compilation import one_process_at_a_time
from cracks_jax.runtime.parallel import Parallel, check_batch, devices
from cracks_jax.runtime.profile import profile
from cracks_jax.runtime.randomness import device_key
from cracks_jax.runtime.records import Records, Remembered, write_json
from cracks_jax.runtime.spent import Spent
from cracks_jax.runtime.stopping import STOPPED, Stop, Stopped, stop_on_signal
from cracks_jax.training_data import TrainingData, open_training_data
from cracks_jax.training_step import hyper, program
from cracks_jax.validation import Validator, validator
from cracks_jax.watch import NotFinite, Watch, progress, report_not_finite

__all__ = ["STOPPED", "Stopped", "train"]

# Counted from the start; the steps before them compile and warm up.
PROFILED_STEPS = (5, 8)


# --------------------------------------------------------------------------------------------- the story


def train(
    experiment: Experiment, folder: Path | None = None, profiled: Path | None = None, group: Group | None = None
) -> dict[str, Any]:
    """Trains to the end, resuming where `folder` holds this experiment already; returns what metrics.json holds.

    `profiled`: a folder for a trace of a few steps. `group`: the processes that train it together, each calling this
    once, alike; the first one writes, all of them read their share of the data.

    A signal while a program is compiled or a validation runs ends the process at once, with exit code 75.

    Raises:
      Stopped: a signal came; the same call goes on from where it stopped.
      CracksError: the data, the run in `folder` or the disk is bad, or a step gave numbers that are not finite.
      UsageError: the experiment cannot be trained as it is set.
    """
    spent = Spent()
    # From here on signals are heard: preparing data and compiling can take minutes.
    with stop_on_signal() as stop, ExitStack() as held:
        with spent.on("restart"):
            if group is not None:
                with stop.at_once("the wait for the other processes"):
                    join(group)
            run = _open(experiment, folder, stop, spent, held)
        with while_all_live(), run.attempt:  # however it ends, the run's record says when and why
            return _train(run, profiled)


@dataclass
class _Run:
    """What a training works with."""

    experiment: Experiment
    folder: Path
    data: TrainingData
    parallel: Parallel
    records: Records
    checkpoints: Checkpoints
    validate: Validator
    attempt: Attempt
    stop: Stop
    spent: Spent
    state: Any
    start: int

    @property
    def steps_per_epoch(self) -> float:
        return self.data.records_per_epoch / self.experiment.training.batch_size

    @property
    def best_step(self) -> int | None:
        best = self.records.best(*self.experiment.method.selection)
        return None if best is None else best[0]

    @property
    def out_of_patience(self) -> bool:
        patience = self.experiment.training.patience
        since = self.records.validations_since_best
        return patience is not None and since(*self.experiment.method.selection) >= patience

    def tolerated(self, write: Callable[[], None]) -> None:
        """Writes; where that fails, training ends, or goes on and says so, as the machine's setting has it."""
        try:
            write()
        except WriteError as error:
            if self.experiment.machine.on_write_error == "stop":
                raise
            say(f"{error}; going on without it (machine.on_write_error=continue)")


def _open(experiment: Experiment, folder: Path | None, stop: Stop, spent: Spent, held: ExitStack) -> _Run:
    """Data, state and records as the run left them, or fresh; until `held` ends, no other process trains there."""
    experiment = resolve_weights(experiment, say)
    agree("the experiment", f"run_id {experiment.run_id}, cracks-jax {__version__}")
    jax.config.update("jax_default_matmul_precision", experiment.matmul_precision)
    folder = folder or Path("runs") / f"{experiment.label}-{experiment.run_id}"
    check_same_run(folder, experiment)
    with in_turn("data"):
        data = open_training_data(experiment)
    agree("the data", data.digest)
    machine = experiment.machine
    parallel = Parallel(machine.parallel, devices(machine.devices), machine.shard)
    check_batch(experiment.training.batch_size, len(parallel.devices), experiment.method.accumulate)

    say(f"run directory: {folder}")
    # Bad weights are said before a folder is made.
    fresh = None
    if not (folder / CHECKPOINTS).is_dir():
        with stop.at_once("the making of the initial state"):
            fresh = initial_state(experiment, say)
    checkpoints = open_checkpoints(folder, experiment, held)
    start, state, loaded = _latest(experiment, checkpoints, fresh)
    agree("the newest checkpoint", f"step {start}")
    if first():
        for sentence in lost_since(folder, start):
            say(sentence)
    records = Records(folder / RECORDS) if first() else Remembered(folder / RECORDS)
    with in_turn("records"):
        records.rewind(start)
    if first():
        describe_run(folder, experiment, data, loaded, start)
    attempt = Attempt(folder, spent, start, checkpoints.steps, writes=first())

    def before_leaving() -> None:
        checkpoints.wait()
        attempt.end("signal")

    stop.before_leaving = before_leaving
    with naming_remedy(data.validation, experiment.data.bad_images):
        validate = validator(experiment, data.validation)
    state = parallel.put_state(state)
    return _Run(
        experiment, folder, data, parallel, records, checkpoints, validate, attempt, stop, spent, state, start
    )


def _train(run: _Run, profiled: Path | None) -> dict[str, Any]:
    training, machine, spent = run.experiment.training, run.experiment.machine, run.spent
    schedule = training.rate_factor(run.steps_per_epoch)
    state, step = run.state, run.start
    _note_memory(run, state)
    run.state = None  # the first step takes its memory
    stopping = Vote(run.stop)

    def place(batch: dict[str, np.ndarray]) -> Any:
        return run.parallel.put_batch(stopping.cast({k: v for k, v in batch.items() if k != "index"}))

    if any(from_all(run.stop.asked)) and step < training.steps:
        run.attempt.end("signal", step)
        raise Stopped(f"stopped before step {step + 1} of {run.folder}; run the same command again to go on")
    with (
        closing(run.checkpoints),  # whatever ends the loop, a save under way is committed
        _input(run) as stream,
        progress(step, training.steps, shown=first()) as bar,
        profile(profiled, *PROFILED_STEPS) as trace,
    ):
        watch = Watch(run.experiment, run.records, run.steps_per_epoch, bar, run.tolerated)
        if _validation_is_due(run, step):  # the process ended between a checkpoint and its validation
            _validate(run, bar, run.parallel.get_state(state), step)
        enough = step >= training.steps or run.out_of_patience
        if not enough:
            with spent.on("input"):
                batch = next(stream)
            take, stream = _compiled(run, state, place(batch)), itertools.chain([batch], stream)
            bar.unpause()  # compiling is no part of the rate
        skips_left: Any = np.asarray(training.skip_non_finite - watch.skipped, np.int32)
        try:
            while not enough:
                with spent.on("input"):
                    batch = next(stream)
                    placed = place(batch)
                with spent.on("step"):
                    rates = hyper(run.experiment, schedule(step), skips_left)
                    state, metrics = take(state, placed, rates, device_key(run.experiment.seed, "train", step))
                    skips_left = metrics.pop(SKIPS_LEFT)
                    stopping.count(metrics)
                    step += 1
                    trace(metrics)
                    if step == run.start + 1:
                        jax.block_until_ready(metrics)
                        run.tolerated(lambda: say(f"first step after {run.attempt.first_step():.1f} s"))
                    # The step before is looked at while this one runs: on an accelerator checking costs no time.
                    watch.soon(step, metrics, batch["index"], state)
                last = step == training.steps
                validating = step % training.validate_every == 0 or last
                if validating or step % machine.checkpoint_every == 0 or stopping.asked:
                    with spent.on("step"):
                        watch.now()
                    # Saved before it is validated: a signal or a kill during a long validation loses nothing.
                    _save(run, step, state, must=last)
                    if stopping.asked and not last:
                        with spent.on("checkpoint"):
                            run.checkpoints.wait()
                        run.attempt.end("signal", step)
                        raise Stopped(
                            f"stopped after step {step}, saved in {run.folder}; run the same command again to go on"
                        )
                    if validating:
                        _validate(run, bar, run.parallel.get_state(state), step)
                    enough = last or (validating and run.out_of_patience)
                else:
                    run.tolerated(run.checkpoints.check)
        except NotFinite as found:
            # The guarded step has kept the state as it was before the step that went wrong.
            _save(run, found.step - 1, state, must=True)
            run.checkpoints.wait()
            if first():
                report_not_finite(run.folder, found, [run.data.train.records[n].stem for n in found.records])
            raise
        with spent.on("checkpoint"):
            if first():
                run.checkpoints.prune(run.best_step)
    return _finish(run, run.parallel.get_state(state), step)


# ------------------------------------------------------------------------------------------------ input


@contextmanager
def _input(run: _Run) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    experiment = run.experiment
    stream = batches(
        run.data.train,
        experiment.data.pipeline,
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        start=run.start,
        workers=experiment.machine.workers,
        cache_mb=experiment.machine.decoded_mb,
        bad=run.data.bad_records,
        policy=experiment.data.bad_images,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        yield stream
    finally:
        stream.close()  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- step


def _note_memory(run: _Run, state: Any) -> None:
    whole, part = run.parallel.memory(state)
    count = len(run.parallel.devices) * jax.process_count()
    if count > 1:
        say(f"state: {whole / 1e6:.1f} MB, {part / 1e6:.1f} MB on each of {count} devices")
    run.tolerated(lambda: run.attempt.note(memory={"state_bytes": whole, "state_bytes_a_device": part}))


def _compiled(run: _Run, state: Any, placed: Any) -> Callable[..., tuple[Any, Any]]:
    """The step, ready to be taken."""
    experiment, parallel = run.experiment, run.parallel
    what = experiment.method, experiment.training.colour, parallel.strategy, tuple(parallel.devices), parallel.shard
    step, key = program(*what), device_key(experiment.seed, "train", 0)
    say("compiling the first step, or reading it from the cache: up to a minute, longer on a busy machine")
    with (
        run.spent.on("compile"),
        run.stop.at_once("a compilation"),
        one_process_at_a_time(f"{what} {jax.tree.map(jax.numpy.shape, placed)}"),
    ):
        return step.ready(state, placed, hyper(experiment, 1.0), key)


# -------------------------------------------------------------------------------------------- validation


def _validation_is_due(run: _Run, step: int) -> bool:
    """Whether the checkpoint that training goes on from has not been validated as it should be."""
    training = run.experiment.training
    due = step > 0 and (step % training.validate_every == 0 or step == training.steps)
    return due and not any(r["event"] == "validation" and r["step"] == step for r in run.records)


def _validate(run: _Run, bar: tqdm, state: Any, step: int) -> None:
    """Runs one validation and records it."""
    metric, direction = run.experiment.method.selection
    before = run.records.best(metric, direction)
    with run.spent.on("evaluation"), run.stop.at_once("a validation"):
        found = run.validate(state)
        # Of several processes the first one's numbers count: all must select, and stop, alike.
        numbers = from_first([math.nan if value is None else value for value in found.values()])
    found = {name: None if found[name] is None else value for name, value in zip(found, numbers, strict=True)}
    value = found[metric]
    if value is not None and not math.isfinite(value):
        raise CracksError(
            f"step {step}: validation {metric} is {value} although the state is finite; lower training.learning_rate "
            "and train anew"
        )
    run.tolerated(lambda: run.records.append("validation", step, **found))
    so_far = "" if before is None else f" (best before {_short(before[1])} at step {before[0]})"
    if not bar.disable:
        bar.write(f"step {step}: validation {metric} {_short(value)}{so_far}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------- on disk


def _latest(
    experiment: Experiment, checkpoints: Checkpoints, fresh: tuple[Any, list[str]] | None
) -> tuple[int, Any, list[str] | None]:
    """(step, state, names of the pretrained arrays) to start from; None for the names where a checkpoint holds them."""
    found = checkpoints.newest(state_like(experiment), say)
    if found is None:
        return 0, *(fresh or initial_state(experiment, say))
    step, state = found
    say(f"resuming from step {step}")
    together("all have read it")
    if first():
        checkpoints.set_aside(newer_than=step)
    return step, state, None


def _save(run: _Run, step: int, state: Any, *, must: bool) -> None:
    """Begins a checkpoint; `must`: whatever the machine's setting, failing to write this one ends the training."""

    def save() -> None:
        kept: dict[str, Any] = {"best": run.best_step, "before": run.records.sync}
        if isinstance(run.checkpoints, SharedCheckpoints):
            run.checkpoints.save_placed(step, state, run.parallel.get_state(state), **kept)
        else:
            run.checkpoints.save(step, run.parallel.get_state(state), **kept)
        if must:
            run.checkpoints.wait()

    with run.spent.on("checkpoint"):
        run.tolerated(run.checkpoints.wait)  # a save before this one that failed does not take this one with it
        save() if must else run.tolerated(save)
        run.tolerated(run.attempt.note)


def _finish(run: _Run, state: Any, step: int) -> dict[str, Any]:
    run.records.sync()  # what waited for room: the best is read from the log
    metric, direction = run.experiment.method.selection
    best = run.records.best(metric, direction)
    last = [r for r in run.records if r["event"] == "validation"]
    metrics = {
        "run_id": run.experiment.run_id,
        "step": step,
        "best_step": best[0] if best else step,
        f"best_{metric}": best[1] if best else None,
        "validation": {k: v for k, v in last[-1].items() if k != "event"} if last else None,
        "state_sha256": state_sha256(state),
    }
    if first():
        write_json(run.folder / METRICS, metrics)
    run.attempt.end("finished", step)
    return metrics


def say(text: str) -> None:
    if first():  # of several processes one is enough
        print(text, file=sys.stderr, flush=True)


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"

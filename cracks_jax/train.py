"""Training from top to bottom: data, method, state, the loop, and what is left on disk.

The step itself is `methods/<family>.py:train_step`; everything here surrounds it. Started again on the same run
directory, training resumes from its newest checkpoint and ends with the same bits.
"""

import dataclasses
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cracks_jax.data.augment import Colour, jitter_colour
from cracks_jax.data.pipeline import batches
from cracks_jax.errors import CracksError
from cracks_jax.experiment import Experiment
from cracks_jax.pretrained import adopt, resolve_weights
from cracks_jax.runs import CHECKPOINTS, METRICS, RECORDS, check_same_run, describe_run, note_attempt
from cracks_jax.runtime.checkpoints import Checkpoints, first_not_finite, state_sha256
from cracks_jax.runtime.parallel import Parallel, check_batch, devices
from cracks_jax.runtime.profile import profile
from cracks_jax.runtime.randomness import device_key
from cracks_jax.runtime.records import Records, write_json
from cracks_jax.training_data import TrainingData, open_training_data
from cracks_jax.validation import Validator, validator

STOPPED = 75
# Counted from the start; the steps before them compile and warm up.
PROFILED_STEPS = (5, 8)


class Stopped(Exception):
    """A signal asked training to stop; everything is saved and the same command goes on."""


# --------------------------------------------------------------------------------------------- the story


def train(experiment: Experiment, folder: Path | None = None, profiled: Path | None = None) -> dict[str, Any]:
    """Trains to the end, resuming where `folder` holds this experiment already; returns what metrics.json holds.

    `profiled`: a folder for a trace of a few steps.

    Raises:
      Stopped: a signal came; the same call goes on from where it stopped.
      CracksError: the data, the run in `folder` or the disk is bad, or the loss is not finite.
      UsageError: the experiment cannot be trained as it is set.
    """
    with stop_on_signal() as stop_asked:  # from here on: preparing data and compiling can take minutes
        return _train(experiment, folder, stop_asked, profiled)


def _train(
    experiment: Experiment, folder: Path | None, stop_asked: Callable[[], bool], profiled: Path | None
) -> dict[str, Any]:
    began = time.monotonic()
    experiment = resolve_weights(experiment, say)
    jax.config.update("jax_default_matmul_precision", experiment.matmul_precision)
    folder = folder or Path("runs") / f"{experiment.label}-{experiment.run_id}"
    check_same_run(folder, experiment)
    data = open_training_data(experiment)
    parallel = Parallel(experiment.machine.strategy, devices(experiment.machine.devices))
    check_batch(experiment.training.batch_size, len(parallel.devices))
    method = dataclasses.replace(experiment.method, axis_name=parallel.axis_name)

    say(f"run directory: {folder}")
    state, loaded = initial_state(experiment)
    records, checkpoints = Records(folder / RECORDS), _open_checkpoints(folder)
    start = max(checkpoints.steps(), default=0)
    if start:
        state = checkpoints.restore(start, state)
        say(f"resuming {folder} from step {start}")
    records.rewind(start)
    describe_run(folder, experiment, data.train, data.validation, data.folder, data.digest, loaded, start)

    training = experiment.training
    steps_per_epoch = len(data.train) / training.batch_size
    schedule = training.rate_factor(steps_per_epoch)
    step_fn = parallel.compile(_with_augmentation(method, experiment))
    validate = validator(experiment, data.validation)
    state = parallel.put_state(state)
    saved = start
    if stop_asked() and start < training.steps:
        raise Stopped(f"stopped before step {start + 1} of {folder}; run the same command again to go on")

    say("compiling the first step: a minute or so, longer on a busy machine; once for each program")
    with (
        closing(checkpoints),  # whatever ends the loop, a save under way is committed
        _input(experiment, data, start) as stream,
        progress(start, training.steps) as bar,
        profile(profiled, *PROFILED_STEPS) as trace,
    ):
        pending: tuple[int, Any] | None = None
        step, enough = start, _out_of_patience(records, experiment)
        while step < training.steps and not enough:
            batch = parallel.put_batch(_for_device(next(stream)))
            rates = hyper(experiment, schedule(step))
            state, metrics = step_fn(state, batch, rates, device_key(experiment.seed, "train", step))
            step += 1
            trace(metrics)
            if step == start + 1:
                _note_first_step(folder, metrics, began)
            # The step before is looked at while this one runs, so that checking costs no time on an accelerator.
            if pending is not None:
                _log(records, bar, experiment, *pending, steps_per_epoch)
            pending = (step, metrics)
            validating = step % training.validate_every == 0 or step == training.steps
            saving = step % experiment.machine.checkpoint_every == 0 or step == training.steps
            stopping = stop_asked()
            if validating or saving or stopping:
                _log(records, bar, experiment, *pending, steps_per_epoch)
                pending = None
                improved = validating and _validate(validate, records, bar, parallel.get_state(state), step, experiment)
                if improved or saving or stopping:
                    _save(checkpoints, step, parallel.get_state(state), records, experiment)
                    saved = step
                enough = validating and _out_of_patience(records, experiment)
                if stopping and step < training.steps and not enough:
                    checkpoints.wait()
                    note_attempt(folder, to_step=step, seconds=round(time.monotonic() - began))
                    raise Stopped(f"stopped after step {step}, saved in {folder}; run the same command again to go on")
        if saved != step:
            _save(checkpoints, step, parallel.get_state(state), records, experiment)
        checkpoints.prune(_best_step(records, experiment))
    note_attempt(folder, to_step=step, seconds=round(time.monotonic() - began))
    return _finish(folder, experiment, records, parallel.get_state(state), step)


# ------------------------------------------------------------------------------------------------- data

@contextmanager
def _input(experiment: Experiment, data: TrainingData, start: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    stream = batches(
        data.train,
        experiment.data.pipeline,
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        start=start,
        workers=experiment.machine.workers,
        cache_mb=experiment.machine.decoded_mb,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        yield stream
    finally:
        stream.close()  # type: ignore[attr-defined]


def _for_device(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in batch.items() if name != "index"}


# ------------------------------------------------------------------------------------------------- step


def initial_state(experiment: Experiment) -> tuple[Any, list[str]]:
    """The method's fresh state with pretrained arrays in place, and the names of what was loaded."""
    side = experiment.data.pipeline.crop
    shape = {"image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)}
    key = device_key(experiment.seed, "init", 0)
    state = jax.jit(lambda k: experiment.method.init(k, shape))(key)
    return adopt(experiment, state, say)


def _with_augmentation(method: Any, experiment: Experiment) -> Callable[..., tuple[Any, Any]]:
    """uint8 batches to [0, 1], colour drawn anew for each image, then the method's step."""
    amount = experiment.training.colour
    colour = Colour(amount, amount, amount)

    def step(state: Any, batch: Any, rates: Any, key: jax.Array) -> tuple[Any, Any]:
        colour_key, step_key = jax.random.split(key)
        # float32; float64 where jax is told to use it, as proofs of equality do.
        wide = jnp.result_type(float)
        batch = {k: v if k == "mask" else v.astype(wide) / 255 for k, v in batch.items() if k != "keep"}
        if amount:
            if method.axis_name is not None:
                colour_key = jax.random.fold_in(colour_key, jax.lax.axis_index(method.axis_name))
            batch["image"] = jitter_colour(colour_key, batch["image"], colour)
        return method.train_step(state, batch, rates, step_key)

    return step


def hyper(experiment: Experiment, factor: float) -> dict[str, np.ndarray]:
    """The traced numbers of one step, float32 scalars: rates times the schedule's factor, decay, loss weights."""
    training = experiment.training
    values = {
        "learning_rate": training.learning_rate * factor,
        "discriminator_learning_rate": training.discriminator_learning_rate * factor,
        "weight_decay": training.weight_decay,
        **training.loss_weights,
    }
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


# ------------------------------------------------------------------------------------------- validation

def _validate(
    validate: Validator, records: Records, bar: tqdm, state: Any, step: int, experiment: Experiment
) -> bool:
    """Runs one validation, records it, and says whether it is the best so far."""
    metric, direction = experiment.method.selection
    before = records.best(metric, direction)
    found = validate(state)
    value = found[metric]
    if value is not None and not math.isfinite(value):
        raise CracksError(f"step {step}: validation {metric} is {value}; lower the learning rate or start anew")
    records.append("validation", step, **found)
    bar.write(f"step {step}: validation {metric} {_short(value)}" + _best_so_far(before), file=sys.stderr)
    if value is None:
        return False
    return before is None or (value < before[1] if direction == "min" else value > before[1])


def _best_so_far(best: tuple[int, float] | None) -> str:
    return "" if best is None else f" (best before {_short(best[1])} at step {best[0]})"


def _best_step(records: Records, experiment: Experiment) -> int | None:
    best = records.best(*experiment.method.selection)
    return None if best is None else best[0]


def _out_of_patience(records: Records, experiment: Experiment) -> bool:
    patience = experiment.training.patience
    return patience is not None and records.validations_since_best(*experiment.method.selection) >= patience


# ---------------------------------------------------------------------------------------------- on disk


def _open_checkpoints(folder: Path) -> Checkpoints:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Checkpoints(folder / CHECKPOINTS)
    except OSError as error:
        raise CracksError(f"{folder}: cannot be written ({error.strerror}); give another --run") from error


def _save(checkpoints: Checkpoints, step: int, state: Any, records: Records, experiment: Experiment) -> None:
    """A finite loss can have a gradient that is not: no such state takes the place of a good one."""
    wrong = first_not_finite(state)
    if wrong is not None:
        raise CracksError(
            f"step {step}: {wrong} is not finite, so it is not saved; the last checkpoint is finite. "
            "Lower training.learning_rate, or look at the images of this step"
        )
    checkpoints.save(step, state, best=_best_step(records, experiment))


def _note_first_step(folder: Path, metrics: Any, began: float) -> None:
    """How long a start takes: data, compiling (or reading what was compiled before) and one step."""
    jax.block_until_ready(metrics)
    seconds = round(time.monotonic() - began, 2)
    note_attempt(folder, seconds_to_first_step=seconds)
    say(f"first step after {seconds:.1f} s")


def _finish(folder: Path, experiment: Experiment, records: Records, state: Any, step: int) -> dict[str, Any]:
    metric, direction = experiment.method.selection
    best = records.best(metric, direction)
    last = [r for r in records if r["event"] == "validation"]
    metrics = {
        "run_id": experiment.run_id,
        "step": step,
        "best_step": best[0] if best else step,
        f"best_{metric}": best[1] if best else None,
        "validation": {k: v for k, v in last[-1].items() if k != "event"} if last else None,
        "state_sha256": state_sha256(state),
    }
    write_json(folder / METRICS, metrics)
    return metrics


# ------------------------------------------------------------------------------------ progress and stopping


def _log(records: Records, bar: tqdm, experiment: Experiment, step: int, metrics: Any, steps_per_epoch: float) -> None:
    """Looks at one step's metrics: a loss that is not finite ends the run, every so often they are recorded."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not all(map(math.isfinite, values.values())):
        raise CracksError(
            f"step {step}: the loss is {values['loss']} ({values}); the last checkpoint is finite. "
            "Lower training.learning_rate, or look at the images of this step"
        )
    bar.update(step - bar.n)
    bar.set_postfix(loss=f"{values['loss']:.4g}", refresh=False)
    if step % experiment.machine.log_every == 0 or step == experiment.training.steps:
        rounded = {name: round(value, 6) for name, value in values.items()}
        records.append("train", step, epoch=math.floor(step / steps_per_epoch), **rounded)


def progress(start: int, steps: int) -> tqdm:
    """Steps done, rate and time left, on standard error; rarely where that is a file."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=steps, initial=start, unit="step", mininterval=0.5 if interactive else 15, file=sys.stderr,
        dynamic_ncols=interactive, desc="training",
    )


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """The first SIGTERM or SIGINT asks for a stop after the current step; a second one leaves at once.

    At once means without tidying up: compiled code still runs in other threads, and an interpreter that ends under it
    ends in a segmentation fault. What is on disk is whole, so the same command goes on from the last saved step.
    """
    asked = False
    old: dict[signal.Signals, Any] = {}

    def handler(number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            say("stopped at once; run the same command again to go on from the last saved step")
            os._exit(STOPPED)
        asked = True
        say("stopping after this step; once more to stop at once")

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            old[number] = signal.signal(number, handler)
    except ValueError:
        pass  # not in the main thread: whoever started it handles signals
    try:
        yield lambda: asked
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"

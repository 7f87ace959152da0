"""A search beyond grids: settings drawn by Optuna, each draw trained as a member of a sweep is, the best one named.

  OUT/<label>-<run_id>/        a run directory for each trial
  OUT/search.jsonl             Optuna's journal: what was drawn, and what came out
  OUT/trials.md, .csv          the trials as a table, the best first; as lines, in their order

Trials are trained one after another in this process, so those that differ in numbers alone share one compiled program.
What trial n draws is a function of the seed, n and the outcomes before it: a search that was stopped goes on as if it
had not been. What counts is the number by which the method selects its checkpoint (`method.selection`), at its best.
Needs `pip install 'cracks-jax[search]'`.
"""

import csv
import fcntl
import io
import math
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cracks_jax.errors import CracksError, UsageError, WriteError, shown
from cracks_jax.experiment import Experiment, apply_settings, load_file
from cracks_jax.launch.job import Job, do
from cracks_jax.pretrained import resolve_weights
from cracks_jax.runs import METRICS
from cracks_jax.runtime.records import read_json, write_text
from cracks_jax.search_space import Axis, parse_space
from cracks_jax.sweep_table import aligned
from cracks_jax.training_data import open_training_data
from cracks_jax.watch import NotFinite

JOURNAL, LOCK, TABLE = "search.jsonl", "search.lock", "trials"
State = Literal["done", "diverged", "failed", "open"]


@dataclass(frozen=True)
class Plan:
    """What is searched.

    Attributes:
      base: the experiment with `settings`; trials change it along `axes`.
      spec: FILE.py[:FORM], as given; with `member` where the file defines a table.
      settings: `--set` as given.
    """

    base: Experiment
    axes: tuple[Axis, ...]
    out: Path
    spec: str
    member: str | None = None
    settings: tuple[str, ...] = ()
    seed: int = 0

    @property
    def selection(self) -> tuple[str, str]:
        return self.base.method.selection

    def drawn(self, params: Mapping[str, Any]) -> list[str]:
        """A draw as settings."""
        return [axis.setting(params[axis.path]) for axis in self.axes]

    def job(self, params: Mapping[str, Any]) -> Job:
        """The training of a draw, in a folder of its own; UsageError where the values do not fit together."""
        experiment = resolve_weights(apply_settings(self.base, self.drawn(params)), _say)
        name = f"{experiment.label}-{experiment.run_id}"
        return Job(name, experiment, self.out / name)

    def command(self, params: Mapping[str, Any]) -> str:
        """Trains a draw anew."""
        words = ["cracks-jax", "train", self.spec, *(() if self.member is None else ("--member", self.member))]
        return shlex.join([*words, "--set", *self.settings, *self.drawn(params)])

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same when a search goes on."""
        space = {axis.path: [axis.low, axis.high, axis.log, *axis.choices] for axis in self.axes}
        return {"run_id": self.base.run_id, "space": space, "seed": self.seed}


def plan(
    spec: str,
    out: Path,
    space: Sequence[str],
    *,
    member: str | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
) -> Plan:
    """What `tools/search.py` asks for; UsageError where it cannot be."""
    base = apply_settings(load_file(spec, member), settings)
    return Plan(base, parse_space(space, base, settings), out, spec, member, tuple(settings), seed)


@dataclass(frozen=True)
class Trial:
    """One draw and what came of it; `value` is the selection's best, `why` the reason where there is none."""

    number: int
    state: State
    params: dict[str, Any] = field(default_factory=dict)
    value: float | None = None
    why: str = ""


def search(found: Plan, trials: int) -> tuple[str, int]:
    """Carries out what is missing of `trials` trials; the table, and the exit code: 0, or 1 where no trial was trained.

    Raises:
      Stopped: a signal came; the same search goes on with the trial that was under way.
      UsageError: Optuna is not installed, or the folder holds another search.
      CracksError: the data or the disk is bad: no trial could do better.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError("a search needs Optuna: pip install 'cracks-jax[search]'") from error
    if trials < 1:
        raise UsageError(f"--trials {trials}: give 1 or more")
    with _alone(found.out):
        study = _open(optuna, found)
        before = len(_ended(study))
        if before < trials:
            open_training_data(resolve_weights(found.base, _say))  # what no draw can help is said before the first
        while (number := len(_ended(study))) < trials:
            begun = [trial for trial in study.trials if not trial.state.is_finished()]
            trial = begun[0] if begun else _draw(optuna, study, found, len(study.trials))
            _say(f"trial {number + 1} of {trials}: {' '.join(found.drawn(trial.params))}")
            _try(optuna, study, found, trial.number, trial.params)
        table = _written(found, listed(study))
    done = any(trial.state == "done" for trial in listed(study))
    return table, 0 if done else 1


def _draw(optuna: Any, study: Any, found: Plan, number: int) -> Any:
    # A sampler of its own for each trial: none has a past that a stop would lose.
    seed = int(np.random.SeedSequence([found.seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=False)
    return study.ask({axis.path: axis.distribution(optuna) for axis in found.axes})


def _try(optuna: Any, study: Any, found: Plan, number: int, params: dict[str, Any]) -> None:
    """Trains one draw, or goes on with it, and tells the study what came out."""
    states = optuna.trial.TrialState
    state, value, why = states.COMPLETE, None, ""
    try:
        job = found.job(params)
        do(job, _say)
        metric = found.selection[0]
        value = read_json(job.folder / METRICS)[f"best_{metric}"]
        if value is None:
            state, why = states.FAIL, f"validation {metric} is undefined"
    except NotFinite as error:  # a bad draw, from which the sampler is to learn
        state, why = states.PRUNED, str(error)
    except WriteError:
        raise
    except (CracksError, MemoryError) as error:
        state, why = states.FAIL, str(error) or type(error).__name__
    except RuntimeError as error:  # XLA's: too large for the device, say
        traceback.print_exc()
        state, why = states.FAIL, f"{type(error).__name__}: {error}"
    if why:
        _say(f"trial {number} {'diverged' if state == states.PRUNED else 'failed'}: {why}")
        study.set_user_attr(f"why {number}", shown(why))
    study.tell(number, value, state=state)


def _ended(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.is_finished()]


# ----------------------------------------------------------------------------------------------- on disk


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One search at a time in a folder; another would take the trial that is under way for one that was left."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CracksError(f"{out}: a search is under way there; wait for it, or give another --out") from error
            yield
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise CracksError(f"{out}: cannot be written ({error.strerror}); give another --out") from error


def _open(optuna: Any, found: Plan) -> Any:
    """The study of this search, begun or as it was left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path, direction = found.out / JOURNAL, found.selection[1]
    _drop_half_a_line(path)
    journal = optuna.storages.journal
    storage = optuna.storages.JournalStorage(
        journal.JournalFileBackend(str(path), journal.JournalFileOpenLock(str(path)))
    )
    study = optuna.create_study(
        storage=storage,
        study_name="search",
        load_if_exists=True,
        direction="minimize" if direction == "min" else "maximize",
    )
    before = study.user_attrs.get("search")
    if before is None:
        study.set_user_attr("search", found.identity)
    elif before != found.identity:
        name = next(key for key, value in found.identity.items() if before.get(key) != value)
        was, now = (_brief(one.get(name)) for one in (before, found.identity))
        raise UsageError(f"{found.out}: holds another search ({name} {was}, here {now}); give another --out")
    for trial in study.trials:  # ended while it was being drawn: milliseconds, but it holds no draw to go on with
        if not trial.state.is_finished() and trial.params.keys() != {axis.path for axis in found.axes}:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _brief(value: Any) -> str:
    return shown(value if not isinstance(value, dict) else " ".join(f"{k}={v}" for k, v in value.items()))


def _drop_half_a_line(path: Path) -> None:
    """What a process that was killed while it wrote has left at the journal's end; Optuna would not read past it."""
    for left in path.parent.glob(f"{path.name}*.lock"):  # its lock; ours says that nobody else holds it
        left.unlink()
    if path.is_file() and not (text := path.read_bytes()).endswith(b"\n"):
        write_text(path, text[: text.rfind(b"\n") + 1].decode())


def listed(study: Any) -> list[Trial]:
    """A study's trials in their order."""
    states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "diverged", "FAIL": "failed"}
    attributes = study.user_attrs
    return [
        Trial(
            one.number,
            states.get(one.state.name, "open"),
            dict(one.params),
            one.values[0] if one.values else None,
            attributes.get(f"why {one.number}", ""),
        )
        for one in study.trials
    ]


# ------------------------------------------------------------------------------------------------ table


def _written(found: Plan, trials: Sequence[Trial]) -> str:
    table = as_markdown(found, trials)
    write_text(found.out / f"{TABLE}.csv", as_csv(found, trials))
    write_text(found.out / f"{TABLE}.md", table + "\n")
    return table


def best_first(found: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """By what came out; those without a value last, in their order."""
    sign = 1 if found.selection[1] == "min" else -1
    return sorted(trials, key=lambda one: math.inf if one.value is None else sign * one.value)


def as_markdown(found: Plan, trials: Sequence[Trial]) -> str:
    """The trials, the best first, and how the best one is trained anew."""
    metric, direction = found.selection
    paths = [axis.path for axis in found.axes]
    ends = [path.rpartition(".")[2] for path in paths]
    names = [path if ends.count(end) > 1 else end for path, end in zip(paths, ends, strict=True)]
    head = ["trial", *names, metric.replace("_", " "), "best step", "run"]
    rows, why = [], []
    ordered = best_first(found, trials)
    for one in ordered:
        run, best_step = _run(found, one)
        values = (
            [setting.partition("=")[2] for setting in found.drawn(one.params)] if one.params else ["-"] * len(paths)
        )
        value = one.state if one.value is None else f"{one.value:.4f}"
        rows.append([str(one.number), *values, value, best_step, run])
        why += [f"trial {one.number} {one.state}: {one.why}"] if one.why else []
    least = "least" if direction == "min" else "greatest"
    base = found.base
    parts = [f"{base.label} on {base.data.name}; the {least} {metric.replace('_', ' ')} counts; seed {found.seed}",
             aligned(head, rows), *(["\n".join(why)] if why else [])]  # fmt: skip
    if ordered and ordered[0].value is not None:
        best = ordered[0]
        where = found.out / _run(found, best)[0]
        parts.append(
            f"The best is trial {best.number}, in {where}; trained anew by\n\n    {found.command(best.params)}"
        )
    return "\n\n".join(parts)


def as_csv(found: Plan, trials: Sequence[Trial]) -> str:
    """One line for each trial, in their order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metric = f"best_{found.selection[0]}"
    writer.writerow(["trial", "state", *(axis.path for axis in found.axes), metric, "best_step", "run", "why"])
    for one in trials:
        run, best_step = _run(found, one)
        values = (
            [setting.partition("=")[2] for setting in found.drawn(one.params)] if one.params else [""] * len(found.axes)
        )
        writer.writerow([one.number, one.state, *values, one.value, best_step.strip("-"), run.strip("-"), one.why])
    return text.getvalue()


def _run(found: Plan, trial: Trial) -> tuple[str, str]:
    """A trial's run directory and best step; `-` where there is none."""
    try:
        job = found.job(trial.params)
    except (CracksError, KeyError):
        return "-", "-"
    name = job.folder.name if job.folder.is_dir() else "-"
    return name, str(read_json(job.folder / METRICS)["best_step"]) if job.trained else "-"


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)

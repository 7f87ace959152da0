"""The verb `sweep`: each member of an experiment file trained, scored and tabulated; again, it does what is missing.

  OUT/<label>-<run_id>/   a run directory for each member, its scores below `scores/`
  OUT/logs/<member>.log   what its training and scoring said
  OUT/table.md, .csv      the members in the file's order, means and spreads over seeds, the paper's row beside
  OUT/sweep.json          each start of the sweep: what was done, by what, and where the time went

Where members are trained is the launcher's matter (`cracks_jax/launch`).
"""

import fnmatch
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cracks_jax.data.datasets import open_dataset, parse_spec
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import Experiment, apply_settings, load_members, parse_file
from cracks_jax.launch.board import Board, last_step
from cracks_jax.launch.job import SWEEP, Job
from cracks_jax.launch.local import check_jobs, find_devices, run_locally
from cracks_jax.members import with_seeds
from cracks_jax.pretrained import resolve_weights
from cracks_jax.runs import EXPERIMENT, RECORDS, alone_in
from cracks_jax.runtime.records import read_json, write_json, write_text
from cracks_jax.surroundings import surroundings
from cracks_jax.sweep_table import as_csv, as_markdown, trained_of
from cracks_jax.training_data import test_split

TABLE, LOGS = "table", "logs"
Launcher = Literal["local", "ray", "slurm"]


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
      jobs: the chosen members, in the file's order; `table`: these and all others, which the table shows too.
      bad: id -> why a chosen member cannot be trained here.
      out: the sweep's folder.
      spec: FILE.py[:FORM], as given.
    """

    jobs: tuple[Job, ...]
    table: tuple[Job, ...]
    bad: dict[str, str]
    out: Path
    spec: str

    @property
    def missing(self) -> list[Job]:
        return [job for job in self.jobs if not job.done]


def plan(
    spec: str,
    out: Path,
    *,
    only: str | None = None,
    seeds: Sequence[int] = (),
    settings: Sequence[str] = (),
    tests: Sequence[str] = (),
    detection: Mapping[str, Any] | None = None,
) -> Plan:
    """The members of `FILE.py[:FORM]` and what each one lacks; nothing is trained.

    Args:
      only: a pattern (`*`, `?`) that the ids of chosen members match.
      seeds: every member with each of them; () leaves their own.
      settings: `path.to.field=value`, for every member.
      tests: labelled data to score on; () takes the test split of what a member trains on, where there is one.
      detection: how they are scored, fields of a `Request`.

    Raises:
      UsageError: no such file, form, member or data; two members with one id; an empty table.
    """
    path, _ = parse_file(spec)
    members = load_members(*parse_file(spec))
    if seeds:
        members = with_seeds(members, seeds)
    named = {name or path.stem: one for name, one in members.items()}
    chosen = [name for name in named if only is None or fnmatch.fnmatchcase(name, only)]
    if not chosen:
        raise UsageError(f"--only {only}: no member matches; {path} has {', '.join(named)}")
    for test in tests:
        open_dataset(*parse_spec(test), need_masks=True)
    jobs, bad = [], {}
    for name, one in named.items():
        try:
            # The member's name stays without the seed: one row of the table.
            experiment = resolve_weights(apply_settings(one, settings), _say)
            where = tests or tuple(filter(None, (test_split(experiment),)))
            folder = out / f"{experiment.label}-{experiment.run_id}"
            jobs.append(Job(name, experiment, folder, tuple(where), dict(detection or {})))
        except UsageError:
            raise
        except CracksError as error:
            if name in chosen:
                bad[name] = str(error)
    _check_ids(jobs)
    return Plan(tuple(job for job in jobs if job.id in chosen), tuple(jobs), bad, out, spec)


def _check_ids(jobs: Sequence[Job]) -> None:
    seen: dict[Path, str] = {}
    for job in jobs:
        if job.folder in seen:
            raise UsageError(
                f"members {seen[job.folder]} and {job.id} are one experiment (run_id {job.experiment.run_id}); "
                "let them differ in a setting or in the seed"
            )
        seen[job.folder] = job.id


def show(found: Plan, jobs: int | None = None, launcher: Launcher = "local") -> str:
    """What a sweep would do: each member's state, steps and run directory, the programs they share, and where."""
    lines = [f"{'member':32} {'state':22} {'steps':>8}  run directory"]
    for job in found.jobs:
        step = last_step(job.folder / RECORDS)
        state = "done" if job.done else "to score" if job.trained else f"goes on from {step}" if step else "to train"
        lines.append(f"{job.id:32} {state:22} {job.experiment.training.steps:>8,}  {job.folder.name}")
    lines += [f"{name:32} cannot be trained: {why}" for name, why in found.bad.items()]
    programs = {_program(job.experiment) for job in found.jobs}
    lines.append(f"{len(found.missing)} of {len(found.jobs)} members to do; {len(programs)} compiled training program"
                 f"{'s' * (len(programs) > 1)}")  # fmt: skip
    if launcher == "local" and found.missing:
        at_once = min(check_jobs(jobs, find_devices()), len(found.missing))
        lines.append(f"on this machine, {at_once} at a time")
    elif found.missing:
        lines.append({"ray": "on a Ray cluster", "slurm": "as tasks of a Slurm array"}[launcher])
    return "\n".join(lines)


def _program(experiment: Experiment) -> Any:
    """What decides the compiled step: members that are equal in it share one."""
    shapes = experiment.data.pipeline.crop, experiment.training.batch_size
    return experiment.method, experiment.training.colour, shapes, experiment.matmul_precision


def sweep(found: Plan, *, jobs: int | None = None, launcher: Launcher = "local") -> tuple[str, int]:
    """Does what is missing; the table, and the exit code: 0 all done, 1 a member failed, 75 stopped.

    Args:
      jobs: members at a time; None takes one for each device.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    found.out.mkdir(parents=True, exist_ok=True)
    missing = found.missing
    outcomes: dict[str, dict[str, Any]] = {}
    if missing:
        if launcher == "ray":
            from cracks_jax.launch.on_ray import run_on_ray

            with Board(found.jobs) as board:
                outcomes = run_on_ray(missing, jobs, found.out, board)
        else:
            devices = find_devices()
            jobs = min(check_jobs(jobs, devices), len(missing))
            with Board(found.jobs) as board:
                outcomes = run_locally(missing, jobs, devices, found.out / LOGS, board)
    for name, why in found.bad.items():
        outcomes[name] = {"state": "failed", "words": why, "seconds": {}}
    with alone_in(found.out, "is writing this table"):  # tasks of one array end at the same time
        runs = [run for job in found.table if (run := trained_of(job)) is not None]
        table = as_markdown(runs)
        if runs and len(runs) < len(found.table):
            table += f"\n\n{len(runs)} of {len(found.table)} members are trained."
        write_text(found.out / f"{TABLE}.csv", as_csv(runs))
        write_text(found.out / f"{TABLE}.md", table + "\n")
        _note(found, started, time.monotonic() - began, jobs, launcher, outcomes)
    failed = {name: one["words"] for name, one in outcomes.items() if one["state"] == "failed"}
    for name, why in failed.items():
        _say(f"{name} failed: {why}")
    stopped = any(not job.done for job in found.jobs) and not failed.keys() >= {j.id for j in found.missing}
    if stopped:
        _say("stopped; run the same command again to go on")
    return table, 75 if stopped else 1 if failed else 0


def _note(
    found: Plan, started: datetime, seconds: float, jobs: int | None, launcher: str,
    outcomes: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Adds this start to sweep.json."""
    path = found.out / SWEEP
    before = read_json(path)["starts"] if path.is_file() else []
    members = {
        job.id: {
            "run": job.folder.name,
            **outcomes[job.id],
            "spent": _spent(job, started) if outcomes[job.id]["seconds"] else {},
        }
        for job in found.jobs
        if job.id in outcomes
    }
    start = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "jobs": jobs,
        "launcher": launcher,
        "members": members | {name: outcomes[name] for name in found.bad},
        **surroundings(),
    }
    write_json(path, {"experiment": Path(found.spec.rpartition(":")[0] or found.spec).name, "starts": [*before, start]})


def _spent(job: Job, since: datetime) -> dict[str, float]:
    """Where the time of a member's attempts since then went."""
    total: dict[str, float] = {}
    for attempt in read_json(job.folder / EXPERIMENT).get("attempts", []):
        if datetime.fromisoformat(attempt["started"]) >= since:
            for part, taken in attempt.get("spent", {}).items():
                total[part] = round(total.get(part, 0.0) + taken, 2)
    return total


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers; UsageError for anything else."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UsageError(f"--seeds {text}: expected whole numbers with commas, such as 0,1,2")
    return tuple(map(int, text.split(",")))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)



"""A sweep on a Ray cluster: each member is a task with its share of a machine, tried again where a worker is lost.

The sweep's folder must lie on a disk that every machine sees: a task that is tried elsewhere goes on from the member's
last checkpoint there. Needs `pip install 'cracks-jax[ray]'`.
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.launch.board import Board
from cracks_jax.launch.job import Job, do
from cracks_jax.launch.local import asked_to_stop

# How often a member whose worker was lost is tried again.
RETRIES = 3
_BEAT = 1.0
_TOKEN = ".seen-by-all"


def run_on_ray(jobs: Sequence[Job], at_once: int | None, out: Path, board: Board) -> dict[str, dict[str, Any]]:
    """Does every job on the cluster of $RAY_ADDRESS, or on this machine; id -> `state`, `words`, `seconds`.

    A member takes one accelerator, or where the cluster has none, its processors divided by `at_once` (one each by
    default).
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray: pip install 'cracks-jax[ray]', or leave --launcher out") from error
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, configure_logging=False)
    found: dict[str, dict[str, Any]] = {}
    token = out.absolute() / _TOKEN
    token.write_text("a task that does not see this file is on a machine without the sweep's folder\n")
    remote = ray.remote(**_share(ray, at_once), max_retries=RETRIES)(_done)
    waiting = {
        remote.remote(dataclasses.replace(job, folder=job.folder.absolute()), str(Path.cwd()), str(token)): job
        for job in jobs
    }
    try:
        with asked_to_stop() as stop:
            for job in jobs:
                board.set(job.id, "training", "on the cluster")
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_BEAT)
                for task in ready:
                    job = waiting.pop(task)
                    found[job.id] = _outcome(ray, task)
                    board.set(job.id, found[job.id]["state"], found[job.id]["words"])
                if stop.is_set():
                    for task, job in waiting.items():
                        ray.cancel(task)  # interrupts it, which training takes for a polite stop
                        found[job.id] = {"state": "stopped", "words": "", "seconds": {}}
                    break
                board.beat()
    finally:
        with contextlib.suppress(OSError):
            token.unlink()
    return found


def _share(ray: Any, at_once: int | None) -> dict[str, Any]:
    whole = ray.cluster_resources()
    if whole.get("GPU"):
        return {"num_gpus": 1, "num_cpus": 1}
    if whole.get("TPU"):
        return {"resources": {"TPU": 1}, "num_cpus": 1}
    return {"num_cpus": max(1, int(whole.get("CPU", 1)) // at_once) if at_once else 1}


def _outcome(ray: Any, task: Any) -> dict[str, Any]:
    try:
        return dict(ray.get(task))
    except ray.exceptions.RayTaskError as error:
        words = str(error.cause).splitlines()[0] if getattr(error, "cause", None) else str(error).splitlines()[-1]
        return {"state": "failed", "words": words, "seconds": {}}
    except ray.exceptions.RayError as error:
        words = f"its worker was lost {RETRIES + 1} times ({type(error).__name__}); run the sweep again to go on"
        return {"state": "failed", "words": words, "seconds": {}}


def _done(job: Job, folder: str, token: str) -> dict[str, Any]:
    """The task: where it runs, the sweep's folder must be the same."""
    from cracks_jax.train import Stopped

    if not Path(token).is_file():
        raise CracksError(f"{Path(token).parent}: this machine does not see the sweep's folder; give --out on a disk "
                          "that all machines share")  # fmt: skip
    os.chdir(folder)  # data and caches are named from where the sweep was started
    try:
        return {"state": "done", "words": "", "seconds": do(job, print)}
    except Stopped:
        return {"state": "stopped", "words": "", "seconds": {}}
    except (CracksError, OSError) as error:
        return {"state": "failed", "words": str(error), "seconds": {}}

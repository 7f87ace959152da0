"""A training repeated from its record: what rebuilds its environment, and whether it ended in the same state."""

from pathlib import Path
from typing import Any

from cracks_jax.runs import EXPERIMENT, METRICS
from cracks_jax.runtime.records import read_json

# Of experiment.json: what a training's bits depend on besides its science.
_ENVIRONMENT = ("software", "device", "threads", "xla_flags", "git_revision", "lock", "weights")


def rebuild(description: dict[str, Any]) -> str:
    """The commands that rebuild the environment of a run's first attempt, as far as its record knows it."""
    revision = description.get("git_revision")
    python = ".".join(str(description.get("software", {}).get("python", "3.11")).split(".")[:2])
    lock = description.get("lock")
    lines = [f"python{python} -m venv .venv && .venv/bin/pip install {_pinned(lock, description)}."]
    if revision is not None:
        lines.insert(0, f"git checkout {revision.removesuffix('+changes')}")
    flags = description.get("xla_flags")
    if flags:
        lines.append(f"export XLA_FLAGS='{flags}'")
    notes = []
    if revision is None:
        notes.append("no git revision is on record: take the sources of the version named above")
    elif revision.endswith("+changes"):
        notes.append("the package's files had changes that are not in that revision")
    if lock is not None:
        notes.append(f"{lock['file']} had SHA-256 {lock['sha256'][:16]}...")
    device = description.get("device", {})
    notes.append(f"it ran on {device.get('count')} x {device.get('kind')} with {description.get('threads')} threads")
    return "\n".join([*lines, *(f"# {note}" for note in notes)])


def _pinned(lock: dict[str, str] | None, description: dict[str, Any]) -> str:
    if lock is not None:
        return f"-c {lock['file']} "
    own = ("python", "cracks-jax")
    software = description.get("software", {})
    pins = [f"{name}=={version}" for name, version in software.items() if name not in own and version]
    return " ".join(pins) + " " if pins else ""


def compared(metrics: dict[str, Any], run: Path, repeated: Path) -> str:
    """Whether the training in `run`, which ended with `metrics`, ended as `repeated` did; if not, what differs."""
    if not (repeated / METRICS).is_file():
        return f"{repeated} has not ended, so there is no final state to compare with"
    if read_json(repeated / METRICS)["state_sha256"] == metrics["state_sha256"]:
        return f"the same final state as {repeated}, bit for bit"
    now, then = read_json(run / EXPERIMENT), read_json(repeated / EXPERIMENT)
    differences = list(_differences(then, now))
    if not differences:
        return (
            f"another final state than {repeated}, although the environment on record is the same: one of the two was "
            "trained by changed sources, or on a machine that computes otherwise"
        )
    return f"another final state than {repeated}; what differs:\n" + "\n".join(f"  {line}" for line in differences)


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`name: before -> now` for each part of the environment, the science and the data that is not the same."""
    found = []
    for part in (*_ENVIRONMENT, "science"):
        found += _leaves(part, then.get(part), now.get(part))
    digests = [described.get("data", {}).get("digest") for described in (then, now)]
    return found + _leaves("data.digest", *digests)


def _leaves(name: str, then: Any, now: Any) -> list[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        return [line for key in sorted({*then, *now}) for line in _leaves(f"{name}.{key}", then.get(key), now.get(key))]
    return [] if then == now else [f"{name}: {then} -> {now}"]

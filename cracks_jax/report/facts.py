"""What was run: of each run its state, data, seed, software, device and time, what differs from the defaults, and the
command that repeats it.
"""

import json
from typing import Any

from cracks_jax.data.elements import Pipeline
from cracks_jax.experiment import Data, Experiment, Training, science
from cracks_jax.methods.presets import default_detection
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration
from cracks_jax.report.entries import method_of, trained_on
from cracks_jax.report.gather import FoundRun, printable
from cracks_jax.report.model import Facts
from cracks_jax.report.sound import is_number

_PACKAGES = ("cracks-jax", "python", "jax", "flax", "optax", "grain", "numpy")
# Told beside the settings, or no setting of the training at all.
_TOLD = ("name", "form", "member", "seed", "method.kind", "data.name", "data.split")


def facts(run: FoundRun) -> Facts:
    """All of a run that experiment.json, records.jsonl and metrics.json tell."""
    told = run.description
    data, device, software, weights = (told.get(part, {}) for part in ("data", "device", "software", "weights"))
    known = (
        ("method", method_of(run)),
        ("run", run.run_id),
        ("trained on", trained_on(run)),
        ("data digest", data.get("digest", "")[:16]),
        ("images", f"{data['train']:,}, {len(data.get('validation', []))} held out" if "train" in data else ""),
        ("seed", told.get("science", {}).get("seed")),
        ("steps", _steps(run)),
        ("best checkpoint", _best(run)),
        ("time", _time(run.attempts)),
        ("device", f"{device.get('count', 1)} x {device['kind']}" if "kind" in device else ""),
        ("software", ", ".join(f"{name} {software[name]}" for name in _PACKAGES if software.get(name))),
        ("revision", _revision(told.get("git_revision", ""))),
        ("pretrained", ", ".join(f"{name} ({str(digest)[:12]})" for name, digest in weights.items())),
        ("final state", run.metrics.get("state_sha256", "")[:16]),
    )
    shown = tuple((name, str(value)) for name, value in known if value not in (None, ""))
    command = "" if run.experiment is None else f"cracks-jax train --repeat runs/{printable(run.folder.resolve().name)}"
    return Facts(run.name, run.state, run.finished, shown, _differing(run.experiment), command)


def _steps(run: FoundRun) -> str:
    planned = "" if run.experiment is None else f" of {run.experiment.training.steps:,}"
    return f"{run.step:,}{planned}"


def _best(run: FoundRun) -> str:
    name = next((name for name in run.metrics if name.startswith("best_") and name != "best_step"), None)
    if name is None or not is_number(run.metrics[name]) or "best_step" not in run.metrics:
        return ""
    return f"step {run.metrics['best_step']:,}, validation {name.removeprefix('best_')} {run.metrics[name]:.4f}"


def _time(attempts: list[dict[str, Any]]) -> str:
    seconds: list[Any] = [attempt.get("seconds") for attempt in attempts]
    known = [one for one in seconds if is_number(one)]
    if not known:
        return ""
    total = f"{sum(known) / 60:.0f} min" if sum(known) >= 120 else f"{sum(known):.0f} s"
    several = f" in {len(attempts)} attempts" if len(attempts) > 1 else ""
    return f"{total}{several}" + (", a part of it not recorded" if len(known) < len(seconds) else "")


def _revision(revision: str) -> str:
    """Short; that files differed from it is kept."""
    commit, changed, _ = revision.partition("+")
    return commit[:12] + (" with changes" if changed else "")


def _differing(experiment: Experiment | None) -> tuple[tuple[str, str, str], ...]:
    """(setting, value, default) of the science that differs from what the package does where nothing is said."""
    if experiment is None:
        return ()
    method: Any = type(experiment.method)()
    restores = isinstance(method, Restoration)
    pipeline = Pipeline(corruption="squares" if restores else None)
    training = Training(loss_weights=LOSS_WEIGHTS if restores else {})
    plain = Experiment(experiment.name, experiment.form, method, data=Data(pipeline=pipeline), training=training,
                       detection=default_detection(method))  # fmt: skip
    ours, defaults = _flat(science(experiment)), _flat(science(plain))
    names = [name for name in ours if name not in _TOLD and ours[name] != defaults.get(name)]
    return tuple((name, _words(ours[name]), _words(defaults.get(name))) for name in names)


def _words(value: Any) -> str:
    """As `--set` reads it."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """a.b.c -> value."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found

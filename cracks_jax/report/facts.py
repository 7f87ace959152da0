"""What was run: of each run its state, data, seed, software, device and time, what differs from the defaults, and the
command that repeats it.
"""

import dataclasses
from typing import Any

from cracks_jax.data.elements import Pipeline
from cracks_jax.experiment import Data, Experiment, Training, science
from cracks_jax.report.entries import method_of, trained_on
from cracks_jax.report.gather import FoundRun
from cracks_jax.report.model import Facts

_PACKAGES = ("cracks-jax", "python", "jax", "flax", "optax", "grain", "numpy")
# Told beside the settings, or no setting of the training at all.
_TOLD = ("name", "form", "member", "seed", "method.kind", "data.name", "data.split")


def facts(run: FoundRun) -> Facts:
    """All of a run that experiment.json, records.jsonl and metrics.json tell."""
    told = run.description
    data, device, software = (told.get(part) or {} for part in ("data", "device", "software"))
    known = (
        ("method", method_of(run)),
        ("run", told.get("run_id")),
        ("trained on", trained_on(run)),
        ("data digest", (data.get("digest") or "")[:16]),
        ("images", f"{data['train']:,}, {len(data.get('validation', []))} held out" if "train" in data else ""),
        ("seed", told.get("science", {}).get("seed")),
        ("steps", _steps(run)),
        ("best checkpoint", _best(run)),
        ("time", _time(told.get("attempts") or [])),
        ("device", f"{device['count']} x {device['kind']}" if device else ""),
        ("software", ", ".join(f"{name} {software[name]}" for name in _PACKAGES if software.get(name))),
        ("revision", (told.get("git_revision") or "")[:12]),
        ("pretrained", ", ".join(f"{name} ({digest[:12]})" for name, digest in (told.get("weights") or {}).items())),
        ("final state", (run.metrics.get("state_sha256") or "")[:16]),
    )
    shown = tuple((name, str(value)) for name, value in known if value not in (None, ""))
    command = f"cracks-jax train --repeat {run.name}" if run.experiment is not None else ""
    return Facts(run.name, run.state, run.finished, shown, _differing(run.experiment), command)


def _steps(run: FoundRun) -> str:
    planned = "" if run.experiment is None else f" of {run.experiment.training.steps:,}"
    return f"{run.step:,}{planned}"


def _best(run: FoundRun) -> str:
    name = next((name for name in run.metrics if name.startswith("best_") and name != "best_step"), None)
    if name is None or run.metrics[name] is None:
        return ""
    return f"step {run.metrics['best_step']:,}, validation {name.removeprefix('best_')} {run.metrics[name]:.4f}"


def _time(attempts: list[dict[str, Any]]) -> str:
    seconds = [attempt.get("seconds") for attempt in attempts]
    known = sum(one for one in seconds if one is not None)
    if not known:
        return ""
    several = f" in {len(attempts)} attempts" if len(attempts) > 1 else ""
    return f"{known / 60:.0f} min{several}" + (", a part of it not recorded" if None in seconds else "")


def _differing(experiment: Experiment | None) -> tuple[tuple[str, str, str], ...]:
    """(setting, value, default) of the science that differs from what the package does where nothing is said."""
    if experiment is None:
        return ()
    # Loss weights and the corruption have no default but the method's own.
    training = dataclasses.replace(Training(), loss_weights=experiment.training.loss_weights)
    pipeline = dataclasses.replace(Pipeline(), corruption=experiment.data.pipeline.corruption)
    method: Any = type(experiment.method)()
    plain = Experiment(experiment.name, experiment.form, method, data=Data(pipeline=pipeline), training=training)
    ours, defaults = _flat(science(experiment)), _flat(science(plain))
    names = [name for name in ours if name not in _TOLD and ours[name] != defaults.get(name)]
    return tuple((name, str(ours[name]), str(defaults.get(name, "none"))) for name in names)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """a.b.c -> value."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found

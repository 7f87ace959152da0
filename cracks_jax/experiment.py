"""What an experiment is: a tree of frozen dataclasses, and the ways between file, object and JSON.

Everything but `machine` is the science: it is hashed into `run_id` and must match when a run is resumed.
An experiment file's whole interface is `experiment(form) -> Experiment | dict[str, Experiment]`.
"""

import dataclasses
import hashlib
import importlib.util
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cracks_jax.data.elements import Pipeline
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.presets import LOSSES
from cracks_jax.methods.registry import Method, method_class, method_kind
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration

FORMS = ("paper", "cpu", "smoke")


@dataclass(frozen=True)
class Data:
    """Which images are trained on.

    Attributes:
      name: a data set under $CRACKS_DATA, or a path (only its last part is recorded).
      split: which part of it; None where it has none.
      recipe: a `cracks-jax data prepare` recipe applied first, or None.
      recipe_settings: that recipe's settings, where they differ from its defaults.
      validation: share of the training photographs that is held out to select the best checkpoint.
      pipeline: crop, scale, flips and corruption.
    """

    name: str = "deepcrack"
    split: str | None = "train"
    recipe: str | None = None
    recipe_settings: dict[str, Any] = field(default_factory=dict)
    validation: float = 0.1
    pipeline: Pipeline = field(default_factory=Pipeline)


@dataclass(frozen=True)
class Training:
    """How long and how a method is trained. Lengths are steps (one batch each); patience counts validations.

    `loss_weights` and the learning rates travel to the compiled step as traced numbers: changing one compiles nothing.
    `pretrained` (the trunk) and `style_weights` (the style loss's extractor) are files under $CRACKS_WEIGHTS, or paths.
    """

    steps: int = 11_840
    batch_size: int = 8
    preset: Literal["default", "paper", "authors"] = "default"
    schedule: Literal["constant", "exponential", "poly"] = "poly"
    schedule_decay: float = 0.99
    schedule_power: float = 0.9
    final_learning_rate: float = 1e-6
    learning_rate: float = 1e-4
    discriminator_learning_rate: float = 4e-4
    weight_decay: float = 0.0
    loss_weights: dict[str, float] = field(default_factory=dict)
    colour: float = 0.0
    validate_every: int = 592
    patience: int | None = None
    pretrained: str | None = None
    style_weights: str | None = None


@dataclass(frozen=True)
class Machine:
    """What may differ between two attempts at one run without changing its result's meaning."""

    workers: int = 0
    devices: int | None = None
    strategy: Literal["jit", "pmap"] = "jit"
    log_every: int = 20
    checkpoint_every: int = 500
    cache: str = "runs/prepared"


@dataclass(frozen=True)
class Experiment:
    """One training, completely described. `name` is the experiment file's stem."""

    name: str
    form: str
    method: Method
    member: str | None = None
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    detection: Detection = field(default_factory=Detection)
    seed: int = 0
    matmul_precision: Literal["default", "high", "highest"] = "highest"
    machine: Machine = field(default_factory=Machine)

    @property
    def run_id(self) -> str:
        """Eight hex digits of the SHA-256 of the science."""
        text = json.dumps(science(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """`<file>-<form>[-<member>]`: the readable part of a run directory's name."""
        return "-".join(part for part in (self.name, self.form, self.member) if part)


def science(experiment: Experiment) -> dict[str, Any]:
    """What is hashed: every setting but `machine`, with a data path reduced to its last part."""
    tree = dataclasses.asdict(experiment)
    del tree["machine"]
    tree["method"] = {"kind": method_kind(experiment.method), **tree["method"]}
    # Paths are this machine's: records hold names, and digests beside them.
    for part, name in (("data", "name"), ("training", "pretrained"), ("training", "style_weights")):
        if tree[part][name] is not None:
            tree[part][name] = Path(tree[part][name]).name
    return json.loads(json.dumps(tree))


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Science and machine; the cache's place is left out, as every path is."""
    machine = dataclasses.asdict(experiment.machine)
    del machine["cache"]
    return {"science": science(experiment), "machine": machine}


def from_json(tree: dict[str, Any], source: str = "experiment.json") -> Experiment:
    """The experiment that `to_json` described; CracksError where it was written by another version or by hand."""
    try:
        values = dict(tree["science"])
        method = dict(values.pop("method"))
        values["method"] = _build(method_class(method.pop("kind")), method, "method")
        values["machine"] = tree["machine"]
        return _build(Experiment, values, "")
    except (KeyError, TypeError, AttributeError) as error:
        raise CracksError(f"{source}: not an experiment of this version ({error!r}); train it again") from error


def load_file(spec: str, member: str | None = None) -> Experiment:
    """The experiment of `FILE.py[:FORM]`, one member of it where the file defines a table."""
    path_text, form = spec, "paper"
    head, colon, tail = spec.rpartition(":")
    if colon and head.endswith(".py"):
        path_text, form = head, tail
    path = Path(path_text)
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"{path_text}: no such experiment file; give a Python file such as experiments/crackseg_deepcrack.py"
        )
    if form not in FORMS:
        raise UsageError(f"{spec}: unknown form {form!r}; a form is one of {', '.join(FORMS)}")
    found = _call(path, form)
    if isinstance(found, Experiment):
        if member is not None:
            raise UsageError(f"{path_text} defines one experiment, not a table: leave out --member {member}")
        return found
    if member is not None and member not in found:
        raise UsageError(f"{path_text} has no member {member!r}; it has {', '.join(found)}")
    name = member if member is not None else next(iter(found))
    return dataclasses.replace(found[name], member=name)


def _call(path: Path, form: str) -> Experiment | dict[str, Experiment]:
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.experiment(form)
    except CracksError:
        raise
    except Exception as error:  # a user's file may fail in any way; the message must name it
        raise UsageError(f"{path}: cannot be read as an experiment: {type(error).__name__}: {error}") from error
    members = found.values() if isinstance(found, dict) and found else [found]
    if not all(isinstance(one, Experiment) for one in members):
        raise UsageError(f"{path}: experiment({form!r}) gave {type(found).__name__}; it must give an Experiment or a dict of them")
    return found


def apply_settings(experiment: Experiment, settings: typing.Sequence[str]) -> Experiment:
    """Each `path.to.field=value` applied in turn. `training.preset` comes first: it sets several fields at once."""
    pairs = []
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {text}: expected path.to.field=value, for example training.steps=100")
        pairs.append((path.strip(), value.strip()))
    for path, value in sorted(pairs, key=lambda pair: pair[0] != "training.preset"):
        experiment = replace_at(experiment, path.split("."), value, path)
        if path == "training.preset":
            experiment = with_training_preset(experiment, value)
    return experiment


def with_training_preset(experiment: Experiment, name: str) -> Experiment:
    """The experiment with every training choice of a preset (UPCRACKNET 6b); lengths in steps stay the file's own."""
    if not isinstance(experiment.method, Restoration):
        raise UsageError(f"training.preset={name}: presets belong to UP-CrackNet; this trains CrackSeg")
    authors = name == "authors"
    weights = {**LOSS_WEIGHTS, **experiment.training.loss_weights, "discriminator": 0.5 if authors else 1.0}
    return dataclasses.replace(
        experiment,
        method=dataclasses.replace(experiment.method, losses=LOSSES[name], unbiased_running_var=authors),
        data=dataclasses.replace(
            experiment.data, pipeline=dataclasses.replace(experiment.data.pipeline, corrupt_before=authors)
        ),
        training=dataclasses.replace(
            experiment.training,
            preset=typing.cast(Any, name),
            patience=None if authors else experiment.training.patience,
            loss_weights=weights,
        ),
    )


def replace_at(node: Any, parts: list[str], value: str, path: str) -> Any:
    """A copy of a tree of dataclasses with one field set from text; UsageError names the path and what would do."""
    name, rest = parts[0], parts[1:]
    if isinstance(node, dict):
        if rest:
            raise UsageError(f"--set {path}: {name!r} has no fields of its own")
        return {**node, name: _from_text(value)}
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise UsageError(f"--set {path}: nothing lies below {path[: path.rfind(name) - 1]!r}")
    hints = get_type_hints(type(node))
    if name not in hints or name not in {f.name for f in dataclasses.fields(node)}:
        known = ", ".join(f.name for f in dataclasses.fields(node))
        raise UsageError(f"--set {path}: there is no setting {name!r}; here there are {known}")
    if rest:
        return dataclasses.replace(node, **{name: replace_at(getattr(node, name), rest, value, path)})
    if dataclasses.is_dataclass(getattr(node, name)):
        raise UsageError(f"--set {path}: {name!r} is a group; name one of its fields, for example {path}.FIELD=VALUE")
    try:
        return dataclasses.replace(node, **{name: _convert(_from_text(value), hints[name], path, text=value)})
    except (TypeError, ValueError) as error:
        raise UsageError(f"--set {path}={value}: {error}") from error


def _from_text(value: str) -> Any:
    """JSON where it parses, otherwise the text itself; `none` is None."""
    if value.lower() in ("none", "null"):
        return None
    try:
        return json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except json.JSONDecodeError:
        return value


def _build(cls: type, values: dict[str, Any], path: str) -> Any:
    hints = get_type_hints(cls)
    unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
    if unknown:
        raise CracksError(f"unknown setting {path}.{sorted(unknown)[0]} of {cls.__name__}; written by another version?")
    return cls(**{name: _convert(value, hints[name], f"{path}.{name}".strip(".")) for name, value in values.items()})


def _convert(value: Any, hint: Any, path: str, text: str | None = None) -> Any:
    """`value` as the annotated type; TypeError says what was found and what was expected."""
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        if dataclasses.is_dataclass(value):
            return value
        return _convert(value, next(one for one in options if one is not type(None)), path, text)
    if origin is Literal:
        if text in get_args(hint):  # a choice may be called "none"
            return text
        if value in get_args(hint):
            return value
        raise TypeError(f"{path} is {value!r}; expected one of {', '.join(map(str, get_args(hint)))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            raise TypeError(f"{path} has {len(value)} values; expected {len(inner)}")
        return tuple(_convert(one, kind, path) for one, kind in zip(value, inner, strict=True))
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else _build(typing.cast(type, hint), value, path)
    if origin is dict and isinstance(value, dict):
        return dict(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is str and (isinstance(value, str) or text is not None):
        return value if isinstance(value, str) else text
    name = getattr(hint, "__name__", str(hint))
    raise TypeError(f"{path} is {value!r} ({type(value).__name__}); expected {name}")

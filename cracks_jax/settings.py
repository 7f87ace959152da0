"""Settings as trees of frozen dataclasses: values from text (`--set path.to.field=value`) and from JSON.

Types come from the annotations, ranges from each class's `__post_init__`; messages name the path, the value and what
would do.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.untrusted import parse_json

# As many characters of a wrong value as a message shows.
_SHOWN = 100


def replace_all(root: Any, settings: Sequence[tuple[str, str]], prefix: str = "") -> Any:
    """A copy of a tree of dataclasses with every (path.to.field, text) set.

    All at once, so that values which only fit together can be given in any order; of one path given twice the last
    counts. `prefix` stands before every path in messages. UsageError names the path and what would do.
    """
    groups: dict[str, list[tuple[list[str], str]]] = {}
    for path, value in settings:
        name, *rest = path.split(".")
        groups.setdefault(name, []).append((rest, value))
    return _replaced(root, groups, prefix)


def _replaced(node: Any, groups: dict[str, list[tuple[list[str], str]]], prefix: str) -> Any:
    if not groups:
        return node
    changes = {name: _changed(node, name, settings, f"{prefix}{name}") for name, settings in groups.items()}
    if isinstance(node, dict):
        return {**node, **changes}
    try:
        return dataclasses.replace(node, **changes)
    except UsageError as error:
        values = " ".join(f"{prefix}{'.'.join([n, *rest])}={v}" for n, found in groups.items() for rest, v in found)
        raise UsageError(f"--set {values}: {error}") from error


def _changed(node: Any, name: str, settings: list[tuple[list[str], str]], path: str) -> Any:
    """The new value of one field of `node`: from the last text given for itself, or with fields of its own changed."""
    deeper = [(rest, value) for rest, value in settings if rest]
    if isinstance(node, dict):
        if deeper:
            raise UsageError(f"--set {path}.{'.'.join(deeper[0][0])}: {name!r} has no fields of its own")
        return _given(settings[-1][1], path)
    names = [f.name for f in dataclasses.fields(node)]
    if name not in names:
        raise UsageError(f"--set {path}: there is no setting {name!r}; here there are {', '.join(names)}")
    old = getattr(node, name)
    if deeper and not dataclasses.is_dataclass(old) and not isinstance(old, dict):
        raise UsageError(f"--set {path}.{'.'.join(deeper[0][0])}: nothing lies below {path!r}")
    if len(deeper) < len(settings) and (deeper or dataclasses.is_dataclass(old)):
        raise UsageError(f"--set {path}: {name!r} is a group; name its fields, for example {path}.FIELD=VALUE")
    if deeper:
        groups: dict[str, list[tuple[list[str], str]]] = {}
        for (inner, *rest), value in deeper:
            groups.setdefault(inner, []).append((rest, value))
        return _replaced(old, groups, f"{path}.")
    return _given(settings[-1][1], path, get_type_hints(type(node))[name])


def _given(text: str, path: str, hint: Any = None) -> Any:
    """The value that a text gives a setting, of the annotated type where there is one."""
    try:
        value = from_text(text)
        return value if hint is None else convert(value, hint, path, text=text)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--set {path}={_brief(text)}: {error}") from error


def from_text(value: str) -> Any:
    """JSON where it parses, else the text itself; `none` is None. ValueError: JSON beyond `parse_json`'s bounds."""
    if value.lower() in ("none", "null"):
        return None
    try:
        return parse_json(value.lower() if value.lower() in ("true", "false") else value)
    except json.JSONDecodeError:
        return value


def build(cls: type, values: dict[str, Any], path: str) -> Any:
    """An instance of a dataclass from what JSON holds of it; TypeError or CracksError names what does not fit."""
    hints = get_type_hints(cls)
    unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
    if unknown:
        raise CracksError(f"unknown setting {path}.{sorted(unknown)[0]} of {cls.__name__}; written by another version?")
    return cls(**{name: convert(value, hints[name], f"{path}.{name}".strip(".")) for name, value in values.items()})


def convert(value: Any, hint: Any, path: str, text: str | None = None) -> Any:
    """`value` as the annotated type; TypeError says what was found and what was expected."""
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        if dataclasses.is_dataclass(value):
            return value
        return convert(value, next(one for one in options if one is not type(None)), path, text)
    if origin is Literal:
        if text in get_args(hint):  # a choice may be called "none"
            return text
        if any(value == one and type(value) is type(one) for one in get_args(hint)):  # True == 1, but is no choice
            return value
        raise TypeError(f"{path} is {_brief(repr(value))}; expected one of {', '.join(map(str, get_args(hint)))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            raise TypeError(f"{path} has {len(value)} values; expected {len(inner)}")
        return tuple(convert(one, kind, path) for one, kind in zip(value, inner, strict=True))
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else build(typing.cast(type, hint), value, path)
    if origin is dict and isinstance(value, dict):
        kind = get_args(hint)[1]
        return {name: one if kind is Any else convert(one, kind, f"{path}.{name}") for name, one in value.items()}
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is str and (isinstance(value, str) or text is not None):
        return value if isinstance(value, str) else text
    name = getattr(hint, "__name__", str(hint))
    raise TypeError(f"{path} is {_brief(repr(value))} ({type(value).__name__}); expected {name}")


def _brief(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"

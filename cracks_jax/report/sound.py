"""Whether what JSON files hold is of the kind that was recorded: a report must stand whatever lies on disk."""

from collections.abc import Iterable
from typing import Any

from cracks_jax.metrics.definitions import METRICS

# What the report reads of experiment.json and of metrics.json; a dict of dicts as deep as it looks.
RUN_SHAPE: dict[str, Any] = {
    "run_id": str, "git_revision": str, "software": {}, "weights": {}, "attempts": list,
    "science": {"seed": int, "method": {"kind": str}, "data": {"name": str, "split": str}},
    "data": {"digest": str, "train": int, "validation": list},
    "device": {"kind": str, "count": int},
}  # fmt: skip
METRICS_SHAPE: dict[str, Any] = {"step": int, "best_step": int, "state_sha256": str}


def pruned(tree: dict[str, Any], shape: dict[str, Any], wrong: list[str], within: str = "") -> dict[str, Any]:
    """The tree without the places that are of another kind than the shape's; their names are added to `wrong`."""
    kept = dict(tree)
    for name, kind in shape.items():
        value = kept.get(name)
        if value is None:
            kept.pop(name, None)
        elif not isinstance(value, dict if isinstance(kind, dict) else kind):
            wrong.append(within + name)
            del kept[name]
        elif isinstance(kind, dict):
            kept[name] = pruned(value, kind, wrong, f"{within}{name}.")
    return kept


def wrong_in_score(row: dict[str, Any]) -> str:
    """What keeps a JSON object from being a record of an evaluation, in words; "" where nothing does."""
    for name in ("data", "rule", "geometry"):
        if not isinstance(row.get(name), str):
            return _found(name, row, "text")
    if not isinstance(row.get("images"), int):
        return _found("images", row, "a number of images")
    for name in ("run_id", "experiment", "command", "data_digest"):
        if not isinstance(row.get(name, ""), str):
            return _found(name, row, "text")
    for name in METRICS:
        if not _number(row.get(name)):
            return _found(name, row, "a number or null")
    intervals, cost = row.get("intervals", {}), row.get("cost", {})
    if not isinstance(intervals, dict) or not all(map(_ends, intervals.values())):
        return _found("intervals", row, "two ends of each metric")
    if not isinstance(cost, dict) or not all(_number(value) or isinstance(value, dict) for value in cost.values()):
        return _found("cost", row, "numbers by name")
    return ""


def _found(name: str, row: dict[str, Any], expected: str) -> str:
    if name not in row:
        return f"has no {name!r}"
    shown = repr(row[name])
    return f"its {name!r} is {shown[:40]}{'...' if len(shown) > 40 else ''}, not {expected}"


def _number(value: Any) -> bool:
    return value is None or is_number(value)


def is_number(value: Any) -> bool:
    """Whether it is one that arithmetic and drawings can take."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _ends(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(is_number, value)))


def wrong_in_tables(images: Iterable[dict[str, Any]], curve: Iterable[tuple[Any, ...]]) -> bool:
    """Whether a place is empty that no whole table leaves empty."""
    named = all(isinstance(one.get("image"), str) and _number(one.get("f1", "")) for one in images)
    return not named or not all(is_number(value) for point in curve for value in point)

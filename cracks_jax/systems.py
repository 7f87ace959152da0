"""The verb `systems`: every method that runs, its paper, its parameters and its operations for one image."""

from typing import Any

from cracks_jax.cost import size
from cracks_jax.methods.presets import default_detection
from cracks_jax.methods.registry import SYSTEMS


def systems() -> list[dict[str, Any]]:
    """name, source, parameters (trainable) and GFLOP to score one image at the paper's side (2 per multiply-add).

    Both are counted from the traced program; nothing is computed, no weights are drawn.
    """
    found = []
    for name, (method, source, side) in SYSTEMS.items():
        entry = {"name": name, "source": source, "side": side, "parameters": 0, "gflop": None}
        if hasattr(method, "selection"):
            found_size = size(method, default_detection(method), side)
            entry |= {"parameters": found_size["parameters"], "gflop": found_size[f"gflop_{side}"]}
        found.append(entry)
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'name':22} {'parameters':>12} {'GFLOP':>8} {'at':>5}  source"]
    for one in found:
        gflop = "-" if one["gflop"] is None else f"{one['gflop']:.1f}"
        lines.append(f"{one['name']:22} {one['parameters']:>12,} {gflop:>8} {one['side']:>5}  {one['source']}")
    return "\n".join(lines)

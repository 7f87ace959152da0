"""The verb `systems`: every method that runs, its paper, its parameters and its operations for one image."""

from typing import Any

import jax
import jax.numpy as jnp

from cracks_jax.methods.presets import default_detection
from cracks_jax.methods.registry import SYSTEMS
from cracks_jax.runtime.randomness import device_key


def systems() -> list[dict[str, Any]]:
    """name, source, parameters (trainable) and GFLOP to score one image at the paper's side (2 per multiply-add).

    Both are counted from the traced program; nothing is computed, no weights are drawn.
    """
    found = []
    for name, (method, source, side) in SYSTEMS.items():
        entry = {"name": name, "source": source, "side": side, "parameters": 0, "gflop": None}
        if hasattr(method, "selection"):
            entry |= _counted(method, side)
        found.append(entry)
    return found


def _counted(method: Any, side: int) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = device_key(0, "systems", 0)
    state = jax.eval_shape(lambda k: method.init(k, {"image": image}), key)
    score = jax.jit(lambda s, x: method.score(s, x, key, default_detection(method)))
    # In an accelerator's form, which has the published operations: a processor's saves multiplications.
    lowered = score.trace(state, image).lower(lowering_platforms=("tpu",))
    networks = [part for part in ("network", "generator", "discriminator") if part in state]
    parameters = sum(leaf.size for part in networks for leaf in jax.tree.leaves(state[part]["params"]))
    cost = lowered.cost_analysis()
    assert cost is not None
    return {"parameters": parameters, "gflop": round(cost["flops"] / 1e9, 2)}


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'name':22} {'parameters':>12} {'GFLOP':>8} {'at':>5}  source"]
    for one in found:
        gflop = "-" if one["gflop"] is None else f"{one['gflop']:.1f}"
        lines.append(f"{one['name']:22} {one['parameters']:>12,} {gflop:>8} {one['side']:>5}  {one['source']}")
    return "\n".join(lines)

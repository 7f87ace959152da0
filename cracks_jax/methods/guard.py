"""A training step that never lets a number which is not finite into the state.

The step is wrapped as a whole: where anything it made is not finite, the state stays what it was, and with no skips
left it stays so for good. Nothing waits for the host, which may look at the verdict while the next step runs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Step = Callable[[Any, Any, Any, jax.Array], tuple[Any, dict[str, jax.Array]]]
SKIPS_LEFT = "skips_left"
FINITE = "finite"


def guarded(step: Step) -> Step:
    """The step, with `hyper[SKIPS_LEFT]`, an int32: how many steps may still be left out before the state freezes.

    Among the metrics are then `SKIPS_LEFT` for the next step (below 0: frozen) and `FINITE`, a bool for each name in
    `names_of`. DESIGN section 7: optax.apply_if_finite lets the NaN in after its last chance.
    """

    def guarded_step(state: Any, batch: Any, hyper: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        left = hyper[SKIPS_LEFT]
        made, metrics = step(state, batch, {k: v for k, v in hyper.items() if k != SKIPS_LEFT}, key)
        finite = jnp.stack([jnp.isfinite(leaf).all() for _, leaf in _floating(made) + _floating(metrics)])
        left = left - jnp.where(finite.all(), 0, 1).astype(left.dtype)
        taken = finite.all() & (left >= 0)
        state = jax.tree.map(lambda new, old: new if new is old else jnp.where(taken, new, old), made, state)
        return state, {**metrics, FINITE: finite, SKIPS_LEFT: left}

    return guarded_step


def names_of(state: Any, metrics: dict[str, Any]) -> list[str]:
    """What each entry of `FINITE` stands for: the state's floating arrays, then the step's own metrics."""
    own = {name: value for name, value in metrics.items() if name not in (FINITE, SKIPS_LEFT)}
    return [path for tree in (state, own) for path, _ in _floating(tree)]


def _floating(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
    return [(path, leaf) for path, leaf in named if jnp.issubdtype(leaf.dtype, jnp.floating)]

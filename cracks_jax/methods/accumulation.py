"""A batch taken in parts, one after another, for the memory of a part: gradients are averaged, then one update is made.

Where batch norm uses each part's own statistics this is not the step of the whole batch (DESIGN section 7); with frozen
statistics it is.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray

Part = dict[str, Array]


def parts_of(batch: Part, count: int) -> list[Part]:
    """`count` parts of equal size; part i holds images i, i + count, ...: a split batch stays split, without a move."""
    if count == 1:
        return [batch]
    return [jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:])[:, i], batch) for i in range(count)]  # noqa: B023


def key_of(key: PRNGKeyArray, part: int, count: int) -> PRNGKeyArray:
    """A key for each part; the batch's own where it is taken at once."""
    return key if count == 1 else jax.random.fold_in(key, part)


def accumulated(
    parts: list[Part], of_part: Callable[[Part, int, Any], tuple[Any, Any]], carried: Any
) -> tuple[Any, Any]:
    """The mean over parts of what `of_part(part, its number, carried)` gives first; what it gives second is passed on.

    Unrolled, because a convolution's gradient inside a loop is slow on a processor (DESIGN section 7).
    """
    total = None
    for number, part in enumerate(parts):
        if total is not None:
            # The next part waits for this one: side by side they would need the memory of the whole batch.
            part, total = jax.lax.optimization_barrier((part, total))
        found, carried = of_part(part, number, carried)
        total = found if total is None else jax.tree.map(jax.numpy.add, total, found)
    mean = total if len(parts) == 1 else jax.tree.map(lambda x: x / len(parts), total)
    return mean, carried

"""Several processes stop after the same step: each puts its wish into its batch, the step gives back whether any has.

So no process waits for another one but in the step itself. The answer is looked at one step late, while the next one
runs; one process alone knows without asking.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cracks_jax.group.processes import several
from cracks_jax.runtime.stopping import Stop

_WISH = "stop_asked"
Step = Callable[[Any, Any, Any, Any], tuple[Any, dict[str, Any]]]


def with_vote(step: Step) -> Step:
    """The step, for batches that `Vote.cast` gave; nothing is added for one process."""

    def voting_step(state: Any, batch: dict[str, Any], hyper: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        wishes = batch.get(_WISH)
        batch = {name: array for name, array in batch.items() if name != _WISH}
        state, metrics = step(state, batch, hyper, key)
        return state, metrics if wishes is None else {**metrics, _WISH: wishes.max()}

    return voting_step


class Vote:
    """Whether training is to stop, the same in every process."""

    def __init__(self, stop: Stop):
        self._stop = stop
        self._together = several()
        self._before: Any = None
        self._agreed = False

    @property
    def asked(self) -> bool:
        return self._agreed if self._together else self._stop.asked

    def cast(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch, with this process's wish for each of its images."""
        if not self._together:
            return batch
        images = len(next(iter(batch.values())))
        return {**batch, _WISH: np.full(images, self._stop.asked, np.uint8)}

    def count(self, metrics: dict[str, Any]) -> None:
        """Takes the votes of a step out of its metrics, and looks at those of the step before."""
        votes, before = metrics.pop(_WISH, None), self._before
        self._before = votes
        if before is not None:
            self._agreed = self._agreed or bool(np.asarray(before.addressable_data(0)))

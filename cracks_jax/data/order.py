"""The endless order of the records: which one stands at each position, and what becomes of bad ones.

Position -> record number is a pure function of the seed and of the set of bad records: grain's shuffle, anew at every
epoch. `replace` puts another record into the bad one's positions and moves nothing; `drop` passes over them, so that
the others keep their order among themselves and an epoch is shorter.

grain is imported at the first order: whoever imports this module alone starts neither it nor jax.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cracks_jax.runtime.randomness import host_rng

# What a bad image does to a training: it ends it, or the next record takes its place, or its place is taken out.
Policy = Literal["fail", "replace", "drop"]

# Threads prepare batches ahead: over several epochs, where there are few records.
_EPOCHS_KEPT = 8


def record_order(records: int, seed: int, bad: Collection[int] = (), policy: Policy = "fail") -> Any:
    """Endless record numbers by position: a fresh permutation for each epoch, `bad` ones replaced or dropped."""
    import grain

    # grain seeds epoch e with seed + e: neighbouring seeds would share permutations, so spread them first.
    spread = int(host_rng(seed, "shuffle", 0).integers(2**32))
    order = grain.MapDataset.range(records).shuffle(seed=spread).repeat()
    if not bad:
        return order
    if policy == "replace":
        return Replacing(order, _stand_ins(records, frozenset(bad)))
    return Dropping(order, records, tuple(sorted(set(bad))))


def records_per_epoch(records: int, bad: Collection[int], policy: Policy) -> int:
    """How many positions an epoch has."""
    return records - len(set(bad)) if policy == "drop" else records


def _stand_ins(records: int, bad: frozenset[int]) -> dict[int, int]:
    """Bad record -> the next good one, the first after the last."""
    following = {number: (number + 1) % records for number in bad}
    for number in bad:
        while following[number] in bad:
            following[number] = (following[number] + 1) % records
    return following


@dataclass(frozen=True)
class Replacing:
    """An order with other records in the positions of the bad ones."""

    order: Any
    stand_ins: dict[int, int]

    def __getitem__(self, position: int) -> int:
        number = int(self.order[position])
        return self.stand_ins.get(number, number)


class Dropping:
    """An order with the bad records passed over: epoch e is the whole set's permutation of e without them.

    Where position p lies depends on how many bad ones come before it, so an epoch's permutation is made as a whole;
    the last ones are kept.
    """

    def __init__(self, order: Any, records: int, bad: tuple[int, ...]):
        self.order, self.records, self.bad = order, records, bad
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker process goes what defines the order; a lock cannot go there.
        return type(self), (self.order, self.records, self.bad)

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.records - len(self.bad))
        return int(self._epoch(epoch)[place])

    def _epoch(self, epoch: int) -> np.ndarray:
        # Under the lock: threads that meet at an epoch's border would each make the same permutation.
        with self._lock:
            found = self._epochs.get(epoch)
            if found is None:
                first = epoch * self.records
                numbers = np.array([self.order[first + place] for place in range(self.records)])
                found = self._epochs[epoch] = numbers[~np.isin(numbers, self.bad)]
                if len(self._epochs) > _EPOCHS_KEPT:
                    del self._epochs[next(iter(self._epochs))]
            return found

"""What is timed, and how peers of another framework come in: handed over by the caller, never imported here."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class Contender(Protocol):
    """One implementation, ready to run."""

    def place(self, batch: dict[str, np.ndarray]) -> Any:
        """The host's arrays where and as the implementation wants them; not timed."""
        ...

    def run(self, placed: Any) -> Any:
        """One run, timed; returns when its result is computed.

        A forward pass gives its output as our method shapes it, a training step its loss as a number, or what
        `np.asarray` makes one of.
        """
        ...


@dataclass(frozen=True)
class Offer:
    """A peer that may not be at hand: `make` raises whatever tells why."""

    name: str
    make: Callable[[], Contender]


@dataclass(frozen=True)
class Peers:
    """The peers of one job.

    Attributes:
      weights: trees of arrays to put into our state, by its part (`generator`, ...), so that all compute the same.
      offers: the contenders.
      software: versions, by package.
    """

    weights: dict[str, Any]
    offers: list[Offer]
    software: dict[str, str | None] = field(default_factory=dict)


def reason(error: BaseException) -> str:
    """Why something failed, in one line for a record: no paths of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return re.sub(r"(?:/[\w.+-]+)+/", "", text)[:240]


def relative_error(ours: Any, theirs: Any) -> float:
    """max|ours - theirs| / max|theirs|; infinite where shapes differ or something is not finite."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))

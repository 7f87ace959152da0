"""Where the wall time of one training went: each moment belongs to exactly one part."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

# `restart`: opening data, initialising or restoring, until the first step is compiled; `other`: what no part names.
PARTS = ("restart", "compile", "input", "step", "evaluation", "checkpoint", "other")


class Spent:
    """Seconds by part, counted from the making of this object (`began`, UTC).

    Inside `with spent.on(part)` time belongs to that part, also where it began inside another; outside to `other`.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "other", time.monotonic()
        self.began = datetime.now(UTC)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        outer = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)

    def seconds(self) -> dict[str, float]:
        """Seconds of every part up to now."""
        self._turn_to(self._part)
        return {part: round(seconds, 3) for part, seconds in self._seconds.items()}

    def _turn_to(self, part: str) -> str:
        outer, now = self._part, time.monotonic()
        self._seconds[outer] += now - self._since
        self._part, self._since = part, now
        return outer

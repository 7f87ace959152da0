"""What a measurement of the accelerator check has found so far, on disk after every row, and the time it has left."""

import time
from pathlib import Path
from typing import Any

from cracks_jax.runtime.records import write_json

Record = dict[str, Any]


class Report:
    """What one measurement has found, kept in a file, and the time that it has.

    Attributes:
      found: the record; `left_out` lists what found no time.
    """

    def __init__(self, seconds: float, path: Path | None = None):
        self.end, self.path, self.found = time.monotonic() + seconds, path, dict[str, Any]()

    def left(self) -> float:
        return self.end - time.monotonic()

    def add(self, name: str, value: Any) -> None:
        self.found[name] = value
        self.keep()

    def keep(self) -> None:
        if self.path is not None:
            write_json(self.path, self.found)

    def enough(self, seconds: float, what: str) -> bool:
        """Whether that much time is left; where it is not, the record names what was left out."""
        if self.left() >= seconds:
            return True
        note = f"{what}: {max(self.left(), 0):.0f} s were left, {seconds:.0f} s are needed"
        self.add("left_out", [*self.found.get("left_out", []), note])
        return False

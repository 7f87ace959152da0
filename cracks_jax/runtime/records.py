"""A run's log: one JSON object per line, append-only, each step once even after a resume."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError, WriteError


class Records:
    """`records.jsonl` of one run directory. Every record has an `event` and a `step`."""

    def __init__(self, path: Path):
        self.path = path
        self._unwritten: list[str] = []  # what an append that failed left to the next one

    def append(self, event: str, step: int, **values: Any) -> None:
        """Adds one line, whole or not at all.

        Raises:
          WriteError: it could not be written; the next append writes it too, if there is one.
        """
        self._unwritten.append(json.dumps({"event": event, "step": step, **values}, allow_nan=False))
        lines = "".join(line + "\n" for line in self._unwritten).encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                before = file.tell()
                try:
                    if file.write(lines) != len(lines):  # a full disk takes what fits
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            raise WriteError(
                f"{self.path}: cannot be written ({error.strerror}); free space or choose another --run"
            ) from error
        self._unwritten.clear()

    def sync(self) -> None:
        """Until what was appended is on the disk itself."""
        if self.path.exists():
            with self.path.open("ab") as file:
                os.fsync(file.fileno())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every record in order. A last line cut off by a killed run is passed over; other damage is a CracksError."""
        for number, line, record in self._lines():
            if record is None:
                raise CracksError(f"{self.path}: line {number} is no record ({line[:60]!r}); {_REMEDY}")
            yield record

    def readable(self) -> tuple[list[dict[str, Any]], list[int]]:
        """The records that can be read, whatever is between them, and the numbers of the lines that are none."""
        lines = list(self._lines())
        return [r for _, _, r in lines if r is not None], [number for number, _, r in lines if r is None]

    def _lines(self) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
        """(number, text, record) of every line, but of a last one that was cut off."""
        if not self.path.exists():
            return
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise CracksError(f"{self.path}: cannot be read ({error.strerror}); {_REMEDY}") from error
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            cut_off = number == len(lines) and line.startswith(b"{")
            if record is not None or (line and not cut_off):
                yield number, line.decode(errors="backslashreplace"), record

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: those steps are about to be taken again."""
        kept = [json.dumps(record) for record in self if record["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise WriteError(f"{self.path}: cannot be written ({error.strerror}); free space and run again") from error

    def best(self, metric: str, direction: str) -> tuple[int, float] | None:
        """(step, value) of the best validation so far; the earliest wins a tie; None before the first."""
        found = [(r["step"], r[metric]) for r in self if r["event"] == "validation" and r.get(metric) is not None]
        if not found:
            return None
        sign = 1 if direction == "min" else -1
        return min(found, key=lambda pair: (sign * pair[1], pair[0]))

    def validations_since_best(self, metric: str, direction: str) -> int:
        best = self.best(metric, direction)
        return 0 if best is None else sum(r["event"] == "validation" and r["step"] > best[0] for r in self)


_REMEDY = "delete what is damaged, or restore the file"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("event"), str) and isinstance(record.get("step"), int)
    return record if whole else None


def write_json(path: Path, value: Any) -> None:
    """Written whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Written whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WriteError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another folder"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; CracksError where there is none."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}, not an object")
        return value
    except FileNotFoundError as error:
        raise CracksError(f"{path}: is missing; expected a run directory made by `cracks-jax train`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CracksError(f"{path}: cannot be read as JSON ({error}); restore it or train again") from error

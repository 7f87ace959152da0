"""A run's log: one JSON object per line, append-only, each step once even after a resume."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from cracks_jax.errors import CracksError, WriteError
from cracks_jax.untrusted import parse_json


class Records:
    """`records.jsonl` of one run directory. Every record has an `event` and a `step`."""

    def __init__(self, path: Path):
        self.path = path
        self._unwritten: list[str] = []  # what an append that failed left to the next one
        self._whole: int | None = None  # how many bytes are whole lines, where it may have left a part of one too
        self._lock = Lock()  # the thread that saves a checkpoint asks for the records before it

    def append(self, event: str, step: int, **values: Any) -> None:
        """Adds one line, whole or not at all.

        Raises:
          WriteError: it could not be written; the next append, or `sync`, writes it too.
        """
        line = json.dumps({"event": event, "step": step, **values}, allow_nan=False)
        with self._lock:
            self._unwritten.append(line)
            self._write()

    def sync(self) -> None:
        """Until what was appended is on the disk itself, and the file's name with it.

        Raises:
          WriteError: it cannot be written.
        """
        with self._lock:
            if self._unwritten:
                self._write()
        if self.path.exists():
            with self._failing():
                for path in (self.path, self.path.parent):
                    _sync(path)

    def _write(self) -> None:
        lines = "".join(line + "\n" for line in self._unwritten).encode()
        with self._failing(), self.path.open("ab", buffering=0) as file:
            if self._whole is not None:
                file.truncate(self._whole)
            self._whole = file.seek(0, os.SEEK_END)
            try:
                if file.write(lines) != len(lines):  # a full disk takes what fits
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(self._whole)  # a disk that fails may refuse that too: then the next append does it
                raise
        self._whole = None
        self._unwritten.clear()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(
                f"{self.path}: cannot be written ({error.strerror}); free space or choose another --run"
            ) from error

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
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self if record["step"] <= step))
        self._whole = None

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


class Remembered(Records):
    """The log of a process that is not the first of its group: what was on disk when it began, then in memory alone."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._own: list[dict[str, Any]] | None = None

    def rewind(self, step: int) -> None:
        self._own = [record for record in self if record["step"] <= step]

    def append(self, event: str, step: int, **values: Any) -> None:
        assert self._own is not None
        self._own.append({"event": event, "step": step, **values})

    def sync(self) -> None:
        """Nothing: the first process does it."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return super().__iter__() if self._own is None else iter(self._own)


_REMEDY = "delete what is damaged, or restore the file"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except ValueError:
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
        _sync(temporary)  # a power cut could leave the name that is given next, and none of these bytes
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a disk that has become read-only keeps it
            temporary.unlink(missing_ok=True)
        raise WriteError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another folder"
        ) from error


def _sync(path: Path) -> None:
    """Until what was written to a file, or the names that were given in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; CracksError where there is none."""
    try:
        value = parse_json(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}, not an object")
        return value
    except FileNotFoundError as error:
        raise CracksError(f"{path}: is missing; expected a run directory made by `cracks-jax train`") from error
    except (OSError, ValueError) as error:
        raise CracksError(f"{path}: cannot be read as JSON ({error}); restore it or train again") from error

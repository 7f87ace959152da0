"""Reading what others wrote: bounds on what a file may claim, before memory or the stack is spent on it.

Every problem is a ValueError in words; who knows the file's path says it. NumPy only. Nothing here runs what it reads.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

# Settings, records and manifests are nested some six levels deep.
MAX_DEPTH = 64
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
# NumPy's own bound on the text of an array's header.
_MAX_HEADER = 10_000
_CHUNK = 2**22
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, within the bounds of `check_bounds`.

    Raises:
      json.JSONDecodeError: it is no JSON, to which NaN and Infinity do not belong.
      ValueError: it is beyond those bounds, or those of Python.
    """
    try:
        value = json.loads(text, parse_constant=_no_json)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_bounds(value)
    return value


def check_bounds(value: Any) -> None:
    """ValueError where a JSON value is nested too deep, or holds a number that would overflow what is computed from it.

    That is deeper than `MAX_DEPTH`, a whole number beyond 64 bits, or one that is not finite.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, (list, tuple)):
                inner += one
            elif (isinstance(one, int) and not -(2**63) <= one < 2**63) or (
                isinstance(one, float) and not math.isfinite(one)
            ):
                raise ValueError(f"holds a number that is not finite, or beyond 64 bits ({str(one)[:20]})")
        if not inner:
            return
        level = inner
    raise ValueError(_TOO_DEEP)


def _no_json(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def read_array(stream: IO[bytes], most_bytes: int) -> np.ndarray:
    """The array of an `.npy` stream, in the file's own dtype.

    Raises:
      ValueError: it is none, holds Python objects (whose reading runs code) or anything but numbers, claims more than
        `most_bytes`, or does not hold what it claims.
    """
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream, max_header_size=_MAX_HEADER)
    except Exception as error:  # NumPy parses the header as Python's literals, and raises what they lead to
        raise ValueError(f"no header of an array of numbers ({_first_line(error)})") from error
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of {dtype}; only numbers are read, because reading objects can run code")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > most_bytes:
        raise ValueError(f"claims {shape} of {dtype}, {size} bytes; at most {most_bytes} are read")
    data = bytearray()  # grows with what is there, not with what is claimed
    while len(data) < size and (chunk := stream.read(min(_CHUNK, size - len(data)))):
        data += chunk
    if len(data) != size or stream.read(1):
        raise ValueError(f"holds {'fewer' if len(data) != size else 'more'} than the {size} bytes of its {shape}")
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def read_arrays(source: Path | IO[bytes], most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` archive by name, at most `most_bytes` together.

    Raises:
      ValueError: it is none, or one of its arrays is refused by `read_array`.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename or name in arrays:
                    raise ValueError(f"{entry.filename!r} in it is no array, or there twice")
                with archive.open(entry) as stream:
                    arrays[name] = read_array(stream, most_bytes)
                most_bytes -= arrays[name].nbytes
    except OSError:
        raise
    except Exception as error:  # zipfile raises whatever the damaged bytes lead it to
        raise ValueError(_first_line(error)) from error
    return arrays


def unpacked_size(path: Path) -> int:
    """What a zip archive says it unpacks to, in bytes; ValueError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except OSError:
        raise
    except Exception as error:
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""CrackForest's labels out of its MATLAB 5 files: groundTruth.Segmentation, an array of numbers in a structure.

A reader of our own, because scipy's ends the process on some damaged files. It takes no memory for what a file claims
before that is known to be there, and knows numbers and structures alone: functions and objects are never looked at.

A file is a header and elements; an element is a tag (kind, bytes) and its content, which for a matrix is elements
again: flags, dimensions, a name, and then numbers, or the names of fields and a matrix for each.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# The labels and their outlines, in one byte or two: far above CrackForest's 480x320.
MAX_BYTES = 2**29
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCTURE, _NUMBERS, _COMPLEX = 2, range(6, 16), 0x0800
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_segmentation(data: bytes) -> np.ndarray:
    """The array groundTruth.Segmentation of a MATLAB 5 file, as it is stored.

    Raises:
      ValueError: there is none, the file is damaged, or it unpacks to more than `MAX_BYTES`.
    """
    try:
        if data[126:128] not in (b"IM", b"MI"):
            raise ValueError("not a MATLAB 5 file")
        order = "<" if data[126:128] == b"IM" else ">"
        return _numbers(_field(_variable(data[_HEADER:], order, "groundTruth"), "Segmentation"))
    except (ValueError, LookupError, StopIteration, struct.error, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"no labels in this .mat file ({reason}); expected CrackForest's groundTruth.Segmentation"
        ) from error


class _Matrix(NamedTuple):
    """A matrix; `rest` are the elements behind its name."""

    flags: int
    shape: tuple[int, ...]
    name: str
    rest: Iterator[tuple[int, bytes]]
    order: str


def _variable(data: bytes, order: str, wanted: str) -> _Matrix:
    room = MAX_BYTES
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            kind, content = _inflated(content, order, room)
            room -= len(content)
        if kind == _MATRIX and (found := _matrix(content, order)).name == wanted:
            return found
    raise ValueError(f"no variable {wanted}")


def _field(structure: _Matrix, wanted: str) -> _Matrix:
    if structure.flags & 0xFF != _STRUCTURE or math.prod(structure.shape) != 1:
        raise ValueError(f"{structure.name} is no single structure")
    length = _whole(*next(structure.rest), structure.order)[0]
    _, packed = next(structure.rest)
    if length < 1:
        raise ValueError(f"{structure.name} has no fields")
    names = [_text(packed[at : at + length]) for at in range(0, len(packed), length)]
    for name, (kind, content) in zip(names, structure.rest, strict=False):
        if name == wanted and kind == _MATRIX:
            return _matrix(content, structure.order)
    raise ValueError(f"{structure.name} has no field {wanted}")


def _numbers(matrix: _Matrix) -> np.ndarray:
    if matrix.flags & 0xFF not in _NUMBERS or matrix.flags & _COMPLEX:
        raise ValueError("they are no real numbers")
    # Columns first; the dtype may be a smaller one than MATLAB's own for this array.
    return _array(*next(matrix.rest), matrix.order).reshape(matrix.shape, order="F")


def _matrix(content: bytes, order: str) -> _Matrix:
    rest = _elements(content, order)
    flags, shape, (_, name) = _whole(*next(rest), order), _whole(*next(rest), order), next(rest)
    if min(shape, default=-1) < 0:
        raise ValueError(f"a matrix of {shape}")
    return _Matrix(flags[0], tuple(shape), _text(name), rest, order)


def _array(kind: int, content: bytes, order: str) -> np.ndarray:
    return np.frombuffer(content, np.dtype(f"{order}{_DTYPES[kind]}"))


def _whole(kind: int, content: bytes, order: str) -> list[int]:
    numbers = _array(kind, content, order)
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"{numbers.dtype} where whole numbers belong")
    return numbers.tolist()


def _text(padded: bytes) -> str:
    return padded.partition(b"\0")[0].decode("latin-1")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(kind, content) of each element; a short one has its content in its tag."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        if start + size > len(data) or (start == position + 4 and size > 4):
            raise ValueError("it is cut off")
        yield kind, data[start : start + size]
        position = start + size if kind == _COMPRESSED else (start + size + 7) // 8 * 8


def _inflated(packed: bytes, order: str, room: int) -> tuple[int, bytes]:
    """(kind, content) of a compressed element. Its own tag says its size, before it is unpacked."""
    inflate = zlib.decompressobj()
    kind, size = struct.unpack(f"{order}II", inflate.decompress(packed, 8))
    if size > room:
        raise ValueError(f"it unpacks to {MAX_BYTES - room + size} bytes or more; at most {MAX_BYTES} are read")
    content = inflate.decompress(inflate.unconsumed_tail, size) if size else b""
    if inflate.decompress(inflate.unconsumed_tail, 1) or not inflate.eof:
        raise ValueError("its compressed data is cut off, or longer than it says")
    return kind, content

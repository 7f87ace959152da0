"""CrackForest's labels out of its MATLAB files, with a bound on what compressed ones unpack to."""

import io
import struct
import zlib

import numpy as np

# The labels and their outlines, in one byte or two: far above CrackForest's 480x320.
MAX_BYTES = 2**29
_HEADER = 128
_COMPRESSED = 15


def read_segmentation(data: bytes) -> np.ndarray:
    """The array groundTruth.Segmentation of a MATLAB 5 file, as it is stored.

    Raises:
      ValueError: there is none, the file is damaged, or it unpacks to more than `MAX_BYTES`.
    """
    from scipy.io import loadmat  # slow to import, and only CrackForest's own labels need it

    try:
        found = np.asarray(loadmat(io.BytesIO(_unpacked(data)))["groundTruth"][0, 0]["Segmentation"])
        if found.dtype.kind not in "biuf":
            raise ValueError(f"an array of {found.dtype}")
        return found
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"no labels in this .mat file ({reason}); expected CrackForest's groundTruth.Segmentation"
        ) from error


def _unpacked(data: bytes) -> bytes:
    """The same file without compression: what an array in it claims to hold can then be no more than is there."""
    if len(data) < _HEADER or 0 in data[:4] or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB 5 file")
    tag = struct.Struct("<II" if data[126:128] == b"IM" else ">II")
    parts, position, room = [data[:_HEADER]], _HEADER, MAX_BYTES
    while position < len(data):
        kind, size = tag.unpack_from(data, position)
        position += tag.size
        element = data[position : position + size]
        position += size
        if kind == _COMPRESSED:
            kind, size, element = _inflated(element, tag, room)
        room -= len(element)
        if room < 0:
            raise ValueError(f"it holds more than {MAX_BYTES} bytes")
        parts += [tag.pack(kind, size), element]
    return b"".join(parts)


def _inflated(packed: bytes, tag: struct.Struct, room: int) -> tuple[int, int, bytes]:
    """Kind, size and content of a compressed element. Its own tag says its size, before it is unpacked."""
    inflate = zlib.decompressobj()
    kind, size = tag.unpack(inflate.decompress(packed, tag.size))
    if size > room:
        raise ValueError(f"it unpacks to {size} bytes or more; at most {MAX_BYTES} are read")
    element = inflate.decompress(inflate.unconsumed_tail, size) if size else b""
    if inflate.decompress(inflate.unconsumed_tail, 1) or not inflate.eof:
        raise ValueError("its compressed data is cut off, or longer than it says")
    return kind, size, element

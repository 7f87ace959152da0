"""What a picture's file says before a pixel is decoded: the size that it claims, and whether all of it is there.

Decoders take memory for the claim, so that a file of a hundred bytes can ask for all that a machine has; and OpenCV
decodes half a file in silence. Both are judged here, from the bytes alone.
"""

import re
import struct
import zlib
from collections.abc import Iterator

FORMATS = "JPEG, PNG, TIFF, BMP or WebP"

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# In a JPEG's compressed data 0xFF is followed by 00 (a literal), D0-D7 (restart) or FF (fill): else a marker.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# A progressive JPEG has some ten scans; each is one more pass over the whole picture, and may take a few bytes.
_MAX_SCANS = 100
# libtiff's own bound, and its types of whole numbers.
_MAX_TAGS = 4096
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
# Width, height, and those of a tile, which is decoded whole.
_TIFF_WIDTHS, _TIFF_HEIGHTS = (256, 322), (257, 323)


class DamagedPicture(ValueError):
    """What is wrong with a file, in words."""


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a decoder would take memory for; None where the format is not one of ours.

    Raises:
      DamagedPicture: the header is cut off or makes no sense.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg_size(data)
        if data[:8] == _PNG:
            width, height = struct.unpack_from(">II", data, 16)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            width, height = _webp_size(data)
        elif data[:4] in _TIFFS:
            width, height = _tiff_size(data)
        elif data[:2] == b"BM":
            old = struct.unpack_from("<I", data, 14) == (12,)
            width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
        else:
            return None
    except (struct.error, OverflowError) as error:
        raise DamagedPicture("its header is cut off") from error
    return abs(width), abs(height)


def check_whole(data: bytes) -> None:
    """DamagedPicture where the file is cut off or damaged such that OpenCV would decode it half, or print about it."""
    if data[:3] == b"\xff\xd8\xff":
        whole = _jpeg_is_whole(data)
    elif data[:8] == _PNG:
        whole = _png_is_whole(data)
    elif data[:4] == b"RIFF":
        whole = len(data) >= 12 and struct.unpack("<I", data[4:8])[0] + 8 <= len(data) + 1
    else:
        return  # OpenCV decodes TIFF and BMP strictly
    if not whole:
        raise DamagedPicture("not a whole image")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for marker, position in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
    raise DamagedPicture("no frame in this JPEG")


def _jpeg_is_whole(data: bytes) -> bool:
    scans = 0
    for marker, _ in _jpeg_segments(data):
        scans += marker == _JPEG_SCAN
        if scans > _MAX_SCANS:
            raise DamagedPicture(f"a JPEG of more than {_MAX_SCANS} scans")
        if marker == _JPEG_END:
            return True
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, position) of each segment up to the end-of-image marker; those inside EXIF's thumbnail do not count."""
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        yield marker, position
        if marker == _JPEG_END or position + 4 > len(data):
            return
        length = struct.unpack_from(">H", data, position + 2)[0]
        position += 2 + length
        if marker == _JPEG_SCAN:
            found = _JPEG_MARKER.search(data, position)
            if found is None:
                return
            position = found.start()


def _png_is_whole(data: bytes) -> bool:
    """Every chunk up to IEND is there and has its checksum: what passes makes libpng print nothing."""
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4])
        checksum = int.from_bytes(data[end : end + 4])
        if end + 4 > len(data) or zlib.crc32(data[position + 4 : end]) != checksum:
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # the canvas, of which an animation's frames are parts
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int]:
    """The greatest width and height that the first page names, for itself or its tiles."""
    order, big = ("<" if data[:1] == b"I" else ">"), data[:4] in _TIFFS[2:]
    start = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)[0]
    if count > _MAX_TAGS:
        raise DamagedPicture(f"a TIFF of {count} tags")
    found: dict[int, int] = {}
    for number in range(count):
        at = start + (8 + 20 * number if big else 2 + 12 * number)
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        if tag in (*_TIFF_WIDTHS, *_TIFF_HEIGHTS) and kind in _TIFF_TYPES:
            value = struct.unpack_from(f"{order}{_TIFF_TYPES[kind]}", data, at + (12 if big else 8))[0]
            found[tag] = max(value, found.get(tag, 0))
    width, height = (max(found.get(tag, 0) for tag in tags) for tags in (_TIFF_WIDTHS, _TIFF_HEIGHTS))
    return width, height

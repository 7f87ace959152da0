"""Mutations of bytes, texts and words: what bit rot, cut downloads, slips and ill will make of good input."""

import random
import struct
import zlib

_NUMBERS = (
    *range(9), 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_LONGEST = 4096  # of what is moved, emptied or drawn anew: longer spans find nothing that these do not
TOKENS = (
    "", "0", "-1", "1", "2", "64", "1e999", "-1e999", "NaN", "Infinity", "1e-320", "0.5", "null", "none", "true", "[]",
    "{}", "[[]]", '""', "[1, 2]", '{"a": 1}', '{"kind": 1}', "9" * 19, "9" * 400, "1" * 5000, "[" * 5000,
    '{"a":' * 3000, "[" * 70 + "]" * 70, "\\u0000", "\0", "\x1b[31m", "\u00e9", "\udcff", "\U0001f6e3", "\u202e",
    "a" * 3000, "..", "/", ".", "a.b.c", "=", ",", ":", "otsu", "undamaged:2", "undamaged:nan", "validation", "value:",
    "argmax", "-", "--", "%s", "{0}", "__class__", "* ", "\n", "1e300", "1e-300", str(2**62), "99999", "-0.0", "1_000",
)  # fmt: skip


def data(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """Bytes with one to four things done to them."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 1, 2, 4))):
        draw.choice(_DATA)(draw, found, others)
        del found[1 << 20 :]
    return bytes(found)


def with_checksums(content: bytes) -> bytes:
    """A PNG with its checksums made right; any other bytes as they are."""
    found, at = bytearray(content), 8
    while content[:4] == b"\x89PNG" and at + 12 <= len(found):
        end = at + 8 + int.from_bytes(found[at : at + 4], "big")
        if end + 4 > len(found):
            break
        found[end : end + 4] = zlib.crc32(found[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(found)


def text(draw: random.Random, content: str) -> str:
    """A text with one to three things done to it."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        start, end = _span(draw, len(content))
        letters = chr(draw.randrange(32, 127)), chr(draw.randrange(0x250)), content[start:end], draw.choice(TOKENS)
        new, rest = draw.choice(letters), draw.choice((content[end:], content[start:], ""))
        content = (content[:start] + new + rest)[:100_000]
    return content


def words(draw: random.Random, content: list[str], more: tuple[str, ...]) -> list[str]:
    """A command line with one to three words changed, left out, doubled or added."""
    found = list(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(found) + 1)
        new = draw.choice((draw.choice(TOKENS), draw.choice(more), text(draw, draw.choice(found) if found else "")))
        if draw.random() < 0.3 or at == len(found):
            found.insert(at, new)
        elif draw.random() < 0.3:
            del found[at]
        elif draw.random() < 0.2:
            found.insert(at, draw.choice(found))
        else:
            found[at] = new
    return found


def _span(draw: random.Random, size: int) -> tuple[int, int]:
    """Where something is done: anywhere, but every other time in the first bytes, where headers are."""
    start = draw.randrange(min(size, 64) + 1) if draw.random() < 0.5 else draw.randrange(size + 1)
    return start, min(size, start + draw.choice((1, 2, 4, 8, 30, draw.randrange(1, _LONGEST))))


def _flip(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    if found:
        at = min(_span(draw, len(found))[0], len(found) - 1)
        found[at] ^= 1 << draw.randrange(8)


def _number(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    """A field of a header: a number at its limits, of any width and order."""
    kind = draw.choice(("B", "H", "I", "Q"))
    packed = struct.pack(draw.choice("<>") + kind, draw.choice(_NUMBERS) & (2 ** (8 * struct.calcsize(kind)) - 1))
    at = _span(draw, len(found))[0]
    found[at : at + len(packed)] = packed


def _noise(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    start, end = _span(draw, len(found))
    found[start:end] = draw.randbytes(end - start)


def _zero(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    start, end = _span(draw, len(found))
    found[start:end] = bytes([draw.choice((0, 255))]) * (end - start)


def _cut(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    del found[_span(draw, len(found))[0] :]


def _remove(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    start, end = _span(draw, len(found))
    del found[start:end]


def _double(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    start, end = _span(draw, len(found))
    at = _span(draw, len(found))[0]
    found[at:at] = found[start:end] * draw.choice((1, 1, 2, 50))


def _splice(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    """The head of one file and the tail of another."""
    other = draw.choice(others)
    found[_span(draw, len(found))[0] :] = other[_span(draw, len(other))[0] :]


def _replace(draw: random.Random, found: bytearray, others: tuple[bytes, ...]) -> None:
    found[:] = draw.choice((b"", draw.randbytes(draw.randrange(200)), found[:12] + draw.randbytes(100)))


_DATA = (
    *(_flip, _flip, _flip, _flip, _number, _number, _number, _noise, _zero),
    *(_cut, _remove, _double, _splice, _replace),
)

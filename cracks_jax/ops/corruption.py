"""Corruption masks for restoration: 1 = kept, 0 = removed, uint8 (m, side, side, 1), m masks (NumPy only).

Multi-scale squares are UP-CrackNet's (section III; the authors' checkerboards of 128, 64 and 32 px at 256),
stripes are the authors' disused alternative and SCADN's, jumbled squares are RIAD's. Sizes follow the side,
so that 256 gives the published masks and another side the same picture scaled. Sides are multiples of 16, so
that every square, stripe and cell has whole pixels.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

Kind = Literal["squares", "stripes", "jumbled"]
KINDS: tuple[str, ...] = get_args(Kind)
JUMBLED_CELLS = (2, 4, 8, 16)

_MULTIPLE = 16
_SQUARE_DIVISORS = (2, 4, 8)
_STRIPE_DIVISORS = (4, 8, 16)
_SETS = 3


def check_side(side: int) -> None:
    """Raises ValueError, naming the nearest side that works, unless `side` is a positive multiple of 16."""
    if side < _MULTIPLE or side % _MULTIPLE:
        nearest = max(_MULTIPLE, (2 * side + _MULTIPLE) // (2 * _MULTIPLE) * _MULTIPLE)
        raise ValueError(
            f"corruption side {side} px is not a multiple of {_MULTIPLE}; the nearest side that works is {nearest} px"
        )


def multiscale_squares(side: int) -> UInt8[np.ndarray, "6 side side 1"]:
    """Checkerboards of squares of side/2, side/4, side/8 px, each in two complementary phases.

    In this order. Phase 0 removes the top-left square, phase 1 keeps it. Every mask keeps half of the pixels.
    """
    check_side(side)
    return np.stack([_squares(side, i) for i in range(2 * len(_SQUARE_DIVISORS))])


def stripes(side: int) -> UInt8[np.ndarray, "12 side side 1"]:
    """Vertical, then horizontal stripes of side/4, side/8, side/16 px, each in two complementary phases.

    In this order. Phase 0 removes the leftmost or topmost stripe, phase 1 keeps it. Every mask keeps half of
    the pixels.
    """
    check_side(side)
    return np.stack([_stripes(side, i) for i in range(4 * len(_STRIPE_DIVISORS))])


def jumbled(side: int, cell: int, rng: np.random.Generator) -> UInt8[np.ndarray, "3 side side 1"]:
    """Cells of `cell` px split at random into three disjoint sets; mask i removes set i (RIAD).

    The sets differ by at most one cell, so each mask removes a third of the cells, and every pixel is removed
    by exactly one of the three masks.

    Raises:
      ValueError: for a side that is no multiple of 16, a cell that is not 2, 4, 8 or 16 px, or fewer than
        three cells.
    """
    check_side(side)
    if cell not in JUMBLED_CELLS:
        offered = ", ".join(map(str, JUMBLED_CELLS))
        raise ValueError(f"jumbled cell of {cell} px is not offered; use one of {offered} px")
    count = side // cell
    if count**2 < _SETS:
        raise ValueError(
            f"a side of {side} px holds {count**2} cell of {cell} px, but {_SETS} sets need one each; "
            f"use a cell of at most {side // 2} px or a side of {2 * cell} px"
        )
    sets = rng.permutation(np.arange(count**2) % _SETS).reshape(count, count)
    removed = np.stack([_enlarge(sets == i, cell) for i in range(_SETS)])
    return (~removed).astype(np.uint8)[..., None]


def draw(kind: Kind, side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "1 side side 1"]:
    """One mask of a kind, each of its masks equally likely: 6 squares, 12 stripes.

    `jumbled` first draws the cell size, out of those of which the side holds at least three, then one of the
    masks.
    """
    check_side(side)
    if kind == "squares":
        return _squares(side, int(rng.integers(2 * len(_SQUARE_DIVISORS))))[None]
    if kind == "stripes":
        return _stripes(side, int(rng.integers(4 * len(_STRIPE_DIVISORS))))[None]
    if kind == "jumbled":
        cells = [cell for cell in JUMBLED_CELLS if (side // cell) ** 2 >= _SETS]
        masks = jumbled(side, cells[int(rng.integers(len(cells)))], rng)
        chosen = int(rng.integers(_SETS))
        return masks[chosen : chosen + 1]
    raise ValueError(f"corruption {kind!r} is not known; use one of {', '.join(KINDS)}")


def _alternate(side: int, width: int) -> np.ndarray:
    """0 for the first `width` positions, 1 for the next, and so on."""
    return (np.arange(side) // width % 2).astype(np.uint8)


def _squares(side: int, index: int) -> np.ndarray:
    scale, phase = divmod(index, 2)
    line = _alternate(side, side // _SQUARE_DIVISORS[scale])
    return (line[:, None] ^ line[None, :] ^ np.uint8(phase))[..., None]


def _stripes(side: int, index: int) -> np.ndarray:
    direction, rest = divmod(index, 2 * len(_STRIPE_DIVISORS))
    scale, phase = divmod(rest, 2)
    line = _alternate(side, side // _STRIPE_DIVISORS[scale]) ^ np.uint8(phase)
    grid = line[None, :] if direction == 0 else line[:, None]
    return np.array(np.broadcast_to(grid, (side, side)))[..., None]


def _enlarge(cells: np.ndarray, cell: int) -> np.ndarray:
    return cells.repeat(cell, 0).repeat(cell, 1)

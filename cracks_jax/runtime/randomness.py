"""Everything random is recomputed from (seed, stream, number); nothing random is ever saved.

A stream is a name for one use of randomness ('augment', 'dropout', ...): two streams of one seed never share
a draw, so adding a use changes no other. On the device the number is the training step, on the host it is
the position of an element in the endless input. Importing this module does not import jax: data workers
import it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax

SEED_LIMIT = 2**32


def stream_id(stream: str) -> int:
    """The fixed integer of a stream's name, 0 to 2**32 - 1: its CRC-32, the same everywhere."""
    return zlib.crc32(stream.encode())


def check_seed(seed: int) -> int:
    """`seed` itself, or ValueError where it does not fit the 32 bits that grain and jax both take."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed {seed!r} is not a whole number from 0 to {SEED_LIMIT - 1}; give one that is")
    return int(seed)


def device_key(seed: int, stream: str, step: int | jax.Array) -> jax.Array:
    """The jax key of one use in one step: fold_in(fold_in(key(seed), stream), step).

    `step` may be traced, so that a jitted training step derives its own key and never compiles again.
    """
    import jax

    return jax.random.fold_in(jax.random.fold_in(jax.random.key(check_seed(seed)), stream_id(stream)), step)


def host_rng(seed: int, stream: str, position: int) -> np.random.Generator:
    """The NumPy generator of one use at one position; `position` counts from 0."""
    # Seed and stream are one 32-bit word each, so no two triples give NumPy the same words.
    return np.random.default_rng([check_seed(seed), stream_id(stream), int(position)])

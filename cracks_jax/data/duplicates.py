"""Near-duplicate images: the same photograph stored twice, re-compressed or resized.

Images are compared by the correlation of small grey thumbnails whose slow changes of light are taken out,
because two different pavements under the same uneven light would otherwise look alike. On DeepCrack's 537
images the only real pair correlates at 0.996 and the next at 0.56; on Crack500's 2,641 nothing exceeds 0.52.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from cracks_jax.data.images import read_thumbnail

SIDE = 32
_LIGHT_SIGMA = 4.0
ALIKE = 0.9
_ROWS = 1024


def signature(thumbnail: Float[np.ndarray, "32 32"]) -> Float[np.ndarray, "1024"]:
    """Unit vector whose dot product with another is their correlation; zero for a flat image."""
    texture = thumbnail - cv2.GaussianBlur(thumbnail, (0, 0), _LIGHT_SIGMA)
    vector = (texture - texture.mean()).ravel()
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-3 * SIDE else np.zeros_like(vector)


def signatures(
    paths: Sequence[Path],
    progress: Callable[[int, int], None] | None = None,
    unreadable: Collection[Path] = (),
) -> Float[np.ndarray, "n 1024"]:
    """Reads every image once, in threads; `progress(done, total)`. CracksError names an unreadable image.

    Images known to be `unreadable` are not opened; their signature is that of a flat image, which is like no other.
    """

    def one(path: Path) -> np.ndarray:
        return np.zeros(SIDE * SIDE, np.float32) if path in unreadable else signature(read_thumbnail(path, SIDE))

    rows = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row in pool.map(one, paths):
            rows.append(row)
            if progress:
                progress(len(rows), len(paths))
    return np.stack(rows) if rows else np.zeros((0, SIDE * SIDE), np.float32)


def near_duplicates(
    vectors: Float[np.ndarray, "n d"], alike: float = ALIKE
) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, correlation) with i < j; block by block, so that memory stays bounded."""
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS] @ vectors[start:].T
        for i, j in zip(*np.nonzero(np.triu(block, 1) > alike), strict=True):
            yield start + int(i), start + int(j), float(block[i, j])

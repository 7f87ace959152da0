"""Images that cannot be trained on: found before training, each file with the reason.

What becomes of their records is `data.bad_images`, and decided in `order.py`.
"""

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.order import Policy
from cracks_jax.errors import CracksError, shown

REMEDY = "; to train without such files: --set data.bad_images=drop (or replace)"


@dataclass(frozen=True)
class BadImage:
    """A file that cannot be used, as the record of a run lists it: no folders, because those are this machine's.

    Attributes:
      stem: its record's stem.
      file: the file's name; image and mask often share theirs, so `role` says which of the two it is.
      reason: what is wrong with it.
    """

    stem: str
    role: Literal["image", "mask"]
    file: str
    reason: str


def find_bad(
    dataset: Dataset, *, masks: bool, progress: Callable[[int, int], None] | None = None
) -> tuple[BadImage, ...]:
    """Every bad file, in the order of the records: all are decoded once, in threads; `progress(done, total)`.

    Args:
      masks: read the masks too, and compare their sizes with their images'. A mask that is not there is not bad.
    """
    found: list[BadImage] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, bad in enumerate(pool.map(partial(_inspect, masks=masks), dataset.records), 1):
            found += bad
            if progress:
                progress(number, len(dataset))
    return tuple(found)


def numbers_of(dataset: Dataset, bad: Collection[BadImage]) -> tuple[int, ...]:
    """The numbers of the records that hold a bad file."""
    stems = {one.stem for one in bad}
    return tuple(number for number, stem in enumerate(dataset.stems) if stem in stems)


def check_size(record: Record, image: Shaped[np.ndarray, "h w 3"], mask: Shaped[np.ndarray, "h w"]) -> None:
    """CracksError where a mask does not have its image's size."""
    if mask.shape != image.shape[:2]:
        found, expected = "x".join(map(str, mask.shape[::-1])), "x".join(map(str, image.shape[1::-1]))
        raise CracksError(
            f"{record.mask}: mask is {found} but its image is {expected}; masks must have their image's "
            "size (`cracks-jax data check` lists every such pair)"
        )


@contextmanager
def naming_remedy(dataset: Dataset, policy: Policy) -> Iterator[None]:
    """Where a bad file of the data set ends a training, the message ends with how to go on without it."""
    try:
        yield
    except CracksError as error:
        paths = (path for record in dataset for path in (record.image, record.mask) if path is not None)
        # What is said of a file begins with its path.
        if policy != "fail" or not str(error).startswith(tuple(shown(f"{path}: ") for path in paths)):
            raise
        raise CracksError(f"{error}{REMEDY}") from error


def _inspect(record: Record, masks: bool) -> list[BadImage]:
    found, image = [], None
    try:
        image = read_image(record.image)
    except CracksError as error:
        found.append(_bad(record, "image", record.image, error))
    if masks and record.mask is not None:
        try:
            mask = read_mask(record.mask)
            if image is not None:
                check_size(record, image, mask)
        except CracksError as error:
            found.append(_bad(record, "mask", record.mask, error))
    return found


def _bad(record: Record, role: Literal["image", "mask"], path: Path, error: CracksError) -> BadImage:
    file = shown(path.name)
    return BadImage(record.stem, role, file, str(error).replace(shown(path), file).removeprefix(f"{file}: "))

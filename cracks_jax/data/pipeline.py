"""From a data set to batches: shuffled, scaled, cropped, flipped, corrupted, batched, sharded.

Batch i is a pure function of (seed, i): the endless order of the records (`order.py`) is reshuffled at every epoch,
and whatever is random about element p comes from `host_rng(seed, 'augment', p)`. So the numbers of workers, threads,
hosts and restarts change nothing, and the place in the input is one integer. Each run of len(dataset) positions holds
every record once (of bad records see `order.py`); batches straddle the borders of epochs.

Images are uint8 RGB (b, h, w, 3), masks uint8 0/1 (b, h, w) with crack = 1, `keep` uint8 (b, 1, h, w, 1) with
1 = kept, `corrupted` uint8 (b, 1, h, w, 3), `index` int64 (b,) the record numbers. Colour is the device's.

Importing this module imports neither jax nor grain. grain itself imports jax's pytrees where jax is there,
in worker processes too; no jax backend starts there.
"""

import itertools
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from cracks_jax.data.bad_images import REMEDY, check_size
from cracks_jax.data.datasets import Dataset
from cracks_jax.data.elements import (
    Element,
    Pipeline,
    demand,
    resize_image,
    restoration_element,
    segmentation_element,
    whole,
)
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.order import Policy, record_order
from cracks_jax.data.workers import begin_worker, deaf_processes
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.runtime.randomness import check_seed, host_rng

Batch = dict[str, np.ndarray]


class Source:
    """Decoded records by number, the last ones kept in memory: decoding is what an element costs.

    Args:
      dataset: the records.
      masks: read and check the masks too.
      cache_mb: memory for decoded images and masks, in 2**20 bytes; 0 keeps none. Each worker has its own.
    """

    def __init__(self, dataset: Dataset, *, masks: bool, cache_mb: int = 512):
        self.dataset, self.masks, self.cache_mb = dataset, masks, cache_mb
        self._cache: OrderedDict[int, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A worker starts with an empty cache: what is decoded here need not travel.
        return {"dataset": self.dataset, "masks": self.masks, "cache_mb": self.cache_mb}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["dataset"], masks=state["masks"], cache_mb=state["cache_mb"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.dataset.records)

    def __getitem__(self, number: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"] | None]:
        """Image and mask (0/1, or None) of one record, not to be written to. CracksError names a bad file."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        pair = self._read(number)
        self._keep(number, pair)
        return pair

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        record = self.dataset.records[number]
        image = read_image(record.image)
        image.flags.writeable = False
        if not self.masks:
            return image, None
        if record.mask is None:
            raise _no_mask(record.image)
        mask = read_mask(record.mask).astype(np.uint8)
        mask.flags.writeable = False
        check_size(record, image, mask)
        return image, mask

    def _keep(self, number: int, pair: tuple[np.ndarray, np.ndarray | None]) -> None:
        size, limit = _bytes_of(pair), self.cache_mb * 2**20
        with self._lock:
            if size > limit or number in self._cache:
                return
            self._cache[number] = pair
            self._bytes += size
            while self._bytes > limit:
                self._bytes -= _bytes_of(self._cache.popitem(last=False)[1])


def _bytes_of(pair: tuple[np.ndarray, np.ndarray | None]) -> int:
    return sum(array.nbytes for array in pair if array is not None)


def _no_mask(image: object) -> CracksError:
    return CracksError(f"{image}: this image has no mask; segmentation learns from one mask for each image")


@dataclass(frozen=True)
class _MakeElement:
    """Position in the endless input -> element; what grain maps, here or in a worker."""

    source: Source
    order: Any
    settings: Pipeline
    seed: int

    def __call__(self, position: int) -> Element:
        number = int(self.order[position])
        rng = host_rng(self.seed, "augment", position)
        image, mask = self.source[number]
        if mask is None:
            element = restoration_element(image, self.settings, rng)
        else:
            element = segmentation_element(image, mask, self.settings, rng)
        return {**element, "index": np.asarray(number, np.int64)}


@dataclass(frozen=True)
class _HostShare:
    """This host's k-th element -> its position: each global batch is cut into one run per host."""

    batch: int
    share: int
    first: int

    def __call__(self, k: int) -> int:
        return k // self.share * self.batch + self.first + k % self.share


def batches(
    dataset: Dataset,
    settings: Pipeline,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    steps: int | None = None,
    workers: int = 0,
    threads: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    cache_mb: int = 512,
    bad: Collection[int] = (),
    policy: Policy = "fail",
) -> Iterator[Batch]:
    """Batches start, start + 1, ... of the endless input of (seed); close the iterator to stop its workers.

    Args:
      dataset: what to draw from; needs masks unless the settings name a corruption.
      settings: what happens to each image.
      batch_size: images in the global batch; each host gets batch_size / process_count, host 0 the first.
      seed: 0 to 2**32 - 1.
      start: number of the first batch.
      steps: how many batches; None never ends.
      workers: processes that decode; 0 decodes in this process.
      threads: threads that prepare batches ahead, in each worker or here; None: half of the cores, at most 8.
      process_index, process_count: this host among the hosts.
      cache_mb: decoded images kept in memory, in 2**20 bytes, per worker.
      bad: numbers of the records that are known to be bad; they are never read.
      policy: what stands in their positions: the next record (`replace`) or none (`drop`).

    Raises:
      UsageError: a setting is wrong.
      CracksError: the set is empty, an image has no mask or, from the iterator, a file is bad (it is named).
    """
    try:
        seed = check_seed(seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    demand(whole(batch_size), f"batch_size is {batch_size!r}; give a whole number, at least 1")
    demand(
        whole(process_count) and batch_size % process_count == 0 and 0 <= process_index < process_count,
        f"batch_size {batch_size} cannot be shared by host {process_index} of {process_count}; "
        "give a multiple of the number of hosts",
    )
    counts = {
        "start": start,
        "workers": workers,
        "cache_mb": cache_mb,
        "steps": 0 if steps is None else steps,
    }
    for name, value in counts.items():
        demand(whole(value, least=0), f"{name} is {value!r}; give a whole number, at least 0")
    demand(threads is None or whole(threads), f"threads is {threads!r}; give a whole number, at least 1")
    if not dataset.records:
        raise CracksError(f"{dataset.label}: no images in this set; training needs at least one")
    demand(
        not bad or (policy != "fail" and set(bad) <= set(range(len(dataset)))),
        f"bad is {sorted(bad)} with the policy {policy}; give numbers of records, and replace or drop",
    )
    if len(set(bad)) == len(dataset):
        raise CracksError(f"{dataset.label}: all {len(dataset)} images are bad; training needs at least one good one")
    masks = settings.corruption is None
    if masks and any(record.mask is None for record in dataset.records):
        raise _no_mask(next(record.image for record in dataset.records if record.mask is None))

    source = Source(dataset, masks=masks, cache_mb=cache_mb)
    make = _MakeElement(source, record_order(len(source), seed, bad, policy), settings, seed)
    share = batch_size // process_count
    host = _HostShare(batch_size, share, process_index * share)
    stop = 2**60 // batch_size if steps is None else start + steps
    return _iterate(make, host, start, stop, workers, threads or _default_threads(), REMEDY if policy == "fail" else "")


def _default_threads() -> int:
    return min(8, max(1, (os.cpu_count() or 1) // 2))


def _iterate(
    make: _MakeElement, host: _HostShare, start: int, stop: int, workers: int, threads: int, remedy: str
) -> Iterator[Batch]:
    import grain

    if stop <= start:
        return
    elements = grain.MapDataset.range(start * host.share, stop * host.share).map(host).map(make)
    # grain counts its buffer in batches; its default of 500 would fill the memory.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    ready = elements.batch(host.share, drop_remainder=True).to_iter_dataset(options)
    if workers:
        _unlock_flags()
        # As bytes, batches come by pipe. As arrays they would lie in shared memory, which containers often
        # limit to 64 MB and which grain frees late.
        ready = ready.map(pickle.dumps)
        options_of_workers = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        ready = ready.mp_prefetch(options_of_workers, begin_worker)
    iterator = iter(ready)
    try:
        with deaf_processes() if workers else nullcontext():  # the first batch starts them
            first = next(iterator)
        for batch in itertools.chain([first], iterator):
            yield pickle.loads(batch) if workers else batch
    except Exception as error:
        known = _data_error(error)
        if known is None:
            raise
        raise type(known)(f"{known}{remedy}") from None
    finally:
        iterator.close()


def _unlock_flags() -> None:
    """grain's worker processes read absl flags, which nobody but an absl application has parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _data_error(error: BaseException | None) -> CracksError | None:
    """The CracksError behind what a thread or a worker raised, however grain wrapped it."""
    while error is not None and not isinstance(error, CracksError):
        error = error.__cause__ or error.__context__
    return error


def windows(dataset: Dataset, side: int) -> UInt8[np.ndarray, "n side side 3"]:
    """Every image of a small set at side x side, resized as training resizes (bilinear)."""
    if not dataset.records:
        raise CracksError(f"{dataset.label}: no images in this set; validation needs at least one")
    return np.stack(
        [resize_image(read_image(r.image), side, side, cv2.INTER_LINEAR) for r in dataset.records]
    )

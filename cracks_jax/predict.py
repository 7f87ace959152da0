"""One image -> geometry -> score map -> filter: the same path for evaluate, detect and calibration.

A score map is float32 (h, w) in [0, 1], higher = more crack-like, in the geometry that was asked for.

Windows of one shape share calls of the network, whichever image they are of. Statistics and dropout are each window's
own, so what shares a call changes no score by more than rounding. Windows of different shapes never share: padding one
to the other's size would change what its statistics see.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.errors import UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference, Darkness
from cracks_jax.methods.registry import Method
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.ops.convolution import prepare_kernels, with_kernels
from cracks_jax.postprocess import filters
from cracks_jax.postprocess.tiles import Tiles, Whole
from cracks_jax.runtime.calls import NetworkCalls, OutOfMemory
from cracks_jax.runtime.randomness import device_key
from cracks_jax.runtime.threads import spread_workers

PAPER_SIDE = 256
# Reflected pixels around every image at native size: a network's zero padding leaves a bright rim in the error map,
# which would be scored as crack where a side happens to be a multiple already. The papers' 256x256 has none.
MARGIN = 16
# Images that wait for others of their shape to fill a call hold no more pixels than this together, or are one image.
WAITING_PIXELS = 2**23

Image = UInt8[np.ndarray, "h w 3"]
Map = Float[np.ndarray, "h w"]
Stack = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n h w"]]
Tag = TypeVar("Tag")


class Scorer:
    """A trained method with one way of detection: call it with an image, get its filtered score map.

    The same image gives the same map whatever was scored before it: dropout's key is the seed's, not the position's.

    Args:
      tile_batch: windows in one call of the network; None: as many as fit into `CALL_PIXELS`. A question of speed and
        memory alone: a call of another size rounds differently (by 1e-6 or so), nothing else changes.
    """

    def __init__(self, method: Method, state: Any, how: Detection, *, seed: int = 0, tile_batch: int | None = 1):
        self.method, self.state, self.how = method, state, how
        self.calls = NetworkCalls(stack_scorer(method, state, how, seed), tile_batch)

    def __call__(self, image: Image) -> Map:
        return smooth(self.raw(in_geometry(image, self.how)), self.how)

    def raw(self, image: Image) -> Map:
        """The unfiltered map of an image that is in the geometry already."""
        ((_, found),) = self._maps([(None, image)])
        if isinstance(found, ValueError):
            raise found
        return found

    def stream(self, images: Iterable[tuple[Tag, Image]]) -> Iterator[tuple[Tag, Map | ValueError]]:
        """The filtered map of each tagged image, in order; where one cannot be scored, what is wrong with it.

        Images are taken ahead of the maps that come out, until a call is full or WAITING_PIXELS wait.
        """
        for tag, found in self._maps((tag, in_geometry(image, self.how)) for tag, image in images):
            yield tag, found if isinstance(found, ValueError) else smooth(found, self.how)

    def _maps(self, images: Iterable[tuple[Tag, Image]]) -> Iterator[tuple[Tag, Map | ValueError]]:
        line = _Line[Tag](self.calls)
        for tag, image in images:
            line.take(tag, image, self._cut)
            yield from line.finished()
        line.end()
        yield from line.finished()

    def _cut(self, image: Image) -> Whole | Tiles:
        multiple = self.method.side_multiple
        if multiple == 1:
            # The floor is a filter over the whole image: windows would change what its background is.
            return Whole(image, 1, 0)
        margin = MARGIN if self.how.geometry == "native" else 0
        height, width = (-(-(side + 2 * margin) // multiple) * multiple for side in image.shape[:2])
        if height * width > self.how.window_pixels:
            tile = max(self.how.tile // multiple, 1) * multiple
            return Tiles(image, tile, min(self.how.overlap, tile // 2))
        return Whole(image, multiple, margin)


@dataclass
class _Place(Generic[Tag]):
    """An image's place in the line: how it is cut and how far it is, or what is wrong with it."""

    tag: Tag
    pixels: int
    cut: Whole | Tiles | None = None
    error: ValueError | None = None
    complete: bool = False

    @property
    def done(self) -> bool:
        return self.complete or self.error is not None


class _Line(Generic[Tag]):
    """Images in order, their windows gathered by shape until a call is full."""

    def __init__(self, calls: NetworkCalls):
        self._calls = calls
        self._places: deque[_Place[Tag]] = deque()
        self._waiting: dict[tuple[int, ...], list[tuple[_Place[Tag], Image]]] = {}

    def take(self, tag: Tag, image: Image, cut: Callable[[Image], Whole | Tiles]) -> None:
        """The next image; what fills a call is scored."""
        place = _Place(tag, image.shape[0] * image.shape[1])
        self._places.append(place)
        try:
            place.cut = cut(image)
        except ValueError as error:
            place.error = error
            return
        for window in place.cut.windows():
            waiting = self._waiting.setdefault(place.cut.shape, [])
            waiting.append((place, window))
            if len(waiting) >= self._calls.batch(place.cut.shape):
                self._call(place.cut.shape)
            if place.error is not None:
                return
        while sum(one.pixels for one in self._places) > WAITING_PIXELS:
            first = next((one for one in self._places if not one.done), None)
            if first is None or first.cut is None:
                return
            self._call(first.cut.shape)

    def finished(self) -> Iterator[tuple[Tag, Map | ValueError]]:
        """The images that are done, up to the first that is not; they leave the line."""
        while self._places and self._places[0].done:
            place = self._places.popleft()
            if place.error is not None:
                yield place.tag, place.error
            elif place.cut is not None:
                yield place.tag, place.cut.scores

    def end(self) -> None:
        """No image will come: scores what still waits."""
        for shape in list(self._waiting):
            self._call(shape)

    def _call(self, shape: tuple[int, ...]) -> None:
        waiting = [(place, window) for place, window in self._waiting.pop(shape, ()) if place.error is None]
        try:
            scores = self._calls([window for _, window in waiting])
            for (place, _), score in zip(waiting, scores, strict=True):
                place.complete = place.cut is not None and place.cut.add(score)
        except (UsageError, OutOfMemory):
            raise  # no fault of these images: another image would end the same way
        except ValueError as error:
            for place, _ in waiting:
                place.error = error


def stack_scorer(method: Method, state: Any, how: Detection, seed: int = 0) -> Stack:
    """Windows (n, h, w, 3) -> their raw score maps; compiled once per n and window size where there is a network."""
    if isinstance(method, (Darkness, BackgroundDifference)):
        floor = method
        return lambda windows: floor.score(state, windows.astype(np.float32) / 255, None, how)

    # What happens to the map afterwards does not change the network's program: one compilation serves all of it.
    asked = Detection(
        batch_norm=how.batch_norm,
        dropout=how.dropout,
        restore=how.restore,
        error=how.error,
        stretch_input=how.stretch_input,
    )
    # The seed draws dropout's masks; without them it is no reason for another program.
    return _Frozen(*_compiled(method, asked, seed if how.dropout else 0), state)


class _Frozen:
    """A network that learns no more: its kernels are brought into their forms once for each size of stack."""

    def __init__(self, prepare: Callable[..., Any], score: Callable[..., jax.Array], state: Any):
        spread_workers()
        self._prepare, self._score, self._state = prepare, score, state
        self._kernels: tuple[tuple[int, ...], Any] = ((), None)  # of the last size: others are seldom seen again

    def __call__(self, windows: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w"]:
        kernels = self._kernels
        if kernels[0] != windows.shape:  # another thread may ask meanwhile, for another size
            kernels = self._kernels = (windows.shape, self._prepare(self._state, windows))
        return np.asarray(self._score(kernels[1], self._state, windows), np.float32)


@lru_cache(maxsize=8)
def _compiled(
    network: Segmentation | Restoration, how: Detection, seed: int
) -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """(state, windows) -> kernels; (kernels, state, windows) -> scores."""
    key = device_key(seed, "score", 0)

    def score(state: Any, window: jax.Array) -> jax.Array:
        return network.score(state, window[None].astype(jnp.float32) / 255, key, how)[0]

    # Mapped, not batched: every window has its own statistics and one and the same dropout mask.
    mapped = jax.vmap(score, in_axes=(None, 0))

    @jax.jit
    def prepare(state: Any, windows: jax.Array) -> Any:
        # A single window's convolutions are those of the mapped ones; what is recorded must not come from a vmap.
        return prepare_kernels(score, state, windows[0], mapped=len(windows))

    @jax.jit
    def scores(kernels: Any, state: Any, windows: jax.Array) -> jax.Array:
        return with_kernels(kernels, mapped, state, windows, mapped=len(windows))

    return prepare, scores


def in_geometry(image: UInt8[np.ndarray, "h w 3"], how: Detection) -> UInt8[np.ndarray, "h w 3"]:
    """The image as detection feeds it: itself, or bilinear at 256x256."""
    if how.geometry == "native":
        return image
    return cv2.resize(image, (PAPER_SIDE, PAPER_SIDE), interpolation=cv2.INTER_LINEAR)


def mask_in_geometry(mask: Bool[np.ndarray, "h w"], how: Detection) -> Bool[np.ndarray, "h w"]:
    """The mask at the size at which scores are compared with it: its own, or nearest at 256x256."""
    if how.geometry == "native":
        return mask
    size = (PAPER_SIDE, PAPER_SIDE)
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def smooth(score: Float[np.ndarray, "h w"], how: Detection) -> Float[np.ndarray, "h w"]:
    """The score map behind detection's filter; on 8 bit where the error map is the authors'."""
    if how.filter == "none":
        return score
    if how.filter == "gaussian":
        return np.clip(filters.gaussian(score, how.filter_sigma), 0, 1)
    if how.error == "authors":
        grey = np.round(score * 255).astype(np.uint8)
        return filters.bilateral_uint8(grey).astype(np.float32) / 255
    return np.clip(filters.bilateral(score), 0, 1)

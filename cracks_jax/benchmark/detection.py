"""`detect`: photographs of growing size, and a folder of small ones beside one large photograph of as many pixels.

Every measurement is a process of its own, because peak memory is a process's. A network that nobody trained takes as
long as a trained one; its threshold is set so that MARKED of the pixels are found, as on a cracked road.
"""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from cracks_jax.benchmark import machine
from cracks_jax.benchmark.job import Job
from cracks_jax.calibrate import Thresholds
from cracks_jax.data.images import read_image, write_image
from cracks_jax.data.synthetic import draw_pavement
from cracks_jax.detect import detect
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.presets import default_detection
from cracks_jax.postprocess.thresholds import parse_rule
from cracks_jax.predict import Scorer
from cracks_jax.runtime.compilation import keep_compiled
from cracks_jax.runtime.memory import keep_freed_memory
from cracks_jax.runtime.randomness import device_key
from cracks_jax.scoring import Request, open_scoring
from cracks_jax.surroundings import cores, device_peak_memory, peak_memory, surroundings

# As photographs are: 4 wide to 3 high.
WIDE = 4 / 3
MARKED = 0.02
_PATTERN = 768


@dataclasses.dataclass(frozen=True)
class Subject:
    """What scores: a trained run, or a system's network with random weights.

    Attributes:
      run: a run directory; its own detection and rule.
      system: a trainable name of `methods.registry.SYSTEMS`, where there is no run.
      narrow: every channel count is divided by it.
      tile_batch: as `detect --tile-batch`; None is its default.
      tile: as `detect --tile`; None is the method's default.
    """

    system: str = "upcracknet"
    run: str | None = None
    narrow: int = 1
    tile_batch: int | None = None
    tile: int | None = None


def measure_detection(
    subject: Subject | None = None,
    *,
    megapixels: tuple[float, ...] = (1, 3, 12, 48),
    photograph: Path | None = None,
    folder_images: int = 1000,
    folder_side: int = 192,
    repeats: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Seconds, images per second and peak memory by size; the fit of seconds to megapixels; folder beside one image.

    Args:
      megapixels: sizes of the photographs, each measured in a process of its own.
      photograph: a real one, mirrored until it is large enough; None: a drawn pavement.
      folder_images, folder_side: the folder of small square photographs; 0 images leaves it out.
      repeats: timed runs over the same files, after one that compiles. The medians count.

    Returns:
      A dict for JSON. Seconds are of reading, scoring, measuring and writing; memory is in bytes.

    Raises:
      UsageError: a number makes no sense.
      CracksError: a measurement's process failed; its last line says why.
    """
    subject = subject or Subject()
    _check(subject, megapixels, folder_images, folder_side, repeats)
    pattern = _pattern(photograph)
    found: dict[str, Any] = {
        "kind": "detect",
        "label": f"detect-{subject.system}",
        "precision": "highest",
        "environment": machine.settings(),
        **dataclasses.asdict(subject),
        "run": None if subject.run is None else Path(subject.run).name,
        "photograph": "drawn" if photograph is None else photograph.name,
        "repeats": repeats,
        "cores": cores(),
        **surroundings(),
    }
    found["device"] |= {"processor": machine.processor(), "threads": cores()}
    with tempfile.TemporaryDirectory(prefix="cracks-jax-detect-") as work:

        def measured(label: str, pixels: tuple[int, int], count: int) -> dict[str, Any]:
            say(f"detect: {label}")
            folder = Path(work) / label
            for number in range(count):
                write_image(folder / f"{number:05d}.jpg", _of_size(pattern, pixels, number))
            return _summary(_in_own_process(subject, folder, repeats), pixels, count)

        found["sizes"] = [measured(f"{size:g}_megapixels", _sides(size), 1) for size in megapixels]
        found["fit"] = linear_fit([(one["megapixels"], one["seconds"]) for one in found["sizes"]])
        if folder_images:
            side = (folder_side, folder_side)
            small = measured(f"{folder_images}_images", side, folder_images)
            some = measured(f"{max(folder_images // 4, 1)}_images", side, max(folder_images // 4, 1))
            large = measured("one_image", _sides(folder_images * folder_side**2 / 1e6), 1)
            found["folder"] = {
                "small": small,
                "a_quarter_of_them": some,
                "one_large": large,
                "seconds_per_megapixel_ratio": small["seconds_per_megapixel"] / large["seconds_per_megapixel"],
            }
    return found


def _pattern(photograph: Path | None) -> UInt8[np.ndarray, "h w 3"]:
    if photograph is not None:
        return read_image(photograph)
    return draw_pavement(0, 0, (_PATTERN, _PATTERN), cracked=True)[0]


def linear_fit(points: list[tuple[float, float]]) -> dict[str, float] | None:
    """Seconds = intercept + slope * megapixels by least squares, and the share of variance that it explains."""
    x, y = np.asarray(points, float).T if points else (np.empty(0), np.empty(0))
    if len(set(x)) < 2:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    rest, all_of_it = np.sum((y - intercept - slope * x) ** 2), np.sum((y - y.mean()) ** 2)
    r2 = 1 - rest / all_of_it if all_of_it else 1.0
    return {"slope_seconds_per_megapixel": float(slope), "intercept_seconds": float(intercept), "r2": float(r2)}


def _check(subject: Subject, megapixels: tuple[float, ...], images: int, side: int, repeats: int) -> None:
    if not megapixels or not all(0.01 <= size <= 200 for size in megapixels):
        raise UsageError(f"--megapixels {megapixels}: expected one or more sizes from 0.01 to 200")
    if images < 0 or side < 32 or repeats < 1:
        raise UsageError(
            f"--images {images}, --side {side}, --repeats {repeats}: expected 0 or more images of at least 32 px, and "
            "at least 1 repeat"
        )
    if subject.run is None:
        Job("infer", subject.system, narrow=subject.narrow)  # refuses what there is not


def _sides(megapixels: float) -> tuple[int, int]:
    """(height, width) of a photograph."""
    height = math.sqrt(megapixels * 1e6 / WIDE)
    return round(height), round(height * WIDE)


def _of_size(pattern: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], number: int) -> UInt8[np.ndarray, "H W 3"]:
    """The pattern mirrored over a size, from another place in it for each number."""
    rows, columns = (_mirrored(length, side, 37 * number) for length, side in zip(size, pattern.shape, strict=False))
    return pattern[rows][:, columns]


def _mirrored(length: int, side: int, shift: int) -> np.ndarray:
    place = (np.arange(length) + shift) % (2 * side)
    return np.minimum(place, 2 * side - 1 - place)


def _summary(one: dict[str, Any], size: tuple[int, int], count: int) -> dict[str, Any]:
    megapixels, seconds = count * size[0] * size[1] / 1e6, float(np.median(one["seconds_all"]))
    return {
        "images": count,
        "height": size[0],
        "width": size[1],
        "megapixels": megapixels,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "seconds_per_megapixel": seconds / megapixels,
        **one,
    }


# ------------------------------------------------------------------------------------------- the process of its own

_CHILD = "import sys; from cracks_jax.benchmark.detection import child; child(*sys.argv[1:])"


def _in_own_process(subject: Subject, folder: Path, repeats: int) -> dict[str, Any]:
    request = json.dumps({"subject": dataclasses.asdict(subject), "folder": str(folder), "repeats": repeats})
    done = subprocess.run([sys.executable, "-c", _CHILD, request], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CracksError(f"measuring {folder.name}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def child(request: str) -> None:
    """Measures one folder and prints what came of it as one line of JSON."""
    asked = json.loads(request)
    keep_freed_memory()
    with contextlib.redirect_stdout(sys.stderr):
        found = _measure(Subject(**asked["subject"]), Path(asked["folder"]), asked["repeats"])
    print(json.dumps(found))


def _measure(subject: Subject, folder: Path, repeats: int) -> dict[str, Any]:
    keep_compiled()
    scorer, thresholds = _opened(subject, folder)
    network = _counted(scorer)
    seconds, shares = [], []
    with tempfile.TemporaryDirectory(prefix="cracks-jax-found-") as out:
        for _ in range(repeats + 1):  # the first one compiles
            network.clear()
            began = time.perf_counter()
            detect([folder], Path(out), scorer, thresholds, say=lambda text: print(text, file=sys.stderr))
            seconds.append(time.perf_counter() - began)
            shares.append(sum(spent for _, spent in network) / seconds[-1])
    return {
        "seconds_all": seconds[1:],
        "first_seconds": seconds[0],
        "network_share": float(np.median(shares[1:])),
        "network_calls": len(network),
        "scored_megapixels": sum(pixels for pixels, _ in network) / 1e6,
        "peak_memory": _peak_memory(),
        "device_peak_memory": device_peak_memory(),
    }


def _peak_memory() -> int:
    """Bytes. Linux hands a process's peak down to the processes it starts, but for this line."""
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    return peak_memory()


def _opened(subject: Subject, folder: Path) -> tuple[Scorer, Thresholds]:
    if subject.run is not None:
        opened = open_scoring(Request(run=Path(subject.run), tile=subject.tile, tile_batch=subject.tile_batch))
        return opened.scorer, opened.thresholds
    jax.config.update("jax_default_matmul_precision", "highest")
    method = Job("infer", subject.system, narrow=subject.narrow).method
    like = {"image": jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)}
    state = jax.jit(lambda key: method.init(key, like))(device_key(0, "init", 0))
    how = default_detection(method)
    if subject.tile is not None:
        how = dataclasses.replace(
            how, tile=subject.tile, overlap=min(how.overlap, subject.tile // 2), window_pixels=subject.tile**2
        )
    scorer = Scorer(method, state, how, tile_batch=subject.tile_batch)
    one = read_image(min(folder.iterdir()))[:512, :512]
    level = float(np.clip(np.quantile(scorer(one), 1 - MARKED), 0, 1))
    return scorer, Thresholds(parse_rule(f"{level:.6f}"), scorer)


def _counted(scorer: Scorer) -> list[tuple[int, float]]:
    """(pixels, seconds) of every call of the network from here on."""
    calls: list[tuple[int, float]] = []
    score = scorer.calls.score

    def counted(windows: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        scores = score(windows)
        calls.append((windows.shape[0] * windows.shape[1] * windows.shape[2], time.perf_counter() - began))
        return scores

    scorer.calls.score = counted
    return calls

"""UP-CrackNet as the paper prints it, as its authors' code does it, and as we read it; and judged while hidden.

The table of the first three is UPCRACKNET.md section 6b. A detection preset sets detection only; a training preset sets
the losses, the order of corruption and crop, and the patience (`experiment.with_training_preset`). `hidden` is a way of
detection alone, our own: the network answers the task that it was trained for, and its averages are of such inputs.
"""

import dataclasses
from typing import Any

from cracks_jax.errors import UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.restoration import Losses, Restoration

DETECTION_PRESETS: dict[str, Detection] = {
    "default": Detection(
        geometry="native", rule="undamaged:0.995", batch_norm="batch", error="absolute", filter="gaussian"
    ),
    "hidden": Detection(
        geometry="native",
        rule="undamaged:0.995",
        batch_norm="running",
        restore="hidden",
        error="darker",
        filter="gaussian",
    ),
    "paper": Detection(
        geometry="resize256", rule="otsu", batch_norm="batch", error="square", filter="bilateral"
    ),
    "authors": Detection(
        geometry="resize256",
        rule="otsu",
        batch_norm="batch",
        dropout=True,
        error="authors",
        stretch_input=True,
        filter="bilateral",
    ),
}

LOSSES: dict[str, Losses] = {
    "default": Losses(),
    "paper": Losses(adversarial="minimax"),
    "authors": Losses(
        generator_again=True,
        bgr=True,
        ssim_range=1.0,
        ssim_padding=5,
        msgms_median=True,
        msgms_padding=0,
        style_standardised=False,
    ),
}


def default_detection(method: Any) -> Detection:
    """What detection does where nothing is asked for: UP-CrackNet's default, the floor by Otsu, CrackSeg at argmax."""
    if isinstance(method, Restoration):
        return DETECTION_PRESETS["default"]
    return Detection(rule="otsu") if not hasattr(method, "selection") else Detection()


def detection_preset(method: Any, name: str) -> Detection:
    if not isinstance(method, Restoration):
        raise UsageError(f"--preset {name}: presets belong to UP-CrackNet runs; this is {type(method).__name__}")
    if name not in DETECTION_PRESETS:
        raise UsageError(f"--preset {name}: expected one of {', '.join(DETECTION_PRESETS)}")
    return DETECTION_PRESETS[name]


def preset_of(method: Any, how: Detection) -> str:
    """The preset that detects as `how` does, wherever and by whatever rule; "own" where settings are mixed."""
    if not isinstance(method, Restoration):
        return "default"
    elsewhere = {name: getattr(how, name) for name in ("geometry", "rule", "tile", "overlap", "window_pixels")}
    same = (name for name, preset in DETECTION_PRESETS.items() if dataclasses.replace(preset, **elsewhere) == how)
    return next(same, "own")

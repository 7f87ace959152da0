"""Times that can be trusted: contenders in turn on the same inputs, medians with quartiles, ratios pair by pair."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cracks_jax.benchmark.contenders import Contender

# Threads of the contender before may still spin for work; they are asleep after this.
REST_SECONDS = 0.2


def alternate(
    contenders: Mapping[str, Contender],
    draw: Callable[[int], dict[str, np.ndarray]],
    repeats: int,
    *,
    rest: float,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every run by contender, taken in turn: A B A B, so that a slow minute of the machine meets all.

    Args:
      draw: repeat -> host arrays, fresh for each repeat and the same for all contenders; drawn outside the clock,
        as their way to the device is.
      rest: seconds; where contenders change, a pause and one run that is not timed come first. A step follows a step
        in training, a window a window in detection: nobody pays for the caches and the heap that another one left.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        batch = draw(repeat)
        for name, contender in contenders.items():
            if len(contenders) > 1 and rest:
                time.sleep(rest)
                contender.run(contender.place(batch))
            placed = contender.place(batch)
            began = now()
            contender.run(placed)
            seconds[name].append(now() - began)
    return seconds


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, quartiles and every repeat."""
    first, middle, third = np.percentile(seconds, (25, 50, 75))
    return {
        "seconds": float(middle),
        "seconds_quartiles": [float(first), float(third)],
        "seconds_all": [float(s) for s in seconds],
    }


def ratio(theirs: list[float], ours: list[float]) -> dict[str, Any]:
    """Their seconds / ours, repeat by repeat: above 1 we are ahead. A pair was timed within the same moments."""
    ratios = np.asarray(theirs) / np.asarray(ours)
    first, middle, third = np.percentile(ratios, (25, 50, 75))
    return {
        "ratio": float(middle),
        "ratio_quartiles": [float(first), float(third)],
        "ratio_all": [float(r) for r in ratios],
    }

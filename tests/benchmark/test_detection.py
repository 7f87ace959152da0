"""The measurement of `detect`: what it says is what was done, and a fit is a fit."""

import json

import numpy as np
import pytest

from cracks_jax.benchmark import detection
from cracks_jax.benchmark.detection import Subject, linear_fit, measure_detection
from cracks_jax.errors import CracksError, UsageError
from tests.benchmark.quick import quick_benchmark  # noqa: F401
from tests.tiny import quick_compile, short_trunk  # noqa: F401


def test_the_fit_is_numpys_and_needs_two_sizes():
    points = [(1.0, 3.1), (3.0, 7.0), (12.0, 25.2), (48.0, 96.9)]
    fit = linear_fit(points)
    slope, intercept = np.polyfit(*np.array(points).T, 1)
    assert fit["slope_seconds_per_megapixel"] == pytest.approx(slope)
    assert fit["intercept_seconds"] == pytest.approx(intercept)
    assert fit["r2"] == pytest.approx(np.corrcoef(*np.array(points).T)[0, 1] ** 2)
    assert linear_fit(points[:1]) is None and linear_fit([]) is None


def test_photographs_of_any_size_are_the_pattern_mirrored(rng):
    pattern = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    large = detection._of_size(pattern, (11, 16), 0)
    np.testing.assert_array_equal(large, np.pad(pattern, ((0, 6), (0, 9), (0, 0)), mode="symmetric"))
    assert not np.array_equal(detection._of_size(pattern, (11, 16), 1), large)


def test_a_tiny_measurement_holds_every_figure(monkeypatch, quick_compile, quick_benchmark, short_trunk):  # noqa: F811
    """In this process: what one of its own adds is tested with the failing one below."""
    asked = []

    def here(subject, folder, repeats):
        asked.append((folder.name, len(list(folder.iterdir()))))
        return detection._measure(subject, folder, repeats)

    monkeypatch.setattr(detection, "_in_own_process", here)
    found = measure_detection(
        Subject("crackseg-r50", narrow=16, tile_batch=3),
        megapixels=(0.01, 0.02),
        folder_images=4,
        folder_side=40,
        repeats=1,
    )
    assert asked == [
        ("0.01_megapixels", 1),
        ("0.02_megapixels", 1),
        ("4_images", 4),
        ("1_images", 1),
        ("one_image", 1),
    ]
    assert json.loads(json.dumps(found)) == found
    assert (found["system"], found["narrow"], found["tile_batch"]) == ("crackseg-r50", 16, 3)
    first, second = found["sizes"]
    assert first["height"] * first["width"] / 1e6 == pytest.approx(0.01, rel=0.02)
    assert second["width"] / second["height"] == pytest.approx(4 / 3, rel=0.02)
    for one in (*found["sizes"], *(found["folder"][name] for name in ("small", "a_quarter_of_them", "one_large"))):
        assert one["seconds"] > 0 and one["peak_memory"] > 2**20 and 0 < one["network_share"] < 1
        assert one["seconds_per_megapixel"] == pytest.approx(one["seconds"] / one["megapixels"])
        assert one["scored_megapixels"] >= one["megapixels"] and len(one["seconds_all"]) == 1
    assert found["folder"]["small"]["images"] == 4 and found["folder"]["small"]["network_calls"] == 2
    assert found["fit"]["r2"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"megapixels": ()}, "--megapixels"),
        ({"megapixels": (1e9,)}, "--megapixels"),
        ({"repeats": 0}, "--repeats 0"),
        ({"folder_side": 3}, "--side 3"),
        ({"subject": Subject(system="none")}, "--system none"),
    ],
)
def test_impossible_measurements_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        measure_detection(**settings)


def test_a_process_that_fails_is_named_with_its_reason(tmp_path):
    with pytest.raises(CracksError, match="measuring 0.02_megapixels: .*no such run directory"):
        measure_detection(Subject(run=str(tmp_path / "none")), megapixels=(0.02,), folder_images=0, repeats=1)

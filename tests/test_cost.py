"""What an accuracy costs: counts of the published sizes, and a watch that leaves compiling out."""

import jax
import pytest

from cracks_jax import cost
from cracks_jax.methods.floor import BackgroundDifference
from cracks_jax.methods.presets import DETECTION_PRESETS, default_detection
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation


def test_parameters_are_the_published_ones_and_the_floor_has_none():
    """Generator 54.42 and discriminator 2.77 million (UP-CrackNet's code)."""
    assert cost.size(Restoration(), DETECTION_PRESETS["default"])["parameters"] == pytest.approx(57.19e6, rel=1e-4)
    floor = BackgroundDifference()
    assert cost.size(floor, default_detection(floor)) == {"parameters": 0, "gflop_256": None}


def test_a_detection_that_restores_six_times_costs_six_times_as_much():
    small = Restoration(base=8, depth=8, discriminator_base=8)
    whole, hidden = (cost.size(small, DETECTION_PRESETS[name])["gflop_256"] for name in ("default", "hidden"))
    assert hidden / whole == pytest.approx(6, rel=0.05)


def test_operations_grow_with_the_pixels():
    method = Segmentation(narrow=4)
    how = default_detection(method)
    small, large = cost.size(method, how, 128)["gflop_128"], cost.size(method, how, 256)["gflop_256"]
    assert large / small == pytest.approx(4, rel=0.1)


def test_the_processor_counts_whatever_the_default_device_is(monkeypatch):
    """An accelerator's part of jax counts nothing: the arguments must not be on it, nor what the function holds."""
    method, how = Restoration(base=4, depth=5, discriminator_base=4), DETECTION_PRESETS["hidden"]
    expected = cost.size.__wrapped__(method, how, 64)
    asked = []
    processors = jax.local_devices

    def local_devices(backend=None):
        asked.append(backend)
        return processors(backend=backend)

    monkeypatch.setattr(jax, "local_devices", local_devices)
    with jax.default_device(processors(backend="cpu")[-1]):
        assert cost.size.__wrapped__(method, how, 64) == expected
    assert asked == ["cpu"]


def test_without_a_processor_of_jaxs_operations_are_unknown(monkeypatch):
    def none_left(backend=None):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", none_left)
    method = Restoration(base=4, depth=5, discriminator_base=4)
    found = cost.size.__wrapped__(method, DETECTION_PRESETS["default"], 64)
    assert found["gflop_64"] is None and found["parameters"] > 0


def test_the_watch_leaves_out_the_first_call_of_each_shape(monkeypatch):
    """By a clock whose every reading is told: 100 s to compile twice, 2 and 4 s to run, 1 s for each filter."""
    readings = iter([0, 100, 0, 1, 0, 2, 0, 1, 0, 100, 0, 1, 0, 4, 0, 1])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(readings))
    watch = cost.Stopwatch()
    for shape in ((8, 8, 3), (8, 8, 3), (9, 8, 3), (9, 8, 3)):
        with watch.part("network", shape):
            pass
        with watch.part("filter"):
            pass
    found = watch.cost()
    assert found["seconds_per_image"] == {"reading": None, "network": 3.0, "filter": 1.0, "metrics": None}
    assert found["images_per_second"] == pytest.approx(1 / 4)
    assert found["peak_memory_mib"] > 50


def test_where_every_call_compiled_no_rate_is_told():
    watch = cost.Stopwatch()
    with watch.part("network", (8, 8, 3)):
        pass
    assert watch.cost()["images_per_second"] is None

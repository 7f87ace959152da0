"""Benchmarks as tests run them: no rests, small products, one compilation for a whole session, settings put back."""

import contextlib

import jax
import pytest

from cracks_jax.benchmark import clock, machine, program


@pytest.fixture
def quick_benchmark(monkeypatch):
    """Needs `quick_compile`, whose folder then holds what is compiled; a benchmark's own would be empty each time."""
    precision = jax.config.values["jax_default_matmul_precision"]
    monkeypatch.setattr(clock, "REST_SECONDS", 0.0)
    # Large products take seconds where the compiler's optimisations are off.
    monkeypatch.setattr(machine, "_SIDES", {"cpu": (128,)})
    monkeypatch.setattr(program, "_own_cache", contextlib.nullcontext)
    yield
    jax.config.update("jax_default_matmul_precision", precision)

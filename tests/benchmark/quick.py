"""Benchmarks as tests run them: no rests, one compilation for all tests of a session, settings put back."""

import contextlib

import jax
import pytest

from cracks_jax.benchmark import clock, program


@pytest.fixture
def quick_benchmark(monkeypatch):
    """Needs `quick_compile`, whose folder then holds what is compiled; a benchmark's own would be empty each time."""
    precision = jax.config.values["jax_default_matmul_precision"]
    monkeypatch.setattr(clock, "REST_SECONDS", 0.0)
    monkeypatch.setattr(program, "_own_cache", contextlib.nullcontext)
    yield
    jax.config.update("jax_default_matmul_precision", precision)

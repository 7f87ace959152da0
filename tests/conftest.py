"""Fixtures that every test shares. Data-dependent tests skip, with the reason, where the data is not at hand."""

import os
import tempfile

# Before jax starts: several devices to test sharding on, and no accelerator by accident.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    # XLA ends the process where a device waits 40 s for another: a machine that is busy or paused must only be slow.
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

# Compiled programs are kept for this session only, never in the user's cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cracks-jax-compiled-")

import atexit
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} does not name a folder: this test needs the real data")
    return Path(value)


@pytest.fixture(scope="session")
def cracks_data() -> Path:
    return _folder("CRACKS_DATA")


@pytest.fixture(scope="session")
def cracks_weights() -> Path:
    return _folder("CRACKS_WEIGHTS")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def strict():
    """No silent change of dtype or rank in our own networks, losses and metrics."""
    import jax

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def traced_anew():
    """Programs that a training keeps for the next one of this process do not outlive a test, which may patch them."""
    yield
    forget_programs()


def forget_programs() -> None:
    for module, kept in (("cracks_jax.training_step", "program"), ("cracks_jax.validation", "_restoration_terms")):
        if module in sys.modules:
            getattr(sys.modules[module], kept).cache_clear()

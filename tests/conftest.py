"""Fixtures that every test shares. Data-dependent tests skip, with the reason, where the data is not at hand."""

import os
import tempfile

# Before jax starts: several devices to test sharding on, and no accelerator by accident.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4").strip()

# Compiled programs are kept for this session only, never in the user's cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cracks-jax-compiled-")

import atexit
import shutil
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

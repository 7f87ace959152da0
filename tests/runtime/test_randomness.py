"""Randomness is recomputed from (seed, stream, number): the same for equal triples, apart for all others."""

import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest

from cracks_jax.runtime.randomness import SEED_LIMIT, device_key, host_rng, stream_id


def test_a_stream_is_the_crc32_of_its_name_for_ever():
    """The check value of CRC-32 itself: a record of today must be recomputed in years."""
    assert stream_id("123456789") == 0xCBF43926
    assert stream_id("augment") == zlib.crc32(b"augment")


def test_device_key_is_the_two_folds_and_takes_a_traced_step(strict):
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), zlib.crc32(b"dropout")), 17)
    traced = jax.jit(lambda step: jax.random.key_data(device_key(3, "dropout", step)))
    for found in (jax.random.key_data(device_key(3, "dropout", 17)), traced(17)):
        np.testing.assert_array_equal(found, jax.random.key_data(expected))
    assert traced(18).tolist() != traced(17).tolist()
    assert traced._cache_size() == 1


def test_seed_stream_and_position_each_change_the_draw_and_nothing_else_does():
    triples = [(s, n, p) for s in (0, 1, SEED_LIMIT - 1) for n in ("a", "b") for p in (0, 1, 2**32, 2**40)]
    draws = {triple: host_rng(*triple).integers(2**62) for triple in triples}
    assert len(set(draws.values())) == len(triples)
    assert all(host_rng(*triple).integers(2**62) == draw for triple, draw in draws.items())


@pytest.mark.parametrize("seed", [-1, SEED_LIMIT, 1.0, True, "0"])
def test_a_seed_that_does_not_fit_is_refused_with_the_range(seed):
    with pytest.raises(ValueError, match="whole number from 0 to 4294967295"):
        host_rng(seed, "augment", 0)
    with pytest.raises(ValueError, match=str(seed)):
        device_key(seed, "augment", 0)


def test_importing_it_does_not_import_jax():
    code = (
        "import sys; from cracks_jax.runtime.randomness import host_rng; host_rng(0, 'a', 0);"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The short form of the damage cases: both methods' states, every file of the newest checkpoint."""

import jax.numpy as jnp
import numpy as np

from cracks_jax.runtime import checkpoints
from tests.reliability import damage


def _states(seed: int = 0) -> dict:
    def of(step: int) -> dict:
        rng = np.random.default_rng([seed, step])
        return {
            "network": {"params": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32)}},
            "optimiser": [jnp.asarray(rng.normal(size=(8,)), jnp.float32), {"count": jnp.asarray(step, jnp.int32)}],
            "step": jnp.asarray(step, jnp.int32),
        }

    return {5: of(5), 10: of(10)}


def test_no_damage_gives_a_wrong_value_or_a_traceback(tmp_path):
    found = damage.measure(_states(), tmp_path, flips=4)
    assert found["wrong"] == [] and found["cases"] > 60
    assert found["by_kind"].keys() >= {"deleted", "emptied", "halved", "bit flipped", "empty folder", "another version"}


def test_the_harness_sees_what_it_looks_for(tmp_path, monkeypatch):
    """A reader that believes whatever folder is the newest."""
    states = _states()
    monkeypatch.setattr(checkpoints.Checkpoints, "newest", lambda self, like, warn: (10, states[10]))
    found = damage.measure(states, tmp_path, flips=2)
    assert len(found["wrong"]) == 2 * found["cases"]

"""How close two implementations are: one measure for outputs, batch-norm averages and gradients.

Trees are nested dicts of arrays; names are '/'-joined paths. `theirs` is the reference. An array's error is

    max|ours - theirs| / max(max|theirs|, 1e-3 x the largest entry of the whole reference tree)

so that a tensor that is nothing but rounding is not divided by itself. The gradient of a bias in front of a
batch norm is zero in exact arithmetic: such tensors are named in `absolute` and compared without division.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-4
# For `jax.jit(compiler_options=...)`: a deep network that runs once compiles a third quicker, to the same values.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """A nested dict of arrays (or one array, named '') -> {'a/b/c': array}."""
    if not isinstance(tree, Mapping):
        return {prefix.rstrip("/"): np.asarray(tree)}
    flat: dict[str, np.ndarray] = {}
    for name, child in tree.items():
        flat.update(flatten(child, f"{prefix}{name}/"))
    return flat


def errors(ours: Any, theirs: Any, *, absolute: Callable[[str], bool] | None = None) -> dict[str, float]:
    """The measure for every tensor of two trees; an assertion fails where names or shapes differ.

    Args:
      absolute: true for the names whose error is max|ours - theirs| itself.
    """
    a, b = flatten(ours), flatten(theirs)
    only = sorted(a.keys() ^ b.keys())
    assert not only, f"in one of the two trees alone: {only}"
    floor = 1e-3 * max((float(np.abs(x).max()) for x in b.values() if x.size), default=0.0)
    result = {}
    for name, reference in b.items():
        assert a[name].shape == reference.shape, f"{name}: {a[name].shape} against {reference.shape}"
        assert np.isfinite(a[name]).all() and np.isfinite(reference).all(), f"{name}: not finite"
        difference = float(np.abs(a[name].astype(np.float64) - reference.astype(np.float64)).max(initial=0.0))
        scale = max(float(np.abs(reference).max(initial=0.0)), floor)
        if absolute is not None and absolute(name):
            result[name] = difference
        else:
            result[name] = difference / scale if scale else difference
    return result


def worst(ours: Any, theirs: Any, *, absolute: Callable[[str], bool] | None = None) -> tuple[float, str]:
    """The largest error and the name of its tensor."""
    return max((error, name) for name, error in errors(ours, theirs, absolute=absolute).items())


def assert_parity(
    ours: Any,
    theirs: Any,
    *,
    tolerance: float = TOLERANCE,
    absolute: Callable[[str], bool] | None = None,
) -> None:
    """Fails with the worst tensor's name unless every error is at most `tolerance`."""
    error, name = worst(ours, theirs, absolute=absolute)
    assert error <= tolerance, f"{name or 'the array'}: error {error:.2e} is above {tolerance:.0e}"

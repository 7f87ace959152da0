"""Every method by its name, with its paper's defaults; the only place that lists them."""

from typing import Any

from cracks_jax.errors import UsageError
from cracks_jax.methods.floor import BackgroundDifference, Darkness
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation

Method = Segmentation | Restoration | Darkness | BackgroundDifference

_KINDS: dict[str, type] = {
    "segmentation": Segmentation,
    "restoration": Restoration,
    "darkness": Darkness,
    "background_difference": BackgroundDifference,
}

# name -> (method with its paper's defaults, where it was published, side of the paper's images)
SYSTEMS: dict[str, tuple[Any, str, int]] = {
    "crackseg": (Segmentation(variant="table5_both_x3_r101"), "Song et al. 2020, Table 3 (ResNet-101)", 256),
    "crackseg-r50": (Segmentation(variant="table5_both_x3"), "Song et al. 2020, Table 5 (ResNet-50)", 256),
    "upcracknet": (Restoration(), "Ma et al. 2024", 256),
    "darkness": (Darkness(), "no network: 1 - grey", 256),
    "background_difference": (BackgroundDifference(), "no network: grey against its blurred background", 256),
}


def method_kind(method: Method) -> str:
    return next(name for name, cls in _KINDS.items() if type(method) is cls)


def method_class(kind: str) -> type:
    return _KINDS[kind]


def floor_method(name: str) -> Darkness | BackgroundDifference:
    """A method that needs no training, by name; UsageError for any other."""
    method = SYSTEMS.get(name, (None,))[0]
    if isinstance(method, (Darkness, BackgroundDifference)):
        return method
    raise UsageError(
        f"--method {name}: only methods without a network run without training: darkness, background_difference "
        "(a trained network is named by its run: `evaluate RUN`, `detect --run RUN`)"
    )

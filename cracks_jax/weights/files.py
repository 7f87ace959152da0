"""Reads weight files into named NumPy arrays, and checks them tensor by tensor on the way into our trees.

NumPy only: torch is imported for `.pth` and `.pt` alone, and only its safe reader is used. Arrays keep the
dtype and the layout of the file; the mappings (`resnet.py` and its neighbours) transpose them and make them
float32.

A file may come from anywhere. No code in it runs, and one that unpacks to more than `MAX_BYTES` is refused before
memory is taken for it.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cracks_jax.errors import CracksError
from cracks_jax.untrusted import read_arrays, unpacked_size

SUFFIXES = (".safetensors", ".pth", ".pt", ".npz")
# Seven times the largest file that a mapping here reads, VGG-19 with its classifier.
MAX_BYTES = 2**32
# What PyTorch saves is a zip archive, or was a pickle; torch would try still older kinds on anything else.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


class Tensors(dict[str, np.ndarray]):
    """Arrays by name that remember the file they came from, so that a mapping's error can say it."""

    def __init__(self, tensors: Mapping[str, np.ndarray], source: str):
        super().__init__(tensors)
        self.source = source


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Pretrained weights in the structure of one of our networks, perhaps in part.

    Attributes:
      params, batch_stats: nested dicts of float32 arrays, channels last, as Flax names them.
      names: '/'-joined paths of what was loaded, sorted, with `params/` or `batch_stats/` in front.
      missing: the paths that the network has and the file has not; they keep their drawn values.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    names: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def over(self, variables: Mapping[str, Any], within: str | None = None) -> dict[str, Any]:
        """The network's variables with every loaded array in the place of the drawn one.

        Args:
          variables: `{"params": ..., "batch_stats": ...}` as the network's `init` returns them.
          within: name of the submodule that the weights belong to (CrackSeg's trunk is `resnet`), or None.

        Raises:
          CracksError: a loaded array has no place in the network, or another shape there.
        """
        collections = {"params": self.params, "batch_stats": self.batch_stats}
        loaded: dict[str, Any] = {name: tree for name, tree in collections.items() if tree}
        if within is not None:
            loaded = {collection: {within: tree} for collection, tree in loaded.items()}
        return _replace(dict(variables), loaded, "")


def loaded_from(params: dict[str, Any], batch_stats: dict[str, Any], missing: tuple[str, ...] = ()) -> Loaded:
    """A `Loaded` whose names are read off its trees."""
    names = _paths({"params": params, "batch_stats": batch_stats}, "")
    return Loaded(params, batch_stats, tuple(sorted(names)), tuple(sorted(missing)))


def read_tensors(path: str | Path) -> Tensors:
    """Reads every tensor of a `.safetensors`, `.pth`, `.pt` (weights only) or `.npz` file.

    A checkpoint that wraps its weights in `state_dict` or `model` is unwrapped, and the `module.` that
    PyTorch's DataParallel puts before every name is taken off.

    Raises:
      CracksError: no such file, a suffix that is not read, or content that is not a weight file (truncated,
        not tensors, or needing code to be unpickled).
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise CracksError(f"{path}: {found}; expected a weight file ({', '.join(SUFFIXES)})")
    if path.suffix not in SUFFIXES:
        raise CracksError(
            f"{path}: suffix {path.suffix!r}; weight files are {', '.join(SUFFIXES)} (convert it to one)"
        )
    if path.stat().st_size == 0:
        raise CracksError(f"{path}: the file is empty; expected a weight file (fetch or copy it again)")
    _check_size(path, path.stat().st_size)
    reader = {".safetensors": _read_safetensors, ".npz": _read_npz}.get(path.suffix, _read_torch)
    tensors = reader(path)
    if not tensors:
        raise CracksError(f"{path}: holds no tensors; expected a network's weights by name")
    return Tensors(_without_prefix(tensors), str(path))


def source_of(tensors: Mapping[str, np.ndarray]) -> str:
    """What an error calls the origin of these tensors: the file, where it is known."""
    return getattr(tensors, "source", "the given tensors")


def take(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor as float32, in the file's layout.

    Raises:
      CracksError: it is missing, has another shape, or is not made of finite real numbers.
    """
    source = source_of(tensors)
    if name not in tensors:
        raise CracksError(
            f"{source}: tensor {name!r} is missing; expected it with shape {shape} (is this another network's"
            " file?)"
        )
    tensor = np.asarray(tensors[name])
    if tensor.shape != shape:
        raise CracksError(
            f"{source}: tensor {name!r} has shape {tensor.shape}; expected {shape} (is this another network's"
            " or another depth's file?)"
        )
    if not np.issubdtype(tensor.dtype, np.floating):
        raise CracksError(f"{source}: tensor {name!r} has dtype {tensor.dtype}; expected real numbers")
    tensor = tensor.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise CracksError(
            f"{source}: tensor {name!r} holds values that are not finite (fetch or copy the file again)"
        )
    return tensor


def convolution_kernel(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A convolution's kernel, (out, in, h, w) in the file, as Flax wants it: (h, w, in, out).

    Args:
      shape: the shape to expect in Flax's order.
    """
    height, width, inputs, outputs = shape
    return np.ascontiguousarray(take(tensors, name, (outputs, inputs, height, width)).transpose(2, 3, 1, 0))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CracksError(_unreadable(path, "a safetensors file", error)) from error
    except (KeyError, TypeError, AttributeError) as error:  # a dtype that NumPy does not have, as bfloat16
        raise CracksError(
            f"{path}: holds a dtype that NumPy cannot read ({error}); save the weights as float32 or float16"
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, MAX_BYTES)
    except (ValueError, OSError) as error:
        raise CracksError(_unreadable(path, "a NumPy .npz archive", error)) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise CracksError(
            f"{path}: reading {path.suffix} needs PyTorch, which is not installed; install torch, or save the"
            " weights as .safetensors"
        ) from error
    wanted = "a PyTorch state dict that loads with weights_only=True"
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start.startswith((_ZIP, _PICKLE)):
            raise ValueError("neither a zip archive nor a pickle")
        _check_size(path, unpacked_size(path) if start == _ZIP else 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is then refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CracksError:
        raise
    except Exception as error:  # torch raises many kinds here, and each means the same to the user
        raise CracksError(_unreadable(path, wanted, error)) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(one, torch.Tensor) and one.layout == torch.strided for one in content.values()
    ):
        raise CracksError(f"{path}: not a state dict; expected dense tensors by name (save model.state_dict())")
    # A view may repeat what is stored as often as it likes.
    _check_size(path, sum(math.prod(tensor.shape) * tensor.element_size() for tensor in content.values()))
    try:
        return {
            str(name): (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
            for name, tensor in content.items()
        }
    except Exception as error:  # quantised and other tensors that NumPy has not
        raise CracksError(_unreadable(path, wanted, error)) from error


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise CracksError(
            f"{path}: holds, or says that it holds, {size} bytes; at most {MAX_BYTES} of weights are read (save the "
            "weights alone, without an optimiser's state)"
        )


def _unreadable(path: Path, expected: str, error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{path}: cannot be read ({first_line}); expected {expected} (fetch or copy it again)"


def _without_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _replace(old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A copy of `old` with the arrays of `new` at their places, cast to the dtypes that stand there."""
    result = dict(old)
    for name, value in new.items():
        path = f"{at}{name}"
        if name not in old:
            raise CracksError(f"loaded weights have {path}; the network has not (another depth or version?)")
        if isinstance(value, Mapping):
            result[name] = _replace(old[name], value, f"{path}/")
        elif old[name].shape != value.shape:
            raise CracksError(
                f"loaded weights have {path} with shape {value.shape}; the network wants {old[name].shape}"
            )
        else:
            result[name] = value.astype(old[name].dtype)
    return result


def _paths(tree: Mapping[str, Any], at: str) -> list[str]:
    paths: list[str] = []
    for name, value in tree.items():
        paths += _paths(value, f"{at}{name}/") if isinstance(value, Mapping) else [f"{at}{name}"]
    return paths

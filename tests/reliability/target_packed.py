"""Weight files and archives as doors."""

import io
import os
import random
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np

from cracks_jax.data.archives import unpack
from cracks_jax.errors import CracksError
from cracks_jax.weights.files import read_tensors
from tests.reliability.bombs import zipped
from tests.reliability.target_pictures import Give, from_file, mutated, sound, write


def weights(folder: Path) -> Give:
    import torch
    from safetensors.numpy import save

    arrays = {"module.a": np.arange(6, dtype=np.float32).reshape(2, 3), "module.b": np.ones(4, np.float16)}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    seeds = {"a.safetensors": save(arrays), "a.npz": stream.getvalue()}
    for name, new in (("a.pth", True), ("a.pt", False)):
        stream = io.BytesIO()
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        torch.save({"state_dict": tensors}, stream, _use_new_zipfile_serialization=new)
        seeds[name] = stream.getvalue()

    def give(draw: random.Random) -> None:
        name, content = mutated(draw, seeds)
        path = folder / name
        write(path, content)
        found = from_file(path, read_tensors)
        sound(len(found) > 0 and all(isinstance(one, np.ndarray) for one in found.values()), "weights")
        sound(sum(one.nbytes for one in found.values()) < 2**32, "more than is read")
        [one.sum() for one in found.values() if one.dtype.kind in "fiu"]  # every number is there

    return give


def archives(folder: Path) -> Give:
    files = {"set/images/1.jpg": b"pixels" * 50, "set/masks/1.png": bytes(range(256)), "set/readme": b"text"}
    seeds = {"a.zip": zipped(files)}
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as opened:
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
        seeds[name] = stream.getvalue()
    box = folder / "box"
    box.mkdir()

    def give(draw: random.Random) -> None:
        name, content = mutated(draw, seeds)
        if name == "a.tar" and draw.random() < 0.5:
            content = _with_sums(content)
        write(box / name, content)
        try:
            from_file(box / name, lambda path: unpack([path], box / "out", max_bytes=2**20))
        except CracksError:
            sound(sorted(os.listdir(box)) == [name], f"left behind: {os.listdir(box)}")
            raise
        else:
            found = [Path(root) / file for root, folders, names in os.walk(box / "out") for file in [*folders, *names]]
            sound(not any(path.is_symlink() for path in found), "a link")
            sound(sum(path.stat().st_size for path in found if path.is_file()) <= 2**20, "too much")
        finally:
            (box / name).unlink()
            shutil.rmtree(box / "out", ignore_errors=True)
            sound(sorted(os.listdir(folder)) == ["box"], "written outside")

    return give


def _with_sums(content: bytes) -> bytes:
    """A tar whose headers' sums are right again."""
    found = bytearray(content)
    for at in range(0, len(found) - 511, 512):
        if found[at + 257 : at + 262] == b"ustar":
            found[at + 148 : at + 156] = b" " * 8
            struct.pack_into("8s", found, at + 148, f"{sum(found[at : at + 512]):06o}\0 ".encode())
    return bytes(found)

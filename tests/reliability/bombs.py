"""Files of a few bytes that claim to hold more than a machine has, one of each kind that the package reads.

`python -m tests.reliability.bombs FOLDER` reads all of them in a process of its own, and prints as one JSON object what
became of each and how much memory that took beyond what the imports had taken.
"""

import io
import json
import resource
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# OpenCV itself would take memory for so many pixels, and decode them: its own bound is 2**30.
SIDE = 30_000


def picture(kind: str, **options) -> bytes:
    """A whole picture of 24 x 16."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(side: int = 60_000) -> bytes:
    """Not only a claim: every one of its pixels is there, 3.6 thousand million in half a megabyte."""
    rows, row = 1000, 1 + side // 8
    pack = zlib.compressobj(9, wbits=-15)
    block = pack.compress(bytes(rows * row)) + pack.flush(zlib.Z_FULL_FLUSH)
    total = side * row
    packed = b"\x78\x9c" + block * (side // rows) + b"\3\0" + struct.pack(">HH", total % 65521, 1)
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def jpeg() -> bytes:
    data = bytearray(picture("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(data)


def bmp() -> bytes:
    data = bytearray(picture("BMP"))
    data[18:26] = struct.pack("<ii", SIDE, -SIDE)
    return bytes(data)


def tiff(tags: tuple[int, int] = (256, 257), **options) -> bytes:
    data = bytearray(picture("TIFF", **options))
    start = struct.unpack_from("<I", data, 4)[0]
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] in tags:
            struct.pack_into("<HII", data, at + 2, 4, 1, SIDE)
    return bytes(data)


def webp() -> bytes:
    """An animation, whose canvas has a size of its own."""
    data = bytearray(picture("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 16))]))
    data[24:30] = (SIDE - 1).to_bytes(3, "little") * 2
    return bytes(data)


def npy(shape: tuple[int, ...] = (2**20, 2**20)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


def npz(shape: tuple[int, ...] = (2**20, 2**20)) -> bytes:
    return zipped({"score.npy": npy(shape)})


def mat(size: int = 2**31) -> bytes:
    """Compressed labels whose own header claims `size` bytes, of which some are there."""
    buffer = io.BytesIO()
    labels = np.empty((1, 1), [("Segmentation", object)])
    labels[0, 0] = (np.ones((64, 64), np.uint8),)
    savemat(buffer, {"groundTruth": labels}, do_compression=True)
    data = buffer.getvalue()
    element = bytearray(zlib.decompress(data[136:]))
    element[4:8] = struct.pack("<I", size)
    packed = zlib.compress(bytes(element) + bytes(2**24))
    return data[:128] + struct.pack("<II", 15, len(packed)) + packed


def safetensors(size: int = 2**40) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def pth() -> bytes:
    """Storage that says it unpacks to 8 GiB: a real one would, zeros take a thousandth."""
    data = bytearray(zipped({"a/data.pkl": b"\x80\x02}.", "a/version": b"3\n", "a/data/0": bytes(2**20)}))
    entry = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, entry + 24, 2**32 - 2)
    return bytes(data)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Read as a picture and as a mask; as a score map; as weights.
PICTURES = {
    "a.png": png,
    "b.png": lambda: png(SIDE),
    "a.jpg": jpeg,
    "a.bmp": bmp,
    "a.tif": tiff,
    "packed.tif": lambda: tiff(compression="tiff_lzw"),
    "a.webp": webp,
}
SCORES = {"a.npy": npy, "a.npz": npz}
LABELS = {"a.mat": mat}
WEIGHTS = {"a.safetensors": safetensors, "long.safetensors": lambda: struct.pack("<Q", 2**60) + b"{}",
           "weights.npz": npz, "a.pth": pth}  # fmt: skip


def _read_all(folder: Path) -> dict:
    from cracks_jax.data.images import read_image, read_mask, read_score, read_thumbnail
    from cracks_jax.errors import CracksError
    from cracks_jax.weights.files import read_tensors

    pictures = {read_image: PICTURES, read_mask: PICTURES | LABELS, read_score: {"a.png": png} | SCORES}
    readers = pictures | {read_tensors: WEIGHTS, lambda path: read_thumbnail(path, 8): PICTURES}
    _warm_up(folder, read_tensors)
    before, start, said = _peak(), time.monotonic(), []
    for read, names in readers.items():
        for name in names:
            try:
                read(folder / name)
                said.append([name, "was read"])
            except CracksError as error:
                said.append([name, str(error)])
    return {"said": said, "mb": _peak() - before, "seconds": time.monotonic() - start}


def _warm_up(folder: Path, read_tensors) -> None:
    """Imports take memory too."""
    import torch
    from safetensors.numpy import save_file
    from scipy.io import loadmat  # noqa: F401

    torch.save({"a": torch.zeros(2)}, folder / "good.pth")
    save_file({"a": np.zeros(2)}, folder / "good.safetensors")
    for name in ("good.pth", "good.safetensors"):
        read_tensors(folder / name)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(_read_all(Path(sys.argv[1]))))

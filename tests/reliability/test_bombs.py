"""A file that claims more than it may is refused by its own words, before memory or time is spent on it."""

import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from cracks_jax.data import archives, headers, images, matlab
from cracks_jax.data.archives import unpack
from cracks_jax.data.images import read_image, read_mask, read_score, read_thumbnail
from cracks_jax.errors import CracksError
from cracks_jax.weights import files
from cracks_jax.weights.files import read_tensors
from tests.reliability import bombs
from tests.reliability.bombs import picture


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """What one process said of every bomb, and what that took."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("bombs")
    for kind in (bombs.PICTURES, bombs.SCORES, bombs.LABELS, bombs.WEIGHTS):
        for name, made in kind.items():
            (folder / name).write_bytes(made())
    program = [sys.executable, "-m", "tests.reliability.bombs", str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


def test_bombs_of_every_format_are_refused_in_no_time_and_no_memory(answer):
    """30,000 x 30,000 pixels decode to 2.7 GB; 60,000 x 60,000 to four times that."""
    assert len(answer["said"]) == 29
    for name, said in answer["said"]:
        assert f"/{name}: " in said and said.endswith(")") or "expected" in said, said
        if name in bombs.PICTURES:
            side = 60_000 if name == "a.png" else 30_000
            assert f"claims to be a picture of {side}x{side} pixels; at most {2**28} pixels are decoded" in said
    assert answer["mb"] < 30 and answer["seconds"] < 10


FORMATS = {
    "png": lambda: picture("PNG"),
    "interlaced png": lambda: cv2.imencode(".png", np.zeros((16, 24), np.uint16))[1].tobytes(),
    "jpeg": lambda: picture("JPEG"),
    "progressive jpeg": lambda: picture("JPEG", progressive=True),
    "jpeg with a thumbnail": lambda: _with_thumbnail(picture("JPEG")),
    "bmp": lambda: picture("BMP"),
    "grey bmp": lambda: cv2.imencode(".bmp", np.zeros((16, 24), np.uint8))[1].tobytes(),
    "tiff": lambda: picture("TIFF"),
    "packed tiff": lambda: picture("TIFF", compression="tiff_lzw"),
    "big tiff": lambda: picture("TIFF", big_tiff=True),
    "opencv's tiff": lambda: cv2.imencode(".tif", np.zeros((16, 24, 3), np.uint16))[1].tobytes(),
    "webp": lambda: picture("WEBP"),
    "lossless webp": lambda: picture("WEBP", lossless=True),
    "extended webp": lambda: picture("WEBP", exif=b"Exif\0\0" + bytes(20)),
    "animated webp": lambda: picture("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 16))]),
}


def _with_thumbnail(data: bytes) -> bytes:
    small = io.BytesIO()
    Image.new("RGB", (8, 4)).save(small, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(small.getvalue()) + 2) + small.getvalue()
    return data[:2] + segment + data[2:]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_limit_is_held_to_the_pixel_in_every_form_of_every_format(tmp_path, monkeypatch, kind):
    """Witness: Pillow's and OpenCV's encoders, and that the same file is read once the limit allows it."""
    path = tmp_path / "a.img"
    path.write_bytes(FORMATS[kind]())
    assert headers.claimed_size(path.read_bytes()) == (24, 16)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16)
    assert read_image(path).shape == (16, 24, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16 - 1)
    for read in (read_image, read_mask, read_score, lambda path: read_thumbnail(path, 8)):
        with pytest.raises(CracksError, match=r"a\.img: claims to be a picture of 24x16 pixels; at most 383 .*parts"):
            read(path)


def test_a_tile_of_a_tiff_counts_as_it_is_decoded_whole(tmp_path):
    """OpenCV takes up to 2**30 bytes for one tile of a picture of 24 x 16."""
    data = picture("TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    tags = data[start + 2 : start + 2 + 12 * count]
    tiles = b"".join(struct.pack("<HHII", tag, 4, 1, 60_000) for tag in (322, 323))
    (tmp_path / "a.tif").write_bytes(
        data[:4] + struct.pack("<I", len(data)) + data[8:] + struct.pack("<H", count + 2) + tags + tiles + bytes(4)
    )
    with pytest.raises(CracksError, match="60000x60000 pixels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "data",
    [
        b"BM" + bytes(10),
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff" + bytes(99),
        b"MM\0+" + b"\xff" * 60,
        b"RIFF\x20\0\0\0WEBPVP8X",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\0\x04ab",
    ],
)
def test_a_header_that_is_cut_off_is_damage_by_name(tmp_path, data):
    (tmp_path / "a.img").write_bytes(data)
    with pytest.raises(CracksError, match=r"a\.img: the file is truncated or damaged .*copy or download it again"):
        read_image(tmp_path / "a.img")


def test_a_jpeg_of_many_scans_is_refused_each_is_a_pass_over_the_picture(tmp_path):
    data = picture("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(data[:last] + data[last:-2] * 200 + data[-2:])
    with pytest.raises(CracksError, match="more than 100 scans"):
        read_image(tmp_path / "a.jpg")


def test_a_file_too_large_to_be_read_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**40)
    for read in (read_image, read_score):
        with pytest.raises(CracksError, match=rf"a\.png: the file is {2**40} bytes large; at most {2**31} are read"):
            read(tmp_path / "a.png")
    with open(tmp_path / "a.npz", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(CracksError, match=rf"a\.npz: holds.* {2**40} bytes; at most {2**32} of weights are read"):
        read_tensors(tmp_path / "a.npz")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(CracksError, match=r"a\.png: is a pipe or a device; expected a file"):
        read_image(tmp_path / "a.png")


# --------------------------------------------------------------------------------- arrays, labels, weights


def test_a_compressed_score_map_that_unpacks_to_too_much(tmp_path, monkeypatch):
    """A real bomb, by its header and, where the header lies, by what is read."""
    monkeypatch.setattr(images, "MAX_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", score=np.zeros((1024, 1024), np.float32))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    with pytest.raises(CracksError, match=r"a\.npz: not a readable array \(claims \(1024, 1024\) of float32, 4194304"):
        read_score(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(bombs.zipped({"a.npy": bombs.npy((4, 4)) + bytes(2**24)}))
    with pytest.raises(CracksError, match="holds more than the 64 bytes"):
        read_score(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(-1, 4), (2**62, 2**62), (2**64, 1), (0, 2**63)])
def test_shapes_that_no_array_has(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(bombs.npy(shape))
    with pytest.raises(CracksError, match=r"a\.npy: (not a readable array|array of float32)"):
        read_score(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 9000 + "1", "{'descr': '<f4'}", "[]", "\0", "9" * 9000])
def test_a_header_of_an_array_that_only_hurts_to_read(tmp_path, text):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode())
    with pytest.raises(CracksError, match=r"a\.npy: not a readable array \(no header of an array of numbers"):
        read_score(tmp_path / "a.npy")


def test_labels_that_unpack_to_more_than_they_may_or_say(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "MAX_BYTES", 2**22)
    for size, part in ((2**23, "it unpacks to 8388608 bytes"), (2**12, "cut off, or longer than it says")):
        (tmp_path / "a.mat").write_bytes(bombs.mat(size))
        with pytest.raises(CracksError, match=rf"a\.mat: no labels .*{part}"):
            read_mask(tmp_path / "a.mat")


def test_weights_that_hold_more_than_they_may_together(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 6000)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1000, np.float32), b=np.zeros(1000, np.float32))
    with pytest.raises(CracksError, match=r"a\.npz: cannot be read \(claims \(1000,\) of .* 4000 bytes; at most 2"):
        read_tensors(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:Sparse invariant", "ignore:.*quantiz")
def test_pytorch_weights_that_repeat_one_number_for_ever(tmp_path):
    """A stride of 0: four bytes stand for as many as the shape says."""
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1, dtype=torch.bfloat16).expand(2**40)}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 4000
    with pytest.raises(CracksError, match=r"a\.pth: holds, or says that it holds, 2199023255552 bytes"):
        read_tensors(tmp_path / "a.pth")
    torch.save({"a": torch.sparse_coo_tensor([[0], [1]], [1.0], (4, 4))}, tmp_path / "a.pth")
    with pytest.raises(CracksError, match=r"a\.pth: not a state dict; expected dense tensors"):
        read_tensors(tmp_path / "a.pth")
    torch.save({"a": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}, tmp_path / "a.pth")
    with pytest.raises(CracksError, match=r"a\.pth: cannot be read \("):
        read_tensors(tmp_path / "a.pth")


# ------------------------------------------------------------------------------------------------ archives


def _tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("a/1.jpg", "a/1.jpg"), "'a/1.jpg' is there twice"),
        (("a/1.jpg", "a/./1.jpg"), "is there twice"),
        (("a", "a/1.jpg"), "'a/1.jpg' is there twice, or as a file and a folder"),
        (("a/1.jpg", "a"), "'a' is there twice, or as a file and a folder"),
        (("a/1.jpg", "a/1.jpg/b/c"), "as a file and a folder"),
        (("a/\x1b[2J.jpg",), r"the name 'a/\x1b[2J.jpg' in it holds control characters"),
        (("a/" + "b" * 256,), "is longer than file systems take"),
        (("a/" * 600 + "b",), "is longer than file systems take"),
        (("a/\u00e9" + "\u00e9" * 127,), "is longer than file systems take"),
    ],
)
def test_names_that_collide_or_that_no_file_system_takes(tmp_path, names, part):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name in names:
            with pytest.warns(UserWarning) if name in opened.namelist() else _nothing():
                opened.writestr(name, b"x")
    packed = (tmp_path / "a.zip", _tar(tmp_path / "a.tar.gz", [(name, b"x") for name in names]))
    for archive in packed:
        with pytest.raises(CracksError) as raised:
            unpack([archive], tmp_path / "out")
        assert str(raised.value).startswith(f"{archive}: ") and part in str(raised.value)
        assert str(raised.value).isprintable() and sorted(tmp_path.iterdir()) == sorted(packed)


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_an_archive_of_too_many_files_is_refused_before_all_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_FILES", 100)
    read = []
    for_real = archives._tar_members
    monkeypatch.setattr(archives, "_tar_members", lambda opened: (read.append(1) or one for one in for_real(opened)))
    archive = _tar(tmp_path / "a.tar.gz", [(f"{n}.jpg", b"") for n in range(1000)])
    with pytest.raises(CracksError, match="in 101 files or more; at most .* and 100 files are written"):
        unpack([archive], tmp_path / "out")
    assert len(read) == 101


def test_a_zip_whose_directory_alone_is_a_bomb(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for n in range(100):
            opened.writestr(f"{n}.jpg", b"")
    monkeypatch.setattr(archives, "_MAX_DIRECTORY", 1000)
    with pytest.raises(CracksError, match=r"a\.zip: lists its files in \d+ bytes; at most 1000 are read"):
        unpack([archive], tmp_path / "out")


def test_a_tar_header_that_claims_to_be_large_is_not_read(tmp_path):
    """An extended attribute of 2 MB, 8 GB would pack to 8 MB: tarfile reads it whole to list the archive."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as opened:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"comment": "x" * (2 << 20)}
        opened.addfile(info)
    with pytest.raises(CracksError, match=r"a\.tar\.gz: not a whole zip or tar archive .*a header of 2\d+ bytes"):
        unpack([tmp_path / "a.tar.gz"], tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_that_is_cut_or_damaged_anywhere_is_never_unpacked_in_part(tmp_path, rng, mode):
    """Between two files too, where nothing in the format itself says that more should come."""
    files = [(f"a/{n}.jpg", rng.bytes(700)) for n in range(3)]
    whole = _tar(tmp_path / "a.tar", files, mode).read_bytes()
    unpack([tmp_path / "a.tar"], tmp_path / "out")
    step = 512 if mode == "w" else 97
    for end in range(step, len(whole) - (9000 if mode == "w" else 0), step):
        (tmp_path / "a.tar").write_bytes(whole[:end])
        with pytest.raises(CracksError, match=r"a\.tar: not a whole zip or tar archive"):
            unpack([tmp_path / "a.tar"], tmp_path / "again")
    if mode != "w":  # a plain tar has sums over its headers alone
        for at in range(12, len(whole), 31):
            (tmp_path / "a.tar").write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            try:
                unpack([tmp_path / "a.tar"], tmp_path / f"flip{at}")
            except CracksError:
                assert not (tmp_path / f"flip{at}").exists()
            else:
                assert [p.read_bytes() for p in sorted((tmp_path / f"flip{at}").iterdir())] == [c for _, c in files]

"""The one door to pixels: what it takes, what it refuses by name, and that it writes all or nothing."""

import io
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cracks_jax.data import images
from cracks_jax.data.images import LabelError, read_image, read_mask, read_score
from cracks_jax.errors import CracksError


@pytest.fixture
def rgb(rng):
    """Smooth enough that lossy formats stay close, and different in every channel and direction."""
    y, x = np.mgrid[0:20, 0:30]
    return np.stack([x * 8, y * 12, 255 - x * 4 - y * 3], -1).astype(np.uint8)


def save(path, pixels, **options):
    """With Pillow, as a witness that is not our own encoder."""
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_formats_are_read_exactly_as_pillow_wrote_them(tmp_path, rgb, suffix):
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a{suffix}", rgb)), rgb)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95}])
def test_jpegs_are_read_in_the_order_red_green_blue(tmp_path, rgb, options):
    found = read_image(save(tmp_path / "a.jpg", rgb, subsampling=0, **options))
    assert np.abs(found.astype(int) - rgb).mean() < 4


def test_webp_is_read_and_the_name_does_not_decide_the_format(tmp_path, rgb):
    save(tmp_path / "a.webp", rgb, lossless=True)
    os.rename(tmp_path / "a.webp", tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), rgb)


def test_grey_becomes_three_equal_channels(tmp_path, rgb):
    found = read_image(save(tmp_path / "a.png", rgb[..., 0]))
    np.testing.assert_array_equal(found, np.repeat(rgb[..., :1], 3, -1))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_dropped_without_changing_the_colours(tmp_path, rgb, suffix):
    alpha = np.full_like(rgb[..., :1], 255 if suffix == ".tif" else 7)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", np.concatenate([rgb, alpha], -1), **options)
    np.testing.assert_array_equal(read_image(path), rgb)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, rgb, suffix):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), rgb)
    cv2.imwrite(str(path), np.array([[0, 128, 129, 65535 - 128, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 0, 1, 255, 255])


def test_palette_and_cmyk_files_are_read(tmp_path, rgb):
    assert read_image(save(tmp_path / "a.png", Image.fromarray(rgb).convert("P"))).shape == rgb.shape
    assert read_image(save(tmp_path / "b.jpg", Image.fromarray(rgb).convert("CMYK"))).shape == rgb.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", rgb, exif=exif, subsampling=0, quality=95)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    found = read_image(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("top", [1, 255])
def test_masks_of_0_and_1_or_255_mean_the_same(tmp_path, rng, top):
    mask = rng.random((20, 30)) < 0.2
    found = read_mask(save(tmp_path / "m.png", mask.astype(np.uint8) * top))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_boolean_colour_and_sixteen_bit_masks_are_read(tmp_path, rng):
    mask = rng.random((20, 30)) < 0.2
    grey = mask.astype(np.uint8) * 255
    np.testing.assert_array_equal(read_mask(save(tmp_path / "bool.png", Image.fromarray(mask))), mask)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "rgb.png", np.stack([grey] * 3, -1))), mask)
    cv2.imwrite(str(tmp_path / "deep.png"), mask.astype(np.uint16) * 65535)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), mask)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_all_background_or_all_crack(tmp_path, value):
    mask = read_mask(save(tmp_path / "m.png", np.full((4, 5), value, np.uint8)))
    assert mask.all() == (value > 0) and mask.any() == (value > 0)


def test_other_label_values_are_refused_and_listed(tmp_path, rng):
    path = save(tmp_path / "m.png", np.array([[0, 2, 4], [1, 3, 0]], np.uint8))
    with pytest.raises(LabelError, match=r"m\.png: mask values are 0, 1, 2, 3, 4; expected 0 and 255, or 0"):
        read_mask(path)
    blurred = np.kron((rng.random((10, 10)) < 0.3) * 255, np.ones((5, 5))).astype(np.uint8)
    with pytest.raises(LabelError, match="in all"):
        read_mask(save(tmp_path / "m.jpg", blurred, quality=50))
    with pytest.raises(LabelError, match="colours"):
        read_mask(save(tmp_path / "c.png", np.zeros((4, 4, 3), np.uint8) + np.uint8([0, 0, 255])))


def test_crackforest_labels_2_and_4_are_crack(tmp_path):
    labels = np.array([[1, 2, 3], [4, 1, 1]], np.uint8)
    truth = np.empty((1, 1), [("Segmentation", object), ("Boundaries", object)])
    truth[0, 0] = (labels, labels > 1)
    savemat(tmp_path / "001.mat", {"groundTruth": truth})
    np.testing.assert_array_equal(read_mask(tmp_path / "001.mat"), (labels == 2) | (labels == 4))
    (tmp_path / "bad.mat").write_bytes(b"not a matlab file at all" * 20)
    with pytest.raises(CracksError, match=r"bad\.mat: no labels"):
        read_mask(tmp_path / "bad.mat")


def test_aigle_rn_ground_truth_is_crack_where_it_is_rare(tmp_path):
    dark = np.full((10, 10), 255, np.uint8)
    dark[4] = 0
    assert read_mask(save(tmp_path / "GT_AIGLE_RN_C18b.png", dark)).sum() == 10
    assert read_mask(save(tmp_path / "GT_AIGLE_RN_E17a.png", 255 - dark)).sum() == 10
    assert read_mask(save(tmp_path / "other.png", dark)).sum() == 90


def _encoded(rgb, kind, **options):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.kron(rgb, np.ones((4, 4, 1), np.uint8))).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "progressive"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, "all but 2"])
def test_truncated_files_are_refused_in_every_format(tmp_path, rgb, kind, kept, capfd):
    options = {"progressive": True} if kind == "progressive" else {}
    data = _encoded(rgb, "JPEG" if kind == "progressive" else kind, **options)
    path = tmp_path / "cut.img"
    path.write_bytes(data)
    read_image(path)
    path.write_bytes(data[:-2] if kept == "all but 2" else data[: int(len(data) * kept)])
    for read in (read_image, read_mask):
        with pytest.raises(CracksError, match=r"cut\.img: "):
            read(path)
    assert capfd.readouterr() == ("", "")


def test_a_cut_jpeg_is_refused_even_when_its_thumbnail_is_whole(tmp_path, rgb):
    """The EXIF thumbnail ends with an end-of-image marker of its own."""
    thumbnail = _encoded(rgb[:8, :8], "JPEG")
    data = _encoded(np.tile(rgb, (3, 3, 1)), "JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(whole[: len(segment) + 700])
    with pytest.raises(CracksError, match="truncated"):
        read_image(path)


def test_a_jpeg_with_bytes_behind_its_end_is_taken(tmp_path, rgb):
    """Phones append films and depth maps."""
    (tmp_path / "a.jpg").write_bytes(_encoded(rgb, "JPEG") + b"\0" * 100)
    assert read_image(tmp_path / "a.jpg").shape == (120, 80, 3)


def test_a_damaged_png_is_refused_in_silence(tmp_path, rgb, capfd):
    data = bytearray(_encoded(rgb, "PNG"))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(CracksError, match="damaged"):
        read_image(tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


def test_every_unreadable_path_is_named(tmp_path, rgb):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("not an image")
    save(tmp_path / "moving.gif", rgb)
    cv2.imwrite(str(tmp_path / "float.tif"), rgb.astype(np.float32))
    Image.fromarray(rgb[..., 0].astype(np.int32)).save(tmp_path / "int.tif")
    for name, reason in [
        ("empty.png", "empty"),
        ("folder.png", "is a folder"),
        ("missing.png", "no such file"),
        ("text.png", "expected JPEG, PNG"),
        ("moving.gif", "expected JPEG, PNG"),
        ("float.tif", "float32; expected 8 or 16 bit"),
        ("int.tif", "int32; expected 8 or 16 bit"),
    ]:
        with pytest.raises(CracksError, match=reason) as raised:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)
        with pytest.raises(CracksError):
            read_mask(tmp_path / name)


def test_what_is_written_is_read_back(tmp_path, rgb, rng):
    mask = rng.random((7, 9)) < 0.5
    images.write_image(tmp_path / "new" / "folder" / "a.png", rgb)
    images.write_mask(tmp_path / "m.png", mask)
    images.write_score(tmp_path / "s.npy", mask * np.float32(0.25))
    np.testing.assert_array_equal(read_image(tmp_path / "new/folder/a.png"), rgb)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m.png")), mask * 255)
    np.testing.assert_array_equal(read_score(tmp_path / "s.npy"), mask * np.float32(0.25))
    np.testing.assert_array_equal(read_score(tmp_path / "m.png"), mask.astype(np.float32))
    with pytest.raises(CracksError, match="lossy"):
        images.write_mask(tmp_path / "m.jpg", mask)
    with pytest.raises(CracksError, match="cannot write '.txt'"):
        images.write_image(tmp_path / "a.txt", rgb)


def test_scores_outside_0_to_1_are_refused(tmp_path):
    for bad in ([[0.5, 1.5]], [[np.nan, 0.0]], [[-0.1, 0.0]], [0.5], [[[0.5]]]):
        np.save(tmp_path / "s.npy", np.array(bad, np.float32))
        with pytest.raises(CracksError, match=r"s\.npy: "):
            read_score(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", np.array([[0, 255]], np.uint8))
    with pytest.raises(CracksError, match="up to 255"):
        read_score(tmp_path / "s.npy")
    (tmp_path / "s.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(CracksError, match="not a readable"):
        read_score(tmp_path / "s.npy")


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    images.write_mask(path, np.ones((3, 3)))
    before = path.read_bytes()

    def full(self, data):
        with open(self, "wb") as half:
            half.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.Path, "write_bytes", full)
    with pytest.raises(CracksError, match=r"m\.png: cannot be written \(No space left on device\)"):
        images.write_mask(path, np.zeros((3, 3)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.png"]


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CracksError, match=r"file/m\.png: cannot be written"):
        images.write_mask(tmp_path / "file" / "m.png", np.ones((3, 3)))


def test_real_photographs_and_masks_are_read(cracks_data):
    image = read_image(cracks_data / "deepcrack/test/images/IMG_6469-1.jpg")
    assert image.shape == (544, 384, 3) and image.dtype == np.uint8
    witness = np.asarray(Image.open(cracks_data / "deepcrack/test/images/IMG_6469-1.jpg").convert("RGB"))
    assert np.abs(image.astype(int) - witness).mean() < 1
    mask = read_mask(cracks_data / "cfd/masks/001.png")
    assert mask.shape == (320, 480)
    np.testing.assert_array_equal(mask, np.asarray(Image.open(cracks_data / "cfd/masks/001.png")) == 255)


def test_worker_processes_never_start_jax():
    rooms = ["images", "layouts", "duplicates", "datasets", "check", "archives", "download"]
    code = "import sys\n" + "".join(f"import cracks_jax.data.{room}\n" for room in rooms)
    code += "assert not any(name.split('.')[0] in ('jax', 'jaxlib', 'flax') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

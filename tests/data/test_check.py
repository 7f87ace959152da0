"""`data check`: each kind of damage is found, counted and named; whole data sets pass."""

import numpy as np
import pytest

from cracks_jax.data.check import check
from cracks_jax.data.images import write_image, write_mask
from cracks_jax.errors import CracksError


def texture(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two splits of four and two images; every mask has 48 of 3,072 pixels crack."""
    for split, count, first in (("train", 4, 0), ("test", 2, 100)):
        for i in range(count):
            mask = np.zeros((48, 64), bool)
            mask[:, i] = True
            write_image(tmp_path / "roads" / split / "images" / f"{split}{i}.jpg", texture(first + i))
            write_mask(tmp_path / "roads" / split / "masks" / f"{split}{i}.png", mask)
    return tmp_path / "roads"


def split_of(report, name):
    return next(split for split in report.splits if split.name == name)


def test_a_whole_data_set_passes_with_its_counts_and_crack_share(root):
    calls = []
    report = check(root, progress=lambda done, total: calls.append((done, total)))
    assert report.ok and not report.warnings and report.verdict == "roads: whole"
    train = split_of(report, "train")
    assert (train.images, train.masks, train.sizes) == (4, 4, {"64x48": 4})
    assert train.crack_share == pytest.approx(48 / 3072)
    assert calls == [(i, 6) for i in range(1, 7)]
    assert "1.56%" in report.text() and "64x48 (4)" in report.text()


def test_one_split_can_be_checked_by_itself(root):
    report = check(f"{root}:test")
    assert [split.name for split in report.splits] == ["test"]


def test_files_without_partner_are_broken(root):
    (root / "train/images/train0.jpg").unlink()
    (root / "test/masks/test1.png").unlink()
    report = check(root)
    assert not report.ok and report.verdict == "roads: broken (2 findings)"
    train, test = split_of(report, "train"), split_of(report, "test")
    assert train.unmatched == (f"{root}/train/masks/train0.png: mask without image",)
    assert test.unmatched == (f"{root}/test/images/test1.jpg: image without mask",)
    assert "test1.jpg: image without mask" in report.text()


def test_a_stem_that_is_there_twice_is_broken(root):
    write_image(root / "train/images/train0.png", texture(0))
    (finding,) = split_of(check(root), "train").unmatched
    assert finding.endswith("train0.png: a second file of this stem")


def test_a_mask_of_another_size_is_broken(root):
    write_mask(root / "train/masks/train2.png", np.eye(48))
    (finding,) = split_of(check(root), "train").wrong_sizes
    assert "train2.png: mask is 48x48 but its image is 64x48; masks must have" in finding


def test_wrong_label_values_are_broken(root):
    grey = np.arange(64, dtype=np.uint8)[None, :, None]
    write_image(root / "train/masks/train1.png", np.repeat(grey, 3, 2))
    report = check(root)
    (finding,) = split_of(report, "train").wrong_labels
    assert "train1.png: mask values are 0, 1, 2" in finding
    assert not report.ok


def test_unreadable_files_are_broken_and_do_not_stop_the_check(root):
    whole = (root / "train/images/train0.jpg").read_bytes()
    (root / "train/images/train0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/masks/train3.png").write_bytes(b"")
    report = check(root)
    image, mask = split_of(report, "train").unreadable
    assert "train0.jpg: the file is truncated" in image and "train3.png: the file is empty" in mask
    assert split_of(report, "test").broken == ()


def test_a_near_duplicate_across_splits_is_a_warning(root):
    write_image(root / "test/images/test0.jpg", texture(3) // 2 + 30)
    write_image(root / "train/images/train1.jpg", texture(0))  # within one split: no warning
    report = check(root)
    assert report.ok and report.verdict == "roads: usable, with 1 warning"
    ((a, b, correlation),) = report.near_duplicates
    assert {a, b} == {"train/train3", "test/test0"} and correlation > 0.9


def test_masks_that_look_inverted_are_a_warning(root):
    for i in range(2):
        write_mask(root / f"test/masks/test{i}.png", np.arange(64)[None] * np.ones((48, 1)) > 0)
    report = check(root)
    assert report.ok and "are the masks inverted?" in report.text()


def test_long_lists_are_cut_for_people_only(root):
    for i in range(15):
        write_mask(root / f"train/masks/stray{i:02d}.png", np.eye(4))
    report = check(root)
    assert len(split_of(report, "train").unmatched) == 15
    assert "... and 5 more" in report.text()


def test_an_images_only_folder_is_whole(tmp_path):
    write_image(tmp_path / "photos/a.jpg", texture(1))
    report = check(tmp_path / "photos")
    assert report.ok and report.splits[0].crack_share is None


def test_no_data_set_at_all_is_an_error(tmp_path):
    with pytest.raises(CracksError, match="no images found"):
        check(tmp_path)


def test_the_known_facts_about_deepcrack(cracks_data):
    report = check(cracks_data / "deepcrack")
    assert report.ok
    assert (split_of(report, "train").images, split_of(report, "test").images) == (300, 237)
    assert split_of(report, "train").crack_share == pytest.approx(0.029, abs=5e-4)
    assert split_of(report, "test").crack_share == pytest.approx(0.043, abs=5e-4)
    assert split_of(report, "test").sizes == {"544x384": 190, "384x544": 47}
    assert [pair[:2] for pair in report.near_duplicates] == [("test/11216", "train/11158")]

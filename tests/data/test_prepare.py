"""The papers' training sets: what is cut is what the recipe says, counted, recorded, and cut once."""

import json

import cv2
import numpy as np
import pytest

from cracks_jax.data import darklines, prepare, recipes, windows
from cracks_jax.data.datasets import open_dataset
from cracks_jax.data.images import read_image, read_mask, write_image, write_mask
from cracks_jax.data.manifest import read_manifest
from cracks_jax.errors import CracksError, UsageError


def tree(folder, masks, rng, images=True):
    """A data set in the open layout: the given masks, and images of noise."""
    for stem, mask in masks.items():
        write_mask(folder / "masks" / f"{stem}.png", mask)
        if images:
            image = rng.integers(100, 156, (*mask.shape, 3), dtype=np.uint8)
            write_image(folder / "images" / f"{stem}.png", image)
    return folder


def line(height, width, x, thickness=3):
    mask = np.zeros((height, width), bool)
    mask[:, x : x + thickness] = True
    return mask


def dotted(rng, height, width, count):
    mask = np.zeros((height, width), bool)
    mask[rng.integers(0, height, count), rng.integers(0, width, count)] = True
    return mask


# --- undamaged ---


def test_undamaged_windows_keep_their_clearance_and_are_the_largest_that_fit(rng, tmp_path):
    masks = {f"road{i}": dotted(rng, 90 + i, 120, 1 + i) for i in range(8)}
    root = tree(tmp_path / "roads", masks, rng)
    manifest = prepare.prepare("undamaged", root, tmp_path / "out", min_side=16, max_side=64, clearance=5)
    found = {item["source"]: item["box"][2] for item in manifest["items"]}
    for stem, mask in masks.items():
        # Brute force: the distance of every position's window to the nearest labelled pixel, by dilation.
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11), np.uint8)).astype(bool)
        fits = [
            side
            for side in (64, 48, 32, 16)
            if any(
                not grown[y : y + side, x : x + side].any()
                for y in range(mask.shape[0] - side + 1)
                for x in range(mask.shape[1] - side + 1)
            )
        ]
        assert found.get(stem, 0) == (fits[0] if fits else 0), stem
    for item in manifest["items"]:
        y, x, h, w = item["box"]
        image = read_image(root / "images" / f"{item['source']}.png")
        assert item["photo"] == list(image.shape[:2])
        cut = read_image(tmp_path / "out" / "images" / f"{item['stem']}.png")
        np.testing.assert_array_equal(cut, image[y : y + h, x : x + w])
        near = masks[item["source"]][max(0, y - 5) : y + h + 5, max(0, x - 5) : x + w + 5]
        assert not near.any()
    assert manifest["counts"]["windows"] == len(manifest["items"]) == len(open_dataset(tmp_path / "out"))
    assert prepare.measure_contamination(tmp_path / "out", root)["pixels_of_crack"] == 0


def test_several_windows_of_one_photograph_are_disjoint(rng):
    mask = dotted(rng, 100, 160, 2)
    boxes = windows.clear_windows(mask, smallest=16, largest=48, clearance=3, count=6, rng=rng)
    assert len(boxes) == 6
    cover = np.zeros(mask.shape, int)
    for y, x, h, w in boxes:
        cover[y : y + h, x : x + w] += 1
    assert cover.max() == 1


def test_a_photograph_without_a_clear_window_is_counted_and_a_set_of_them_refused(rng, tmp_path):
    masks = {"clear": line(64, 96, 90), "cracked": np.ones((64, 96), bool), "small": np.zeros((20, 96), bool)}
    root = tree(tmp_path / "roads", masks, rng)
    manifest = prepare.prepare("undamaged", root, tmp_path / "out", min_side=32, max_side=48)
    assert manifest["counts"]["photographs"] == 3
    assert manifest["counts"]["photographs_without_window"] == ["cracked", "small"]
    with pytest.raises(CracksError, match="lower min_side or clearance"):
        prepare.prepare("undamaged", root, tmp_path / "none", min_side=96, max_side=96)
    assert not (tmp_path / "none").exists()


def test_box_sums_agree_with_counting(rng):
    mask = dotted(rng, 13, 17, 20)
    padded = np.pad(mask, 2)
    expected = [[padded[y : y + 9, x : x + 9].sum() for x in range(13)] for y in range(9)]
    np.testing.assert_array_equal(windows.box_sums(mask, 5, 2), expected)
    assert windows.box_sums(mask, 14).size == 0


def test_deepcrack_gives_one_undamaged_window_per_training_image(cracks_data, tmp_path):
    manifest = prepare.prepare("undamaged", cracks_data / "deepcrack", tmp_path / "out", split="train")
    assert manifest["counts"]["windows"] == 300
    assert manifest["counts"]["sides"] == {"192": 243, "176": 36, "160": 15, "144": 3, "128": 3}
    assert len({item["source"] for item in manifest["items"]}) == 300
    measured = prepare.measure_contamination(tmp_path / "out", cracks_data / "deepcrack", split="train")
    assert measured == {"windows": 300, "windows_with_crack": 0, "pixels_of_crack": 0}


# --- undamaged-unlabelled ---


def test_windows_chosen_without_masks_avoid_dark_lines_and_score_what_they_hold(rng, tmp_path):
    for i in range(6):
        image = rng.normal(140, 12, (96, 192, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
        cv2.line(image, (20 + 2 * i, 0), (40, 95), (60, 60, 60), 3)
        write_image(tmp_path / "photos" / f"{i}.png", image)
    manifest = prepare.prepare(
        "undamaged-unlabelled", tmp_path / "photos", tmp_path / "out", min_side=64, max_side=96, tolerance=4.0
    )
    assert len(manifest["items"]) >= 5
    for item in manifest["items"]:
        assert item["box"][1] > 40, "the window holds the line"
        assert item["score"] <= manifest["counts"]["highest_score"]
    scores = darklines.line_scores(read_image(tmp_path / "photos" / "0.png"), 64, 64)[64]
    assert scores[:, 0].min() > 1.5 * scores[:, -1].max()


def test_the_outlying_photograph_is_rejected(rng, tmp_path):
    for i in range(7):
        image = rng.normal(140, 12, (64, 64, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
        if i == 3:
            cv2.line(image, (0, 10), (63, 50), (40, 40, 40), 3)
        write_image(tmp_path / "photos" / f"{i}.png", image)
    manifest = prepare.prepare(
        "undamaged-unlabelled", tmp_path / "photos", tmp_path / "out", min_side=64, max_side=64, tolerance=6.0
    )
    assert manifest["counts"]["photographs_without_window"] == ["3"]


def test_contamination_counts_windows_and_pixels(rng, tmp_path):
    root = tree(tmp_path / "roads", {"a": line(40, 40, 0, 4), "b": np.zeros((40, 40), bool)}, rng)
    boxes = [("a_0", "a", [0, 0, 20, 20]), ("a_1", "a", [0, 20, 20, 20]), ("b_0", "b", [0, 0, 40, 40])]
    items = [{"stem": stem, "source": source, "box": box} for stem, source, box in boxes]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"items": items}))
    measured = prepare.measure_contamination(tmp_path / "out", root)
    assert measured == {"windows": 3, "windows_with_crack": 1 / 3, "pixels_of_crack": 80 / 2400}


def test_deepcrack_chosen_without_masks_is_nearly_free_of_cracks(cracks_data, tmp_path):
    manifest = prepare.prepare(
        "undamaged-unlabelled", cracks_data / "deepcrack" / "train" / "images", tmp_path / "out"
    )
    assert manifest["counts"]["windows"] == pytest.approx(281, abs=2)
    measured = prepare.measure_contamination(tmp_path / "out", cracks_data / "deepcrack", split="train")
    assert measured["windows_with_crack"] < 0.05
    assert measured["pixels_of_crack"] < 1e-4


# --- blocks, crops, patches ---


def test_blocks_cover_the_image_and_most_empty_ones_are_left_out(rng, tmp_path):
    masks = {f"r{i}": line(40, 70, 0) for i in range(5)}  # 2 x 3 blocks of 32, the left ones cracked
    root = tree(tmp_path / "roads", masks, rng)
    manifest = prepare.prepare("crackseg-blocks", root, tmp_path / "out", side=32, keep_empty=0.1)
    assert manifest["counts"] == {
        "photographs": 5, "windows": 12, "blocks": 30, "cracked": 10, "empty": 20, "empty_kept": 2,
    }  # fmt: skip
    made = open_dataset(tmp_path / "out", need_masks=True)
    assert sum(read_mask(record.mask).any() for record in made) == 10
    cover = np.zeros((40, 70), int)
    for y, x, h, w in windows.grid_blocks(40, 70, 32):
        cover[y : y + h, x : x + w] += 1
    assert cover.min() == 1


def test_images_smaller_than_a_block_are_refused_with_the_size_that_works(rng, tmp_path):
    root = tree(tmp_path / "roads", {"a": line(40, 70, 0)}, rng)
    with pytest.raises(CracksError, match=r"a\.png: the image is 70x40.*set side=40"):
        prepare.prepare("crackseg-blocks", root, tmp_path / "out")


def test_deepcrack_blocks_are_counted(cracks_data):
    plan = recipes.crackseg_blocks(open_dataset(cracks_data / "deepcrack", "train"), recipes.Blocks())
    assert plan.counts == {"blocks": 1800, "cracked": 1662, "empty": 138, "empty_kept": 14}
    assert len(plan.items) == 1676


def test_crops_of_originals_are_kept_above_a_number_of_crack_pixels_and_named_as_published(rng, tmp_path):
    mask = np.zeros((44, 82), bool)  # crops of 11 x 20; 2 columns are left over
    mask[:5, :2] = True  # first crop: 10 pixels, not above 10
    mask[11:22, 20] = True  # row 1, column 1: 11 pixels
    root = tree(tmp_path / "roads", {"20160222": mask}, rng)
    manifest = prepare.prepare("crack500", root, tmp_path / "out", min_crack_pixels=10)
    assert manifest["counts"] == {"photographs": 1, "windows": 1, "crops": 16, "without_crack": 14}
    assert [(item["stem"], item["box"]) for item in manifest["items"]] == [
        ("20160222_21_12", [11, 20, 11, 20])
    ]
    with pytest.raises(CracksError, match="keeps nothing of its 1 images"):
        prepare.prepare("crack500", root, tmp_path / "none")


def test_patches_take_every_image_once_before_any_twice(rng, tmp_path):
    masks = {f"r{i}": np.ones((40, 60), bool) for i in range(6)}
    masks["two"] = line(40, 60, 0)  # only its two left corners hold a crack
    root = tree(tmp_path / "roads", masks, rng)
    manifest = prepare.prepare("cfd200", root, tmp_path / "out", count=10, side=32)
    sources = [item["source"] for item in manifest["items"]]
    assert sorted(sources.count(stem) for stem in masks) == [1, 1, 1, 1, 2, 2, 2]
    assert manifest["counts"]["candidates"] == 6 * 4 + 2
    with pytest.raises(CracksError, match="set count=26"):
        prepare.prepare("cfd200", root, tmp_path / "many", count=27, side=32)


def test_cfd_gives_200_patches(cracks_data, tmp_path):
    manifest = prepare.prepare("cfd200", cracks_data / "cfd", tmp_path / "out")
    assert manifest["counts"]["windows"] == 200
    assert manifest["counts"]["patch_1_of_its_image"] == 118
    assert manifest["counts"]["patch_2_of_its_image"] == 82
    made = open_dataset(tmp_path / "out", need_masks=True)
    assert len(made) == 200
    assert all(read_mask(record.mask).any() for record in made)


def test_crack500_counts_on_six_images(cracks_data):
    plan = recipes.crack500(open_dataset(cracks_data / "crack500/native640x360", "train"), recipes.Crack500())
    assert plan.counts == {"crops": 96, "without_crack": 64}
    assert len(plan.items) == 19


# --- the folder ---


def test_preparing_again_changes_nothing_and_anything_else_is_refused(rng, tmp_path):
    root = tree(tmp_path / "roads", {"a": line(48, 64, 60), "b": line(48, 64, 0)}, rng)
    settings = {"min_side": 16, "max_side": 32}
    first = prepare.prepare("undamaged", root, tmp_path / "out", **settings)
    assert first == read_manifest(tmp_path / "out")
    written = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert prepare.prepare("undamaged", root, tmp_path / "out", **settings) == first
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == written
    assert prepare.prepare("undamaged", root, tmp_path / "twin", **settings)["digest"] == first["digest"]
    other = prepare.prepare("undamaged", root, tmp_path / "other", **settings, seed=1)
    assert other["digest"] != first["digest"]
    with pytest.raises(UsageError, match=r"holds something else \(settings"):
        prepare.prepare("undamaged", root, tmp_path / "out", **settings, seed=1)
    write_mask(root / "masks" / "a.png", line(48, 64, 50))
    with pytest.raises(UsageError, match=r"holds something else \(source"):
        prepare.prepare("undamaged", root, tmp_path / "out", **settings)
    with pytest.raises(UsageError, match="was not made by this command"):
        prepare.prepare("undamaged", root, root, **settings)
    assert str(tmp_path) not in json.dumps(first)


def test_a_preparation_that_fails_leaves_nothing(rng, tmp_path, monkeypatch):
    root = tree(tmp_path / "roads", {"a": line(48, 64, 60), "b": line(48, 64, 0)}, rng)
    written = []

    def full(path, image):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_image(path, image)

    monkeypatch.setattr(prepare, "write_image", full)
    with pytest.raises(CracksError, match="No space left on device"):
        prepare.prepare("undamaged", root, tmp_path / "out", min_side=16, max_side=32)
    assert [path.name for path in tmp_path.iterdir()] == ["roads"]


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("undamged", {}, "unknown recipe 'undamged'; the recipes are undamaged, undamaged-unlabelled"),
        ("undamaged", {"side": 3}, "no setting side; it has min_side, max_side"),
        ("undamaged", {"seed": 1.5}, "seed is 1.5; expected int"),
        ("undamaged", {"per_image": 0}, "per_image is 0; it must be at least 1"),
        ("undamaged", {"min_side": 64, "max_side": 32}, "max_side is 32; it must be at least 64"),
        ("undamaged-unlabelled", {"min_side": 100}, "min_side is 100; it must be a multiple of 16"),
        ("crackseg-blocks", {"keep_empty": 2}, "keep_empty is 2.0; it is a share"),
    ],
)
def test_wrong_requests_are_usage_errors(recipe, settings, message, rng, tmp_path):
    root = tree(tmp_path / "roads", {"a": line(48, 64, 60)}, rng)
    with pytest.raises(UsageError, match=message):
        prepare.prepare(recipe, root, tmp_path / "out", **settings)


def test_an_image_without_its_mask_is_refused_with_the_recipe_that_needs_none(rng, tmp_path):
    write_image(tmp_path / "photos" / "a.png", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(CracksError, match=r"a\.png: no mask.*undamaged-unlabelled"):
        prepare.prepare("undamaged", tmp_path / "photos", tmp_path / "out")


def test_a_mask_of_another_size_is_refused(rng, tmp_path):
    root = tree(tmp_path / "roads", {"a": line(48, 64, 60)}, rng)
    write_image(root / "images" / "a.png", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(CracksError, match="64x64, its mask 64x48"):
        prepare.prepare("undamaged", root, tmp_path / "out", min_side=16, max_side=32)


def test_progress_counts_photographs(rng, tmp_path):
    root = tree(tmp_path / "roads", {"a": line(48, 64, 60), "b": line(48, 64, 0)}, rng)
    seen = []
    prepare.prepare(
        "undamaged", root, tmp_path / "out", progress=lambda *at: seen.append(at), min_side=16, max_side=32
    )
    assert seen == [(1, 2), (2, 2), (1, 2), (2, 2)]

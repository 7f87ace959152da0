"""Batches: what they hold, that batch i depends on (seed, i) alone, and what happens to a bad record."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest

from cracks_jax.data.datasets import Dataset, Record, open_dataset
from cracks_jax.data.elements import Pipeline, restoration_element, segmentation_element
from cracks_jax.data.pipeline import Source, batches, windows
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.ops.corruption import multiscale_squares, stripes

SEGMENT = Pipeline(crop=32, scale=(1.0, 2.0), flip_vertical=True)
RESTORE = Pipeline(crop=32, resize=36, corruption="squares")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Dataset:
    """Seven small images, each of its own grey and size, whose red channel is the mask."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(7)
    records = []
    for number in range(7):
        mask = (cv2.blur(rng.random((40 + number, 50)).astype(np.float32), (9, 9)) > 0.5).astype(
            np.uint8
        ) * 255
        image = np.stack(
            [mask, np.full_like(mask, 20 * number), rng.integers(0, 256, mask.shape, np.uint8)], -1
        )
        record = Record(f"{number}", root / f"{number}.png", root / f"{number}_mask.png")
        cv2.imwrite(str(record.image), image[..., ::-1])
        cv2.imwrite(str(record.mask), mask)
        records.append(record)
    return Dataset("drawn", "", tuple(records))


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        found[k].dtype == expected[k].dtype and np.array_equal(found[k], expected[k]) for k in expected
    )


def take(dataset, settings, count=4, batch_size=4, seed=1, **kwargs):
    return list(batches(dataset, settings, batch_size=batch_size, seed=seed, steps=count, **kwargs))


def test_segmentation_batches_have_the_shapes_types_and_values_they_state(drawn):
    batch = take(drawn, SEGMENT, 1)[0]
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 32, 32, 3), "uint8"),
        "mask": ((4, 32, 32), "uint8"),
        "index": ((4,), "int64"),
    }
    masks = np.concatenate([b["mask"] for b in take(drawn, SEGMENT, 8)])
    assert set(np.unique(masks)) == {0, 1}


def test_restoration_batches_have_the_shapes_and_types_they_state_and_need_no_masks(drawn):
    bare = replace(drawn, records=tuple(replace(r, mask=None) for r in drawn.records))
    batch = take(bare, RESTORE, 1)[0]
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 32, 32, 3), "uint8"),
        "corrupted": ((4, 1, 32, 32, 3), "uint8"),
        "keep": ((4, 1, 32, 32, 1), "uint8"),
        "index": ((4,), "int64"),
    }


@pytest.mark.parametrize("settings", [SEGMENT, RESTORE])
def test_batch_i_is_the_same_from_any_start_with_any_threads_and_without_a_cache(drawn, settings):
    expected = take(drawn, settings, 6)
    assert all(map(same, take(drawn, settings, 3, start=3, threads=3), expected[3:]))
    endless = batches(drawn, settings, batch_size=4, seed=1, start=2, cache_mb=0)
    assert all(map(same, islice(endless, 4), expected[2:]))
    endless.close()
    assert not same(take(drawn, settings, 1, seed=2)[0], expected[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_no_batch(drawn, workers):
    """Nor does an unparsed absl flag stop them: pytest parses none."""
    assert all(map(same, take(drawn, SEGMENT, 4, workers=workers), take(drawn, SEGMENT, 4)))


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_together_see_the_batch_of_one_host_in_its_order(drawn, hosts):
    shares = [take(drawn, RESTORE, 3, process_index=i, process_count=hosts) for i in range(hosts)]
    for step, expected in enumerate(take(drawn, RESTORE, 3)):
        joined = {k: np.concatenate([share[step][k] for share in shares]) for k in expected}
        assert same(joined, expected)


def test_each_epoch_holds_each_record_once_in_an_order_of_its_own(drawn):
    """Also where a batch straddles the border: 7 records, batches of 4."""
    order = np.concatenate([b["index"] for b in take(drawn, RESTORE, 7)]).reshape(4, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) > 1


def test_neighbouring_seeds_share_no_epochs():
    """grain seeds epoch e with seed + e: unspread, seed 1 would begin with seed 0's second epoch."""
    from cracks_jax.data.pipeline import record_order

    first, second = record_order(50, 0), record_order(50, 1)
    assert [first[i] for i in range(50, 100)] != [second[i] for i in range(50)]


def test_the_same_record_meets_new_draws_in_every_epoch(drawn):
    one = replace(drawn, records=drawn.records[:1])
    images = np.concatenate([b["image"] for b in take(one, SEGMENT, 3)])
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("kind", ["squares", "stripes", "jumbled"])
def test_corrupted_is_image_times_keep_and_keep_a_mask_of_the_kind(drawn, kind):
    found = take(drawn, replace(RESTORE, corruption=kind), 12)
    keep = np.concatenate([b["keep"] for b in found])
    for batch in found:
        np.testing.assert_array_equal(batch["corrupted"], batch["image"][:, None] * batch["keep"])
    if kind == "jumbled":
        assert (abs((keep == 0).mean((1, 2, 3, 4)) - 1 / 3) <= 0.25).all() and set(np.unique(keep)) == {0, 1}
        return
    offered = {mask.tobytes() for mask in (multiscale_squares if kind == "squares" else stripes)(32)}
    drawn_masks = {mask.tobytes() for mask in keep}
    assert drawn_masks <= offered and len(drawn_masks) > len(offered) // 2


def test_masks_are_drawn_evenly(rng):
    image = np.zeros((16, 16, 3), np.uint8)
    settings = Pipeline(crop=16, corruption="squares")
    seen = Counter(restoration_element(image, settings, rng)["keep"].tobytes() for _ in range(1200))
    assert len(seen) == 6 and min(seen.values()) > 140 and max(seen.values()) < 260


@pytest.mark.parametrize("cell", [2, 4, 8, 16])
def test_jumbled_cells_are_those_of_the_settings(rng, cell):
    settings = Pipeline(crop=64, corruption="jumbled", jumble_cells=(cell,))
    keep = restoration_element(np.zeros((64, 64, 3), np.uint8), settings, rng)["keep"][0, :, :, 0]
    np.testing.assert_array_equal(keep, keep[::cell, ::cell].repeat(cell, 0).repeat(cell, 1))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (2.0, 2.0)])
def test_flips_and_crops_move_image_and_mask_together(drawn, scale):
    """The red channel is the mask: equal at scale 1; at 2 the mask is where bilinear is over one half."""
    for batch in take(drawn, replace(SEGMENT, scale=scale), 6):
        red = batch["image"][..., 0].astype(int)
        clear = (red == 0) | (red == 255)
        np.testing.assert_array_equal(red[clear] == 255, batch["mask"][clear] == 1)
        np.testing.assert_array_equal((red > 127)[~clear], (batch["mask"] == 1)[~clear])
        assert clear.all() or scale != (1.0, 1.0)


def test_an_odd_enlargement_does_not_shift_the_mask_against_its_image(drawn):
    """Nearest neighbour by pixel corners instead of centres would disagree with bilinear far more often."""
    found = take(drawn, replace(SEGMENT, scale=(1.3, 1.9)), 12)
    agree = np.concatenate([((b["image"][..., 0] > 127) == (b["mask"] == 1)).ravel() for b in found])
    assert agree.mean() > 0.96  # 0.98 by centres, 0.93 by corners


def test_crops_reach_every_offset_and_each_flip_comes_half_of_the_time(rng):
    """Each pixel holds its own address, so that a crop tells where it was cut and how it was turned."""
    y, x = np.mgrid[:6, :7]
    image = np.stack([y, x, y], -1).astype(np.uint8)
    settings = Pipeline(crop=4, flip_vertical=True)
    seen = Counter()
    for _ in range(2400):
        crop = segmentation_element(image, np.zeros((6, 7), np.uint8), settings, rng)["image"].astype(int)
        rows, columns = crop[:, 0, 0], crop[0, :, 1]
        seen[rows.min(), columns.min(), rows[0] > rows[1], columns[0] > columns[1]] += 1
    assert len(seen) == 3 * 4 * 2 * 2 and min(seen.values()) > 20 and max(seen.values()) < 90


def test_without_flips_nothing_is_mirrored(rng):
    image = np.broadcast_to(np.arange(8, dtype=np.uint8)[None, :, None], (8, 8, 3))
    settings = Pipeline(crop=8, flip_horizontal=False)
    for _ in range(10):
        np.testing.assert_array_equal(
            segmentation_element(image, image[..., 0] // 8, settings, rng)["image"], image
        )


def test_enlargement_is_drawn_between_its_bounds(rng):
    """A ramp enlarged s times rises 1/s per pixel."""
    ramp = np.broadcast_to((np.arange(64) * 3).astype(np.uint8)[None, :, None], (64, 64, 3))
    settings = Pipeline(crop=32, scale=(1.0, 2.0), flip_horizontal=False)
    mask = np.zeros((64, 64), np.uint8)
    rows = [
        segmentation_element(ramp, mask, settings, rng)["image"][0, :, 0].astype(float) for _ in range(200)
    ]
    factors = np.array([3 * 20 / (row[26] - row[6]) for row in rows])
    assert factors.min() >= 0.95 and factors.max() <= 2.1 and factors.min() < 1.15 and factors.max() > 1.85


def test_an_image_smaller_than_the_crop_is_padded_by_reflection_with_its_mask(rng):
    image = rng.integers(0, 256, (20, 10, 3), np.uint8)
    mask = rng.integers(0, 2, (20, 10)).astype(np.uint8)
    element = segmentation_element(image, mask, Pipeline(crop=32, flip_horizontal=False), rng)
    np.testing.assert_array_equal(element["image"], np.pad(image, ((6, 6), (11, 11), (0, 0)), "reflect"))
    np.testing.assert_array_equal(element["mask"], np.pad(mask, ((6, 6), (11, 11)), "reflect"))


def test_corruption_before_the_resize_grows_softens_and_shifts_the_squares(rng):
    """The authors' order: 286/256 larger squares, grey edges, a grid that moves with the crop."""
    white = np.full((256, 256, 3), 200, np.uint8)
    settings = Pipeline(
        crop=256, resize=286, corruption="squares", corrupt_before=True, flip_horizontal=False
    )
    edges = set()
    for _ in range(12):
        element = restoration_element(white, settings, rng)
        corrupted, keep = element["corrupted"][0, :, :, 0].astype(int), element["keep"][0, :, :, 0]
        assert (element["image"] == 200).all()
        np.testing.assert_array_equal(keep, corrupted >= 100)
        soft = (corrupted > 0) & (corrupted < 200)
        assert 0 < soft.mean() < 0.2 and abs(keep.mean() - 0.5) < 0.15
        jumps = np.flatnonzero(np.diff(keep[0].astype(int)))
        squares = np.diff(jumps) / (32 * 286 / 256)
        np.testing.assert_allclose(squares, np.round(squares), atol=1.5 / 35)
        edges.add(int(jumps[0]) if len(jumps) else -1)
    assert len(edges) > 3


def test_corruption_before_gives_each_its_own_warped_image_of_the_authors_order(rng):
    """Against the same steps written out: corrupt, resize both, one crop."""
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    settings = Pipeline(crop=32, resize=32, corruption="squares", corrupt_before=True, flip_horizontal=False)
    element = restoration_element(image, settings, rng)
    np.testing.assert_array_equal(element["image"], image)
    np.testing.assert_array_equal(element["corrupted"][0], image * element["keep"][0])

    settings = replace(settings, resize=48)
    found = restoration_element(image, settings, rng)
    large = cv2.resize(image, (48, 48), interpolation=cv2.INTER_LINEAR)
    places = [
        (y, x)
        for y in range(17)
        for x in range(17)
        if np.array_equal(large[y : y + 32, x : x + 32], found["image"])
    ]
    assert len(places) == 1
    y, x = places[0]
    twins = [cv2.resize(image * m, (48, 48), interpolation=cv2.INTER_LINEAR) for m in multiscale_squares(32)]
    assert any(np.array_equal(twin[y : y + 32, x : x + 32], found["corrupted"][0]) for twin in twins)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_ends_the_iteration_with_its_path(drawn, tmp_path, workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(drawn.records[0].image.read_bytes()[:100])
    bad = replace(drawn, records=(*drawn.records[:3], Record("broken", broken, drawn.records[0].mask)))
    with pytest.raises(CracksError, match="broken.png") as caught:
        take(bad, SEGMENT, 2, workers=workers)
    assert type(caught.value) is CracksError


def test_a_mask_of_another_size_is_named_with_both_sizes(drawn):
    first, second = drawn.records[:2]
    mixed = replace(drawn, records=(replace(first, mask=second.mask),))
    with pytest.raises(CracksError, match=r"1_mask.png: mask is 50x41 but its image is 50x40"):
        take(mixed, SEGMENT, 1)


def test_an_image_without_mask_and_an_empty_set_are_refused_before_anything_is_read(drawn):
    bare = replace(drawn, records=(*drawn.records, Record("bare", drawn.records[0].image)))
    with pytest.raises(CracksError, match="0.png: this image has no mask"):
        batches(bare, SEGMENT, batch_size=2, seed=0)
    for reader in (lambda d: batches(d, RESTORE, batch_size=2, seed=0), lambda d: windows(d, 8)):
        with pytest.raises(CracksError, match="drawn: no images"):
            reader(replace(drawn, records=()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 0}, "crop is 0"),
        ({"crop": 32.0}, "crop is 32.0"),
        ({"resize": 31}, "resize is 31; .* from crop .32. up"),
        ({"scale": (2.0, 1.0)}, "scale is .2.0, 1.0."),
        ({"scale": 1.5}, "scale is 1.5"),
        ({"flip_horizontal": 1}, "flip_horizontal is 1"),
        ({"corruption": "dots"}, "corruption is 'dots'; give none or one of squares, stripes, jumbled"),
        ({"crop": 40, "resize": None, "corruption": "squares"}, "40 px .* 48 px"),
        ({"corruption": None, "corrupt_before": True}, "corrupt_before"),
        ({"resize": None, "corrupt_before": True}, "corrupt_before .* resize"),
        ({"corruption": "jumbled", "jumble_cells": (3,)}, "jumble_cells is .3,."),
        ({"corruption": "jumbled", "crop": 16, "jumble_cells": (16,)}, "give one or more of 2, 4, 8"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_value(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(RESTORE, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"process_count": 3},
        {"process_index": 2, "process_count": 2},
        {"start": -1},
        {"workers": -1},
        {"threads": 0},
        {"steps": -1},
        {"seed": -1},
    ],
)
def test_a_wrong_number_is_refused_before_anything_starts(drawn, changes):
    with pytest.raises(UsageError):
        batches(drawn, RESTORE, **{"batch_size": 4, "seed": 0, **changes})


def test_settings_from_json_equal_those_they_were_written_from():
    assert Pipeline(scale=[1.0, 2.0], jumble_cells=[2, 4]) == Pipeline(scale=(1.0, 2.0), jumble_cells=(2, 4))
    assert hash(Pipeline(scale=[1.0, 2.0])) == hash(Pipeline(scale=(1.0, 2.0)))


def test_no_steps_are_no_batches(drawn):
    assert take(drawn, SEGMENT, 0) == []


def test_the_cache_decodes_once_and_stays_within_its_bound(tmp_path):
    """The file is gone after the first reading: what comes then was kept."""
    records = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((512, 512, 3), number, np.uint8))
        records.append(Record(str(number), path))
    kept = Source(Dataset("three", "", tuple(records)), masks=False, cache_mb=2)
    for number in (0, 1, 0, 2):  # each takes 0.75 MB: reading 2 drops 1, the least recently used
        assert (kept[number][0] == number).all()
    for record in records:
        record.image.unlink()
    assert (kept[0][0] == 0).all() and (kept[2][0] == 2).all()
    with pytest.raises(CracksError, match="1.png"):
        kept[1]
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0][:] = 1


def test_windows_are_every_image_at_one_size(drawn):
    found = windows(drawn, 16)
    assert found.shape == (7, 16, 16, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[3, :, :, 1], 60)


def test_real_images_come_through_both_ways(cracks_data):
    """DeepCrack, landscape and portrait: crack share of large crops near that of the data."""
    train = open_dataset(str(cracks_data / "deepcrack"), "train")
    few = replace(train, records=train.records[::50])
    for batch in take(few, Pipeline(crop=256), 2):
        assert batch["image"].shape == (4, 256, 256, 3) and 10 < batch["image"].mean() < 250
        assert 0 < batch["mask"].mean() < 0.3 and batch["mask"].max() == 1
    batch = take(few, Pipeline(crop=64, resize=72, corruption="stripes"), 1)[0]
    np.testing.assert_array_equal(batch["corrupted"], batch["image"][:, None] * batch["keep"])


def test_importing_the_pipeline_imports_neither_jax_nor_grain_and_batches_start_no_backend(drawn):
    """grain imports jax's pytrees where jax is installed; that must stay all."""
    code = f"""
import sys
from pathlib import Path
from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.data.pipeline import Pipeline, batches
assert not {{"jax", "grain"}} & sys.modules.keys(), "imported too much"
data = Dataset("one", "", (Record("0", Path({str(drawn.records[0].image)!r})),))
next(batches(data, Pipeline(crop=16, corruption="squares"), batch_size=1, seed=0))
bridge = sys.modules.get("jax._src.xla_bridge")
assert bridge is None or not bridge.backends_are_initialized(), "a backend was started"
"""
    subprocess.run([sys.executable, "-c", code], check=True)

"""Bad images: each is found with its reason, and what stands in its place moves no other record.

The witness of every order is that of the intact data set, cut and filled by list operations.
"""

import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cracks_jax.data.bad_images import REMEDY, find_bad, naming_remedy, numbers_of
from cracks_jax.data.datasets import Dataset, open_dataset, split_validation
from cracks_jax.data.elements import Pipeline
from cracks_jax.data.order import record_order
from cracks_jax.data.pipeline import batches
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import CracksError, UsageError

N, BATCH = 100, 8
SEGMENT = Pipeline(crop=24, scale=(1.0, 1.5))
RESTORE = Pipeline(crop=32, corruption="stripes")
POLICIES = ("replace", "drop")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("a road")


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def _other_size(path):
    cv2.imwrite(str(path), np.zeros((9, 7), np.uint8))


def _grey_levels(path):
    cv2.imwrite(str(path), np.tile(np.arange(32, dtype=np.uint8), (32, 1)))


# Record -> whether its image or its mask is broken, how, and what is said of it. 98, 99, 0 and 1 lie side by side
# across the end; of 41 both files are bad.
BROKEN = {
    0: ("images", _flip_a_bit, "the file is truncated or damaged"),
    1: ("masks", _grey_levels, "mask values are 0, 1, 2"),
    17: ("images", _truncate, "the file is truncated or damaged"),
    40: ("masks", _other_size, "mask is 7x9 but its image is 32x32"),
    41: ("images", _text, "not an image this package reads"),
    98: ("masks", _truncate, "the file is truncated or damaged"),
    99: ("images", _empty, "the file is empty (0 bytes)"),
}
BAD = sorted(BROKEN)


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("intact") / "roads"
    draw_dataset(folder, train=N, test=0, undamaged=0, size=(32, 32))
    return open_dataset(folder, "train", need_masks=True)


@pytest.fixture(scope="module")
def broken(intact, tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("broken") / "roads"
    shutil.copytree(intact.records[0].image.parents[2], folder)
    for number, (role, break_it, _) in BROKEN.items():
        break_it(folder / "train" / role / f"{number:04d}.png")
    _empty(folder / "train" / "masks" / "0041.png")
    return open_dataset(folder, "train", need_masks=True)


def take(dataset, settings=SEGMENT, steps=3 * N // BATCH + 1, **options):
    return list(batches(dataset, settings, batch_size=BATCH, seed=5, steps=steps, **options))


def numbers(found) -> list[int]:
    return np.concatenate([batch["index"] for batch in found]).tolist()


def same(found, expected) -> bool:
    return len(found) == len(expected) and all(
        one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in other)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="module")
def intact_order(intact) -> list[int]:
    """Five epochs of the intact set, as training would meet them."""
    return numbers(take(intact, RESTORE, steps=5 * N // BATCH))


def next_good(number: int) -> int:
    return next(n for n in [*range(number, N), *range(number)] if n not in BAD)


# --- the scan


def test_every_bad_file_is_found_with_its_reason_and_nothing_else(broken):
    found = find_bad(broken, masks=True)
    expected = {(number, role[:-1]): reason for number, (role, _, reason) in BROKEN.items()}
    expected[41, "mask"] = "the file is empty (0 bytes)"
    assert [(int(one.stem), one.role) for one in found] == sorted(expected)
    for one in found:
        assert one.file == f"{one.stem}.png" and one.reason.startswith(expected[int(one.stem), one.role])
        assert str(broken.records[0].image.parents[3]) not in repr(one) and "/" not in one.reason
    assert numbers_of(broken, found) == tuple(BAD)


def test_a_name_that_cannot_be_printed_is_listed_escaped_and_without_its_folder(intact, tmp_path):
    odd = tmp_path / "a\x1b[31m\nb.png"
    _text(odd)
    dataset = replace(intact, records=(replace(intact.records[0], image=odd),))
    (found,) = find_bad(dataset, masks=True)
    assert found.file == r"a\x1b[31m\nb.png"
    assert found.reason and found.file not in found.reason and tmp_path.name not in found.reason
    with pytest.raises(CracksError) as caught:
        take(dataset, steps=1)
    assert str(caught.value).endswith(REMEDY)
    with pytest.raises(CracksError) as caught, naming_remedy(dataset, "fail"):
        split_validation(dataset)
    assert str(caught.value).endswith(REMEDY)


def test_masks_that_a_method_does_not_read_are_not_looked_at(broken):
    found = find_bad(broken, masks=False)
    assert {one.role for one in found} == {"image"}
    assert numbers_of(broken, found) == tuple(n for n in BAD if BROKEN[n][0] == "images")


def test_an_intact_set_has_no_bad_file_and_progress_counts_every_record(intact):
    told = []
    assert find_bad(intact, masks=True, progress=lambda done, total: told.append((done, total))) == ()
    assert told == [(n, N) for n in range(1, N + 1)]
    bare = replace(intact, records=tuple(replace(record, mask=None) for record in intact))
    assert find_bad(bare, masks=True) == (), "a mask that is not there is another matter"


# --- the order


@pytest.mark.parametrize("policy", POLICIES)
def test_three_epochs_of_complete_batches_come_from_a_set_with_bad_files(broken, policy):
    found = take(broken, bad=BAD, policy=policy)
    assert {batch["image"].shape for batch in found} == {(BATCH, 24, 24, 3)} and len(found) * BATCH > 3 * N
    assert not set(numbers(found)) & set(BAD)


def test_replace_changes_the_bad_ones_positions_alone(intact, broken, intact_order):
    """The batches that never met a bad record are those of the intact set, to the last bit."""
    found, undisturbed = take(broken, bad=BAD, policy="replace"), take(intact)
    assert numbers(found) == [next_good(n) for n in intact_order[: len(found) * BATCH]]
    for batch, other in zip(found, undisturbed, strict=True):
        kept = ~np.isin(other["index"], BAD)
        for name in other:
            np.testing.assert_array_equal(batch[name][kept], other[name][kept])


def test_drop_keeps_the_order_of_the_others_and_each_epoch_holds_each_of_them_once(broken, intact_order):
    found = numbers(take(broken, bad=BAD, policy="drop"))
    assert found == [n for n in intact_order if n not in BAD][: len(found)]
    good = N - len(BAD)
    for epoch in range(3):
        assert sorted(found[epoch * good : (epoch + 1) * good]) == [n for n in range(N) if n not in BAD]


@pytest.mark.parametrize("policy", POLICIES)
def test_workers_hosts_and_a_start_in_the_middle_change_no_batch(broken, policy):
    """Also where a batch straddles two epochs, and with settings that read no mask."""
    options = {"bad": BAD, "policy": policy}
    expected = take(broken, RESTORE, steps=25, **options)
    assert same(take(broken, RESTORE, steps=25, workers=2, **options), expected)
    assert same(take(broken, RESTORE, steps=14, start=11, threads=3, **options), expected[11:])
    hosts = [take(broken, RESTORE, steps=25, process_index=i, process_count=4, **options) for i in range(4)]
    joined = [{k: np.concatenate([one[k] for one in parts]) for k in parts[0]} for parts in zip(*hosts, strict=True)]
    assert same(joined, expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_any_position_can_be_asked_for_from_any_thread_and_process(policy):
    whole = record_order(N, 5)
    bad = [0, 3, 98, 99]
    endless = [int(whole[p]) for p in range(14 * N)]
    if policy == "drop":
        expected = [n for n in endless if n not in bad]
    else:
        expected = [{0: 1, 3: 4, 98: 1, 99: 1}.get(n, n) for n in endless]
    order = record_order(N, 5, bad, policy)
    places = random.Random(0).choices(range(13 * (N - 4)), k=150)
    for one in (order, pickle.loads(pickle.dumps(order))):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(one.__getitem__, places)) == [expected[p] for p in places]


def test_without_bad_records_the_policy_changes_nothing(intact):
    expected = take(intact, steps=5)
    for policy in POLICIES:
        assert same(take(intact, steps=5, policy=policy), expected)


def test_what_cannot_be_asked_for_is_refused(intact):
    for options in ({"bad": [3]}, {"bad": [N], "policy": "drop"}, {"bad": [-1], "policy": "replace"}):
        with pytest.raises(UsageError, match="give numbers of records, and replace or drop"):
            take(intact, **options)
    for policy in POLICIES:
        with pytest.raises(CracksError, match=f"roads:train: all {N} images are bad; training needs at least one"):
            take(intact, bad=range(N), policy=policy)


# --- fail


@pytest.mark.parametrize("number", BAD)
def test_fail_names_the_file_and_the_remedy(broken, number):
    role, _, reason = BROKEN[number]
    one = replace(broken, records=broken.records[number : number + 1])
    with pytest.raises(CracksError) as caught:
        take(one, steps=1)
    assert str(caught.value).startswith(f"{one.records[0].image.parents[1] / role / f'{number:04d}.png'}: {reason}")
    assert str(caught.value).endswith("; to train without such files: --set data.bad_images=drop (or replace)")


def test_a_file_that_goes_bad_after_the_scan_is_an_error_that_names_it(broken):
    with pytest.raises(CracksError, match="0017.png: the file is truncated") as caught:
        take(broken, bad=[n for n in BAD if n != 17], policy="drop")
    assert "data.bad_images" not in str(caught.value), "it is set already"


def test_the_remedy_is_told_only_of_files_of_the_data_set_and_only_where_it_is_not_taken(broken):
    path = broken.records[1].mask
    for policy, text, told in (
        ("fail", f"{path}: the file is empty", True),
        ("drop", f"{path}: the file is empty", False),
        ("fail", "roads: all images belong to one photograph", False),
        ("fail", f"{path} and another: share their stem", False),
    ):
        with pytest.raises(CracksError) as caught, naming_remedy(broken, policy):
            raise CracksError(text)
        assert str(caught.value) == text + REMEDY * told


# --- the split


def test_the_split_of_the_others_is_that_of_the_intact_set(intact, broken):
    unreadable = {broken.records[n].image for n in BAD if BROKEN[n][0] == "images"}
    expected = split_validation(intact, 0.3)
    found = split_validation(broken, 0.3, unreadable=unreadable)
    assert [part.stems for part in found] == [part.stems for part in expected]
    with pytest.raises(CracksError, match="0000.png: the file is truncated"):
        split_validation(broken, 0.3)


def test_the_digest_tells_a_bad_file_from_a_good_one_and_takes_an_empty_one(intact, broken):
    assert intact.digest(tolerant=True) == intact.digest() != broken.digest(tolerant=True)
    with pytest.raises(CracksError, match="0041.png: the file is empty"):
        broken.digest()


def test_one_bad_photograph_among_real_ones(cracks_data, tmp_path):
    """DeepCrack's JPEGs: 20 copied, one cut short."""
    source = open_dataset(str(cracks_data / "deepcrack"), "train")
    records = []
    for record in source.records[:20]:
        image, mask = tmp_path / record.image.name, tmp_path / "masks" / record.mask.name
        mask.parent.mkdir(exist_ok=True)
        shutil.copyfile(record.image, image)
        shutil.copyfile(record.mask, mask)
        records.append(replace(record, image=image, mask=mask))
    dataset = replace(source, records=tuple(records))
    intact = numbers(take(dataset, RESTORE, steps=8))
    damaged = records[7].image
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    found = find_bad(dataset, masks=True)
    assert [(one.file, one.role) for one in found] == [(damaged.name, "image")]
    dropped = numbers(take(dataset, Pipeline(crop=128), steps=4, bad=numbers_of(dataset, found), policy="drop"))
    assert dropped == [n for n in intact if n != 7][: len(dropped)]

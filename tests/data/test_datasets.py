"""Data sets by name, path and split; published layouts; what is broken is named; a clean validation split."""

import json
import shutil
import zlib

import numpy as np
import pytest

from cracks_jax.data.datasets import (
    Dataset,
    Record,
    find_root,
    open_dataset,
    parse_spec,
    photograph,
    split_validation,
)
from cracks_jax.data.images import read_mask, write_image, write_mask
from cracks_jax.errors import CracksError, UsageError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder of data sets, where CRACKS_DATA points."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("CRACKS_DATA", str(folder))
    return folder


def texture(seed, side=40):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def add(folder, stems, masks=None, suffix=".jpg"):
    """Images whose content depends on their name, and masks in a folder beside."""
    for stem in stems:
        write_image(folder / f"{stem}{suffix}", texture(zlib.crc32(stem.encode())))
        if masks is not None:
            write_mask(masks / f"{stem}.png", np.eye(40))
    return folder


def generic(root, stems="abc", **options):
    add(root / "images", stems, root / "masks", **options)
    return root


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# --- names, paths, splits ---


def test_images_and_masks_are_matched_by_stem_in_its_order(home):
    generic(home / "roads", ["b", "a", "c10", "c9"])
    data = open_dataset("roads", need_masks=True)
    assert (data.name, data.split, data.stems) == ("roads", "", ("a", "b", "c10", "c9"))
    assert all(r.image.stem == r.stem == r.mask.stem for r in data) and data.has_masks
    assert open_dataset(home / "roads").records == data.records


def test_a_name_is_looked_up_at_the_time_of_the_call(home, tmp_path, monkeypatch):
    generic(tmp_path / "elsewhere" / "roads", "xy")
    generic(home / "roads", "abc")
    assert len(open_dataset("roads")) == 3
    monkeypatch.setenv("CRACKS_DATA", str(tmp_path / "elsewhere"))
    assert len(open_dataset("roads")) == 2
    monkeypatch.delenv("CRACKS_DATA")
    with pytest.raises(CracksError, match="CRACKS_DATA is not set"):
        open_dataset("roads")


def test_splits_are_asked_for_behind_a_colon_or_by_argument(home):
    generic(home / "roads" / "train", "abc")
    generic(home / "roads" / "test", "de")
    add(home / "roads" / "extra" / "images", "f")
    assert open_dataset("roads:train").split == "train"
    assert open_dataset("roads", "test").stems == ("d", "e")
    assert open_dataset(str(home / "roads") + ":extra").records[0].mask is None
    assert len(open_dataset("roads/train")) == 3
    with pytest.raises(UsageError, match="has the splits extra, test, train; name one, such as roads:extra"):
        open_dataset("roads")
    with pytest.raises(UsageError, match="no split 'val'; its splits: extra, test, train"):
        open_dataset("roads:val")


def test_splits_may_also_lie_inside_images_and_masks(home):
    for split in ("train", "val"):
        add(home / "roads/images" / split, "ab", home / "roads/masks" / split)
    assert open_dataset("roads:val", need_masks=True).stems == ("a", "b")


def test_a_folder_of_images_alone_is_a_data_set_without_masks(tmp_path):
    add(tmp_path, ["IMG_1", "IMG_2"], suffix=".jpg")
    (tmp_path / "IMG_2.jpg").rename(tmp_path / "IMG_2.JPG")
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / ".hidden.jpg").write_bytes(b"ignored")
    data = open_dataset(str(tmp_path))
    assert data.stems == ("IMG_1", "IMG_2") and not data.has_masks
    with pytest.raises(CracksError, match="has no masks; expected masks/"):
        open_dataset(str(tmp_path), need_masks=True)


def test_a_path_with_a_colon_that_exists_wins_over_a_split(tmp_path, home):
    add(tmp_path / "day:1", "a")
    assert parse_spec(str(tmp_path / "day:1")) == (str(tmp_path / "day:1"), None)
    assert parse_spec(f"{tmp_path / 'day:1'}:train") == (str(tmp_path / "day:1"), "train")
    assert open_dataset(str(tmp_path / "day:1")).name == "day:1"
    add(home / "night:2", "a")
    assert parse_spec("night:2") == ("night:2", None)
    assert parse_spec("deepcrack:test") == ("deepcrack", "test")
    for wrong in (":train", "roads:"):
        with pytest.raises(UsageError, match="expected NAME_OR_PATH"):
            parse_spec(wrong)


def test_a_name_cannot_climb_out_of_the_folder_of_data_sets(home, tmp_path, monkeypatch):
    generic(tmp_path / "secret")
    monkeypatch.chdir(home)
    assert find_root("../secret").samefile(tmp_path / "secret")  # a path like any other
    monkeypatch.chdir("/")
    with pytest.raises(CracksError, match="no such folder"):
        find_root("../secret-that-is-not-there")


# --- what is broken is named ---


def test_missing_and_empty_folders_are_named(home, tmp_path):
    with pytest.raises(CracksError, match="data set 'nowhere': no such folder"):
        open_dataset("nowhere")
    (home / "empty").mkdir()
    with pytest.raises(CracksError, match="empty: no images found; expected images/ and masks/"):
        open_dataset("empty")
    (home / "hollow" / "images").mkdir(parents=True)
    with pytest.raises(CracksError, match="hollow: no images found"):
        open_dataset("hollow")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CracksError, match="is a file; expected the folder"):
        open_dataset(str(tmp_path / "file"))


def test_partners_that_are_missing_are_counted_and_the_first_named(home):
    root = generic(home / "roads", "abcdefgh")
    for stem in "abcde":
        (root / "masks" / f"{stem}.png").unlink()
    assert len(open_dataset("roads")) == 8
    with pytest.raises(CracksError, match=r"5 images have no mask: a\.jpg, b\.jpg, c\.jpg, \.\.\.;.*data"):
        open_dataset("roads", need_masks=True)
    (root / "images" / "h.jpg").unlink()
    with pytest.raises(CracksError, match=r"1 masks have no image: h\.png; .*data check roads"):
        open_dataset("roads")


def test_two_files_of_one_stem_are_refused(home):
    root = generic(home / "roads", "ab")
    shutil.copy(root / "images" / "a.jpg", root / "images" / "a.jpeg")
    with pytest.raises(CracksError, match=r"1 files share their stem with another: a\.jpg"):
        open_dataset("roads")


# --- layouts as published ---


def test_crackforest_is_read_as_published(home):
    root = home / "CrackForest-dataset"
    touch(*(root / "image" / f"{i:03d}.jpg" for i in range(1, 119)))
    touch(*(root / "groundTruth" / f"{i:03d}.mat" for i in range(1, 119)))
    touch(root / "image" / "201.jpg", root / "seg" / "001.seg")
    whole = open_dataset("CrackForest-dataset", need_masks=True)
    assert len(whole) == 118 and whole.records[0].mask.name == "001.mat"
    without = open_dataset("CrackForest-dataset:without042", need_masks=True)
    assert set(whole.stems) - set(without.stems) == {"042"}
    assert open_dataset("CrackForest-dataset:unlabelled").stems == ("201",)


def test_deepcrack_is_read_as_published(home):
    for split, stems in (("train", "abc"), ("test", "de")):
        add(home / f"dc/{split}_img", stems, home / f"dc/{split}_lab")
    assert open_dataset("dc:train", need_masks=True).stems == ("a", "b", "c")
    assert open_dataset("dc:test", need_masks=True).records[1].mask.parent.name == "test_lab"


def test_crack500_is_read_as_published_in_folders(home):
    root = home / "CRACK500"
    for split in ("train", "val", "test"):
        touch(*(root / f"{split}crop" / f"2016_{i}.{kind}" for i in range(3) for kind in ("jpg", "png")))
    touch(root / "traindata/traindata/2016.jpg", root / "traindata/traindata/2016_mask.png")
    touch(root / "traincrop.zip")
    crops = open_dataset("CRACK500:val", need_masks=True)
    assert crops.stems == ("2016_0", "2016_1", "2016_2")
    assert all(r.image.suffix == ".jpg" and r.mask.suffix == ".png" for r in crops)
    assert open_dataset("CRACK500:traindata", need_masks=True).records[0].mask.name == "2016_mask.png"


def test_crack500_is_read_as_published_in_lists(home):
    root = home / "crack"
    touch(*(root / "pool" / f"{i}.{kind}" for i in range(4) for kind in ("jpg", "png")))
    (root / "train.txt").write_text("pool/2.jpg pool/2.png\npool/0.jpg pool/0.png\n\n")
    (root / "test.txt").write_text("pool/1.jpg pool/1.png\n")
    assert open_dataset("crack:train", need_masks=True).stems == ("0", "2")
    (root / "test.txt").write_text("pool/1.jpg pool/1.png\npool/9.jpg pool/9.png\n")
    with pytest.raises(CracksError, match=r"test\.txt: 'pool/9\.jpg pool/9\.png'; expected an image"):
        open_dataset("crack:train")


@pytest.mark.parametrize("top", ["", "TITS"])
def test_aigle_rn_is_read_as_published(home, top):
    root = home / "CrackDataset" / top
    touch(*(root / f"IMAGES/AIGLE_RN/Im_GT_AIGLE_RN_{n}or.png" for n in ("C18b", "E17a")))
    touch(*(root / f"GROUND_TRUTH/AIGLE_RN/GT_AIGLE_RN_{n}.png" for n in ("C18b", "E17a")))
    touch(root / "IMAGES/AIGLE_RN/Im_noGT_AIGLE_RN_X01.png")
    touch(root / "IMAGES/ESAR/Im_GT_ESAR_30a.jpg", root / "GROUND_TRUTH/ESAR/GT_ESAR_30a.png")
    data = open_dataset("CrackDataset:AIGLE_RN", need_masks=True)
    assert [(r.stem, r.mask.stem) for r in data] == [
        ("Im_GT_AIGLE_RN_C18bor", "GT_AIGLE_RN_C18b"),
        ("Im_GT_AIGLE_RN_E17aor", "GT_AIGLE_RN_E17a"),
    ]
    assert len(open_dataset("CrackDataset:AIGLE_RN/unlabelled")) == 1
    assert len(open_dataset("CrackDataset:esar", need_masks=True)) == 1


def test_aigle_rn_is_read_from_two_plain_folders(home):
    touch(home / "aigle/Aigle-RN images/Im_GT_AIGLE_RN_C18bor.png")
    touch(home / "aigle/Ground truth/GT_AIGLE_RN_C18bor.png")
    assert len(open_dataset("aigle", need_masks=True)) == 1


def test_the_data_sets_at_hand_have_their_known_counts(cracks_data, monkeypatch):
    monkeypatch.setenv("CRACKS_DATA", str(cracks_data))
    counts = {
        "deepcrack:train": 300,
        "deepcrack:test": 237,
        "cfd": 118,
        "cfd:without042": 117,
        "crack500:train": 1896,
        "crack500:test": 745,
        "crack500:native": 18,
        "crack500:native640x360/val": 6,
    }
    for spec, count in counts.items():
        assert len(open_dataset(spec, need_masks=True)) == count, spec
    assert len(open_dataset("crack500:undamaged")) == 1000
    assert open_dataset("cfd:unlabelled").split == "unlabelled_mostly_crackfree"
    record = open_dataset("crack500:native").records[0]
    assert read_mask(record.mask).shape in ((360, 640), (640, 360))


# --- digests and subsets ---


def test_the_digest_follows_contents_and_names_but_not_the_place(home):
    generic(home / "one")
    shutil.copytree(home / "one", home / "moved")
    digest = open_dataset("one").digest()
    assert open_dataset("moved").digest() == digest
    data = open_dataset("one")
    assert Dataset("one", "", tuple(reversed(data.records))).digest() == digest
    write_mask(home / "moved/masks/a.png", np.zeros((40, 40)))
    assert open_dataset("moved").digest() != digest
    (home / "one/images/a.jpg").rename(home / "one/images/z.jpg")
    (home / "one/masks/a.png").rename(home / "one/masks/z.png")
    assert open_dataset("one").digest() != digest


def test_a_subset_keeps_order_and_refuses_strangers(home):
    data = open_dataset(str(generic(home / "one", "abcd")))
    assert data.subset(["d", "b"]).stems == ("b", "d")
    with pytest.raises(UsageError, match="no image is called x, y"):
        data.subset(["a", "y", "x"])


# --- the validation split ---


def test_a_tenth_is_held_out_whatever_the_order_of_the_files(home):
    data = open_dataset(str(add(home / "one", [f"road {i}" for i in range(37)])))
    training, validation = split_validation(data)
    assert len(validation) == 4 and len(training) == 33
    assert sorted(training.stems + validation.stems) == sorted(data.stems)
    assert (training.split, validation.split) == ("training", "validation")
    shuffled = Dataset(data.name, data.split, tuple(reversed(data.records)))
    assert set(split_validation(shuffled)[1].stems) == set(validation.stems)
    # Removing a training image moves nobody else.
    fewer = Dataset(data.name, data.split, tuple(r for r in data if r.stem != training.stems[5]))
    assert split_validation(fewer)[1].stems == validation.stems


def test_windows_of_one_photograph_stay_together(home):
    stems = [f"20160222_0810{p:02d}_{x}_{y}" for p in range(20) for x in (1, 641) for y in (1, 361)]
    data = open_dataset(str(add(home / "one", stems)))
    training, validation = split_validation(data)
    assert len(validation) == 8
    assert not {photograph(s) for s in training.stems} & {photograph(s) for s in validation.stems}


@pytest.mark.parametrize(
    ("stem", "source"),
    [
        ("20160222_081011_1_361", "20160222_081011"),
        ("20160222_081011_1_361_y48_x176", "20160222_081011"),
        ("20160222_081011", "20160222_081011"),
        ("IMG_2934_1_969", "IMG_2934"),
        ("11289-10", "11289"),
        ("IMG33-4", "IMG33"),
        ("7Q3A9060-2", "7Q3A9060"),
        ("IMG_6469-1", "IMG_6469"),
        ("road-12", "road-12"),
        ("001", "001"),
    ],
)
def test_names_tell_the_photograph_only_where_a_data_set_names_windows_so(stem, source):
    assert photograph(stem) == source


def test_prepared_windows_follow_the_source_in_their_manifest(home):
    stems = [f"w{i:02d}" for i in range(20)]
    add(home / "one" / "images", stems)
    items = [{"stem": stem, "source": f"photo{i // 4}"} for i, stem in enumerate(stems)]
    (home / "one" / "manifest.json").write_text(json.dumps({"recipe": "undamaged", "items": items}))
    _, validation = split_validation(open_dataset("one"), 0.2)
    assert len(validation) == 4 and len({int(stem[1:]) // 4 for stem in validation.stems}) == 1
    (home / "one" / "manifest.json").write_text("{}")  # some other program's
    assert len(split_validation(open_dataset("one"), 0.2)[1]) == 4
    (home / "one" / "manifest.json").write_text('{"recipe": "undamaged"')
    with pytest.raises(CracksError, match=r"manifest\.json: not a manifest"):
        split_validation(open_dataset("one"))


def test_the_same_photograph_stored_twice_stays_together(home):
    """Brighter, resized and compressed again: still the same."""
    import cv2

    for i in range(10):
        coarse = np.kron(np.random.default_rng(i).random((12, 12)), np.ones((8, 8)))
        image = np.repeat((coarse * 200).astype(np.uint8)[..., None], 3, -1)
        write_image(home / f"one/a{i}.png", image)
        write_image(home / f"one/z{i}.jpg", cv2.resize(image, (150, 80)) // 2 + 40)
    training, validation = split_validation(open_dataset("one"), 0.2)
    assert len(validation) == 4
    assert {s[1:] for s in validation.stems}.isdisjoint(s[1:] for s in training.stems)


def test_nothing_to_hold_out_is_an_error(home):
    with pytest.raises(CracksError, match="none can be held out"):
        split_validation(open_dataset(str(add(home / "one", "a"))))
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_validation(open_dataset("one"), 1.5)


def test_an_unreadable_image_is_named_when_splitting(home):
    add(home / "one", "abc")
    (home / "one/b.jpg").write_bytes(b"")
    with pytest.raises(CracksError, match=r"b\.jpg: the file is empty"):
        split_validation(open_dataset("one"))


def test_deepcracks_near_duplicates_across_its_splits_are_found(cracks_data):
    stems = {"train": ("11158", "11159", "11114", "11120"), "test": ("11216", "11217", "11171", "11194")}
    records = [
        Record(f"{split} {stem}", cracks_data / "deepcrack" / split / "images" / f"{stem}.jpg")
        for split, names in stems.items()
        for stem in names
    ]
    held = [set(split_validation(Dataset("d", "", tuple(records)), f)[1].stems) for f in (0.25, 0.5, 0.75)]
    assert all(("train 11158" in stems) == ("test 11216" in stems) for stems in held)
    assert [len(stems) for stems in held] == [2, 4, 6]


def test_two_data_sets_are_one_by_a_plus_in_order_of_stems_and_refuse_a_stem_of_both(home):
    """Records, masks and digest are those of the parts; where a stem is in both, neither image silently wins."""
    for name, stems in (("a", ("1", "3")), ("b", ("2", "4"))):
        for stem in stems:
            write_image(home / name / "train" / "images" / f"{stem}.png", np.full((40, 40, 3), int(stem), np.uint8))
            write_mask(home / name / "train" / "masks" / f"{stem}.png", np.zeros((40, 40), bool))
    both = open_dataset("a+b", "train", need_masks=True)
    assert both.stems == ("1", "2", "3", "4")
    assert both.label == "a+b:train"
    assert set(both.records) == {*open_dataset("a", "train").records, *open_dataset("b", "train").records}
    assert open_dataset("a+b:train").records == both.records

    write_image(home / "b" / "train" / "images" / "3.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(CracksError, match="share their stem"):
        open_dataset("a+b", "train")


def test_a_folder_with_a_plus_in_its_name_is_itself(home):
    write_image(home / "a+b" / "images" / "1.png", np.zeros((40, 40, 3), np.uint8))
    assert open_dataset("a+b").stems == ("1",)

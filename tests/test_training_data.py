"""What a training learns from where images are bad: by policy, listed, and split as if they had been whole."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from cracks_jax.data.bad_images import REMEDY
from cracks_jax.data.images import write_mask
from cracks_jax.data.manifest import read_manifest
from cracks_jax.data.pipeline import batches
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import CracksError
from cracks_jax.experiment import Experiment
from cracks_jax.training_data import open_training_data
from tests import tiny

POLICIES = ("replace", "drop")
N = 40


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("intact") / "roads"
    draw_dataset(folder, train=N, test=2, undamaged=0, size=(64, 64))
    return folder


@pytest.fixture
def roads(intact, tmp_path) -> Path:
    shutil.copytree(intact, tmp_path / "roads")
    return tmp_path / "roads"


def truncate(roads: Path, role: str, *stems: str, split: str = "train") -> None:
    for stem in stems:
        path = roads / split / role / f"{stem}.png"
        path.write_bytes(path.read_bytes()[:-40])


def experiment(roads: Path, policy: str = "fail", kind: str = "segmentation", **data) -> Experiment:
    one = tiny.experiment(roads.parent / "cache", kind)
    changed = {"name": str(roads), "split": "train", "recipe_settings": {}, "bad_images": policy, **data}
    return dataclasses.replace(one, data=dataclasses.replace(one.data, **changed))


def order(data, one: Experiment, epochs: int) -> list[int]:
    found = batches(
        data.train,
        one.data.pipeline,
        batch_size=4,
        seed=one.seed,
        steps=epochs * data.records_per_epoch // 4,
        bad=data.bad_records,
        policy=one.data.bad_images,
    )
    return np.concatenate([batch["index"] for batch in found]).tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_bad_files_are_listed_never_used_and_move_no_other_image_between_the_parts(intact, roads, policy):
    """One bad image and one bad mask in the training part, one of each among what is held out."""
    whole = open_training_data(experiment(intact))
    trained, held = whole.train.stems, whole.validation.stems
    truncate(roads, "images", trained[5], held[0])
    truncate(roads, "masks", trained[-1], held[-1])
    one = experiment(roads, policy)
    data = open_training_data(one)
    assert data.train.stems == trained and data.validation.stems == held[1:-1]
    assert data.bad_records == (5, len(trained) - 1)
    expected = {(trained[5], "image"), (held[0], "image"), (trained[-1], "mask"), (held[-1], "mask")}
    assert {(bad.stem, bad.role) for bad in data.bad} == expected and len(data.bad) == 4
    assert data.records_per_epoch == len(trained) - 2 * (policy == "drop")
    found, before = order(data, one, 3), order(whole, experiment(intact), 4)
    if policy == "drop":
        assert found == [n for n in before if n not in data.bad_records][: len(found)]
    else:
        assert found == [{5: 6, len(trained) - 1: 0}.get(n, n) for n in before[: len(found)]]


def test_both_policies_agree_on_everything_but_the_order_and_the_digest_covers_bad_files(intact, roads):
    truncate(roads, "images", "0003")
    (roads / "train" / "masks" / "0004.png").write_bytes(b"")
    replaced, dropped = (open_training_data(experiment(roads, policy)) for policy in POLICIES)
    assert dataclasses.replace(dropped, records_per_epoch=replaced.records_per_epoch) == replaced
    assert dropped.digest != open_training_data(experiment(intact)).digest
    (roads / "train" / "images" / "0003.png").write_bytes(b"otherwise bad")
    assert open_training_data(experiment(roads, "drop")).digest != dropped.digest


def test_a_method_that_reads_no_masks_is_not_disturbed_by_bad_ones(roads):
    truncate(roads, "masks", "0003")
    truncate(roads, "images", "0004")
    data = open_training_data(experiment(roads, "drop", "restoration"))
    assert [(bad.stem, bad.role) for bad in data.bad] == [("0004", "image")]


def test_a_validation_split_of_its_own_is_looked_through_by_itself(roads):
    """Its images share their stems with the training part's."""
    (roads / "test").rename(roads / "val")
    truncate(roads, "images", "0000", split="val")
    truncate(roads, "images", "0001")
    data = open_training_data(experiment(roads, "drop"))
    assert (data.train.split, data.validation.split, data.validation.stems) == ("train", "val", ("0001",))
    assert data.bad_records == (1,) and [bad.stem for bad in data.bad] == ["0001", "0000"]


def test_an_image_whose_mask_is_bad_still_stays_with_its_near_duplicate(intact, roads):
    """A bad mask says nothing against its image's thumbnail: the split is that of the same images with whole masks."""
    whole = open_training_data(experiment(intact))
    held, trained = whole.validation.stems[0], whole.train.stems[0]
    folder = roads / "train" / "images"
    shutil.copyfile(folder / f"{held}.png", folder / f"{trained}.png")
    expected = open_training_data(experiment(roads))
    assert expected.train.stems != whole.train.stems
    truncate(roads, "masks", trained)
    data = open_training_data(experiment(roads, "drop"))
    assert data.train.stems == expected.train.stems
    assert set(data.validation.stems) == set(expected.validation.stems) - {trained}


def test_nothing_is_looked_through_where_a_bad_image_is_to_end_the_training(intact, monkeypatch):
    monkeypatch.setattr("cracks_jax.training_data.find_bad", None)
    data = open_training_data(experiment(intact))
    assert (data.bad, data.bad_records, data.records_per_epoch) == ((), (), len(data.train))


def test_fail_names_the_file_and_the_remedy_and_nothing_else_is_given_that_remedy(roads):
    truncate(roads, "images", "0007")
    with pytest.raises(CracksError, match=r"roads/train/images/0007.png: the file is truncated") as caught:
        open_training_data(experiment(roads))
    assert str(caught.value).endswith(REMEDY)
    one = (roads / "train" / "images" / "0000.png").read_bytes()
    for path in (roads / "train" / "images").iterdir():
        path.write_bytes(one)
    with pytest.raises(CracksError, match="none can be held out for validation") as caught:
        open_training_data(experiment(roads))
    assert "bad_images" not in str(caught.value)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_part_of_bad_images_alone_is_refused(intact, roads, policy):
    whole = open_training_data(experiment(intact))
    truncate(roads, "images", *whole.validation.stems)
    first = f"image {whole.validation.stems[0]}.png"
    with pytest.raises(CracksError, match=f"train/validation: all {len(whole.validation)} images are bad, .*{first}"):
        open_training_data(experiment(roads, policy))
    truncate(roads, "masks", *whole.train.stems)
    with pytest.raises(CracksError, match=rf"train/training: all {len(whole.train)} images are bad, .*mask \d+.png"):
        open_training_data(experiment(roads, policy))


# --- windows of photographs


SIDES = {"min_side": 32, "max_side": 32}
CUT = {"kind": "restoration", "recipe": "undamaged", "recipe_settings": {**SIDES, "clearance": 0}}


def sources(data) -> set[str]:
    return {item["source"] for item in read_manifest(data.folder)["items"]}


def test_no_window_is_cut_from_a_bad_photograph_and_the_windows_of_the_others_are_the_same(intact, roads):
    whole = open_training_data(experiment(intact, **CUT, name=str(intact)))
    bad = sorted(sources(whole))[:2]
    truncate(roads, "images", bad[0])
    truncate(roads, "masks", bad[1])
    replaced, dropped = (open_training_data(experiment(roads, policy, **CUT)) for policy in POLICIES)
    assert replaced == dropped and sources(dropped) == sources(whole) - set(bad)
    assert [(one.stem, one.role) for one in dropped.bad] == [(bad[0], "image"), (bad[1], "mask")]
    assert dropped.bad_records == () and dropped.records_per_epoch == len(dropped.train)
    assert read_manifest(dropped.folder)["source"]["without"] == bad
    for record in (*dropped.train, *dropped.validation):
        twin = whole.folder / "images" / record.image.name
        assert record.image.read_bytes() == twin.read_bytes()


def test_another_choice_of_photographs_is_another_folder(roads):
    """A photograph that no window is cut from may be bad under `fail`: then the choices differ, the files do not."""
    write_mask(roads / "train" / "masks" / "0000.png", np.ones((64, 64)))
    truncate(roads, "images", "0000")
    kept, left = (open_training_data(experiment(roads, policy, **CUT)) for policy in ("fail", "drop"))
    assert kept.folder != left.folder and kept.folder.parent == left.folder.parent
    assert "without" not in read_manifest(kept.folder)["source"]
    assert open_training_data(experiment(roads, "drop", **CUT)) == left, "cut once"


def test_fail_names_a_bad_photograph_with_the_remedy_and_a_recipe_reads_no_mask_that_it_does_not_need(roads):
    truncate(roads, "masks", "0002")
    with pytest.raises(CracksError, match="masks/0002.png: the file is truncated") as caught:
        open_training_data(experiment(roads, **CUT))
    assert str(caught.value).endswith(REMEDY)
    unlabelled = {**CUT, "recipe": "undamaged-unlabelled", "recipe_settings": SIDES}
    assert open_training_data(experiment(roads, "drop", **unlabelled)).bad == ()


def test_photographs_that_are_all_bad_are_refused(roads):
    truncate(roads, "images", *(f"{n:04d}" for n in range(N)))
    with pytest.raises(CracksError, match=f"roads:train: all {N} images are bad, the first .image 0000.png. because"):
        open_training_data(experiment(roads, "replace", **CUT))

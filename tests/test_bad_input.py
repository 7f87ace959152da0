"""Bad input: one message that names the thing and the remedy, exit code 1 or 2, no traceback, nothing written lost.

Exit code 1: the run or the data is bad. Exit code 2: the command, an experiment file or a setting is wrong.
"""

import errno
import itertools
import shutil

import cv2
import numpy as np
import pytest

from cracks_jax.data import images
from tests.tiny_runs import command, contents, first, labelled, pavements, photo, truncate  # noqa: F401

FLOOR = ("--method", "background_difference")


# --------------------------------------------------------------------------------------------- data sets


BROKEN = {
    "an empty folder": (lambda d: shutil.rmtree(d) or d.mkdir(), ("roads: no images found", "images/ and masks/")),
    "no image": (lambda d: [p.unlink() for p in (d / "images").iterdir()], ("roads: no images found",)),
    "no masks": (lambda d: shutil.rmtree(d / "masks"), ("roads: has no masks", "masks/ beside images/")),
    "a mask without image": (lambda d: first(d / "images").unlink(), ("1 masks have no image: 0000.png", "data check")),
    "an image without mask": (lambda d: first(d / "masks").unlink(), ("1 images have no mask: 0000.png", "data check")),
    "a mask of another size": (
        lambda d: images.write_mask(first(d / "masks"), np.ones((9, 7))),
        ("masks/0000.png: mask is 7x9 but its image is 64x48", "data check"),
    ),
    "wrong labels": (
        lambda d: cv2.imwrite(str(first(d / "masks")), np.tile(np.arange(64, dtype=np.uint8), (48, 1))),
        ("masks/0000.png: mask values are 0, 1, 2", "0 and 255"),
    ),
    "zero bytes": (lambda d: first(d / "images").write_bytes(b""), ("images/0000.png: the file is empty", "again")),
    "a truncated image": (lambda d: truncate(first(d / "images")), ("images/0000.png: the file is truncated", "again")),
    "a truncated mask": (lambda d: truncate(first(d / "masks")), ("masks/0000.png: the file is truncated", "again")),
    "text": (lambda d: first(d / "images").write_text("road"), ("images/0000.png: not an image", "JPEG, PNG")),
    "two of one stem": (
        lambda d: shutil.copy(first(d / "images"), d / "images" / "0000.bmp"),
        ("1 files share their stem", "0000"),
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_evaluate_names_what_is_wrong_with_a_data_set(labelled, kind):  # noqa: F811
    break_it, parts = BROKEN[kind]
    break_it(labelled)
    command("evaluate", *FLOOR, "--data", labelled, "--json").refused(1, *parts)


@pytest.mark.parametrize("kind", BROKEN)
def test_data_check_finds_the_same_and_exits_with_1(labelled, kind):  # noqa: F811
    break_it, _ = BROKEN[kind]
    break_it(labelled)
    answer = command("data", "check", labelled)
    if kind == "no masks":  # an images-only folder is a whole data set
        assert answer.code == 0
    elif kind == "an empty folder":
        answer.refused(1, "no images found")
    else:
        assert answer.code == 1 and "broken" in answer.out.splitlines()[-1]
        assert "Traceback" not in answer.err


def test_a_data_set_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CRACKS_DATA", str(tmp_path))
    command("evaluate", *FLOOR, "--data", "deepcrack:test").refused(1, "'deepcrack'", str(tmp_path), "name a path")
    monkeypatch.delenv("CRACKS_DATA")
    command("evaluate", *FLOOR, "--data", "deepcrack:test").refused(1, "CRACKS_DATA is not set")
    command("data", "check", tmp_path / "nowhere").refused(1, "nowhere", "no such folder")
    command("data", "prepare", "undamaged", "deepcrack", "--out", tmp_path / "o").refused(1, "CRACKS_DATA")
    command("train", "experiments/crackseg_deepcrack.py:cpu", "--member", "scratch").refused(1, "CRACKS_DATA")


def test_a_split_that_is_not_there_or_not_named_lists_those_that_are(photo):  # noqa: F811
    command("evaluate", *FLOOR, "--data", f"{pavements()}:val").refused(2, "no split 'val'", "train", "undamaged")
    command("evaluate", *FLOOR, "--data", pavements()).refused(2, "has the splits", "name one")
    command("evaluate", *FLOOR, "--data", photo).refused(1, "is a file", "folder")
    command("evaluate", *FLOOR, "--data", f"{pavements()}:undamaged").refused(1, "has no masks")


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("undamage", "{data}:train"), 2, ("unknown recipe 'undamage'", "undamaged-unlabelled")),
        (("undamaged", "{data}:train", "--set", "min_sid=8"), 2, ("no setting min_sid", "min_side")),
        (("undamaged", "{data}:train", "--set", "min_side=wide"), 2, ("min_side is 'wide'", "int")),
        (("undamaged", "{data}:train", "--set", "min_side=-4"), 2, ("min_side is -4", "at least 1")),
        (("undamaged", "{data}:train", "--set", "min_side"), 2, ("--set min_side", "NAME=VALUE")),
        (("undamaged", "{data}:train", "--set", "split=train"), 2, ("--set split",)),
        (("undamaged", "{data}:train"), 1, ("holds a window of 128 px", "lower min_side")),
        (("undamaged", "{data}:undamaged", "--set", "min_side=16"), 1, ("no mask", "undamaged-unlabelled")),
        (("crackseg-blocks", "{data}:train"), 1, ("smaller than 256 px", "side=48")),
    ],
)  # fmt: skip
def test_prepare_refuses_what_it_cannot_carry_out_and_leaves_nothing(tmp_path, words, code, parts):
    filled = [word.format(data=pavements()) for word in words]
    command("data", "prepare", *filled, "--out", tmp_path / "out").refused(code, *parts)
    assert not list(tmp_path.iterdir())


def test_prepare_never_writes_into_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    words = ("data", "prepare", "undamaged", f"{pavements()}:train", "--out", tmp_path, "--set", "min_side=16")
    command(*words).refused(2, str(tmp_path), "name another folder")
    assert contents(tmp_path) == {"note.txt": b"mine"}


def test_prepare_on_a_full_disk_leaves_nothing_half_made(tmp_path, full_disk):
    words = ("data", "prepare", "undamaged", f"{pavements()}:train", "--set", "min_side=16", "max_side=16", "--out")
    full_disk(after=2)
    command(*words, tmp_path / "out").refused(1, "No space left on device", "free some space")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which only the next `after` files find room."""

    def fill(after: int) -> None:
        made, replace = itertools.count(), images.os.replace  # a counter that threads may share

        def replace_while_there_is_room(old, new):
            if next(made) >= after:
                raise OSError(errno.ENOSPC, "No space left on device", str(new))
            replace(old, new)

        monkeypatch.setattr(images.os, "replace", replace_while_there_is_room)

    return fill


# ------------------------------------------------------------------------------------------------- detect


def test_a_bad_photograph_is_reported_and_skipped_and_the_rest_is_done(tmp_path, labelled):  # noqa: F811
    truncate(first(labelled / "images"))
    (labelled / "images" / "zero.jpg").write_bytes(b"")
    (labelled / "clip.mp4").write_bytes(b"\0" * 100)
    inputs = (labelled / "images", labelled / "clip.mp4", tmp_path / "nowhere.jpg")
    answer = command("detect", *inputs, "--out", tmp_path / "out", *FLOOR).ok()
    assert answer.out == f"2 written to {tmp_path / 'out'}, 4 skipped\n"
    for name in ("0000.png", "zero.jpg", "clip.mp4", "nowhere.jpg"):
        assert f"{name}: " in answer.err
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2
    assert len((tmp_path / "out" / "measurements.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "name", "part"),
    [
        (None, "photo.jpg", "no such file"),
        (b"", "photo.jpg", "empty"),
        (b"\xff\xd8\xff\xe0 cut", "photo.jpg", "truncated"),
        (b"\0" * 64, "clip.mp4", "video"),
        (b"", "clip.avi", "empty"),
    ],
)
def test_detect_of_nothing_but_a_bad_file_is_exit_code_1(tmp_path, content, name, part):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    command("detect", tmp_path / name, "--out", tmp_path / "out", *FLOOR).refused(1, name, part)


def test_detect_in_an_empty_folder_says_what_it_looks_for(tmp_path):
    (tmp_path / "in").mkdir()
    command("detect", tmp_path / "in", "--out", tmp_path / "out", *FLOOR).refused(1, "in: ", ".jpg")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--mm-per-px", "0"), ("mm-per-px is 0", "positive")),
        (("--mm-per-px", "-1"), ("mm-per-px is -1", "positive")),
        (("--every", "0"), ("every", "0")),
        (("--tile", "10"), ("detection.tile is 10", "at least 64")),
        (("--rule", "ots"), ("threshold rule 'ots' is unknown", "otsu")),
        (("--rule", "1.5"), ("1.5", "[0, 1]")),
        (("--rule", "undamaged:2"), ("quantile 2", "between 0 and 1")),
        (("--rule", "undamaged"), ("undamaged windows", "--calibration")),
        (("--rule", "validation"), ("--calibration",)),
        (("--preset", "paper"), ("presets belong to UP-CrackNet",)),
        (("--checkpoint", "last"), ("--checkpoint last", "leave it out")),
        (("--set", "filter=none"), ("--set filter=none", "detection.FIELD=VALUE")),
        (("--set", "detection.filter=median"), ("'median'", "gaussian, bilateral")),
        (("--set", "detection.blur=3"), ("no setting 'blur'", "filter_sigma")),
        (("--set", "detection.filter_sigma=-1"), ("filter_sigma is -1", "more than 0")),
        (("--set", "detection.overlap=2000"), ("overlap is 2000",)),
    ],
)
def test_detect_and_evaluate_refuse_choices_that_make_no_sense(tmp_path, photo, words, parts):  # noqa: F811
    command("detect", photo, "--out", tmp_path / "out", *FLOOR, *words).refused(2, *parts)
    assert not (tmp_path / "out").exists()
    if words[0] not in ("--mm-per-px", "--every"):
        command("evaluate", *FLOOR, "--data", f"{pavements()}:test", *words).refused(2, *parts)


@pytest.mark.parametrize("words", [("--geometry", "square"), ("--tile", "big"), ("--every", "often"), ("--no", "x")])
def test_flags_that_argparse_knows_better_are_exit_code_2(tmp_path, photo, words):  # noqa: F811
    answer = command("detect", photo, "--out", tmp_path / "out", *FLOOR, *words)
    assert answer.code == 2 and answer.out == "" and words[1] in answer.err and "Traceback" not in answer.err


def test_a_method_that_needs_training_or_is_not_there_is_refused(tmp_path, photo):  # noqa: F811
    for method in ("crackseg", "upcracknet", "magic"):
        words = ("detect", photo, "--out", tmp_path / "out", "--method", method)
        command(*words).refused(2, method, "background_difference", "--run RUN")
    data = ("--data", f"{pavements()}:test")
    command("evaluate", *data).refused(2, "name either a trained run or", "--method")
    command("evaluate", "somewhere", *FLOOR, *data).refused(2, "not both")


def test_a_threshold_for_undamaged_roads_is_not_taken_from_cracked_ones(tmp_path):
    words = ("evaluate", *FLOOR, "--data", f"{pavements()}:test", "--rule", "undamaged", "--calibration")
    command(*words, f"{pavements()}:train").refused(1, "0000.png: this image is cracked", "data prepare undamaged")
    command(*words, tmp_path / "nowhere").refused(1, "nowhere")


def test_an_out_that_cannot_be_written_is_named(tmp_path, labelled):  # noqa: F811
    (tmp_path / "file").write_text("mine")
    command("detect", labelled / "images", "--out", tmp_path / "file" / "out", *FLOOR).refused(1, "file/out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("writers", [1, 4])
def test_on_a_full_disk_each_row_stands_for_finished_files(tmp_path, labelled, full_disk, monkeypatch, writers):  # noqa: F811
    monkeypatch.setattr("cracks_jax.detect.os.cpu_count", lambda: writers)
    # The table, and three files: one photograph's mask and overlay, and a mask of the next; with several writers
    # whatever they write first.
    full_disk(after=4)
    command("detect", labelled / "images", "--out", tmp_path / "out", *FLOOR).refused(1, "No space left on device")
    written = contents(tmp_path / "out")
    assert len(written) == 4 and not [name for name in written if name.endswith(".tmp")]
    rows = [row.split(",")[0] for row in written["measurements.csv"].decode().splitlines()[1:]]
    assert all({f"masks/{name}.png", f"overlays/{name}.png"} <= written.keys() for name in rows)
    assert rows == ["0000"] if writers == 1 else rows in ([], ["0000"])


# -------------------------------------------------------------------------------------------------- score


def test_score_refuses_folders_that_do_not_match(tmp_path, labelled):  # noqa: F811
    masks = labelled / "masks"
    command("score", tmp_path / "nowhere", masks, "--json").refused(1, "nowhere: no such folder", "folder of")
    shutil.copytree(masks, tmp_path / "found")
    command("score", tmp_path / "found", masks, "--threshold", 1).refused(2, "threshold is 1", "below 1")
    first(tmp_path / "found").unlink()
    command("score", tmp_path / "found", masks).refused(1, "masks without a prediction", "0000")
    np.save(tmp_path / "found" / "0000.npy", np.zeros((4, 4), np.float32))
    command("score", tmp_path / "found", masks).refused(1, "0000.npy: prediction is 4x4", "64x48")

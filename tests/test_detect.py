"""`detect`: what it writes is what was scored, a bad file costs nobody else, and nothing written is ever lost."""

import csv
import errno
import os
import threading
import tracemalloc
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

import cracks_jax.detect as verb
from cracks_jax.calibrate import Thresholds
from cracks_jax.data import images
from cracks_jax.data.images import read_image, read_mask, write_image
from cracks_jax.data.synthetic import draw_pavement
from cracks_jax.detect import detect
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference, Darkness
from cracks_jax.postprocess.thresholds import parse_rule
from cracks_jax.predict import Scorer

COLUMNS = "name file frame width height threshold crack_share area_px components length_px mean_width_px".split()
MM_COLUMNS = "area_mm2 length_mm mean_width_mm".split()


class Said(list):
    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture(scope="session")
def pavements():
    return [draw_pavement(3, i, (48, 64), cracked=True)[0] for i in range(3)]


@pytest.fixture
def folder(tmp_path, pavements):
    """Three drawn photographs."""
    for name, picture in zip("abc", pavements, strict=True):
        write_image(tmp_path / "photos" / f"{name}.png", picture)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "found"


def ready(how=None, method=None):
    """The floor (exact darkness where nothing else is named) and its thresholds."""
    how = how or Detection(rule="otsu")
    scorer = Scorer(method or BackgroundDifference(background=10, smooth=1), {}, how)
    return scorer, Thresholds(parse_rule(how.rule), scorer)


def run(inputs, out, *, how=None, method=None, said=None, **options):
    return detect(inputs, out, *ready(how, method), say=said if said is not None else Said(), **options)


def rows(out):
    with open(out / "measurements.csv", newline="") as file:
        return list(csv.DictReader(file))


def written(out, kind):
    return sorted(path.name for path in (out / kind).iterdir())


def slab(path, area=(slice(10, 20), slice(5, 25))):
    """A white picture of 30x40 with a black rectangle: its darkness is exactly 1 there and 0 elsewhere."""
    picture = np.full((30, 40, 3), 255, np.uint8)
    picture[area] = 0
    write_image(path, picture)
    return path


EXACT = {"how": Detection(rule="0.5"), "method": Darkness(smooth=0.01)}


def test_masks_overlays_scores_and_rows_are_what_the_scorer_and_the_rule_give(folder, out, pavements):
    summary = run([folder], out, scores=True)
    assert (summary.written, summary.skipped, summary.csv) == (3, [], out / "measurements.csv")
    scorer, thresholds = ready()
    for name, picture, row in zip("abc", pavements, rows(out), strict=True):
        score = scorer(picture)
        mask = score > thresholds.at(score)
        assert 0 < mask.sum() < mask.size
        saved = np.load(out / "scores" / f"{name}.npy")
        assert saved.dtype == np.float32
        np.testing.assert_array_equal(saved, score)
        np.testing.assert_array_equal(read_mask(out / "masks" / f"{name}.png"), mask)
        stored = cv2.imread(str(out / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint8 and set(np.unique(stored)) == {0, 255}
        drawn = read_image(out / "overlays" / f"{name}.png")
        assert (drawn[mask] != picture[mask]).any(-1).all()
        assert (row["name"], row["file"], row["frame"]) == (name, f"{name}.png", "")
        assert (row["width"], row["height"]) == ("64", "48")
        assert float(row["threshold"]) == thresholds.at(score)
        assert int(row["area_px"]) == mask.sum()
        assert float(row["crack_share"]) == mask.mean()


def test_score_maps_are_written_only_on_request(folder, out):
    run([folder], out)
    assert sorted(path.name for path in out.iterdir()) == ["masks", "measurements.csv", "overlays"]


def test_measurements_in_pixels_and_millimetres_agree_with_arithmetic_by_hand(tmp_path, out):
    """A line of 20 pixels in a picture of 30x40, half a millimetre each."""
    slab(tmp_path / "line.png", (slice(10, 11), slice(5, 25)))
    run([tmp_path / "line.png"], out, mm_per_px=0.5, **EXACT)
    (row,) = rows(out)
    assert list(row) == COLUMNS + MM_COLUMNS
    found = {name: float(row[name]) for name in COLUMNS[3:] + MM_COLUMNS}
    assert found == {
        "width": 40,
        "height": 30,
        "threshold": 0.5,
        "crack_share": 20 / 1200,
        "area_px": 20,
        "components": 1,
        "length_px": 20,
        "mean_width_px": 1,
        "area_mm2": 5,
        "length_mm": 10,
        "mean_width_mm": 0.5,
    }


def test_without_crack_the_mean_width_is_an_empty_cell_and_the_columns_stay(tmp_path, out):
    slab(tmp_path / "clean.png", (slice(0, 0), slice(0, 0)))
    run([tmp_path / "clean.png"], out, **EXACT)
    (row,) = rows(out)
    assert list(row) == COLUMNS
    assert (row["area_px"], row["components"], row["length_px"], row["mean_width_px"]) == ("0", "0", "0.0", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"mm_per_px": 0.0}, "mm-per-px is 0"), ({"mm_per_px": -2}, "mm-per-px is -2"), ({"every": 0}, "--every 0")],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_written(folder, out, options, said):
    with pytest.raises(UsageError, match=said):
        run([folder], out, **options)
    assert not out.exists()


def test_a_truncated_image_and_a_missing_one_are_said_and_skipped_and_the_rest_is_done(folder, out):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    said = Said()
    summary = run([folder, folder / "none.jpg"], out, said=said)
    assert summary.written == 2
    assert [(name, reason.split(";")[0].split(" (")[0]) for name, reason in summary.skipped] == [
        (str(folder / "none.jpg"), "no such file or folder"),
        ("b.png", "the file is truncated or damaged"),
    ]
    assert len(said) == 2 and said[1].startswith(f"skipped {folder / 'b.png'}: the file is truncated")
    assert said[1].count("b.png") == 1
    assert [row["name"] for row in rows(out)] == ["a", "c"] and written(out, "masks") == ["a.png", "c.png"]


def test_nothing_found_or_nothing_good_is_an_error_that_names_the_input(tmp_path, out):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CracksError, match="empty: nothing could be read.*no image below this folder"):
        run([tmp_path / "empty"], out)
    assert not out.exists()
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a photograph")
    with pytest.raises(CracksError, match="2 skipped, first bad.png: the file is empty") as caught:
        run([tmp_path / "bad.png", tmp_path / "notes.txt"], out)
    assert caught.value.exit_code == 1
    assert rows(out) == []


def test_folders_are_searched_to_the_bottom_and_names_tell_where_a_file_lay(folder, out, pavements):
    write_image(folder / "north" / "lane 1" / "a.jpg", pavements[0])
    write_image(folder / ".trash" / "old.png", pavements[0])
    write_image(folder / "._a.png", pavements[0])
    (folder / "readme.txt").write_text("no image")
    run([folder], out)
    assert [(row["name"], row["file"]) for row in rows(out)] == [
        ("a", "a.png"),
        ("b", "b.png"),
        ("c", "c.png"),
        ("north__lane 1__a", "north/lane 1/a.jpg"),
    ]


def test_equal_stems_do_not_overwrite_each_other_even_where_case_does_not_count(tmp_path, out):
    """Each file gets its own name, in the order given, and one that is given twice is done once."""
    areas = {}
    for number, place in enumerate(("x/road.png", "y/road.png", "y/road-2.png", "y/ROAD.bmp"), start=3):
        slab(tmp_path / place, (slice(0, number), slice(0, 7)))
        areas[place] = number * 7
    run([tmp_path / "x", tmp_path / "y", tmp_path / "x" / "road.png"], out, **EXACT)
    found = {row["name"]: (row["file"], int(row["area_px"])) for row in rows(out)}
    assert found == {
        "road": ("road.png", areas["x/road.png"]),
        "ROAD-2": ("ROAD.bmp", areas["y/ROAD.bmp"]),
        "road-2-2": ("road-2.png", areas["y/road-2.png"]),
        "road-3": ("road.png", areas["y/road.png"]),
    }
    for name, (_, area) in found.items():
        assert read_mask(out / "masks" / f"{name}.png").sum() == area


def test_its_own_results_inside_the_folder_are_not_photographs(folder, out):
    for place in (folder / "found", folder / "found again", folder):
        for _ in range(2):
            assert run([folder], place).written == 3
        assert [row["name"] for row in rows(place)] == ["a", "b", "c"]


def test_no_absolute_path_stands_in_the_table(folder, out, tmp_path):
    run([folder, folder / "a.png", folder.resolve() / "b.png"], out)
    run([(folder / "c.png").absolute()], out)
    text = (out / "measurements.csv").read_text()
    assert str(tmp_path) not in text and "/" not in text


def test_names_that_the_file_system_cannot_hold_twice_are_made_to_fit(tmp_path, out):
    slab(tmp_path / "odd" / ("d" * 120) / ("e" * 120) / "a.png")
    slab(tmp_path / "odd" / "caf\u00e9.png")
    assert run([tmp_path / "odd"], out, **EXACT).written == 2
    names = [row["name"] for row in rows(out)]
    assert any(name.endswith("e__a") and len(name) == 200 for name in names) and "caf\u00e9" in names
    assert written(out, "masks") == sorted(f"{name}.png" for name in names)


def test_in_geometry_resize256_the_mask_is_enlarged_by_nearest_neighbour(tmp_path, out, pavements):
    """Witness: the centre of each photograph's pixel, looked up in the 256x256 score map."""
    picture = cv2.resize(pavements[0], (600, 300), interpolation=cv2.INTER_LINEAR)
    write_image(tmp_path / "wide.png", picture)
    how = Detection(rule="otsu", geometry="resize256")
    run([tmp_path / "wide.png"], out, how=how, scores=True)
    (row,) = rows(out)
    score = np.load(out / "scores" / "wide.npy")
    assert score.shape == (256, 256)
    np.testing.assert_array_equal(score, ready(how)[0](picture))
    y, x = (np.arange(300) + 0.5) * 256 / 300, (np.arange(600) + 0.5) * 256 / 600
    expected = (score > float(row["threshold"]))[y.astype(int)][:, x.astype(int)]
    mask = read_mask(out / "masks" / "wide.png")
    on_an_edge = (y % 1 == 0)[:, None] | (x % 1 == 0)  # there both neighbours are nearest
    np.testing.assert_array_equal(mask | on_an_edge, expected | on_an_edge)
    assert mask.shape == (300, 600) and on_an_edge.mean() < 0.1
    assert (row["width"], row["height"], int(row["area_px"])) == ("600", "300", mask.sum())
    assert read_image(out / "overlays" / "wide.png").shape == (300, 600, 3)


@pytest.fixture
def video(tmp_path):
    """A black bar that grows by 8 rows a frame, from none to 40 of 64; JPEG blocks keep it exact enough for 0.5."""
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for number in range(6):
        picture = np.full((64, 64, 3), 255, np.uint8)
        picture[: 8 * number] = 0
        writer.write(picture)
    writer.release()
    return path


def test_every_nth_frame_of_a_video_has_its_files_and_its_row(video, out, folder):
    summary = run([video, folder], out, every=2, **EXACT)
    assert summary.written == 6
    found = [(row["name"], row["file"], row["frame"], row["area_px"]) for row in rows(out)[:3]]
    assert found == [(f"drive-00000{n}", "drive.avi", str(n), str(64 * 8 * n)) for n in (0, 2, 4)]
    assert written(out, "overlays")[3:] == ["drive-000000.png", "drive-000002.png", "drive-000004.png"]


def test_a_video_that_does_not_open_is_skipped_and_one_beside_its_own_frames_overwrites_none(video, out, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 99)
    slab(tmp_path / "drive-000000.png")
    said = Said()
    summary = run([tmp_path / "broken.mp4", video, tmp_path / "drive-000000.png"], out, said=said, **EXACT)
    assert summary.written == 7 and [file for file, _ in summary.skipped] == ["broken.mp4"]
    assert "cannot be opened as a video" in said[0]
    areas = {row["name"]: row["area_px"] for row in rows(out)}
    assert len(areas) == 7 and areas["drive-000000"] == "200" and areas["drive-000000-2"] == "0"


def test_a_later_call_replaces_its_own_names_and_keeps_the_other_rows(folder, out, tmp_path):
    run([folder], out, scores=True, mm_per_px=2.0)
    before = {row["name"]: row for row in rows(out)}
    slab(folder / "b.png")
    slab(tmp_path / "d.png")
    run([folder / "b.png", tmp_path / "d.png"], out, **EXACT)
    after = {row["name"]: row for row in rows(out)}
    assert [row["name"] for row in rows(out)] == ["a", "b", "c", "d"]
    assert after["a"] == before["a"] and after["c"] == before["c"]
    assert after["b"]["area_px"] == "200" and after["b"]["area_mm2"] == ""
    # The score map of the replaced mask would be another picture's.
    assert written(out, "scores") == ["a.npy", "c.npy"]


def test_an_interruption_loses_no_row_of_what_was_finished(folder, out, monkeypatch):
    """Ctrl-C while the third picture is read: the two before have their files and rows, older rows are kept."""
    run([folder / "a.png", folder / "c.png"], out)
    old = (out / "measurements.csv").read_bytes()

    def read(path):
        if path.name == "c.png":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(verb, "read_image", read)
    with pytest.raises(KeyboardInterrupt):
        run([folder], out, **EXACT)
    assert [row["name"] for row in rows(out)] == ["a", "c", "b"]  # in order again, nothing lost
    assert written(out, "masks") == written(out, "overlays") == ["a.png", "b.png", "c.png"]
    kept = old.decode().splitlines()[2]
    assert kept.startswith("c,") and kept in (out / "measurements.csv").read_text()


def test_rows_keep_the_order_of_the_input_whichever_picture_is_finished_first(folder, out, monkeypatch):
    """The first picture's files are only written once the last one's are."""
    last, real = threading.Event(), verb._write

    def slow(place, name, *rest):
        if name == "a":
            assert last.wait(60)
        real(place, name, *rest)
        if name == "c":
            last.set()

    monkeypatch.setattr(verb, "_write", slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert run([folder], out).written == 3
    assert [row["name"] for row in rows(out)] == ["a", "b", "c"]


def test_decoding_and_writing_overlap_with_scoring(folder, out, monkeypatch):
    """The second picture is read, and the first one's mask written, while a later call of the network is under way."""
    third_read, first_written = threading.Event(), threading.Event()
    scorer, thresholds = ready()
    real = scorer.calls.score

    def score(stack):
        score.calls += 1
        if score.calls == 1:
            assert third_read.wait(60)
        if score.calls == 3:
            assert first_written.wait(60)
        return real(stack)

    def read(path):
        found = read_image(path)
        if path.name == "c.png":
            third_read.set()
        return found

    def write(place, name, *rest):
        real_write(place, name, *rest)
        first_written.set()

    score.calls, real_write = 0, verb._write
    scorer.calls.score = score
    monkeypatch.setattr(verb, "read_image", read)
    monkeypatch.setattr(verb, "_write", write)
    assert detect([folder], out, scorer, thresholds, say=Said()).written == 3
    assert score.calls == 3


def test_what_is_held_at_a_time_does_not_grow_with_the_number_of_images(tmp_path, out, monkeypatch):
    """With bounds of three small photographs each, no more than a dozen of thirty are alive at once."""
    for number in range(30):
        slab(tmp_path / "many" / f"{number:02d}.png")
    alive, most = weakref.WeakSet(), 0

    class Kept(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def read(path):
        nonlocal most
        found = read_image(path).view(Kept)
        alive.add(found)
        most = max(most, len(alive))
        return found

    monkeypatch.setattr(verb, "read_image", read)
    for name in ("READ_AHEAD", "WRITE_BEHIND"):
        monkeypatch.setattr(verb, name, 3 * 30 * 40)
    assert run([tmp_path / "many"], out, **EXACT).written == 30
    assert 2 <= most <= 12


def test_a_row_that_a_power_cut_left_half_written_is_dropped_and_the_rest_kept(folder, out):
    run([folder], out)
    path = out / "measurements.csv"
    path.write_bytes(path.read_bytes()[:-30].rpartition(b",")[0])
    run([folder / "a.png"], out)
    assert [row["name"] for row in rows(out)] == ["a", "b"]


@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_a_full_disk_is_one_error_and_what_was_written_stays(folder, out, monkeypatch, kind):
    real = images.Path.write_bytes

    def full(path, data):
        if path.parent.name == kind and path.name.startswith(".b.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    said = Said()
    with pytest.raises(CracksError, match=rf"{kind}/b.png: cannot be written \(No space left on device\)"):
        run([folder], out, said=said)
    assert said == []  # not mistaken for a bad photograph
    assert [row["name"] for row in rows(out)] == ["a"]
    assert not [path for path in out.rglob("*.tmp")]


@pytest.mark.parametrize("how", ["half", "none"])
def test_a_disk_that_fills_up_within_a_row_leaves_only_whole_rows(folder, out, monkeypatch, how):
    class Filling:
        """The table's file, on a disk with room for one row and a half, or for exactly one."""

        def __init__(self, *args, **options):
            self.file = open(*args, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if not data.startswith(b"b,"):
                return self.file.write(data)
            if how == "none":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data[: len(data) // 2])

    monkeypatch.setattr(verb, "open", lambda *a, **k: (Filling if "ab" in a else open)(*a, **k), raising=False)
    with pytest.raises(CracksError, match=r"measurements.csv: cannot be written \(No space left on device\)"):
        run([folder], out)
    text = (out / "measurements.csv").read_text()
    assert text.endswith("\n") and [row["name"] for row in rows(out)] == ["a"]


def test_an_out_that_cannot_be_written_is_one_error(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CracksError, match="cannot be written"):
        run([folder], tmp_path / "file")
    with pytest.raises(CracksError, match="cannot be written"):
        run([folder], tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "in the way"


def test_masks_and_tables_of_others_are_never_overwritten(folder, tmp_path):
    """The obvious slip: OUT is the data set itself, whose masks/ are labels drawn by hand."""
    slab(tmp_path / "data" / "masks" / "a.png")
    label = (tmp_path / "data" / "masks" / "a.png").read_bytes()
    with pytest.raises(UsageError, match="masks/ is not from `cracks-jax detect`"):
        run([folder], tmp_path / "data")
    assert (tmp_path / "data" / "masks" / "a.png").read_bytes() == label
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "measurements.csv").write_text("station;length\n1;2\n")
    with pytest.raises(UsageError, match="has no column 'name'"):
        run([folder], tmp_path / "other")
    assert (tmp_path / "other" / "measurements.csv").read_text() == "station;length\n1;2\n"


def test_a_picture_that_cannot_be_scored_is_skipped_but_a_wrong_setting_stops_everything(folder, out):
    scorer, thresholds = ready()

    class Choosy:
        how = scorer.how

        def stream(self, images):
            for number, (tag, image) in enumerate(images):
                if number == 0:
                    yield tag, ValueError("image side 48 is below the network's 64")
                elif number == 1:
                    yield tag, np.full(image.shape[:2], np.nan, np.float32)
                else:
                    yield tag, scorer(image)

    summary = detect([folder], out, Choosy(), thresholds, say=Said())
    assert summary.written == 1
    assert [reason.split(";")[0] for _, reason in summary.skipped] == [
        "image side 48 is below the network's 64",
        "its score map is not finite",
    ]

    class Wrong(Choosy):
        def stream(self, images):
            raise UsageError("a setting is wrong")

    with pytest.raises(UsageError, match="a setting is wrong"):
        detect([folder], out, Wrong(), thresholds, say=Said())


def test_a_video_that_cannot_be_scored_is_said_once_and_left(video, out, folder):
    scorer, thresholds = ready()

    class NoVideos:
        how = scorer.how

        def stream(self, images):
            for tag, image in images:
                yield tag, ValueError("side 64") if image.shape[0] == 64 else scorer(image)

    summary = detect([video, folder], out, NoVideos(), thresholds, say=Said())
    assert summary.written == 3 and summary.skipped == [("drive.avi", "side 64")]


def test_progress_with_rate_goes_to_standard_error_and_nothing_to_standard_output(folder, out, capfd):
    run([folder], out)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "detecting" in captured.err and "3/3" in captured.err and "image" in captured.err


def test_a_photograph_of_4000x3000_takes_bounded_memory(tmp_path, out):
    """Twelve megapixels are 36 MB as a photograph and 144 MB in float32."""
    picture = np.full((3000, 4000, 3), 255, np.uint8)
    picture[:3] = 0
    write_image(tmp_path / "large.bmp", picture)
    del picture
    tracemalloc.start()
    try:
        run([tmp_path / "large.bmp"], out, **EXACT)
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()
    assert read_mask(out / "masks" / "large.png").sum() == 3 * 4000

"""The verb `report` from the command line to its files, with images at hand: on two tiny runs that were trained."""

import base64
import hashlib
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from cracks_jax import scores
from cracks_jax.data.datasets import open_dataset
from cracks_jax.networks.backbones import resnet
from cracks_jax.report.encode import Scale
from cracks_jax.report.files import FIGURES
from cracks_jax.report.make import Shown, report
from cracks_jax.report.model import Pictures
from tests.report import made
from tests.tiny import quick_compile, short_trunk  # noqa: F401
from tests.tiny_runs import command, contents, pavements, runs

# Two trainings come before the first test: on a busy machine they take more than a test may.
pytestmark = [pytest.mark.usefixtures("quick_compile", "short_trunk"), pytest.mark.timeout(1500)]
COLOURS = {"tp": (0, 255, 0), "fp": (0, 0, 255), "fn": (255, 0, 0)}
EVERY = {"curves", "pr", "method-grid", "restoration", "feature-maps", "failures"}


def data() -> str:
    return f"{pavements()}:test"


@pytest.fixture(scope="module")
def floored(quick_compile, tmp_path_factory):  # noqa: F811
    """The floor's record of three drawn pavements."""
    folder = tmp_path_factory.mktemp("report") / "floor"
    command("evaluate", "--method", "background_difference", "--data", data(), "--out", folder).ok()
    return folder


@pytest.fixture(scope="module")
def trained(floored, tmp_path_factory):
    """A folder with copies of both runs, each scored on three drawn pavements, and of the floor's record."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    shutil.copytree(floored, folder / "floor")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(resnet.UNITS, 50, (1, 1, 1, 1))  # as `short_trunk`, which is a test's alone
        for run in (runs().restoration, runs().segmentation):
            shutil.copytree(run, folder / run.name)
            command("evaluate", folder / run.name, "--data", data(), "--out", folder / run.name / "scores").ok()
    return folder


@pytest.fixture
def model(monkeypatch):
    """What would become of the page, instead of the page."""
    monkeypatch.setattr("cracks_jax.report.make.write", lambda made, out: (made, out))

    def make(folder, **shown):
        return report([folder], folder, Shown(open_dataset(str(pavements()), "test"), **shown))

    return make


def figures(page, name: str) -> list[Pictures]:
    return [one for one in page.figures if isinstance(one, Pictures) and one.name.startswith(name)]


def decoded(picture: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


# ---------------------------------------------------------------------------------------------- the whole of it


def test_the_command_makes_every_figure_changes_no_run_and_gives_the_same_bytes_again(trained, tmp_path):
    before = contents(trained)
    for name in ("a", "b"):
        command("report", trained, "--data", data(), "--out", tmp_path / name).ok()
    assert contents(trained) == before
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second and {"report.html", "report.md"} <= first.keys()
    html, text = first["report.html"].decode(), first["report.md"].decode()
    assert {name for name in EVERY if re.search(rf'<section id="{name}[^"]*" class="figure"', html)} == EVERY
    assert "What is not whole" not in html and str(trained.parent) not in html and str(pavements()) not in html
    for picture in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", html):
        assert decoded(base64.b64decode(picture)).size
    shown = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert shown == {name for name in first if name.startswith("figures/")} - {f"{FIGURES}/SHA256SUMS"}


def test_the_colours_of_an_answer_count_what_the_record_counted(trained, model):
    """Each green, blue and red pixel, at full size, against the counts that `evaluate` kept of that image."""
    (grid,) = figures(model(trained, figures=("method-grid",)), "method-grid")
    assert grid.columns[2:] == (
        "floor (otsu)", "restoration (undamaged:0.995)", "segmentation (value:0.5)")  # fmt: skip
    folders = (trained / "floor", trained / "restoration" / "scores", trained / "segmentation" / "scores")
    recorded = [scores.load(next(folder.glob("*.json"))) for folder in folders]
    for column, record in enumerate(recorded, 2):
        counts = {image["image"]: image for image in record.images}
        for row in grid.rows:
            picture = row.pictures[column]
            shown = decoded(picture.image)
            assert shown.shape == (48, 64, 4) and picture.photo == row.label
            found = {case: int((shown == (*colour, 255)).all(-1).sum()) for case, colour in COLOURS.items()}
            assert found == {case: counts[row.label][case] for case in COLOURS}
            f1 = counts[row.label]["f1"]
            assert picture.alt.endswith("F1 undefined" if f1 is None else f"F1 {100 * f1:.1f}")


def test_photograph_and_label_are_those_of_the_image(floored, model):
    (grid,) = figures(model(floored, figures=("method-grid",)), "method-grid")
    for row, record in zip(grid.rows, open_dataset(str(pavements()), "test"), strict=True):
        photograph = cv2.imread(str(record.image))[..., ::-1].astype(int)
        assert np.abs(decoded(grid.photos[row.label]).astype(int) - photograph).mean() < 12
        mask = cv2.imread(str(record.mask), cv2.IMREAD_GRAYSCALE) > 127
        np.testing.assert_array_equal(decoded(row.pictures[1].image) > 127, mask)


def test_failures_are_the_worst_images_of_each_method_by_its_own_record(trained, model):
    page = model(trained, figures=("failures",))
    assert [one.name for one in figures(page, "failures")] == [
        "failures-floor", "failures-restoration", "failures-segmentation"]  # fmt: skip
    record = scores.load(next((trained / "floor").glob("*.json")))
    worst = sorted((image["f1"], image["image"]) for image in record.images if image["f1"] is not None)
    floor, *_ = figures(page, "failures-floor")
    assert [row.label for row in floor.rows] == [stem for _, stem in worst]
    assert [row.note for row in floor.rows] == [f"F1 {100 * f1:.1f}" for f1, _ in worst]
    (table,) = (table for table in page.tables if table.name == "worst-images")
    assert [row.cells[4].text for row in table.rows][: len(worst)] == [stem for _, stem in worst]


def test_restoration_and_feature_maps_show_their_steps(trained, model):
    page = model(trained, figures=("restoration", "feature-maps"))
    (steps,) = figures(page, "restoration")
    assert steps.columns == ("input", "corrupted", "that, restored", "restored for detection", "error", "score", "mask",
                             "labelled")  # fmt: skip
    for row in steps.rows:
        corrupted = decoded(row.pictures[1].image).astype(int)
        dark = (corrupted.sum(-1) < 60).mean()
        assert 0.35 < dark < 0.65, "squares hide half of it"
        assert all(decoded(one.image).shape[:2] == (48, 64) for one in row.pictures[1:])
    (maps,) = figures(page, "feature-maps")
    assert maps.columns == ("photograph", "Conv1", "Block1", "Block2", "Block3", "Block4")
    assert len(maps.rows) == 6 and {row.note for row in maps.rows} == {"mean of channels", "liveliest channel"}
    assert len({one.image for row in maps.rows for one in row.pictures[1:]}) > 20, "no map is another's"


# ------------------------------------------------------------------------------------------------ what is chosen


def test_images_are_chosen_and_ordered_by_name_and_limited_by_number(floored, model):
    stems = open_dataset(str(pavements()), "test").stems
    for shown, expected in (
        ({}, stems), ({"limit": 2}, stems[:2]), ({"images": (stems[2], stems[0], stems[2])}, (stems[2], stems[0])),
        ({"images": stems[::-1], "limit": 1}, stems[::-1]),
    ):  # fmt: skip
        (grid,) = figures(model(floored, figures=("method-grid",), **shown), "method-grid")
        assert tuple(row.label for row in grid.rows) == tuple(expected)


def test_figures_are_chosen_by_name_and_a_preset_changes_how_restoration_judges(trained, model):
    page = model(trained, figures=("method-grid", "pr"), preset="paper", limit=1)
    assert [one.name for one in page.figures] == [f"pr-{data().rpartition('/')[2]}-native", "method-grid"]
    assert page.figures[1].columns[3:] == ("restoration (otsu)", "segmentation (value:0.5)")
    assert decoded(page.figures[1].rows[0].pictures[3].image).shape[:2] == (48, 64), "at the photograph's proportions"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--data", "DATA", "--images", "nobody"), 2, "no image is called nobody"),
        (("--data", "DATA", "--images", "nobody", "--figures", "curves"), 2, "no image is called nobody"),
        (("--figures", "portraits"), 2, "expected some of curves, pr, method-grid"),
        (("--limit", "0"), 2, "expected at least 1 image"),
        (("--images", "0000"), 2, "name the images' data set with --data"),
        (("--preset", "hidden"), 2, "name the images' data set with --data"),
        (("--data", "DATA", "--preset", "best"), 2, "expected one of default, hidden, paper, authors"),
        (("--data", "UNDAMAGED"), 1, "mask"),
        (("--data", "nowhere:test"), 1, "nowhere"),
    ],
)
def test_a_wrong_word_ends_in_one_message_that_teaches(floored, tmp_path, words, code, said):
    place = {"DATA": data(), "UNDAMAGED": f"{pavements()}:undamaged"}
    answer = command("report", floored, "--out", tmp_path / "out", *(place.get(word, word) for word in words))
    answer.refused(answer.code, said)
    assert answer.code == code and not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- what is not whole


def test_runs_that_cannot_judge_are_told_and_the_others_shown(trained, tmp_path):
    folder = tmp_path / "runs"
    made.run(folder / "unfinished", made.smoke(), finished=False)
    shutil.copytree(trained / "restoration", folder / "broken")
    shutil.rmtree(folder / "broken" / "undamaged")
    shutil.copytree(trained / "segmentation", folder / "whole")
    shutil.copytree(trained / "segmentation", folder / "headless")
    for checkpoint in (path for path in (folder / "headless" / "checkpoints").iterdir() if path.name.isdecimal()):
        checkpoint.rename(checkpoint.with_name(f"9{checkpoint.name}"))
    words = ("--figures", "method-grid", "failures", "--limit", "1")
    command("report", folder, "--data", data(), "--out", tmp_path / "out", *words).ok()
    text = (tmp_path / "out" / "report.md").read_text()
    assert "- unfinished: no checkpoint is at hand, so no picture shows it" in text
    assert "- broken: cannot be shown in pictures: --rule undamaged needs undamaged windows" in text
    assert "- headless: cannot be shown in pictures: headless/checkpoints/" in text
    assert "whole (value:0.5)" in text and "broken (" not in text and str(tmp_path) not in text


def test_a_photograph_that_cannot_be_read_is_told_and_the_others_shown(floored, tmp_path):
    shutil.copytree(pavements() / "test", tmp_path / "roads")
    broken, odd, whole = sorted((tmp_path / "roads" / "images").iterdir())
    broken.write_bytes(b"no photograph")
    mask = next((tmp_path / "roads" / "masks").glob(f"{odd.stem}.*"))
    cv2.imwrite(str(mask), np.zeros((5, 5), np.uint8))
    command("report", floored, "--data", tmp_path / "roads", "--out", tmp_path / "out").ok()
    text = (tmp_path / "out" / "report.md").read_text()
    told = text.partition("## What is not whole")[2].partition("##")[0]
    assert broken.name in told and mask.name in told and str(tmp_path) not in text
    assert f"![photograph {whole.stem}]" in text and f"![photograph {broken.stem}]" not in text


def test_without_a_record_of_the_images_failures_say_how_to_make_one(trained, tmp_path):
    folder = shutil.copytree(trained / "restoration", tmp_path / "runs" / "one", ignore=lambda *_: ["scores"])
    words = ("--data", data(), "--figures", "failures", "--out", tmp_path / "out")
    command("report", folder, *words).ok()
    told = (tmp_path / "out" / "report.md").read_text()
    assert "failures: no record ranks the images of pavements:test; `cracks-jax evaluate RUN" in told.replace("\\", "")


# ------------------------------------------------------------------------------------------- files of earlier reports


@pytest.fixture
def records(tmp_path):
    """A run with a curve: two drawings."""
    made.run(tmp_path / "run", made.smoke())
    made.score(tmp_path / "run" / "scores", "otsu", made.smoke())
    return tmp_path / "run"


def test_an_earlier_reports_figures_go_and_nothing_else(floored, records, tmp_path):
    out, other = tmp_path / "out", made.run(tmp_path / "other", made.smoke("crackseg_deepcrack", "scratch"))
    figures = ("--figures", "method-grid", "curves")
    command("report", floored, records, other, "--data", data(), "--out", out, *figures).ok()
    assert (out / "figures" / "method-grid" / "1-1.jpg").is_file() and (out / "figures/curves-CrackSeg.svg").is_file()
    for name in ("notes.txt", "figures/mine.svg", "figures/method-grid/9-9.png"):
        (out / name).write_text("by hand")
    (out / "figures" / "curves-CrackSeg.svg").write_text("changed by hand")
    command("report", records, "--out", out, "--figures", "curves").ok()
    kept = {"notes.txt", "figures/mine.svg", "figures/method-grid/9-9.png", "figures/curves-CrackSeg.svg"}
    assert contents(out).keys() == kept | {"report.html", "report.md", "figures/SHA256SUMS",
                                           "figures/curves-UP-CrackNet.svg"}  # fmt: skip
    assert (out / "figures" / "mine.svg").read_text() == "by hand"


def test_a_folder_of_pictures_that_is_empty_goes_too_and_the_list_is_that_of_sha256sum(floored, records, tmp_path):
    out = tmp_path / "out"
    command("report", floored, "--data", data(), "--out", out, "--figures", "method-grid").ok()
    made.score(tmp_path / "lone", "otsu", tables=False)
    command("report", tmp_path / "lone", "--out", out).ok()
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["SHA256SUMS"]
    command("report", records, "--out", out).ok()
    for line in (out / "figures" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / "figures" / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["../outside.svg", "/etc/outside.svg", "a/b/1-1.jpg", "report.html", "x\ny.svg"])
def test_a_list_that_names_anything_else_removes_nothing(records, tmp_path, name):
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (tmp_path / "out" / "outside.svg").write_text("mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    (out / "figures" / "SHA256SUMS").write_text(f"{digest}  {name}\nnonsense\n")
    command("report", records, "--out", out).ok()
    assert (out / "outside.svg").read_text() == "mine"


def test_a_link_in_the_figures_is_not_followed(records, tmp_path):
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (tmp_path / "mine.svg").write_text("mine")
    (out / "figures" / "old.svg").symlink_to(tmp_path / "mine.svg")
    (out / "figures" / "SHA256SUMS").write_text(f"{hashlib.sha256(b'mine').hexdigest()}  old.svg\n")
    command("report", records, "--out", out).ok()
    assert (tmp_path / "mine.svg").read_text() == "mine" and (out / "figures" / "old.svg").is_symlink()


def test_the_size_of_a_picture_is_the_photographs_up_to_the_first_rung(floored, model):
    (grid,) = figures(model(floored, figures=("method-grid",), limit=1), "method-grid")
    assert (grid.rows[0].pictures[0].width, grid.rows[0].pictures[0].height) == (64, 48)
    assert Scale(32, 80).size(48, 64) == (24, 32)


def test_the_page_tells_what_it_was_made_of(records, tmp_path):
    command("report", records, "--out", tmp_path / "out").ok()
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 training and 1 evaluation, from their records on disk." in text
    assert json.loads((records / "experiment.json").read_text())["run_id"] in text

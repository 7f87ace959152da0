"""Drawings: a line for each run, letters as text, the schedule as it was, the same bytes again."""

import json
import re
from html import escape
from xml.etree import ElementTree

import numpy as np
import optax
import pytest

from cracks_jax.report import plots
from cracks_jax.report.gather import gather
from cracks_jax.report.page import html
from tests.report import made

GREY = "#8c8c8c"
SVG = "{http://www.w3.org/2000/svg}"


def curves(*folders):
    return {plot.name: plot for plot in plots.learning_curves(gather(folders).runs)}


def precision_recall(*folders):
    return {plot.name: plot for plot in plots.precision_recall(made.found(*folders)[1])}


def drawn(svg: str):
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()).strip() for one in drawn(svg).iter(f"{SVG}text")]


def lines(svg: str) -> list[tuple[str, str]]:
    """(colour, path) of each line in a colour: grey is the grid or equal F1, what has no clip is the legend's."""
    found = []
    for group in drawn(svg).iter(f"{SVG}g"):
        if group.get("id", "").startswith("legend"):
            break
        for path in (one for one in group.findall(f"{SVG}path") if group.get("id", "").startswith("line2d")):
            colour = re.search(r"stroke: (#[0-9a-f]{6})", path.get("style", ""))
            if colour and colour[1] != GREY and "clip-path" in path.attrib:
                found.append((colour[1], path.get("d", "")))
    return found


@pytest.fixture
def three(tmp_path):
    for seed in range(3):
        made.run(tmp_path / f"seed{seed}", made.smoke(seed=seed))
    made.run(tmp_path / "supervised", made.smoke("crackseg_deepcrack", "scratch"))
    return tmp_path


def test_each_method_has_a_drawing_with_a_line_for_each_run_in_each_panel(three):
    found = curves(three)
    assert list(found) == ["curves-CrackSeg", "curves-UP-CrackNet"]
    # Total loss, MAE, two rates and the validation's IoU; of CrackSeg the one rate that it has.
    for name, runs, panels in (("curves-UP-CrackNet", 3, 5), ("curves-CrackSeg", 1, 4)):
        in_colour = [colour for colour, _ in lines(found[name].svg)]
        assert len(in_colour) == runs * panels
        assert {in_colour.count(colour) for colour in in_colour} == {panels}, "a run has one colour in every panel"
        assert len(set(in_colour)) == runs


def test_letters_are_text_and_say_what_is_drawn(three):
    found = curves(three)["curves-UP-CrackNet"]
    said = texts(found.svg)
    for word in ("train: total loss", "train: MAE", "learning rate", "learning rate of the discriminator",
                 "validation: iou", "step", "seed0", "seed1", "seed2"):  # fmt: skip
        assert word in said and (word in found.alt or word == "step"), word
    assert "currentColor" in found.svg and "#010203" not in found.svg
    assert "supervised" not in found.svg


def test_the_same_runs_give_the_same_drawing(three, tmp_path):
    for seed in range(2):
        made.score(tmp_path / f"seed{seed}" / "scores", "otsu", made.smoke(seed=seed))
    assert curves(three) == curves(three)
    assert precision_recall(three) == precision_recall(three) != {}


@pytest.mark.parametrize("kind", ["exponential", "poly", "constant"])
def test_the_learning_rate_is_optaxs(tmp_path, kind):
    """10 images, batches of 2: an epoch is 5 steps. A step from 1 on has the rate of the steps taken before it."""
    one = made.smoke(training__schedule=kind, training__steps=40, training__batch_size=2)
    run = made.run(tmp_path / "run", one, steps=40)
    training = one.training
    expected = {
        "exponential": optax.exponential_decay(training.learning_rate, 5, 0.99, staircase=True),
        "poly": optax.polynomial_schedule(training.learning_rate, 1e-6, 0.9, 40),
        "constant": optax.constant_schedule(training.learning_rate),
    }[kind]
    panels = plots._rates(gather([run]).runs)
    line = dict(panels["learning rate"]["run"])
    assert sorted(line) == list(range(1, 41))
    for step in (1, 2, 5, 6, 11, 26, 40):
        assert line[step] == pytest.approx(float(expected(step - 1)), rel=1e-5)
    other = dict(panels["learning rate of the discriminator"]["run"])
    assert other[26] / line[26] == pytest.approx(training.discriminator_learning_rate / training.learning_rate)


def test_what_is_recorded_is_what_is_drawn(tmp_path):
    run = made.run(tmp_path / "run", made.smoke())
    (found,) = gather([run]).runs
    assert plots._recorded([found], "train")["train: total loss"]["run"] == [(1, 4), (2, 3), (3, 2), (4, 1)]
    assert plots._recorded([found], "validation") == {"validation: iou": {"run": [(4, 0.5)]}}


@pytest.mark.parametrize("points", [1, 399, 400, 401, 799, 1000, 12345])
def test_a_long_line_keeps_both_ends(points):
    line = [(i, float(i)) for i in range(points)]
    thin = plots._thinned(line)
    assert (thin[0], thin[-1]) == (line[0], line[-1]) and len(thin) <= 400
    assert len(thin) > min(points - 1, 190) and thin == sorted(set(thin))


def test_a_run_whose_settings_are_lost_has_its_curves_all_the_same(tmp_path):
    run = made.run(tmp_path / "lost", made.smoke())
    (run / "experiment.json").unlink()
    (plot,) = curves(run).values()
    assert plot.name == "curves-unknown method" and "train: total loss" in texts(plot.svg)


def test_records_without_a_number_are_no_drawing(tmp_path):
    run = made.run(tmp_path / "run", made.smoke())
    (run / "records.jsonl").write_text('{"event": "note", "step": 1, "said": "hello"}\n')
    assert curves(run) == {}


@pytest.mark.parametrize("name", ["$x$ and $\\frac$", "_hidden", "<b>&amp;", "x" * 200])
def test_any_name_stands_in_the_legend(tmp_path, name):
    one = made.smoke()
    run = made.run(tmp_path / name, one)
    made.score(run / "scores", "otsu", one, experiment=name)
    shown = name if len(name) < 90 else "x" * 40 + "…" + "x" * 40
    for plot in (*curves(run).values(), *precision_recall(run).values()):
        assert shown in texts(plot.svg)
        assert escape(shown, quote=False) in html(made.empty_report(plot))


# ------------------------------------------------------------------------------------------------ precision, recall


def _positions(svg: str) -> np.ndarray:
    """Where round marks stand, x and y, in the order in which they were drawn."""
    marks = [use for use in drawn(svg).iter(f"{SVG}use") if re.search(r"fill: #[0-9a-f]{6}", use.get("style", ""))]
    return np.array([(float(use.get("x")), float(use.get("y"))) for use in marks])


def test_a_line_for_each_map_and_a_mark_where_each_rule_cuts_it(tmp_path):
    """Two rules of one map share its line. A mark's place is found from the line's own points, which are known."""
    one = made.smoke()
    made.run(tmp_path / "run", one)
    made.score(tmp_path / "run" / "scores", "a", one, precision=0.5, recall=0.6)
    made.score(tmp_path / "run" / "scores", "b", one, precision=0.9, recall=0.1, rule="undamaged:0.995")
    made.score(tmp_path / "floor", "c", precision=0.3, recall=0.75)
    (plot,) = precision_recall(tmp_path).values()
    assert plot.name == "pr-deepcrack:test-native"
    curved = lines(plot.svg)
    assert len(curved) == len({colour for colour, _ in curved}) == 2
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", curved[0][1]), float)
    curve = np.array([(recall, precision) for _, precision, recall in made.CURVE])
    assert len(points) == len(curve)
    scale = np.polyfit(curve[:, 0], points[:, 0], 1), np.polyfit(curve[:, 1], points[:, 1], 1)
    found = [(np.polyval(scale[0], recall), np.polyval(scale[1], precision))
             for recall, precision in ((0.75, 0.3), (0.6, 0.5), (0.1, 0.9))]  # fmt: skip
    np.testing.assert_allclose(_positions(plot.svg), found, atol=0.01)
    said = texts(plot.svg)
    assert {"recall", "precision", "otsu", "undamaged:0.995", "background_difference"} <= set(said)
    assert "by otsu: precision 0.50, recall 0.60" in plot.alt


def test_every_seed_has_its_line_in_one_colour_and_one_name(tmp_path):
    for seed in (0, 1):
        one = made.smoke(seed=seed)
        made.run(tmp_path / f"s{seed}", one)
        path = made.score(tmp_path / f"s{seed}" / "scores", "a", one)
        if seed:
            table = path.with_suffix(".curve.csv")
            table.write_text(table.read_text().replace("0.5", "0.55"))
    (plot,) = precision_recall(tmp_path).values()
    curved = lines(plot.svg)
    assert len(curved) == len({path for _, path in curved}) == 2 and len({colour for colour, _ in curved}) == 1
    assert texts(plot.svg).count("upcracknet_deepcrack-smoke-masks") == 1


def test_records_without_a_curve_are_no_drawing(tmp_path):
    made.score(tmp_path, "a", tables=False)
    assert precision_recall(tmp_path) == {}


def test_drawings_of_records_are_the_runs_own(tmp_path):
    """Each data set and geometry has its own."""
    for place, (data, geometry) in enumerate((("a:test", "native"), ("a:test", "resize256"), ("b", "native"))):
        path = made.score(tmp_path, str(place), data=data, geometry=geometry)
        assert json.loads(path.read_text())["data"] == data
    assert list(precision_recall(tmp_path)) == ["pr-a:test-native", "pr-a:test-resize256", "pr-b-native"]

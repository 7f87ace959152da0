"""Evaluations by whom and detected how; the papers' ablation tables with ours in their rows; what was run."""

import json

import pytest

from cracks_jax.experiment import from_json, to_json
from cracks_jax.methods.restoration import LOSS_WEIGHTS
from cracks_jax.networks.crackseg import VARIANTS
from cracks_jax.report.ablations import ablations
from cracks_jax.report.facts import facts
from cracks_jax.report.gather import gather
from tests.report import made

# Beside MAE, in the order of UP-CrackNet's Table I (UPCRACKNET.md section 9): its F1 and true precision as printed.
TABLE_1 = (
    ((), 39.457, 29.387),
    (("ssim",), 51.621, 40.326),
    (("msgms",), 54.363, 53.561),
    (("style",), 43.864, 35.620),
    (("adversarial",), 59.141, 57.502),
    (("ssim", "msgms"), 58.651, 48.014),
    (("ssim", "msgms", "style"), 59.434, 48.533),
    (("ssim", "msgms", "adversarial"), 60.116, 61.021),
    (("ssim", "msgms", "style", "adversarial"), 61.808, 58.609),
)


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"command": "cracks-jax evaluate runs/r --data d --json"}, "default"),
        ({"preset": "hidden", "command": "cracks-jax evaluate runs/r --data d --preset hidden --json"}, "hidden"),
        ({"detection_preset": "authors"}, "authors"),
        ({"detection_preset": "own"}, "own"),
        ({"command": "cracks-jax evaluate r --data d --set detection.filter=none detection.dropout=true --json"},
         "filter=none, dropout=true"),
        ({"preset": "paper", "command": "cracks-jax evaluate r --data d --preset paper --set detection.tile=96 --json"},
         "paper, tile=96"),
        ({"command": "cracks-jax evaluate r --data d --tile 512 --checkpoint last --json"},
         "tile 512, checkpoint last"),
    ],
)  # fmt: skip
def test_the_detection_is_called_by_its_preset_and_by_what_was_changed(tmp_path, changes, label):
    made.score(tmp_path, "s", made.smoke(), **changes)
    (entry,) = made.found(tmp_path)[1]
    assert entry.detection == label


def test_evaluations_that_differ_in_detection_or_rule_are_rows_of_their_own(tmp_path):
    words = "cracks-jax evaluate r --data d"
    made.score(tmp_path, "a", made.smoke(), command=f"{words} --set detection.filter=none --json")
    made.score(tmp_path, "b", made.smoke(), command=f"{words} --preset hidden --set detection.filter=none --json",
               preset="hidden")  # fmt: skip
    made.score(tmp_path, "c", made.smoke(), command=f"{words} --checkpoint last --json")
    made.score(tmp_path, "d", made.smoke(), rule="0.5")
    made.score(tmp_path, "e", made.smoke(), geometry="resize256")
    assert len(made.found(tmp_path)[1]) == 5


def test_a_floor_is_no_evaluation_of_a_run_without_a_name(tmp_path):
    """experiment.json may have lost its run_id, and the floor's record has none: they do not belong together."""
    run = made.run(tmp_path / "run", made.smoke())
    described = json.loads((run / "experiment.json").read_text())
    del described["run_id"]
    (run / "experiment.json").write_text(json.dumps(described))
    made.score(tmp_path / "floor", "s")
    found, (entry,) = made.found(tmp_path)
    assert (entry.method, entry.seeds) == ("floor", (None,))
    assert ablations(found.runs, [entry]) == []


def test_a_run_that_is_not_at_hand_is_told_by_its_name(tmp_path):
    made.score(tmp_path, "a", made.smoke("crackseg_deepcrack", "scratch"))
    made.score(tmp_path, "b", made.smoke())
    assert [(one.method, one.trained_on) for one in made.found(tmp_path)[1]] == [("CrackSeg", ""), ("UP-CrackNet", "")]


# ------------------------------------------------------------------------------------------------- ablations


def _ablation(tmp_path, *experiments):
    for place, one in enumerate(experiments):
        assert from_json(json.loads(json.dumps(to_json(one)))).run_id == one.run_id
        made.run(tmp_path / f"r{place}", one)
        made.score(tmp_path / f"r{place}" / "scores", "otsu", one, f1=0.01 * (place + 1))
    found, entries = made.found(tmp_path)
    return {table.name: table for table in ablations(found.runs, entries)}


def _places(table) -> list[int]:
    """The number of the printed row behind which each of ours stands."""
    places, printed = [], 0
    for row in table.rows:
        printed += row.kind == "paper"
        if row.kind == "ours":
            places.append(printed)
            assert row.cells[0].text.startswith(f"{printed}. ")
    return places


@pytest.mark.parametrize("number", ["4", "5"])
def test_each_variant_of_crackseg_stands_in_its_row(tmp_path, number):
    variants = [name for name in VARIANTS if name.startswith(f"table{number}_")]
    experiments = [made.smoke("crackseg_deepcrack", "scratch", method__variant=name) for name in reversed(variants)]
    (table,) = _ablation(tmp_path, *experiments).values()
    assert table.name == f"ablation-crackseg-{number}"
    assert _places(table) == list(range(1, len(variants) + 1)) and "not trained here" not in table.caption
    # Each of ours is told by its settings: the name of a run holds no variant.
    found, entries = made.found(tmp_path)
    by_id = {run.run_id: run.experiment.method.variant for run in found.runs}
    shown = {row.cells[1].text: row.cells[0].value for row in table.rows if row.kind == "ours"}
    for entry in entries:
        assert variants[int(shown[entry.who])] == by_id[entry.row["run_id"]]


def _trained_with(losses, corruption="squares", **weights):
    """The smoke form of UP-CrackNet with MAE and these losses."""
    zero = {name: 0.0 for name in ("ssim", "msgms", "style", "adversarial") if name not in losses}
    style = {"method__style_extractor": "squeezenet1.1"} if "style" in losses else {}
    return made.smoke("upcracknet_crack500", training__loss_weights={**LOSS_WEIGHTS, **zero, **weights},
                      data__pipeline__corruption=corruption, **style)  # fmt: skip


@pytest.mark.parametrize("place", range(9))
def test_each_choice_of_losses_stands_in_its_row_of_table_1(tmp_path, place):
    losses, f1, precision = TABLE_1[place]
    table = _ablation(tmp_path, _trained_with(losses))["ablation-upcracknet-I"]
    assert _places(table) == [place + 1] and len(table.rows) == 10
    assert "Of its 9 rows 8 were not trained here." in table.caption
    printed = made.cells(table, table.rows[place])
    assert (printed["f1"].text, printed["precision"].text) == (f"{f1:.1f}", f"{precision:.1f}")
    ours = made.cells(table, table.rows[place + 1])
    assert (ours["f1"].text, ours["by"].text) == ("1.0", "upcracknet_crack500-smoke")


def test_style_without_an_extractor_is_no_style_loss(tmp_path):
    table = _ablation(tmp_path, made.smoke())["ablation-upcracknet-I"]
    assert _places(table) == [8], "its weight is 10, and nothing computes it"


@pytest.mark.parametrize(("corruption", "place"), [("jumbled", 1), ("stripes", 2), ("squares", 3)])
def test_each_shape_of_masks_stands_in_its_row_of_table_2(tmp_path, corruption, place):
    found = _ablation(tmp_path, _trained_with(TABLE_1[-1][0], corruption))
    assert _places(found["ablation-upcracknet-II"]) == [place]
    assert ("ablation-upcracknet-I" in found) == (corruption == "squares")
    printed = made.rows(found["ablation-upcracknet-II"], "paper")
    assert [row["f1"].text for row in printed] == ["48.7", "58.9", "61.8"]


@pytest.mark.parametrize(
    "one",
    [
        _trained_with(("style",), mae=0.0),
        _trained_with(TABLE_1[-1][0], restoration=0.0),
        _trained_with(("ssim", "adversarial")),
        _trained_with(("ssim",), "stripes"),
        made.smoke("crackseg_deepcrack", "scratch", method__variant="reading_R2"),
    ],
    ids=["no MAE", "all restoring losses off", "a choice that is not printed", "other masks", "another reading"],
)
def test_what_the_papers_did_not_train_stands_in_no_row(tmp_path, one):
    assert _ablation(tmp_path, one) == {}


# ----------------------------------------------------------------------------------------------- what was run


def _facts(folder):
    (run,) = gather([folder]).runs
    told = facts(run)
    return told, dict(told.facts)


def test_only_settings_that_differ_are_listed_with_their_defaults(tmp_path):
    weights = {**LOSS_WEIGHTS, "ssim": 0.0}
    one = made.smoke(training__loss_weights=weights, training__patience=None, detection__filter="none")
    told, _ = _facts(made.run(tmp_path / "run", one))
    assert dict((name, (ours, default)) for name, ours, default in told.settings) == {
        "method.base": ("4", "64"),
        "method.depth": ("5", "8"),
        "method.discriminator_base": ("4", "64"),
        "data.recipe_settings.train": ("8", "none"),
        "data.recipe_settings.test": ("4", "none"),
        "data.recipe_settings.undamaged": ("12", "none"),
        "data.recipe_settings.size": ("[64, 64]", "none"),
        "data.pipeline.crop": ("32", "256"),
        "data.pipeline.resize": ("36", "none"),
        "training.steps": ("4", "11840"),
        "training.batch_size": ("4", "8"),
        "training.schedule": ("exponential", "poly"),
        "training.loss_weights.ssim": ("0.0", "1.0"),
        "training.validate_every": ("2", "592"),
        "detection.filter": ("none", "gaussian"),
    }


def test_a_setting_at_its_default_is_not_listed(tmp_path):
    told, _ = _facts(made.run(tmp_path / "run", made.smoke("crackseg_deepcrack", "scratch")))
    names = {name for name, _, _ in told.settings}
    assert {"method.narrow", "training.steps", "data.pipeline.flip_vertical"} <= names
    assert not names & {"method.variant", "data.pipeline.flip_horizontal", "training.schedule", "seed", "name",
                        "detection.rule", "data.pipeline.corruption", "training.loss_weights"}  # fmt: skip


def test_data_seed_software_device_time_and_command_are_told(tmp_path):
    one = made.smoke(seed=7)
    told, known = _facts(made.run(tmp_path / "run", one))
    assert (told.name, told.state, told.finished) == ("run", "finished", True)
    assert told.command == "cracks-jax train --repeat runs/run"
    assert known == {
        "method": "UP-CrackNet", "run": one.run_id, "trained on": "drawn:undamaged", "data digest": "90c05d7eada1ce90",
        "images": "10, 2 held out", "seed": "7", "steps": "4 of 4",
        "best checkpoint": "step 2, validation iou 0.5123", "time": "42 min", "device": "1 x x86_64 CPU, 2 cores",
        "software": "cracks-jax 0.1.0, python 3.11.7, jax 0.10.2", "revision": "0123456789ab with changes",
        "final state": "2bb78befe5443a47",
    }  # fmt: skip


def test_the_time_is_that_of_all_attempts_and_says_what_it_lacks(tmp_path):
    run = made.run(tmp_path / "run", made.smoke())
    described = json.loads((run / "experiment.json").read_text())
    described["attempts"] = [{"from_step": 0}, {"from_step": 1, "seconds": 600}, {"from_step": 2, "seconds": 1200}]
    (run / "experiment.json").write_text(json.dumps(described))
    assert _facts(run)[1]["time"] == "30 min in 3 attempts, a part of it not recorded"
    described["attempts"] = [{"from_step": 0, "seconds": 45}]
    (run / "experiment.json").write_text(json.dumps(described))
    assert _facts(run)[1]["time"] == "45 s"


def test_an_experiment_of_another_version_tells_what_it_can(tmp_path):
    run = made.run(tmp_path / "run", made.smoke(seed=3))
    described = json.loads((run / "experiment.json").read_text())
    described["science"]["training"]["of_tomorrow"] = 1
    (run / "experiment.json").write_text(json.dumps(described))
    told, known = _facts(run)
    assert (known["seed"], known["trained on"], known["steps"]) == ("3", "drawn:undamaged", "4")
    assert told.settings == () and told.command == "", "it cannot be repeated here"

"""Experiments: from file to object to JSON and back, what a run's name is made of, and what --set understands."""

import dataclasses
import functools
import json
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import _LATER, Experiment, apply_settings, from_json, load_file, science, to_json
from cracks_jax.methods.presets import DETECTION_PRESETS, LOSSES
from cracks_jax.methods.restoration import Losses, Restoration
from cracks_jax.methods.segmentation import Segmentation
from tests import tiny

FOLDER = Path(__file__).parents[1] / "experiments"
# Those that define trainings; the others are studies of them (tests/test_study.py).
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if "def experiment(" in path.read_text())
FORMS = ("paper", "cpu", "smoke")


def _members(stem, form):
    """Every experiment of a file's form, as a user reaches it."""
    first = load_file(f"{FOLDER / stem}.py:{form}")
    if first.member is None:
        return [first]
    found = [first]
    with pytest.raises(UsageError, match="has no member '-'; it has ") as error:
        load_file(f"{FOLDER / stem}.py:{form}", "-")
    for name in str(error.value).rpartition("it has ")[2].split(", "):
        found.append(load_file(f"{FOLDER / stem}.py:{form}", name))
    assert found[0] == found[1], "the first member is the default"
    return found[1:]


@pytest.fixture
def restoration(tmp_path) -> Experiment:
    return tiny.experiment(tmp_path)


@pytest.fixture
def crackseg(tmp_path) -> Experiment:
    return tiny.experiment(tmp_path, "segmentation")


# --- the files


def test_both_papers_have_a_file_per_data_set():
    assert {f"{m}_{d}" for m in ("upcracknet", "crackseg") for d in ("deepcrack", "crack500")} <= set(FILES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stem", FILES)
def test_every_member_survives_json_and_is_named_after_its_file(stem, form):
    ids = set()
    for one in _members(stem, form):
        assert (one.name, one.form) == (stem, form)
        again = from_json(json.loads(json.dumps(to_json(one))))
        assert dataclasses.replace(again, machine=one.machine) == one
        assert again.run_id == one.run_id
        ids.add(one.run_id)
    assert len(ids) == len(_members(stem, form))


def test_the_default_member_and_form_are_the_papers():
    found = load_file(str(FOLDER / "crackseg_deepcrack.py"))
    assert (found.member, found.form) == ("imagenet_v1", "paper")
    assert {m.member for m in _members("crackseg_deepcrack", "paper")} == {"imagenet_v1", "imagenet_v2", "scratch"}


@pytest.mark.parametrize("stem", FILES)
def test_the_paper_forms_settings_are_the_papers(stem):
    one = load_file(f"{FOLDER / stem}.py")
    training = one.training
    assert (training.batch_size, training.learning_rate, one.data.pipeline.crop) == (8, 1e-4, 256)
    assert one.matmul_precision == "highest" and training.preset == "default"
    if isinstance(one.method, Segmentation):
        assert (training.steps, training.validate_every, training.schedule) == (11_840, 592, "poly")
        assert one.method.bn_momentum == 0.9997 and training.weight_decay == 5e-4
        assert (one.method.beta1, one.method.beta2, one.data.pipeline.scale) == (0.9, 0.999, (1.0, 2.0))
    else:
        assert training.discriminator_learning_rate == 4e-4 and training.patience == 20
        assert (training.schedule, training.schedule_decay) == ("exponential", 0.99)
        assert (one.method.beta1, one.method.beta2, one.method.base, one.method.depth) == (0.5, 0.999, 64, 8)
        kind = "jumbled" if stem == "upcracknet_table2" else "squares"  # the first row of Table II
        assert one.data.pipeline.resize == 286 and one.data.pipeline.corruption == kind
        # 200 epochs, a validation after each.
        assert training.steps / training.validate_every == pytest.approx(200, rel=0.02)
        assert one.detection == DETECTION_PRESETS["default"]


@pytest.mark.parametrize("stem", sorted(set(FILES) - {"crackseg_table4", "crackseg_table5"}))
def test_the_paper_forms_build_with_the_papers_parameter_counts(stem):
    one = load_file(f"{FOLDER / stem}.py")
    method = one.method
    if isinstance(method, Restoration):
        method = dataclasses.replace(method, style_extractor="none")
    side = one.data.pipeline.crop
    image = jax.ShapeDtypeStruct((8, side, side, 3), jnp.float32)
    state = jax.eval_shape(lambda key: method.init(key, {"image": image}), jax.random.key(0))
    count = {name: _size(part["params"]) for name, part in state.items() if isinstance(part, dict)}
    if isinstance(method, Segmentation):
        assert count == {"network": 33_296_962}
    else:
        assert count == {"generator": 54_419_459, "discriminator": 2_769_601}


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# --- the run's name


def test_any_science_field_changes_the_run_id_and_no_machine_field_does(restoration):
    changes = [
        "seed=1",
        "training.steps=5",
        "training.learning_rate=0.002",
        "training.loss_weights.ssim=2",
        "method.base=8",
        "method.losses.adversarial=minimax",
        "data.pipeline.flip_vertical=true",
        "data.recipe_settings.undamaged=11",
        "detection.filter=none",
        "matmul_precision=default",
    ]
    ids = {apply_settings(restoration, [text]).run_id for text in changes} | {restoration.run_id}
    assert len(ids) == len(changes) + 1
    machine = ["workers=2", "devices=2", "parallel=pmap", "log_every=3", "checkpoint_every=9", "cache=elsewhere"]
    machine += ["compilation_cache=none", "compilation_cache=elsewhere"]
    for text in machine:
        assert apply_settings(restoration, [f"machine.{text}"]).run_id == restoration.run_id


def test_every_field_outside_machine_is_hashed(restoration):
    """No field can be forgotten: the hashed tree has every dataclass's every field, once it is used."""
    assert USED.keys() == _LATER.keys()
    tree = science(apply_settings(restoration, [f"{'.'.join(path)}={value}" for path, value in USED.items()]))
    for part, node in ((tree, restoration), (tree["data"], restoration.data), (tree["training"], restoration.training)):
        assert set(part) | {"machine"} >= {f.name for f in dataclasses.fields(node)}
    assert tree["method"]["kind"] == "restoration" and "machine" not in tree


# Settings that came after the first runs, each with a value that is not its default.
USED = {
    ("data", "bad_images"): "drop",
    ("data", "pipeline", "noise"): 0.2,
    ("training", "skip_non_finite"): 3,
    ("method", "accumulate"): 2,
}


@pytest.mark.parametrize(
    ("stem", "form", "run_id"),
    [
        ("crackseg_deepcrack", "paper", "e7baeac4"),
        ("crackseg_crack500", "cpu", "f3353ada"),
        ("upcracknet_deepcrack", "smoke", "8d9748ac"),
    ],
)
def test_settings_that_came_later_leave_the_names_of_earlier_runs_as_they_were(stem, form, run_id):
    assert load_file(f"{FOLDER / stem}.py:{form}").run_id == run_id


@pytest.mark.parametrize("path", USED, ids=".".join)
def test_a_later_setting_is_hashed_when_it_is_used_and_survives_json_either_way(restoration, path):
    changed = apply_settings(restoration, [f"{'.'.join(path)}={USED[path]}"])
    assert changed.run_id != restoration.run_id
    assert path[-1] not in functools.reduce(operator.getitem, path[:-1], science(restoration))
    for one in (changed, restoration):
        assert dataclasses.replace(from_json(to_json(one)), machine=one.machine) == one


def test_where_data_lie_is_no_science_and_is_not_recorded(crackseg):
    here, there = (
        dataclasses.replace(
            crackseg,
            data=dataclasses.replace(crackseg.data, name=f"{root}/roads"),
            training=dataclasses.replace(crackseg.training, pretrained=f"{root}/trunk.npz"),
        )
        for root in ("/somewhere/private", "elsewhere")
    )
    assert here.run_id == there.run_id
    assert "private" not in json.dumps(to_json(here)) and science(here)["training"]["pretrained"] == "trunk.npz"


def test_equal_settings_given_differently_are_one_science(restoration):
    texts = ["training.loss_weights.mae=1", "training.learning_rate=1e-3", "data.pipeline.scale=[1, 1]"]
    same = apply_settings(restoration, texts)
    assert same.run_id == restoration.run_id


# --- --set


def test_values_are_converted_to_their_fields_types(restoration):
    one = apply_settings(
        restoration,
        [
            "training.steps=7",
            "training.learning_rate=1",
            "training.patience=3",
            "data.pipeline.flip_horizontal=False",
            "data.pipeline.scale=[1, 2]",
            "data.pipeline.jumble_cells=[2,4]",
            "data.split=train",
            "detection.filter=none",
            "detection.rule=0.5",
            "machine.devices=none",
            "data.recipe_settings.note=free text",
        ],
    )
    assert (one.training.steps, one.training.patience, one.machine.devices) == (7, 3, None)
    assert one.training.learning_rate == 1.0 and isinstance(one.training.learning_rate, float)
    assert one.data.pipeline.flip_horizontal is False and one.data.split == "train"
    assert one.data.pipeline.scale == (1.0, 2.0) and one.data.pipeline.jumble_cells == (2, 4)
    assert one.detection.filter == "none" and one.detection.rule == "0.5"
    assert one.data.recipe_settings["note"] == "free text" and restoration.training.steps == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.steps", "--set training.steps: expected path.to.field=value"),
        ("=3", "expected path.to.field=value"),
        ("training.stepz=3", "there is no setting 'stepz'; here there are steps, batch_size"),
        ("trainer.steps=3", "there is no setting 'trainer'; here there are name, form, method"),
        ("training=3", "'training' is a group; name its fields, for example training.FIELD=VALUE"),
        ("training.steps.more=3", "nothing lies below 'training.steps'"),
        ("training.steps=many", "--set training.steps=many: .*'many' \\(str\\); expected int"),
        ("training.steps=1.5", "1.5 \\(float\\); expected int"),
        ("training.steps=true", "True \\(bool\\); expected int"),
        ("training.learning_rate=fast", "'fast' \\(str\\); expected float"),
        ("data.pipeline.flip_vertical=1", "1 \\(int\\); expected bool"),
        ("training.schedule=cosine", "'cosine'; expected one of constant, exponential, poly"),
        ("data.pipeline.scale=[1,2,3]", "3 values; expected 2"),
        ("data.pipeline.corruption=none", "data.pipeline.corruption is none; UP-CrackNet learns from"),
        ("data.pipeline.corruption=holes", "expected one of squares, stripes, jumbled"),
        ("training.loss_weights.styl=1", "training.loss_weights.styl: there is no such loss term; its terms are mae"),
        ("training.loss_weights.mae=heavy", "training.loss_weights.mae is 'heavy'; expected a number"),
        ("training.steps=0", "training.steps is 0; expected at least 1"),
        ("method.depth=6", "method.depth is 6; windows of 32 px"),
        ("data.pipeline.crop=40", "crop"),
        ("data.bad_images=skip", "'skip'; expected one of fail, replace, drop"),
        ("seed=-1", "seed is -1; expected 0 to"),
    ],
)
def test_what_cannot_be_set_is_said(restoration, text, message):
    with pytest.raises(UsageError, match=message):
        apply_settings(restoration, [text])


def test_settings_that_fit_only_together_are_set_together(restoration):
    one = apply_settings(restoration, ["method.depth=6", "data.pipeline.crop=64"])
    assert (one.method.depth, one.data.pipeline.crop) == (6, 64)


# --- training presets


def _with_resize(experiment):
    pipeline = dataclasses.replace(experiment.data.pipeline, resize=36)
    training = dataclasses.replace(experiment.training, steps=200, patience=20)
    data = dataclasses.replace(experiment.data, pipeline=pipeline)
    return dataclasses.replace(experiment, data=data, training=training)


def test_the_authors_preset_is_its_column_of_the_table(restoration):
    """UPCRACKNET.md 6b, from the learning rates on."""
    one = apply_settings(_with_resize(restoration), ["training.preset=authors"])
    assert one.method.losses == Losses(
        adversarial="non_saturating",
        generator_again=True,
        bgr=True,
        ssim_range=1.0,
        ssim_padding=5,
        msgms_median=True,
        msgms_padding=0,
        style_standardised=False,
    )
    assert one.method.unbiased_running_var and one.data.pipeline.corrupt_before
    assert one.training.loss_weights["discriminator"] == 0.5
    assert (one.training.steps, one.training.patience, one.training.preset) == (300, None, "authors")
    before = _with_resize(restoration).training
    assert (one.training.learning_rate, one.training.schedule) == (before.learning_rate, before.schedule)


def test_the_papers_preset_differs_from_the_default_in_the_adversarial_loss_alone(restoration):
    start = _with_resize(restoration)
    one = apply_settings(start, ["training.preset=paper"])
    assert one.method.losses == Losses(adversarial="minimax")
    undone = dataclasses.replace(
        one,
        method=dataclasses.replace(one.method, losses=LOSSES["default"]),
        training=dataclasses.replace(one.training, preset="default"),
    )
    assert undone == start


def test_presets_can_be_given_twice_and_taken_back(restoration):
    start = _with_resize(restoration)
    authors = apply_settings(start, ["training.preset=authors"])
    assert apply_settings(authors, ["training.preset=authors"]) == authors
    assert apply_settings(authors, ["training.preset=default"]) == start


def test_what_is_set_beside_a_preset_wins_wherever_it_stands(restoration):
    for texts in (["training.steps=9", "training.preset=authors"], ["training.preset=authors", "training.steps=9"]):
        one = apply_settings(_with_resize(restoration), texts)
        assert one.training.steps == 9 and one.method.losses.bgr


def test_presets_belong_to_upcracknet_and_have_names(restoration, crackseg):
    with pytest.raises(UsageError, match="training.preset=authors: presets belong to UP-CrackNet"):
        apply_settings(crackseg, ["training.preset=authors"])
    with pytest.raises(UsageError, match="'best'; expected one of default, paper, authors"):
        apply_settings(restoration, ["training.preset=best"])


# --- files that are not experiments


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def experiment(form): return 3", "gave int; it must give an Experiment"),
        ("def experiment(form): return {}", "gave no member"),
        ("x = 1", "cannot be read as an experiment: AttributeError"),
        ("def experiment(form)", "cannot be read as an experiment: SyntaxError"),
        ("import nowhere_at_all", "cannot be read as an experiment: ModuleNotFoundError"),
        ("raise SystemExit(0)", "cannot be read as an experiment: SystemExit"),
    ],
)
def test_a_file_that_gives_no_experiment_is_named(tmp_path, content, message):
    path = tmp_path / "study.py"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"study.py: .*{message}"):
        load_file(str(path))


def test_unknown_files_forms_and_members_are_refused_with_the_known_ones(tmp_path):
    known = FOLDER / "crackseg_deepcrack.py"
    with pytest.raises(UsageError, match="nowhere.py: no such experiment file; give a Python file such as"):
        load_file("nowhere.py:cpu")
    with pytest.raises(UsageError, match="unknown form 'gpu'; a form is one of paper, cpu, smoke"):
        load_file(f"{known}:gpu")
    with pytest.raises(UsageError, match="has no member 'v3'; it has imagenet_v1, imagenet_v2, scratch"):
        load_file(str(known), "v3")
    (tmp_path / "alone.py").write_text(
        "from tests import tiny\nfrom pathlib import Path\ndef experiment(form): return tiny.experiment(Path('c'))\n"
    )
    with pytest.raises(UsageError, match="defines one experiment, not a table: leave out --member x"):
        load_file(str(tmp_path / "alone.py"), "x")


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.pop("science"),
        lambda tree: tree["science"].pop("method"),
        lambda tree: tree["science"]["method"].update(kind="diffusion"),
        lambda tree: tree["science"]["training"].update(warmup=3),
        lambda tree: tree["science"]["training"].update(steps="many"),
        lambda tree: tree.update(science=[1]),
    ],
)
def test_a_record_of_another_version_is_a_clear_error(restoration, damage):
    tree = to_json(restoration)
    damage(tree)
    with pytest.raises(CracksError, match="runs/x/experiment.json: not an experiment of this version"):
        from_json(tree, "runs/x/experiment.json")

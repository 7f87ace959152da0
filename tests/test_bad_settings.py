"""An experiment, form, member or setting that is not there or makes no sense: one message, exit code 2."""

import pytest

from tests.tiny_runs import command

SMOKE = "experiments/upcracknet_deepcrack.py:smoke"
SQUARES = "experiments/upcracknet_deepcrack.py:paper"
CRACKSEG = "experiments/crackseg_deepcrack.py:smoke"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("give an experiment FILE.py", "--repeat")),
        ((SMOKE, "--repeat", "somewhere"), ("not both",)),
        (("experiments/nothing.py",), ("experiments/nothing.py: no such experiment file",)),
        (("experiments",), ("experiments: no such experiment file", "Python file")),
        (("experiments/upcracknet_deepcrack.py:fast",), ("unknown form 'fast'", "paper, cpu, smoke")),
        (("experiments/upcracknet_deepcrack.py:",), ("unknown form ''",)),
        ((CRACKSEG, "--member", "imagenet"), ("no member 'imagenet'", "imagenet_v1, imagenet_v2, scratch")),
        (("experiments/upcracknet_crack500.py:smoke", "--member", "a"), ("not a table", "--member a")),
    ],
)
def test_an_experiment_form_or_member_that_is_not_there(words, parts):
    command("train", *words).refused(2, *parts)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("training.steps", ("path.to.field=value",)),
        ("training.stepz=4", ("no setting 'stepz'", "steps")),
        ("trainin.steps=4", ("no setting 'trainin'", "training")),
        ("training.steps.more=4", ("nothing lies below 'training.steps'",)),
        ("training=4", ("'training' is a group", "training.FIELD=VALUE")),
        ("training.steps=abc", ("'abc'", "expected int")),
        ("training.steps=1.5", ("1.5", "expected int")),
        ("training.steps=true", ("True", "expected int")),
        ("training.steps=0", ("training.steps is 0", "at least 1")),
        ("training.steps=-3", ("training.steps is -3", "at least 1")),
        ("training.batch_size=0", ("training.batch_size is 0", "at least 1")),
        ("training.validate_every=0", ("training.validate_every is 0", "at least 1")),
        ("training.patience=0", ("training.patience is 0", "none, or at least 1")),
        ("training.learning_rate=0", ("training.learning_rate is 0", "more than 0")),
        ("training.learning_rate=-1", ("training.learning_rate is -1", "more than 0")),
        ("training.learning_rate=NaN", ("training.learning_rate is 'NaN'", "expected float")),
        ("training.learning_rate=1e999", ("not finite",)),
        ('training.preset="best"', ("'best'", "default, paper, authors")),
        ("training.weight_decay=-1", ("training.weight_decay is -1", "at least 0")),
        ("training.schedule=cosine", ("'cosine'", "constant, exponential, poly")),
        ("training.preset=best", ("'best'", "default, paper, authors")),
        ("training.colour=2", ("training.colour is 2", "0 (off) to 1")),
        ("training.loss_weights.perceptual=1", ("training.loss_weights.perceptual", "mae, ssim, msgms, style")),
        ("training.loss_weights.mae=-1", ("training.loss_weights.mae is -1", "at least 0")),
        ("training.loss_weights.mae=heavy", ("training.loss_weights.mae is 'heavy'", "a number")),
        ("data.validation=0", ("data.validation is 0", "between 0 and 1")),
        ("data.pipeline.crop=16", ("method.depth is 5", "16 px", "2 to 4")),
        ("data.pipeline.crop=20", ("20", "16")),
        ("data.pipeline.crop=wide", ("'wide'", "expected int")),
        ("data.pipeline.corruption=dots", ("'dots'", "squares, stripes, jumbled")),
        ("data.pipeline.corruption=none", ("corruption is none", "squares, stripes or jumbled")),
        ("data.pipeline.scale=2", ("2", "tuple")),
        ("data.recipe_settings=3", ("3", "dict")),
        ("data.recipe_settings.split=a", ("data.recipe_settings.split",)),
        ("data.recipe_settings.windows=3", ("data.recipe_settings.windows", "undamaged")),
        ("data.recipe_settings.size=3", ("size is 3", "at least 32 pixels")),
        ("data.recipe_settings.train=many", ("train is 'many'", "whole number")),
        ("data.recipe=undamaged", ("data.recipe", "drawn")),
        ("detection.rule=foo", ("threshold rule 'foo' is unknown", "otsu")),
        ("detection.tile=3", ("detection.tile is 3", "at least 64")),
        ("method.depth=9", ("method.depth is 9", "2 to 5")),
        ("method.depth=1", ("method.depth is 1", "at least 2")),
        ("method.base=0", ("method.base is 0", "at least 1")),
        ("method.beta1=1", ("method.beta1 is 1", "below 1")),
        ("method.losses.bgr=1", ("method.losses.bgr is 1", "expected bool")),
        ("method.variant=table9", ("no setting 'variant'", "depth")),
        ("seed=-1", ("seed is -1", "4294967295")),
        ("matmul_precision=float8", ("'float8'", "default, high, highest")),
        ("machine.devices=64", ("machine.devices is 64", "this machine has")),
        ("machine.devices=0", ("machine.devices is 0", "at least 1")),
        ("machine.workers=-1", ("machine.workers is -1", "or more")),
        ("machine.log_every=0", ("machine.log_every is 0", "at least 1")),
        ("machine.parallel=xmap", ("'xmap'", "jit, pmap")),
    ],
)
def test_a_setting_that_is_not_there_of_the_wrong_type_or_out_of_range(tmp_path, setting, parts):
    cache = f"machine.cache={tmp_path / 'cache'}"
    words = ("--run", tmp_path / "run", "--set", cache, "data.pipeline.resize=none", setting)
    command("train", SMOKE, *words).refused(2, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("method.variant=table9", ("'table9'", "table5_both_x3")),
        ("method.version=3", ("3", "1, 2")),
        ("method.version=true", ("True", "1, 2")),
        ("method.narrow=3", ("method.narrow is 3", "2, 4, 8 or 16")),
        ("method.output_stride=4", ("4", "8, 16, 32")),
        ("data.pipeline.crop=16", ("data.pipeline.crop is 16", "at least 32")),
        ("training.loss_weights.mae=1", ("training.loss_weights.mae", "CrackSeg")),
    ],
)
def test_a_setting_that_crackseg_cannot_take(tmp_path, setting, parts):
    command("train", CRACKSEG, "--run", tmp_path / "run", "--set", setting).refused(2, *parts)


@pytest.mark.parametrize("crop", [100, 250])
def test_a_side_that_no_corruption_mask_fits_is_refused_with_one_that_does(crop):
    nearest = {100: "96", 250: "256"}[crop]
    settings = (f"data.pipeline.crop={crop}", "data.pipeline.resize=none")
    command("train", SQUARES, "--set", *settings).refused(2, f"{crop}", nearest)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def experiment(form:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("x = 1\n", "has no attribute 'experiment'"),
        ("def experiment(form):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("def experiment(form):\n    return 5\n", "gave int; it must give an Experiment"),
        ("def experiment(form):\n    return {}\n", "gave no member"),
        ("def experiment(form):\n    return {'a': 1}\n", "gave dict"),
        ("from cracks_jax.experiment import Training\ndef experiment(form):\n    Training(steps=0)\n", "steps is 0"),
        (
            "from cracks_jax.experiment import Experiment\nfrom cracks_jax.methods.floor import Darkness\n"
            "def experiment(form):\n    return Experiment(name='a', form=form, method=Darkness())\n",
            "nothing to train",
        ),
    ],
)
def test_an_experiment_file_that_fails_or_gives_something_else(tmp_path, text, part):
    (tmp_path / "mine.py").write_text(text)
    command("train", tmp_path / "mine.py").refused(2, str(tmp_path / "mine.py"), part)

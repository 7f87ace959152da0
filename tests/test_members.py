"""Tables of experiments: rows, grids and seeds give the members that were asked for, or a message."""

import itertools

import pytest

from cracks_jax.errors import UsageError
from cracks_jax.experiment import load_members
from cracks_jax.members import changed, grid, rows, with_seeds
from tests import tiny


@pytest.fixture
def base(tmp_path):
    return tiny.experiment(tmp_path)


def test_a_grid_is_every_combination_and_nothing_else_changes(base):
    found = grid(base, {"training.learning_rate": [1e-3, 1e-4], "seed": [3, 4, 5]})
    pairs = itertools.product((1e-3, 1e-4), (3, 4, 5))
    assert list(found) == [f"learning_rate={rate},seed={seed}" for rate, seed in pairs]
    for name, one in found.items():
        rate, seed = (text.partition("=")[2] for text in name.split(","))
        assert (one.training.learning_rate, one.seed) == (float(rate), int(seed))
        assert changed(one, {"training.learning_rate": base.training.learning_rate, "seed": base.seed}) == base


def test_rows_take_several_settings_that_only_fit_together(base):
    found = rows(base, {"a": {"training.loss_weights.style": 0.0, "data.pipeline.corruption": "stripes"}, "b": {}})
    assert found["a"].training.loss_weights["style"] == 0.0 and found["a"].data.pipeline.corruption == "stripes"
    assert found["b"] == base


def test_every_member_gets_every_seed(base):
    found = with_seeds({"x": base, "y": base}, [0, 7])
    assert {name: one.seed for name, one in found.items()} == {"x-seed0": 0, "x-seed7": 7, "y-seed0": 0, "y-seed7": 7}
    assert list(with_seeds({"": base}, [2])) == ["seed2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: grid(base, {"seed": []}), "seed has no values, so the grid is empty"),
        (lambda base: grid(base, {"seed": [1, 1]}), "two members are called seed=1"),
        (lambda base: grid(base, {"training.speed": [1]}), "there is no setting 'speed'"),
        (lambda base: rows(base, {"a": {"training.steps": 0}}), "training.steps"),
        (lambda base: with_seeds({"x": base}, []), "seeds: there is none"),
        (lambda base: with_seeds({"x": base}, [1, 1]), "seeds: 1 is given twice"),
    ],
)
def test_what_cannot_be_a_table_is_refused(base, make, message):
    with pytest.raises(UsageError, match=message):
        make(base)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("{}", "gave no member: an empty grid or list"),
        ("{'A': one, 'a': one}", "members A and a would have one id"),
        ("{'a/b': one}", "member 'a/b': use letters"),
        ("{'a\\nb': one}", "use letters"),
        ("{1: one}", "it must give an Experiment, or a dict"),
    ],
)
def test_a_file_whose_members_cannot_be_told_apart_is_refused(tmp_path, members, message):
    file = tmp_path / "table.py"
    file.write_text(f"from pathlib import Path\nfrom tests import tiny\n\none = tiny.experiment(Path('cache'))\n\n\n"
                    f"def experiment(form):\n    return {members}\n")  # fmt: skip
    with pytest.raises(UsageError, match=message):
        load_members(file, "paper")

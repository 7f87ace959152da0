"""The papers' ablations as experiment files: the printed rows in their order, which differ as the paper says."""

import dataclasses
from pathlib import Path

import pytest

from cracks_jax.experiment import load_members
from cracks_jax.methods.restoration import LOSS_WEIGHTS
from cracks_jax.networks.crackseg import VARIANTS
from cracks_jax.published.papers import ABLATIONS, printed_row, tables

FOLDER = Path(__file__).parents[1] / "experiments"
TICKS = {"L_MAE": "mae", "L_SSIM": "ssim", "L_MSGMS": "msgms", "L_style": "style", "L_adv": "adversarial"}


def members(stem, form="paper"):
    return load_members(FOLDER / f"{stem}.py", form)


@pytest.mark.parametrize("stem", ABLATIONS)
def test_members_are_the_printed_rows_in_the_papers_order(stem):
    paper, number, names = ABLATIONS[stem]
    for form in ("paper", "cpu", "smoke"):
        assert tuple(members(stem, form))[: len(names)] == names
    assert [printed_row(stem, name)[1] for name in names] == list(tables()[paper, number].rows)


def test_table_one_turns_on_the_losses_that_are_ticked():
    for name, one in members("upcracknet_table1").items():
        ticks = printed_row("upcracknet_table1", name)[1].group
        for column, term in TICKS.items():
            weight = one.training.loss_weights[term]
            assert weight == (LOSS_WEIGHTS[term] if ticks[column] else 0.0), (name, term)


def test_table_two_differs_in_the_corruption_and_has_two_controls():
    found = members("upcracknet_table2")
    kinds = [one.data.pipeline.corruption for one in found.values()]
    assert kinds == ["jumbled", "stripes", "squares", "identity", "noise"]
    assert printed_row("upcracknet_table2", "none") is None


@pytest.mark.parametrize("stem", ["upcracknet_table1", "upcracknet_table2"])
@pytest.mark.parametrize("form", ["paper", "cpu", "smoke"])
def test_upcracknets_rows_share_one_program_and_all_else(stem, form):
    found = members(stem, form)
    common = {
        dataclasses.replace(
            one,
            member=None,
            training=dataclasses.replace(one.training, loss_weights=LOSS_WEIGHTS),
            data=dataclasses.replace(
                one.data, pipeline=dataclasses.replace(one.data.pipeline, corruption="squares")
            ),
        ).run_id
        for one in found.values()
    }
    assert len(common) == 1 and len({one.method for one in found.values()}) == 1


@pytest.mark.parametrize("stem", ["crackseg_table4", "crackseg_table5"])
def test_cracksegs_rows_are_its_networks_and_share_all_else(stem):
    found = members(stem)
    variants = [one.method.variant for one in found.values()]
    assert variants == [name for name in VARIANTS if name.startswith(stem.removeprefix("crackseg_"))]
    assert {one.training.pretrained for name, one in found.items() if "r101" not in name} == {"resnet50.pth"}
    assert all(one.training.pretrained == "resnet101.pth" for name, one in found.items() if "r101" in name)
    common = {
        dataclasses.replace(
            one,
            member=None,
            method=dataclasses.replace(one.method, variant="table5_both_x3"),
            training=dataclasses.replace(one.training, pretrained=None),
        ).run_id
        for one in found.values()
    }
    assert len(common) == 1

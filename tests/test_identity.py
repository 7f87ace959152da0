"""Restoration error on crack and on background: against generators that can be read off, and against scikit-learn."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cracks_jax import identity
from cracks_jax.data.datasets import open_dataset
from cracks_jax.data.images import read_image, read_mask, write_image, write_mask
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import to_json
from cracks_jax.identity import Errors, Probe, auroc, measured
from cracks_jax.methods.detection import Detection
from cracks_jax.metrics.curve import Curve
from cracks_jax.ops.corruption import multiscale_squares
from cracks_jax.predict import Scorer
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import pavements, runs

SIDE = 32
GREY = np.array([0.299, 0.587, 0.114])
HOW = Detection(batch_norm="batch")


class Copies(Probe):
    """A generator that learned the identity: what is hidden comes out as it went in, black."""

    def restore(self, state, x, key, how):
        return x


class Knows(Probe):
    """A generator that answers the undamaged image whatever it sees: 0.25 everywhere."""

    def restore(self, state, x, key, how):
        return jnp.full_like(x, -0.5)


class Averages(Probe):
    """Every pixel of an image gets the mean of what is shown of it."""

    def restore(self, state, x, key, how):
        return jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)


def errors_of(kind, **detection):
    settings = tiny.restoration(depth=4)
    probe = kind(**{one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)})
    return Errors(probe, {}, dataclasses.replace(HOW, **detection))


@pytest.fixture
def roads(tmp_path, rng):
    """Two labelled images of one size, one of them without a crack."""

    def make(cracks=(True, False), size=(SIDE, SIDE)):
        for number, cracked in enumerate(cracks):
            image = rng.integers(40, 220, (*size, 3), np.uint8)
            mask = np.zeros(size, bool)
            if cracked:
                mask[10:13, 3:29] = True
                image[mask] //= 3
            write_image(_made(tmp_path / "images") / f"{number}.png", image)
            write_mask(_made(tmp_path / "masks") / f"{number}.png", mask)
        return open_dataset(tmp_path, need_masks=True)

    return make


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def _greys(dataset):
    """All pixels of all images: grey and whether they are crack."""
    pairs = [(read_image(record.image) @ GREY / 255, read_mask(record.mask)) for record in dataset]
    return np.concatenate([g.ravel() for g, _ in pairs]), np.concatenate([m.ravel() for _, m in pairs])


def test_the_identity_has_no_error_where_it_sees_and_tells_no_crack(roads):
    found = measured(roads(), errors_of(Copies))["inputs"]
    for name in ("whole", "visible"):
        row = found[name]
        assert row["error_crack"] == row["error_background"] == 0 and row["ratio"] is None
        assert row["auroc"] == 0.5 and row["copied_crack"] == row["copied_background"] == 1


def test_what_is_hidden_is_judged_by_what_comes_out_there(roads):
    """A copied square is black: the error there is the grey itself, at every pixel, for each size of square."""
    dataset = roads()
    grey, crack = _greys(dataset)
    row = measured(dataset, errors_of(Copies))["inputs"]["masked"]
    assert row["error_crack"] == pytest.approx(grey[crack].mean(), abs=1e-6)
    assert row["error_background"] == pytest.approx(grey[~crack].mean(), abs=1e-6)
    assert row["ratio"] == pytest.approx(grey[crack].mean() / grey[~crack].mean(), abs=1e-5)
    assert row["pixels_crack"] == 3 * crack.sum() and row["pixels_background"] == 3 * (~crack).sum()
    assert row["auroc"] == pytest.approx(roc_auc_score(crack, grey), abs=1e-3)
    assert row["auroc"] < 0.3  # cracks are dark


@pytest.mark.parametrize("name", identity.INPUTS)
def test_an_answer_that_does_not_look_has_the_same_error_seen_and_hidden(roads, name):
    dataset = roads()
    grey, crack = _greys(dataset)
    error = np.abs(grey - 0.25)
    row = measured(dataset, errors_of(Knows))["inputs"][name]
    assert row["error_crack"] == pytest.approx(error[crack].mean(), abs=1e-6)
    assert row["error_background"] == pytest.approx(error[~crack].mean(), abs=1e-6)
    assert row["auroc"] == pytest.approx(roc_auc_score(crack, error), abs=1e-3)
    assert row["pixels_crack"] == (1 if name == "whole" else 3) * crack.sum()


def test_one_that_answers_the_mean_errs_by_the_distance_to_it(roads):
    """The mean is of what the network is shown: the reflected border too."""
    dataset = roads(cracks=(True,))
    image, mask = read_image(dataset.records[0].image), read_mask(dataset.records[0].mask)
    margin = (64 - SIDE) // 2  # 16 px at least, to a multiple of 16
    shown = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    error = np.abs(image @ GREY - shown.mean((0, 1)) @ GREY) / 255
    row = measured(dataset, errors_of(Averages))["inputs"]["whole"]
    assert row["error_crack"] == pytest.approx(error[mask].mean(), abs=1e-6)
    assert row["error_background"] == pytest.approx(error[~mask].mean(), abs=1e-6)


def test_what_is_copied_is_the_share_of_the_contrast_to_the_best_constant(roads):
    """0 for a network that answers each image's median grey; of one that knows 0.25, by its definition."""
    dataset = roads()
    found = measured(dataset, errors_of(Knows))
    pairs = [(read_image(r.image) @ GREY / 255, read_mask(r.mask)) for r in dataset]
    contrast = np.concatenate([np.abs(g - np.median(g))[m] for g, m in pairs]).mean()
    assert found["contrast_crack"] == pytest.approx(contrast, abs=1e-6)
    row = found["inputs"]["whole"]
    assert row["copied_crack"] == pytest.approx(1 - row["error_crack"] / contrast, abs=1e-5)
    assert row["copied_background"] < 0  # worse than that constant


def test_visible_and_masked_are_the_pixels_that_each_mask_keeps_and_hides(rng):
    """By hand, mask by mask, on a window that needs no border; each pixel is once of each for every size of square."""
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    probe, squares = errors_of(Averages).method, np.tile(multiscale_squares(16), (1, 3, 4, 1))[..., 0] > 0
    x = image.astype(np.float32) / 255
    (found,) = np.asarray(probe.score({}, jnp.asarray(x)[None], None, HOW))
    assert found.shape == (7, 48, 64)
    for size in range(3):
        visible, masked = np.full((48, 64), np.nan), np.full((48, 64), np.nan)
        for keep in squares[2 * size : 2 * size + 2]:
            shown = np.where(keep[..., None], x, 0).mean((0, 1)) @ GREY
            error = np.abs(x @ GREY - shown)
            assert np.isnan(visible[keep]).all() and np.isnan(masked[~keep]).all()
            visible[keep], masked[~keep] = error[keep], error[~keep]
        np.testing.assert_allclose(found[1 + size], visible, atol=1e-6)
        np.testing.assert_allclose(found[4 + size], masked, atol=1e-6)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("settings", [{}, {"batch_norm": "running"}, {"window_pixels": 1, "tile": 64, "overlap": 16}])
def test_whole_is_detections_own_map_and_masked_its_hidden_one(rng, settings):
    """A real network, padded and in tiles: `Scorer` is the witness."""
    method, how = tiny.restoration(depth=3), dataclasses.replace(HOW, **settings)
    state = tiny.state_of(method)
    image = rng.integers(0, 256, (70, 90, 3), np.uint8)
    maps = Errors(Probe.of(method), state, how).maps(image)
    np.testing.assert_allclose(maps[0], Scorer(method, state, how).raw(image), atol=1e-5)
    # Detection's is the error of the mean over three sizes, so it is no more than the mean of the three errors.
    hidden = Scorer(method, state, dataclasses.replace(how, restore="hidden")).raw(image)
    assert (hidden <= maps[4:].mean(0) + 1e-5).all() and maps.shape == (7, 70, 90)


def test_auroc_is_scikit_learns_and_ties_count_half(rng):
    """Errors as they are: small, and crack pixels' a little greater; then whole numbers of one bin."""
    for scale in (0.3, 0.02, 0.002):
        crack = rng.uniform(0, 1, 20000) < 0.05
        score = np.clip(rng.exponential(scale, 20000) * np.where(crack, 1.5, 1), 0, 1).astype(np.float32)
        found = auroc(Curve.of(score[None], crack[None]))
        assert found == pytest.approx(roc_auc_score(crack, score), abs=1e-3)
    score = np.array([[0.5, 0.5, 0.2, 0.9, 0.5]], np.float32)
    crack = np.array([[True, False, False, True, True]])
    by_hand = pytest.approx((0.5 + 1 + 1 + 1 + 0.5 + 1) / 6)
    assert auroc(Curve.of(score, crack)) == by_hand and roc_auc_score(crack[0], score[0]) == by_hand


@pytest.mark.parametrize("value", [True, False])
def test_auroc_without_crack_or_without_background_is_undefined(value):
    assert auroc(Curve.of(np.zeros((2, 2), np.float32), np.full((2, 2), value))) is None


def test_an_image_without_crack_counts_as_background_and_a_set_without_any_has_no_number_for_crack(roads):
    both = measured(roads(), errors_of(Knows))["inputs"]["whole"]
    assert both["pixels_crack"] + both["pixels_background"] == 2 * SIDE * SIDE
    found = measured(roads(cracks=(False, False)), errors_of(Knows))
    assert found["contrast_crack"] is None and found["contrast_background"] > 0
    for row in found["inputs"].values():
        none = ("error_crack", "ratio", "auroc", "copied_crack")
        assert [row[name] for name in none] == [None] * 4 and row["pixels_crack"] == 0
        assert row["error_background"] > 0
    json.dumps(found, allow_nan=False)


def test_images_and_masks_of_two_sizes_are_refused(roads):
    dataset = roads()
    write_mask(dataset.records[0].mask, np.zeros((SIDE, 2 * SIDE), bool))
    with pytest.raises(CracksError, match="mask is 64x32 but its image is 32x32"):
        measured(dataset, errors_of(Copies))


@pytest.mark.usefixtures("quick_compile")
def test_the_record_of_a_run_says_what_it_is_of_and_is_not_made_again(tmp_path, monkeypatch):
    dataset = open_dataset(pavements(), "test", need_masks=True)
    run = runs().restoration
    (made,) = identity.keep([run], dataset, tmp_path, print)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{run.name}-pavements_test.json"
    described = json.loads((run / "experiment.json").read_text())
    of_run = {name: described[name] for name in ("run_id", "name", "form", "member")}
    assert of_run.items() <= made.items() and made["seed"] == 0 and made["checkpoint"] in (2, 4)
    assert (made["data"], made["data_digest"], made["images"]) == ("pavements:test", dataset.digest(), 3)
    assert made["squares_px"] == [8, 4, 2] and made["batch_norm"] == "batch" and made["dropout"] is False
    assert {"software", "device", "git_revision"} <= made.keys()
    assert made["command"] == f"python tools/study.py identity runs/{run.name} --data pavements:test --out DIR"
    assert str(pavements().parent) not in path.read_text() and str(run.parent) not in path.read_text()
    for row in made["inputs"].values():
        assert 0 < row["error_background"] < 1 and 0 <= row["auroc"] <= 1
    shown = identity.as_markdown([made])
    assert all(f"{100 * row['error_crack']:.2f}" in shown for row in made["inputs"].values())
    monkeypatch.setattr(identity, "record_of", None)
    assert identity.keep([run], dataset, tmp_path, print) == [made]


@pytest.mark.usefixtures("quick_compile")
def test_one_image_in_two_is_another_record_that_says_so(tmp_path):
    dataset = open_dataset(pavements(), "test", need_masks=True)
    (made,) = identity.keep([runs().restoration], dataset, tmp_path, print, every=2)
    assert (made["every"], made["images"]) == (2, 2) and made["command"].endswith(":test --every 2 --out DIR")
    assert made["data_digest"] == dataset.subset(dataset.stems[::2]).digest()
    assert [path.name for path in tmp_path.iterdir()] == [f"{runs().restoration.name}-pavements_test-every2.json"]
    assert "pavements:test, 2 images (one in 2), native" in identity.as_markdown([made])
    with pytest.raises(UsageError, match="--every 0: expected 1"):
        identity.keep([runs().restoration], dataset, tmp_path, print, every=0)


def test_a_run_that_restores_nothing_is_refused(tmp_path):
    dataset, one = open_dataset(pavements(), "test", need_masks=True), tiny.experiment(tmp_path, "segmentation")
    (_made(tmp_path / "run") / "experiment.json").write_text(json.dumps(to_json(one)))
    with pytest.raises(UsageError, match="run: restores nothing"):
        identity.keep([tmp_path / "run"], dataset, tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


def test_seeds_are_pooled_by_member_and_members_stand_in_the_papers_order():
    """Table II's rows first, as printed, then the controls."""

    def row(value):
        names = ("error_crack", "error_background", "ratio", "auroc", "copied_crack", "copied_background")
        return {name: value for name in names}

    def record(member, seed, value):
        inputs = {name: row(value) for name in identity.INPUTS}
        about = {"name": "upcracknet_table2", "form": "cpu", "data": "d:test", "data_digest": "0", "images": 2}
        how = {"every": 1, "batch_norm": "batch", "dropout": False, "device": {"kind": "CPU"}}
        return {**about, **how, "member": member, "seed": seed, "inputs": inputs}

    table = identity.as_markdown([record("none", 0, 0.5), record("squares", 1, 0.3), record("jumbled", 0, None),
                                  record("squares", 0, 0.1)])  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[4:]]
    assert [line[0] for line in lines] == ["jumbled"] * 3 + ["squares"] * 3 + ["none"] * 3
    assert lines[3][1:] == ["whole", "0,1", "20.00 ± 14.14", "20.00 ± 14.14", "0.20 ± 0.14", "0.200 ± 0.141", "20 ± 14",
                            "20 ± 14"]  # fmt: skip
    assert lines[0][3:] == ["-"] * 6

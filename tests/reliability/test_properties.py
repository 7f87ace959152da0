"""What holds for all input of a kind, by hypothesis: round trips are exact, and nothing ends in another error.

The examples are the same in every run (`derandomize`), so that a failure is one of the code.
"""

import dataclasses
import functools
import io
import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import savemat

from cracks_jax.data import images
from cracks_jax.data.images import LabelError, read_image, read_mask, read_score
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import apply_settings, from_json, to_json
from cracks_jax.settings import from_text
from cracks_jax.untrusted import MAX_DEPTH, parse_json
from tests.reliability.bombs import picture
from tests.reliability.mutate import TOKENS
from tests.reliability.target_commands import run
from tests.reliability.target_records import experiments, paths


def exactly(examples: int):
    """The same examples in every run, as many as are named, however long each takes."""
    fine = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return profile(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=fine)


SIDES = st.integers(1, 40)


def pixels(dtype, channels=()):
    return st.tuples(SIDES, SIDES).flatmap(lambda size: arrays.arrays(dtype, (*size, *channels)))


# ------------------------------------------------------------------------------------------------- pictures


@exactly(100)
@given(image=pixels(np.uint8, (3,)), suffix=st.sampled_from([".png", ".bmp", ".tif"]))
def test_a_picture_in_a_lossless_format_comes_back_to_the_bit(tmp_path, image, suffix):
    images.write_image(tmp_path / f"a{suffix}", image)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), image)


@exactly(100)
@given(image=pixels(np.uint16), suffix=st.sampled_from([".png", ".tif"]))
def test_sixteen_bits_become_the_nearest_of_eight(tmp_path, image, suffix):
    cv2.imwrite(str(tmp_path / f"a{suffix}"), image)
    nearest = np.round(image.astype(np.float64) / 257)
    found = read_image(tmp_path / f"a{suffix}")
    assert all((found[..., channel] == nearest).all() for channel in range(3))


@exactly(100)
@given(image=pixels(np.uint8, (3,)), suffix=st.sampled_from([".jpg", ".webp"]))
def test_a_lossy_picture_keeps_its_size(tmp_path, image, suffix):
    images.write_image(tmp_path / f"a{suffix}", image)
    found = read_image(tmp_path / f"a{suffix}")
    assert found.shape == image.shape and found.dtype == np.uint8


FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
STARTS = st.sampled_from([picture(kind)[:size] for kind in FORMATS for size in (4, 12, 60)])


@exactly(100)
@given(start=STARTS, rest=st.binary(max_size=300), name=st.sampled_from(["a.png", "a.mat", "a.npy", "a.npz"]))
def test_any_bytes_are_a_picture_or_a_message_that_names_the_file(tmp_path, start, rest, name):
    (tmp_path / name).write_bytes(start + rest)
    for read in (read_image, read_mask, read_score):
        try:
            found = read(tmp_path / name)
        except CracksError as error:
            assert str(error).startswith(f"{tmp_path / name}: ")
        else:
            assert found.ndim in (2, 3) and found.size


# ---------------------------------------------------------------------------------------------------- masks


@exactly(100)
@given(mask=pixels(bool), top=st.sampled_from([1, 255]), suffix=st.sampled_from([".png", ".bmp", ".tif"]))
def test_a_mask_comes_back_to_the_bit_in_either_convention(tmp_path, mask, top, suffix):
    cv2.imwrite(str(tmp_path / f"m{suffix}"), mask.astype(np.uint8) * top)
    np.testing.assert_array_equal(read_mask(tmp_path / f"m{suffix}"), mask)
    images.write_mask(tmp_path / f"w{suffix}", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / f"w{suffix}"), mask)


@exactly(100)
@given(labels=arrays.arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 2, 127, 254, 255])))
def test_a_mask_is_read_if_and_only_if_it_holds_two_labels(tmp_path, labels):
    cv2.imwrite(str(tmp_path / "m.png"), labels)
    values = set(labels.ravel().tolist()) - {0}
    if values in (set(), {1}, {255}):
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), labels > 0)
    else:
        with pytest.raises(LabelError):
            read_mask(tmp_path / "m.png")


@exactly(100)
@given(
    labels=st.tuples(SIDES, SIDES).flatmap(lambda size: arrays.arrays(np.uint8, size, elements=st.integers(0, 5))),
    packed=st.booleans(),
    dtype=st.sampled_from(["u1", "u2", "f8"]),
)
def test_crackforests_labels_are_read_if_and_only_if_they_are_1_to_4(tmp_path, labels, packed, dtype):
    truth = np.empty((1, 1), [("Segmentation", object)])
    truth[0, 0] = (labels.astype(dtype),)
    stream = io.BytesIO()
    savemat(stream, {"groundTruth": truth}, do_compression=packed)
    (tmp_path / "m.mat").write_bytes(stream.getvalue())
    if labels.min() >= 1 and labels.max() <= 4:
        np.testing.assert_array_equal(read_mask(tmp_path / "m.mat"), (labels == 2) | (labels == 4))
    else:
        with pytest.raises(LabelError):
            read_mask(tmp_path / "m.mat")


@exactly(100)
@given(score=st.tuples(SIDES, SIDES).flatmap(lambda size: arrays.arrays(np.float32, size)))
def test_a_score_map_comes_back_to_the_bit_if_and_only_if_it_lies_in_0_to_1(tmp_path, score):
    images.write_score(tmp_path / "s.npy", score)
    if ((score >= 0) & (score <= 1)).all():
        np.testing.assert_array_equal(read_score(tmp_path / "s.npy"), score)
    else:
        with pytest.raises(CracksError, match=r"s\.npy: scores .* expected finite values in \[0, 1\]"):
            read_score(tmp_path / "s.npy")


# ------------------------------------------------------------------------------------------------- settings

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    LEAVES | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@exactly(100)
@given(value=JSON)
def test_json_is_read_as_it_was_written_and_as_a_settings_text(value):
    assert parse_json(json.dumps(value)) == value
    assert from_text(json.dumps(value)) == value


@exactly(100)
@given(text=st.text(max_size=40) | st.sampled_from(TOKENS))
def test_any_text_is_a_settings_value_or_beyond_what_is_read(text):
    """What is no JSON is itself."""
    try:
        value = from_text(text)
    except ValueError as error:
        assert any(part in str(error) for part in (f"deeper than {MAX_DEPTH}", "beyond 64 bits", "4300 digits"))
        return
    try:
        expected = json.loads(text)
    except ValueError:
        assert value == {"none": None, "true": True, "false": False, "null": None}.get(text.lower(), text)
    else:
        assert value == expected or "NaN" in text or "Infinity" in text


@functools.cache
def known(which: int):
    return experiments()[which], sorted(paths(experiments()[which]))


VALUES = st.sampled_from(TOKENS) | (LEAVES | st.lists(LEAVES, max_size=3)).map(json.dumps) | st.text(max_size=9)
# Values that many settings take, so that experiments change in several places at once.
PLAIN = st.sampled_from(["1", "2", "3", "64", "0.25", "true", "false", "none", "[1.0, 2.0]", "otsu", "native"])


@exactly(400)
@given(which=st.integers(0, 1), data=st.data())
def test_an_experiment_with_any_settings_is_its_json_or_is_refused(which, data):
    """text -> value -> JSON -> the same experiment, with the same run_id; or a UsageError that names the setting."""
    start, names = known(which)
    given_ = [
        f"{data.draw(st.sampled_from(names))}={data.draw(PLAIN | VALUES)}" for _ in range(data.draw(st.integers(1, 4)))
    ]
    try:
        changed = apply_settings(start, given_)
    except UsageError as error:
        assert len(str(error)) < 2000 and str(error).isprintable()
        return
    text = json.dumps(to_json(changed), allow_nan=False)
    again = from_json(json.loads(text))
    # Two places of the machine are not written: they are this machine's paths.
    places = {name: getattr(changed.machine, name) for name in ("cache", "compilation_cache")}
    again = dataclasses.replace(again, machine=dataclasses.replace(again.machine, **places))
    assert again.run_id == changed.run_id
    assert json.dumps(to_json(again)) == text
    if not any(one.startswith(("data.name", "training.pretrained", "training.style_weights")) for one in given_):
        assert again == changed


@exactly(100)
@given(tree=JSON)
@example(tree={"science": {"method": {"kind": []}}, "machine": {}})
@example(tree={"science": {"method": {"kind": "restoration"}, "name": 1}, "machine": {"workers": -1}})
def test_any_json_is_an_experiment_or_a_message(tree):
    with pytest.raises(CracksError, match=r"experiment\.json: not an experiment of this version"):
        from_json(tree)


# ------------------------------------------------------------------------------------------------- commands

WORDS = st.sampled_from(
    "score detect evaluate report data check prepare systems --json --data --out --method darkness --set --rule --tile "
    "--checkpoint --preset --geometry --calibration --mm-per-px --every --help --version detection.tile=64 undamaged "
    "roads found out nothing.png -- -x 0 1 -1 1e9".split()
)


@pytest.fixture(scope="module")
def empty_folder():
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        yield Path(folder)
        os.chdir(before)


@exactly(200)
@given(words=st.lists(WORDS | st.sampled_from(TOKENS) | st.text(max_size=12), max_size=8))
def test_any_words_are_done_or_refused_in_words(empty_folder, words):
    """`run` asks for an exit code of 0, 1 or 2, no traceback, no warning, and nothing that steers a terminal."""
    assume("\0" not in "".join(words))  # no shell can give it
    try:
        run(words)
    except CracksError as error:
        assert "cracks-jax" in str(error)

"""JSON and arrays from elsewhere: what is sound is read as by the libraries themselves, the rest is said in words."""

import io
import json
import sys

import numpy as np
import pytest

from cracks_jax.errors import CracksError, UsageError, shown
from cracks_jax.untrusted import MAX_DEPTH, parse_json, read_array, read_arrays, unpacked_size


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("text", ["null", "1", '"a"', "[1, {}]", '{"a": [1.5, {"c": null}]}', nested(MAX_DEPTH - 1)])
def test_sound_json_is_what_json_says(text):
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 500, sys.getrecursionlimit() + 1, 100_000])
def test_json_of_any_depth_is_refused_in_words(depth):
    """Whether Python itself gives up depends on its version; what comes out of this does not."""
    for text in (nested(depth), "[" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValueError) as raised:
            parse_json(text)
        assert f"nested deeper than {MAX_DEPTH} levels" in str(raised.value) or depth < 1000


@pytest.mark.parametrize("number", [str(2**63), str(-(2**63) - 1), "-" + "9" * 400, "1" * 5000, "1e999", "-1e999"])
def test_a_number_that_would_overflow_is_refused(number):
    with pytest.raises(ValueError, match="beyond 64 bits|4300 digits") as raised:
        parse_json(f'{{"seed": [{number}]}}')
    assert not isinstance(raised.value, json.JSONDecodeError) and len(str(raised.value)) < 200
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}, 1e300]") == [2**63 - 1, -(2**63), 1e300]


def test_no_json_is_told_from_json_that_goes_too_far():
    """The one is a setting's text, as in data.name=deepcrack; the other is refused."""
    for text in ("deepcrack", "[1, 2", "{", "01", "NaN", "[-Infinity]"):
        with pytest.raises(json.JSONDecodeError):
            parse_json(text)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "?", "<i8", "<c8", "<f2"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4), (2, 3, 4)])
def test_sound_arrays_are_what_numpy_says(rng, dtype, shape):
    drawn = np.asarray(rng.uniform(0, 2, shape)).astype(dtype)
    for array in (drawn, np.asfortranarray(drawn)):
        stream = io.BytesIO()
        np.save(stream, array)
        stream.seek(0)
        found = read_array(stream, 10_000)
        assert found.dtype == array.dtype and found.flags.writeable
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.array([{}]), "reading objects can run code"),
        (np.array(["a"]), "an array of <U1"),
        (np.zeros(2, [("a", "f4")]), "only numbers"),
        (np.array("2020", "M8[s]"), "only numbers"),
        (np.zeros(1000), "8000 bytes; at most 1000 are read"),
    ],
)
def test_what_is_no_plain_array_of_numbers_is_refused(array, part):
    stream = io.BytesIO()
    np.save(stream, array)
    stream.seek(0)
    with pytest.raises(ValueError) as raised:
        read_array(stream, 1000)
    assert part in str(raised.value)


def test_arrays_that_are_cut_off_or_followed_by_more(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.arange(6.0))
    data = stream.getvalue()
    for bad, part in ((data[:-1], "fewer than the 48 bytes"), (data + b"\0", "more than the 48"), (b"", "no header")):
        with pytest.raises(ValueError, match=part):
            read_array(io.BytesIO(bad), 1000)


def test_archives_of_arrays_are_what_numpy_says(tmp_path, rng):
    arrays = {"a": rng.normal(size=(3, 4)), "b/c": np.arange(5, dtype=np.int16)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz", 1000)
        assert found.keys() == arrays.keys()
        assert all((found[name] == array).all() and found[name].dtype == array.dtype for name, array in arrays.items())
        assert unpacked_size(tmp_path / "a.npz") == 96 + 10 + 2 * 128
    with pytest.raises(ValueError, match="at most 4 are read"):
        read_arrays(tmp_path / "a.npz", 100)
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 no archive")
    for read in (lambda path: read_arrays(path, 9), unpacked_size):
        with pytest.raises(ValueError, match="not a zip file"):
            read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a road.jpg", "a road.jpg"),
        ("Überweg 道路 ß.png", "Überweg 道路 ß.png"),
        ("\x1b[2J\x07\r\n\t\x00\x7f\x9b", r"\x1b[2J\x07\r\n\t\x00\x7f\x9b"),
        ("caf\udce9", r"caf\udce9"),
        ("abc\u202egpj.exe\u2028", r"abc\u202egpj.exe\u2028"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_is_shown_cannot_steer_a_terminal_and_is_shown_once(text, safe):
    assert shown(text) == shown(shown(text)) == safe and shown(text).isprintable()
    for kind in (CracksError, UsageError):
        assert str(kind(f"{text}: bad")) == f"{safe}: bad"

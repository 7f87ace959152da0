"""CrackForest's labels: what MATLAB and scipy write is read as scipy reads it, and what is damaged is said.

scipy itself is no reader for files from elsewhere: on some of the damaged ones here it ends the process.
"""

import io

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from cracks_jax.data.matlab import read_segmentation

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "?", "i8", "u8")


def file(fields: dict, packed: bool, **others) -> bytes:
    truth = np.empty((1, 1), [(name, object) for name in fields])
    truth[0, 0] = tuple(fields.values())
    stream = io.BytesIO()
    savemat(stream, others | {"groundTruth": truth}, do_compression=packed)
    return stream.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_of_any_type_and_place_are_those_that_scipy_reads(rng, dtype, packed):
    labels = rng.integers(1, 5, (7, 12)).astype(dtype)
    others = {"x": np.arange(5.0), "text": "groundTruth", "cell": np.array([1, "a"], object), "s": {"a": {"b": 1}}}
    cases = (
        ({"Segmentation": labels}, {}),
        ({"Boundaries": labels > 2, "Segmentation": labels}, others),
        ({"Segmentation": labels, "aVeryLongNameOfAFieldThatIsNotNeeded"[:31]: "text"}, {"z": 1}),
    )
    for fields, more in cases:
        data = file(fields, packed, **more)
        found = read_segmentation(data)
        witness = loadmat(io.BytesIO(data))["groundTruth"][0, 0]["Segmentation"]
        np.testing.assert_array_equal(found, witness)
        np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "not a MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file" + bytes(400), "not a MATLAB 5 file"),
        (bytes(126) + b"IM", "no variable groundTruth"),
        (file({"Boundaries": np.ones((2, 2))}, True), "groundTruth has no field Segmentation"),
        (file({"Segmentation": "text"}, True), "they are no real numbers"),
        (file({"Segmentation": np.ones((2, 2)) * 1j}, True), "they are no real numbers"),
        (file({"Segmentation": {"a": 1}}, True), "they are no real numbers"),
        (file({"Segmentation": np.array([1, "a"], object)}, True), "they are no real numbers"),
    ],
)
def test_files_without_such_labels_say_what_they_lack(data, part):
    with pytest.raises(ValueError, match=rf"no labels in this \.mat file \({part}\); expected CrackForest's"):
        read_segmentation(data)


def test_a_variable_that_is_no_single_structure_is_refused():
    for value in (np.ones((2, 2)), np.zeros((1, 2), [("Segmentation", object)]), "text"):
        stream = io.BytesIO()
        savemat(stream, {"groundTruth": value})
        with pytest.raises(ValueError, match="groundTruth is no single structure"):
            read_segmentation(stream.getvalue())


@pytest.mark.parametrize("packed", [False, True])
def test_any_byte_of_a_file_may_be_another_or_the_last(rng, packed):
    """Each ends in an array or in words, never in another error."""
    data = file({"Segmentation": rng.integers(1, 3, (5, 6)).astype(np.uint8), "Boundaries": np.ones((2, 2))}, packed)
    refused = 0
    for at in range(len(data)):
        head, byte, tail = data[:at], data[at], data[at + 1 :]
        for bad in (head, head + bytes([byte ^ 1 << at % 8]) + tail, head + b"\xff" + data[at:]):
            try:
                read_segmentation(bad)
            except ValueError as error:
                refused += 1
                assert "no labels in this .mat file (" in str(error)
    assert refused > len(data)


@pytest.mark.parametrize("kind", [7, 9, 16, 99])
def test_sizes_that_are_no_whole_numbers_are_refused(kind):
    """A tag that says that flags, dimensions or the length of names are of another kind."""
    data = file({"Segmentation": np.ones((4, 6), np.uint8)}, False)
    for tag in (b"\6\0\0\0\x08\0\0\0", b"\5\0\0\0\x08\0\0\0", b"\5\0\4\0"):
        at = data.index(tag, 128)
        with pytest.raises(ValueError, match="no labels in this"):
            read_segmentation(data[:at] + bytes([kind]) + data[at + 1 :])

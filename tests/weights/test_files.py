"""Weight files: three formats give the same tensors, and what is not one is refused by file and tensor name."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from cracks_jax.errors import CracksError
from cracks_jax.weights.files import convolution_kernel, loaded_from, read_tensors, take


@pytest.fixture
def tensors(rng):
    return {
        "conv.weight": rng.normal(size=(4, 3, 5, 2)).astype(np.float32),
        "norm.weight": rng.normal(size=4).astype(np.float16),
    }


def _same(read, expected):
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def test_safetensors_and_npz_give_the_tensors_that_were_written(tmp_path, tensors):
    save_file(tensors, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **tensors)
    _same(read_tensors(tmp_path / "a.safetensors"), tensors)
    _same(read_tensors(str(tmp_path / "a.npz")), tensors)


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pytorch_files_are_read_wrapped_or_not_and_without_data_parallels_prefix(tmp_path, tensors, suffix, wrapper):
    torch = pytest.importorskip("torch")
    content = {f"module.{name}": torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / f"a{suffix}")
    _same(read_tensors(tmp_path / f"a{suffix}"), tensors)


def test_bfloat16_of_pytorch_comes_out_as_float32(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "a.pth")
    _same(read_tensors(tmp_path / "a.pth"), {"a": np.array([1.5, -2.0], np.float32)})


def test_a_kernel_is_turned_to_height_width_in_out(tensors):
    kernel = convolution_kernel(tensors, "conv.weight", (5, 2, 3, 4))
    assert kernel[4, 1, 2, 3] == tensors["conv.weight"][3, 2, 4, 1]


# --- refusals


def _refused(path, *words):
    with pytest.raises(CracksError) as caught:
        read_tensors(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_missing_files_folders_other_suffixes_and_empty_files_are_refused(tmp_path):
    _refused(tmp_path / "none.pth", "no such file")
    (tmp_path / "folder.npz").mkdir()
    _refused(tmp_path / "folder.npz", "a folder")
    (tmp_path / "weights.h5").write_bytes(b"abc")
    _refused(tmp_path / "weights.h5", "'.h5'", ".safetensors, .pth, .pt, .npz")
    (tmp_path / "empty.safetensors").touch()
    _refused(tmp_path / "empty.safetensors", "empty")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_files_that_are_not_what_their_suffix_says_or_are_cut_short_are_refused(tmp_path, tensors, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path)
    else:
        {".safetensors": lambda: save_file(tensors, path), ".npz": lambda: np.savez(path, **tensors)}[suffix]()
    whole = path.read_bytes()
    for content in (whole[: len(whole) * 2 // 3], whole[:10], b"not a weight file at all, but some text\n" * 9):
        path.write_bytes(content)
        _refused(path, "cannot be read")


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path, tensors):
    path = tmp_path / "a.npz"
    np.savez(path, **tensors)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    _refused(path, "cannot be read")


def test_an_array_file_pickled_objects_and_code_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    with open(tmp_path / "array.npz", "wb") as file:  # a lone .npy under the wrong name
        np.save(file, np.ones(3))
    _refused(tmp_path / "array.npz", "cannot be read")
    np.savez(tmp_path / "objects.npz", a=np.array([{"x": 1}], dtype=object))
    _refused(tmp_path / "objects.npz", "cannot be read")
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "module.pth")
    _refused(tmp_path / "module.pth", "weights_only=True")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    _refused(tmp_path / "numbers.pth", "not a state dict")
    torch.save({}, tmp_path / "nothing.pth")
    _refused(tmp_path / "nothing.pth", "no tensors")


def test_a_pytorch_file_without_pytorch_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"abc")
    monkeypatch.setitem(sys.modules, "torch", None)
    _refused(tmp_path / "a.pth", "needs PyTorch", ".safetensors")


def test_a_tensors_error_names_file_and_tensor(tmp_path):
    whole_numbers = np.arange(4)
    np.savez(tmp_path / "a.npz", a=np.ones((2, 2)), n=whole_numbers, bad=np.array([1.0, np.nan]))
    tensors = read_tensors(tmp_path / "a.npz")
    for name, shape, words in (
        ("b", (2, 2), "missing"),
        ("a", (2, 3), "has shape (2, 2); expected (2, 3)"),
        ("n", (4,), "dtype int64"),
        ("bad", (2,), "not finite"),
    ):
        with pytest.raises(CracksError) as caught:
            take(tensors, name, shape)
        assert str(tmp_path / "a.npz") in str(caught.value)
        assert repr(name) in str(caught.value)
        assert words in str(caught.value)


# --- putting them into a network


def test_loaded_arrays_replace_the_drawn_ones_at_their_places_and_dtypes_only():
    drawn = {
        "params": {"trunk": {"a": np.zeros(2, np.float64), "b": np.zeros(3)}, "head": {"c": np.zeros(1)}},
        "batch_stats": {"trunk": {"m": np.zeros(2)}},
    }
    loaded = loaded_from({"a": np.ones(2, np.float32)}, {"m": np.full(2, 7, np.float32)})
    result = loaded.over(drawn, within="trunk")
    assert loaded.names == ("batch_stats/m", "params/a")
    assert result["params"]["trunk"]["a"].dtype == np.float64
    np.testing.assert_array_equal(result["params"]["trunk"]["a"], [1, 1])
    np.testing.assert_array_equal(result["batch_stats"]["trunk"]["m"], [7, 7])
    assert result["params"]["trunk"]["b"] is drawn["params"]["trunk"]["b"]
    assert result["params"]["head"] is drawn["params"]["head"]
    assert not drawn["params"]["trunk"]["a"].any()


def test_loaded_arrays_without_a_place_or_of_another_shape_are_refused():
    drawn = {"params": {"a": np.zeros(2)}, "batch_stats": {}}
    with pytest.raises(CracksError, match="params/z; the network has not"):
        loaded_from({"z": np.ones(2)}, {}).over(drawn)
    with pytest.raises(CracksError, match=r"params/a with shape \(3,\); the network wants \(2,\)"):
        loaded_from({"a": np.ones(3)}, {}).over(drawn)


def test_the_room_imports_neither_jax_nor_torch():
    program = (
        "import sys, cracks_jax.weights.files, cracks_jax.weights.resnet;"
        "sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

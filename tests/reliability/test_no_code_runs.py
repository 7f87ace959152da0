"""No code from a data, weights or run file ever runs: payloads that would leave a trace if they did.

A payload is what an attacker would write: a pickle whose reading calls a function, hidden in everything that is read;
and an experiment file, where a run's records name it. Each is shown to work where it is run on purpose.
"""

import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from cracks_jax.data.images import read_mask, read_score
from cracks_jax.errors import CracksError
from cracks_jax.runs import EXPERIMENT
from cracks_jax.weights.files import read_tensors
from tests.reliability.bombs import zipped
from tests.tiny import quick_compile, short_trunk  # noqa: F401
from tests.tiny_runs import command, first, labelled, pavements, photo, runs  # noqa: F401


class Payload:
    """Leaves `trace` when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    """The file that must not be there in the end, proven to appear when a payload is read without care."""
    path = tmp_path / "trace"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()
    path.unlink()
    return path


def npy_of_objects(payload) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[payload]], object), allow_pickle=True)
    return stream.getvalue()


# A pickle where an array's numbers should be: an object array, and one that says that it is numbers.
ARRAYS = {
    "a.npy": npy_of_objects,
    "bare.npy": lambda payload: pickle.dumps(payload),
    "a.npz": lambda payload: zipped({"a.npy": npy_of_objects(payload)}),
    "bare.npz": lambda payload: zipped({"a.npy": pickle.dumps(payload)}),
    "pkl.npz": lambda payload: zipped({"a.pkl": pickle.dumps(payload)}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_with_code_in_them_are_refused_as_predictions_and_as_weights(tmp_path, trace, labelled, name):  # noqa: F811
    content = ARRAYS[name](Payload(trace))
    if name == "a.npy":
        np.load(io.BytesIO(content), allow_pickle=True)
        assert trace.exists()
        trace.unlink()
    shutil.copytree(labelled / "masks", tmp_path / "found")
    first(tmp_path / "found").unlink()
    bad = tmp_path / "found" / f"0000{Path(name).suffix}"
    bad.write_bytes(content)
    answer = command("score", tmp_path / "found", labelled / "masks", "--workers", "0")
    answer.refused(1, f"{bad}: not a readable array")
    for read, suffix in ((read_score, ".npz"), (read_tensors, ".npz"), (read_tensors, ".pth"), (read_mask, ".mat")):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(CracksError):
            read(tmp_path / f"a{suffix}")
    assert not trace.exists()


def pytorch_files(payload) -> dict[str, bytes]:
    """What torch.save makes, now and formerly, with the payload in it; a bare pickle; PyTorch's oldest form."""
    torch = pytest.importorskip("torch")
    found = {}
    for name, options in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(2), "b": payload}, stream, **options)
        found[name] = stream.getvalue()
    found["bare"] = pickle.dumps(payload)
    found["state_dict"] = pickle.dumps({"state_dict": {"a": payload}})
    return found


@pytest.mark.parametrize("name", ["zip", "legacy", "bare", "state_dict"])
def test_pytorch_files_with_code_in_them_are_refused(tmp_path, trace, name):
    import torch

    content = pytorch_files(Payload(trace))[name]
    path = tmp_path / "resnet50.pth"
    path.write_bytes(content)
    try:
        torch.load(path, weights_only=False)
    except Exception as error:  # a bare pickle has run by the time PyTorch finds that it is not one of its own
        assert name in ("bare", "state_dict"), error
    assert trace.exists()
    trace.unlink()
    with pytest.raises(CracksError, match=r"resnet50\.pth: cannot be read .*weights_only=True"):
        read_tensors(path)
    assert not trace.exists()


def test_a_training_that_names_such_a_file_refuses_it(tmp_path, trace, quick_compile, short_trunk):  # noqa: F811
    path = tmp_path / "resnet50.pth"
    path.write_bytes(pytorch_files(Payload(trace))["zip"])
    words = ("train", f"{runs().file}:smoke", "--member", "segmentation", "--run", tmp_path / "run")
    answer = command(*words, "--set", f"training.pretrained={path}", "machine.compilation_cache=none")
    answer.refused(1, f"{path}: cannot be read", "weights_only=True")
    assert not trace.exists()


def test_matlab_labels_that_name_a_function_run_nothing(tmp_path, trace, labelled):  # noqa: F811
    """A MATLAB file may hold functions; scipy has no MATLAB to run them, and only numbers are taken."""
    for name, content in (("0000.mat", pickle.dumps(Payload(trace))), ("0001.mat", b"MATLAB 5.0" + bytes(200))):
        (labelled / "masks" / name).with_suffix(".png").unlink()
        (labelled / "masks" / name).write_bytes(content)
    command("evaluate", "--method", "darkness", "--data", labelled).refused(1, "0000.mat: no labels")
    assert not trace.exists()


# ------------------------------------------------------------------------------------------------ run files


@pytest.fixture
def run(tmp_path, quick_compile):  # noqa: F811
    """A trained run whose records name experiment files that leave a trace when they are run."""
    shutil.copytree(runs().restoration, tmp_path / "run")
    return tmp_path / "run"


def test_evaluate_detect_and_report_rebuild_a_run_from_its_json_and_run_no_file_of_it(
    tmp_path, trace, run, photo, monkeypatch  # noqa: F811
):
    """Python files by every name that the records give, in the run, beside it and in the working folder."""
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
    described = json.loads((run / EXPERIMENT).read_text())
    names = {described["name"], "experiment", "tiny", "conftest", "sitecustomize", "drawn", "restoration", "evil"}
    monkeypatch.chdir(tmp_path)
    for folder in (run, run / "checkpoints", tmp_path):
        for name in names:
            (folder / f"{name}.py").write_text(code)
        (folder / "evil.pth").write_text(code.replace("\n", ";"))
    exec(code)
    assert trace.exists()
    trace.unlink()
    data = ("--data", f"{pavements()}:test")
    for name in (described["name"], str(tmp_path / "evil.py"), "evil", "os.system", "__import__('evil')"):
        (run / EXPERIMENT).write_text(json.dumps(described | {"name": name, "member": name, "form": name}))
        command("evaluate", run, *data, "--rule", "0.3", "--json").ok()
        command("detect", photo, "--run", run, "--out", tmp_path / "out", "--rule", "0.3").ok()
        command("report", run, "--out", tmp_path / "report", *data, "--limit", "1").ok()
        assert not trace.exists()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("method", "kind"), "os.system"),
        (("method", "kind"), "evil"),
        (("method", "kind"), {"py/object": "os.system"}),
        (("method", "kind"), ["restoration"]),
        (("method",), {"kind": "restoration", "__class__": "evil"}),
        (("method",), {"kind": "restoration", "__reduce__": ["os.system", "touch trace"]}),
        (("data", "recipe"), "evil:touch"),
        (("detection", "rule"), "__import__('evil')"),
        (("training", "pretrained"), "!!python/object/apply:os.system"),
        (("seed",), "__import__('evil')"),
    ],
)
def test_a_record_that_names_code_is_refused_or_is_text(tmp_path, trace, run, monkeypatch, where, value):
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    described = json.loads((run / EXPERIMENT).read_text())
    place = described["science"]
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    (run / EXPERIMENT).write_text(json.dumps(described))
    for words in (("evaluate", run, "--data", f"{pavements()}:test", "--rule", "0.3"), ("train", "--repeat", run)):
        answer = command(*words)
        assert answer.code in (0, 1, 2) and "Traceback" not in answer.err, answer.err
        assert answer.code or words[0] == "evaluate"
    answer = command("report", run, "--out", tmp_path / "report")
    assert answer.code == 0 and not trace.exists() and "evil" not in sys.modules


def test_pickles_in_the_place_of_a_runs_files_run_nothing(tmp_path, trace, run, photo):  # noqa: F811
    payload = pickle.dumps(Payload(trace))
    files = {path.name: path for path in sorted(run.rglob("*")) if path.is_file()}  # of each name one
    for path in files.values():
        before = path.read_bytes()
        path.write_bytes(payload)
        answer = command("evaluate", run, "--data", f"{pavements()}:test", "--rule", "0.3", "--checkpoint", "last")
        assert answer.code in (0, 1) and "Traceback" not in answer.err, (path, answer.err)
        assert not trace.exists(), path
        path.write_bytes(before)
    for path in run.glob("*.json*"):
        path.write_bytes(payload)
    command("report", run, "--out", tmp_path / "report").ok()
    assert not trace.exists()

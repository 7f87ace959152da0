"""`tools/benchmark.py` as a person types it: one JSON object, one line for what is wrong, twins that do the same."""

import contextlib
import importlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cracks_jax.benchmark import machine
from tests.benchmark.quick import quick_benchmark  # noqa: F401
from tests.tiny import quick_compile, short_trunk  # noqa: F401
from tests.tiny_runs import REPOSITORY, Answer, start

TOOL = REPOSITORY / "tools" / "benchmark.py"
TINY = ("--size", 32, "--narrow", 16, "--batch", 2, "--repeats", 2)

pytestmark = pytest.mark.usefixtures("quick_compile", "quick_benchmark")


def _tool():
    spec = importlib.util.spec_from_file_location("benchmark_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def short_twin(short_trunk, monkeypatch):  # noqa: F811
    """The twin's trunk as short as ours."""
    resnet = pytest.importorskip("tests.reference.resnet_torch")
    monkeypatch.setitem(resnet.UNITS, 50, (1, 1, 1, 1))


def benchmark(*arguments: object) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = _tool().main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def refused(answer: Answer, code: int, *parts: str) -> None:
    assert answer.code == code and answer.out == "", answer
    messages = [line for line in answer.err.splitlines() if line.startswith("benchmark: ")]
    assert len(messages) == 1 and "Traceback" not in answer.err, answer.err
    assert all(part in messages[0] for part in parts), messages[0]


def test_a_step_and_its_twin_on_record(tmp_path):
    """Every figure that the design lists, in one JSON object and in the file."""
    pytest.importorskip("torch")
    words = ("step", "--system", "upcracknet", *TINY, "--peer", "torch", "--contenders", "eager", "--json")
    record = benchmark(*words, "--out", tmp_path).ok().json
    for name in ("seconds", "images_per_second", "gflop_per_image", "matrix_share", "compile_seconds", "memory"):
        assert record[name], name
    assert record["best_peer"] == "eager" and record["ratio"] > 0 and len(record["ratio_all"]) == 2
    assert record["precision"] == "highest" and record["losses"] == "core4"
    assert record["command"] == "python tools/benchmark.py " + " ".join(map(str, words))
    path = tmp_path / "step-upcracknet-b2-32-narrow16.json"
    assert json.loads(path.read_text()) == record and str(REPOSITORY) not in path.read_text()


def test_crackseg_and_its_twin_begin_with_the_same_loss(short_twin):
    words = ("step", "--system", "crackseg-r50", *TINY, "--peer", "torch", "--contenders", "eager", "--json")
    assert benchmark(*words).ok().json["peers"]["eager"]["first_loss_error"] < 1e-4


@pytest.mark.parametrize(("batch", "norm"), [(1, "window"), (3, "window"), (1, "running")])
def test_every_peer_restores_what_we_restore(batch, norm):
    """Of several windows too: each by its own statistics. A peer that is not installed says so."""
    pytest.importorskip("torch")
    words = ("--size", 32, "--narrow", 16, "--repeats", 1, "--batch", batch, "--batch-norm", norm, "--peer", "torch")
    forms = ("--contenders", "eager,onnxruntime,openvino")
    peers = benchmark("infer", "--system", "upcracknet", *words, *forms, "--json").ok().json["peers"]
    assert set(peers) == {"eager", "onnxruntime", "openvino"} and peers["eager"]["error"] < 1e-4
    for peer in peers.values():
        assert peer.get("error", 0) < 1e-4 and "No module" in peer.get("missing", "No module")


def test_crackseg_with_folded_norms_finds_what_we_find(short_twin):
    words = ("infer", "--system", "crackseg-r50", *TINY, "--peer", "torch", "--contenders", "eager", "--json")
    record = benchmark(*words).ok().json
    assert record["batch_norm"] == "running" and record["peers"]["eager"]["error"] < 1e-4


def test_the_input_alone_and_a_plan_for_a_rate():
    words = ("input", "--system", "upcracknet", *TINY, "--target-rate", 1e6)
    record = benchmark(*words, "--json").ok().json
    assert record["images_per_second"] > 0 and record["cached"]["images_per_second_per_core"] > 0
    assert record["plan"]["workers"]["decoding"] > record["plan"]["cores"] and record["data"] == "drawn:undamaged"
    assert "workers to wait under 5.0 % at 1e+06 images/s" in benchmark(*words).ok().out


def test_one_command_writes_records_and_their_page(tmp_path):
    answer = start("all", "--quick", "--only", "input-upcracknet", "--out", tmp_path, program=(str(TOOL),))
    out, err = answer.communicate(timeout=240)
    assert answer.returncode == 0, err
    assert out.strip().splitlines()[-1] == str(tmp_path / "README.md")
    assert "| input, upcracknet, batch 4, 64 px" in (tmp_path / "README.md").read_text()
    record = json.loads((tmp_path / "input-upcracknet.json").read_text())
    assert str(tmp_path) not in json.dumps(record)
    assert benchmark("table", tmp_path).ok().out.strip() == str(tmp_path / "README.md")


def test_a_measurement_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    tool = _tool()
    asked: list[str] = []

    def run(words, check):
        asked.append(words[-1])
        return subprocess.CompletedProcess(words, 1 if words[-1].startswith("step") else 0)

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool.page, "write_page", lambda folder: Path(folder) / "README.md")
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        assert tool.main(["all", "--out", str(tmp_path), "--only", "*-b4"]) == 1
    assert asked == ["step-upcracknet-b4", "step-crackseg-r50-b4"]
    assert "benchmark: 2 of 2 measurements failed" in err.getvalue()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("step", "--system", "unet"), ("--system unet: expected one of", "upcracknet")),
        (("step", "--system", "darkness"), ("--system darkness: expected one of",)),
        (("step", "--system", "upcracknet", "--size", 250), ("--size 250", "use 256")),
        (("step", "--system", "upcracknet", "--size", 48), ("--size 48", "use 64")),
        (("infer", "--system", "crackseg", "--size", 8), ("--size 8", "use 32")),
        (("step", "--system", "crackseg", "--losses", "all"), ("--losses all", "cross-entropy")),
        (("step", "--system", "crackseg", "--batch", 0), ("--batch 0", "at least 1")),
        (("step", "--system", "crackseg", "--narrow", 3), ("--narrow 3", "1, 2, 4, 8, 16")),
        (("step", "--system", "crackseg", "--threads", 4096), ("--threads 4096", "cores")),
        (("input", "--system", "crackseg", "--workers", -1), ("--workers -1",)),
        (("input", "--system", "crackseg", "--target-rate", "fast"), ("--target-rate", "'fast'")),
        (("infer", "--system", "crackseg", "--contenders", "eager,tvm"), ("--contenders", "'tvm'")),
        (("all", "--only", "nothing"), ("--only nothing", "step-upcracknet-b4")),
        (("table", "nosuch"), ("nosuch: there is no such folder",)),
        (("step",), ("--system",)),
        (("fly",), ("fly",)),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(words, parts):
    refused(benchmark(*words), 2, *parts)


def test_a_machine_without_pytorch_is_told_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'torch'")

    tool = importlib.import_module  # the tool itself is loaded before
    monkeypatch.setattr(importlib, "import_module", lambda name: missing(name) if "torch" in name else tool(name))
    refused(benchmark("step", "--system", "upcracknet", *TINY, "--peer", "torch"), 1, "No module named 'torch'", "pip")


def test_too_little_memory_is_one_line_and_exit_1(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 2**20)
    answer = benchmark("step", "--system", "upcracknet", "--batch", 8, "--size", 64)
    refused(answer, 1, "step of upcracknet needs at least", "use a smaller --size")


def test_data_that_is_not_there_is_named():
    refused(benchmark("input", "--system", "crackseg", *TINY, "--data", "nosuch"), 1, "nosuch")


def test_the_tool_runs_from_any_folder(tmp_path):
    """Started by its path, without the package on the path: it finds its own repository."""
    words = [sys.executable, str(TOOL), "--help"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "pipeline" in run.stdout

"""The accelerator check as it is rehearsed: parts that fail, wait or find no time are on record, the others go on."""

import importlib.util
import json
import math
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.benchmark import accelerator, layers, measures
from cracks_jax.benchmark.contenders import Offer, Peers
from cracks_jax.benchmark.report import Report
from cracks_jax.errors import UsageError
from tests.benchmark.quick import quick_benchmark  # noqa: F401
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import REPOSITORY

TOOL = REPOSITORY / "tools" / "accelerator_check.py"
# A measurement's process without a measurement: it answers as `measures.child` does, or does not.
CHILD = """
import json, sys, time
asked = json.loads(sys.argv[1])
name, found = asked["measure"], {"asked": asked["arguments"]}
if name == "machine":
    found = {"device": {"kind": "Some GPU 80GB", "platform": "cpu"}}
if name == "digests":
    found = {"upcracknet": {"digests": ["a"] * asked["arguments"]["count"], "seconds": 2.0}}
with open(asked["to"], "w") as file:
    json.dump(found, file)
if name == "dilated":
    sys.exit("no such kernel")
if name == "largest":
    time.sleep(600)
"""


def check(tmp_path, *parts, **settings):
    path, failed = accelerator.run(
        [sys.executable, "-c", CHILD], small=True, parts=parts, out=tmp_path / "record.json", **settings
    )
    return json.loads(path.read_text()), failed


def test_a_failing_part_is_on_record_and_the_others_go_on(tmp_path):
    record, failed = check(tmp_path, "transposed", "dilated", "step-segmentation", "determinism")
    assert failed == ["dilated"] and record["parts"]["dilated"]["failed"] == "its process left with code 1"
    assert list(record["parts"]) == ["transposed", "dilated", "step-segmentation", "determinism"]
    assert record["parts"]["step-segmentation"]["asked"] == {"system": "crackseg-r50"}
    verdict = record["parts"]["determinism"]["systems"]["upcracknet"]
    assert verdict == {"digests": 3, "equal": True, "free_equal": True, "cost": 1.0}
    assert record["device"]["kind"] == "Some GPU 80GB" and str(tmp_path) not in json.dumps(record)


def test_the_time_is_kept_what_was_found_is_too_and_what_finds_no_time_says_so(tmp_path):
    began = time.monotonic()
    record, failed = check(tmp_path, "batch", "tests", minutes=7 / 60)
    assert time.monotonic() - began < 120  # the batch's process would take ten minutes
    assert failed[0] == "batch" and record["parts"]["batch"]["asked"] == {}
    assert "ended after its" in record["parts"]["batch"]["failed"]
    # The tests got what the batch had not: too little to begin, or to end.
    assert "skipped" in record["parts"]["tests"] or "failed" in record["parts"]["tests"]


def test_without_a_file_the_record_is_named_by_its_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = accelerator.run([sys.executable, "-c", CHILD], small=True, parts=["transposed"])
    assert path.as_posix() == "experiments/benchmarks/accelerator-some-gpu-80gb.json" and path.exists()


@pytest.mark.parametrize("settings", [{"parts": ["fly"]}, {"minutes": 0.0}, {"batches": [0]}])
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(UsageError, match="expected"):
        accelerator.run(["nothing"], **settings)


def test_the_tool_rehearses_layers_and_prints_the_record_last(tmp_path):
    """From another folder, by its path. Every form of the transposed convolution is the same function."""
    words = [sys.executable, TOOL, "--small", "--parts", "transposed", "--out", tmp_path / "record.json"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'record.json'}\n", done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    for name, layer in record["parts"]["transposed"].items():
        if name.startswith("dec"):
            assert {*accelerator_forms(layer)} == {"lax", "parity", "one_product"}
            bound = 1e-5 if name.endswith("float32") else 2e-2
            assert all(form["error"] <= bound for form in accelerator_forms(layer).values()), name
    assert record["software"]["jax"] and record["matrix_gflops"]["float32"] > 0 and record["small"]
    assert str(tmp_path) not in json.dumps(record) and str(REPOSITORY) not in json.dumps(record)


def accelerator_forms(layer):
    return {name: form for name, form in layer.items() if isinstance(form, dict)}


def test_a_wrong_command_is_one_line_and_exit_2(capsys):
    spec = importlib.util.spec_from_file_location("accelerator_check", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--parts", "fly"]) == 2
    assert capsys.readouterr().err.startswith("accelerator_check: --parts fly: expected names of transposed")


def test_a_step_beside_twins_that_run_or_take_too_long(quick_compile, quick_benchmark):  # noqa: F811
    """Of a twin that is still compiling when its time ends, the record says so; the batch counts all the same."""

    class Ready:
        def place(self, batch):
            return batch

        def run(self, placed):
            return 1.0

    def slow():
        try:
            time.sleep(600)
        finally:
            report.end = math.inf

    sizes = accelerator.Sizes(size=32, narrow=16, batches=(1,), repeats=2)
    report = Report(math.inf)

    def peers(job, contenders):
        assert job.dtype == "bfloat16" and contenders == sizes.contenders
        report.end = time.monotonic() + 2.0
        return Peers({}, [Offer("slow", slow), Offer("ready", Ready)])

    measures.measure_step(sizes, report, "upcracknet", peers)
    (row,) = report.found["rows"]
    assert "slow was not compiled within" in row["peers"]["slow"]["missing"]
    assert row["best_peer"] == "ready" and row["ratio"] > 0 and math.isfinite(row["matrix_share"])


def test_the_largest_batch_is_found_by_doubling_then_between():
    search = measures.Search(64, 4096)
    while (batch := search.next()) is not None:
        search.tell(batch, batch <= 300)
    assert search.fits <= 300 < search.fails and search.fails - search.fits <= search.fits // 8
    assert [batch for batch, _ in search.tried][:4] == [64, 128, 256, 512]
    small = measures.Search(64, 4096)
    while (batch := small.next()) is not None:
        small.tell(batch, batch <= 3)
    assert (small.fits, small.fails) == (3, 4)
    every = measures.Search(2, 4)
    while (batch := every.next()) is not None:
        every.tell(batch, True)
    assert (every.fits, every.fails) == (4, None)


def test_curves_are_compared_by_ends_areas_and_their_largest_difference():
    a, b = np.linspace(2, 1, 50), np.linspace(2, 1, 50)
    b[-10:] += 0.5
    found = measures.compared(list(a), list(b))
    assert found["final"]["bfloat16"] - found["final"]["float32"] == pytest.approx(0.5)
    assert found["largest_difference"] == pytest.approx(0.5) and found["area_between"] == pytest.approx(5.0)
    assert measures.compared(list(a), list(a))["largest_relative_difference"] == 0
    with pytest.raises(ArithmeticError, match="not finite"):
        measures.compared([1.0, float("nan")], [1.0, 1.0])


def test_removed_squares_are_the_same_in_a_drawn_batch():
    job = measures._job(accelerator.Sizes(size=32, narrow=16), "upcracknet", 2, "float32")
    batch = measures._drawn(job, 0)
    removed = (batch["corrupted"] == 0).all(-1)[:, 0]
    assert 0.2 < removed.mean() < 0.8 and batch["image"].shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(batch["corrupted"][:, 0][~removed], batch["image"][~removed])


def test_pytests_lines_are_counted():
    text = (
        "tests/a.py::test_one PASSED [ 10%]\ntests/a.py::test_two[x y] FAILED [ 20%]\n"
        "tests/a.py::test_three SKIPPED (no data) [ 30%]\nERROR tests/b.py - ImportError: no grain\n"
    )
    found = accelerator.counted(text)
    assert (found["passed"], found["skipped"], found["not_passed"]) == (1, 1, 2)
    assert found["names"] == ["tests/a.py::test_two[x y]", "tests/b.py"]


def test_one_product_takes_a_kernels_parities_apart(rng):
    x, kernel = jnp.asarray(rng.normal(size=(1, 3, 5, 2))), jnp.asarray(rng.normal(size=(4, 4, 2, 3)))
    expected = layers.FORMS["lax"](x, kernel)
    np.testing.assert_allclose(layers.FORMS["one_product"](x, kernel), expected, atol=1e-5)

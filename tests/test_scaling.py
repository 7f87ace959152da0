"""`tools/scaling.py` and what it plans with: programs read rightly, a model that adds up, a line for what is wrong."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.scaling import check, page, plan, predict, program
from cracks_jax.scaling.hlo import Collective, Program, array_bytes, group_size
from cracks_jax.scaling.machines import CHIPS, LINKS, Chip, Cost, Level, Link, collective, ring
from cracks_jax.scaling.predict import Facts, Machine
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import REPOSITORY

DEVICES = 4

# As XLA prints programs; layouts, comments and metadata as it does. 8 devices.
HEADER = "HloModule step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=8\n"
SUM = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}
"""
EVERY_KIND = f"""{HEADER}{SUM}
ENTRY %main (p: f32[8,4], q: bf16[16]) -> f32[8,4] {{
  %p = f32[8,4]{{1,0}} parameter(0), sharding={{replicated}}, metadata={{op_name="state[\\'p\\']"}}
  %q = bf16[16]{{0}} parameter(1)
  %one = f32[8,4]{{1,0}} all-reduce(%p), channel_id=1, replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, to_apply=%sum
  %two = (f32[8,4]{{1,0}}, /*index=1*/bf16[16]{{0}}, f32[]) all-reduce(%one, %q, %z), replica_groups=[1,8]<=[8]
  %three = f32[8,4]{{1,0}} all-reduce-start(%p), replica_groups={{}}, use_global_device_ids=true, to_apply=%sum
  %done = f32[8,4]{{1,0}} all-reduce-done(%three)
  %four = (f32[1,4]{{1,0}}, f32[8,4]{{1,0:T(8,128)}}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={{0}}
  %gathered = f32[8,4]{{1,0:T(8,128)}} all-gather-done(%four)
  %five = f32[4,4]{{1,0}} reduce-scatter(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={{0}}, to_apply=%sum
  %six = (bf16[16]{{0}}, bf16[16]{{0}}, u32[]) collective-permute-start(%q), source_target_pairs={{{{0,1}},{{1,0}}}}
  %sent = bf16[16]{{0}} collective-permute-done(%six)
  %seven = s8[64]{{0}} all-to-all(%w), replica_groups=mesh['x'=4,'y'=2] {{'x'}}, dimensions={{0}}
  ROOT %end = f32[8,4]{{1,0}} add(%one, %done)
}}
"""


def _loop(trips: str) -> str:
    return f"""{HEADER}{SUM}
%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %s = (s32[], f32[8]{{0}}) parameter(0)
  %x = f32[8]{{0}} get-tuple-element(%s), index=1
  %r = f32[8]{{0}} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%sum
  ROOT %t = (s32[], f32[8]{{0}}) tuple(%i, %r)
}}

%condition (s.1: (s32[], f32[8])) -> pred[] {{
  ROOT %less = pred[] constant(true)
}}

ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  %before = f32[8]{{0}} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%sum
  %beside = f32[8]{{0}} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%sum
  %t.1 = (s32[], f32[8]{{0}}) tuple(%zero, %before)
  %while.1 = (s32[], f32[8]{{0}}) while(%t.1), condition=%condition, body=%body{trips}
  ROOT %out = f32[8]{{0}} get-tuple-element(%while.1), index=1
}}
"""


# ------------------------------------------------------------------------------------------ programs' text


def test_every_kind_of_collective_is_counted_with_its_bytes_and_group():
    found = Program(EVERY_KIND).collectives()
    assert found == [
        Collective("all-reduce", 128, 1, 4),
        Collective("all-reduce", 128 + 32 + 4, 3, 8),
        Collective("all-reduce", 128, 1, 8),
        Collective("all-gather", 128, 1, 8),
        Collective("reduce-scatter", 128, 1, 2),
        Collective("collective-permute", 32, 1, 2),
        Collective("all-to-all", 64, 1, 4),
    ]


def test_chains_and_loops_are_followed():
    """Two before the loop, of which one is beside it, and five trips of one inside."""
    program = Program(_loop(', backend_config={"known_trip_count":{"n":"5"}}'))
    assert [one.times for one in program.collectives()] == [1, 1, 5]
    assert program.rounds() == 1 + 5
    assert Program(EVERY_KIND).rounds() == 2


def test_traffic_is_operands_and_results_and_tells_copies_apart():
    text = f"""{HEADER}
%turned (x: f32[4,2]) -> f32[2,4] {{
  %x = f32[4,2]{{1,0}} parameter(0)
  ROOT %r = f32[2,4]{{1,0}} transpose(%x), dimensions={{1,0}}
}}

%added (y: f32[2,4], z: f32[4]) -> f32[2,4] {{
  %y = f32[2,4]{{1,0}} parameter(0)
  %z = f32[4]{{0}} parameter(1)
  %w = f32[2,4]{{1,0}} broadcast(%z), dimensions={{1}}
  ROOT %s = f32[2,4]{{1,0}} add(%y, %w)
}}

ENTRY %main (p: f32[4,2], q: f32[4]) -> f32[2,4] {{
  %p = f32[4,2]{{1,0}} parameter(0)
  %q = f32[4]{{0}} parameter(1)
  %one = f32[2,4]{{1,0}} fusion(%p), kind=kLoop, calls=%turned
  %two = f32[2,4]{{1,0}} fusion(%one, %q), kind=kLoop, calls=%added
  %view = f32[8]{{0}} bitcast(%two)
  ROOT %three = f32[8]{{0}} copy(%view)
}}
"""
    assert Program(text).traffic() == (32 + 16 + 32, 32 + 32 + 32 + 32)


def test_a_loop_of_unknown_length_is_refused_and_so_is_a_text_that_is_no_program():
    with pytest.raises(CracksError, match="while.1 has collectives, and its trips are not known"):
        Program(_loop("")).collectives()
    with pytest.raises(CracksError, match="no ENTRY"):
        Program("module @jit_step {}")


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,2},{1,3}}, x=1", 2),
        ("replica_groups={}", 16),
        ("channel_id=1", 16),
        ("replica_groups=[2,8]<=[16]", 8),
        ("replica_groups=[8,2]<=[2,8]T(1,0)", 2),
        ("replica_groups=mesh['a'=4,'b'=2,'c'=2] {'a','c'}, y", 8),
        ("replica_groups=mesh['a'=16] {'a':(2)4}", 4),
    ],
)
def test_groups_are_read_in_every_way_that_they_are_printed(attributes, size):
    assert group_size(attributes, 16) == size


@pytest.mark.parametrize(
    ("result", "sizes"),
    [
        ("f32[2,3]{1,0}", [24]),
        ("(bf16[5]{0}, f64[2]{0:T(8,128)(2,1)}, pred[3])", [10, 16, 3]),
        ("f8e4m3fn[7]", [7]),
        ("s4[5]", [3]),
        ("f32[]", [4]),
        ("token[]", [0]),
    ],
)
def test_bytes_of_types(result, sizes):
    assert array_bytes(result) == sizes


# ------------------------------------------------------------------------------------------- a real program


@pytest.fixture(scope="module", params=["restoration", "segmentation"])
def step(request, quick_compile, tmp_path_factory):  # noqa: F811
    """A tiny training step on four devices: the experiment, what is said of it, the compiled program, its placement."""
    patch = pytest.MonkeyPatch()
    from cracks_jax.networks.backbones import resnet

    patch.setitem(resnet.UNITS, 50, (1, 1, 1, 1))
    experiment = tiny.experiment(tmp_path_factory.mktemp("drawn"), request.param)
    found, compiled, parallel = program.described(experiment, DEVICES, 2 * DEVICES, accelerator=True)
    yield experiment, found, compiled, parallel
    patch.undo()


def test_devices_sum_every_trained_kernel_and_statistic_and_nothing_else(step):
    """Counted from the state: gradients of all parameters, and of each norm mean and variance forward and one more sum
    backward; of the discriminator for real and restored images apart, and three sums where it only judges.
    """
    experiment, found, compiled, _ = step
    state = program.shapes(experiment, 1)[0]
    lines = [line for line in compiled.as_text().splitlines() if " all-reduce(" in line]
    arrays = [
        math.prod(int(side) for side in shape.split(",") if side)
        for line in lines
        for shape in re.findall(r"f32\[([\d,]*)\]", line.partition(" all-reduce(")[0])
        if shape.count(",") == 3
    ]
    if "generator" in state:
        (g, g_stats), (d, d_stats) = (_sizes(state[part]) for part in ("generator", "discriminator"))
        expected = g.total + 2 * d.total + 1.5 * g_stats.total + 2 * 1.5 * d_stats.total + 2.5 * d_stats.total
        assert sum(arrays) == g.kernels + 2 * d.kernels
    else:
        network, stats = _sizes(state["network"])
        expected = network.total + 1.5 * stats.total
        assert sum(arrays) == network.kernels
    scalars = predict.sent(found) / 4 - expected
    assert 0 < scalars < 20, "losses and accuracy"
    assert {one["kind"] for one in found["collectives"]} == {"all-reduce"}
    assert {one["group"] for one in found["collectives"]} == {DEVICES}


@dataclasses.dataclass
class _Count:
    total: int
    kernels: int


def _sizes(variables):
    """(parameters, statistics without the counts of updates) of a network."""
    kept = {"params": jax.tree.leaves(variables["params"])}
    kept["batch_stats"] = [x for x in jax.tree.leaves(variables["batch_stats"]) if x.ndim]
    return [
        _Count(sum(x.size for x in kept[name]), sum(x.size for x in kept[name] if x.ndim == 4))
        for name in ("params", "batch_stats")
    ]


def test_memory_of_a_device_is_that_of_real_arrays(step):
    experiment, found, _, parallel = step
    state, images, rates, _ = program.shapes(experiment, 2 * DEVICES)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (state, images))
    placed = (parallel.put_state(zeros[0]), parallel.put_batch(zeros[1]))
    shards = [s.data.nbytes for x in jax.tree.leaves(placed) for s in x.addressable_shards if s.device.id == 3]
    unread = zeros[1]["keep"].nbytes // DEVICES if "keep" in zeros[1] else 0
    others = found["memory"]["arguments"] - (sum(shards) - unread)
    assert 0 <= others <= 4 * len(rates) + 16, "numbers and a key"
    assert found["state_bytes"] == sum(x.nbytes for x in jax.tree.leaves(zeros[0]))


def test_the_published_convolutions_are_what_is_compiled(step):
    """Not a processor's products; the step's operations grow with its images (traced once more for one method)."""
    experiment, found, compiled, _ = step
    assert compiled.as_text().count(" convolution(") > 20
    assert found["form"] == "accelerator" and found["flop"] > 0
    if "mask" in program.shapes(experiment, 1)[1]:
        return
    arguments = program.shapes(experiment, DEVICES)
    half = program.jitted_step(experiment, DEVICES, arguments[0])[1].trace(*arguments)
    flop = half.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]
    assert 0.5 < flop / found["flop"] < 0.75, "half of the images, and the whole of the optimiser"


def test_a_process_gets_its_devices():
    asked = [sys.executable, "-c", "import jax, cracks_jax.scaling; print(jax.device_count())"]
    done = subprocess.run(asked, env=plan.environment(12), capture_output=True, text=True, timeout=120, cwd="/")
    assert done.stdout.strip() == "12", done.stderr


# ------------------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_ring_costs_what_a_simulated_ring_takes(n, rng):
    """Shares go around, are summed, go around again: after 2 (n - 1) steps everybody has the sum, and no sooner."""
    bandwidth, latency, share = 3e9, 2e-6, 5
    held = rng.normal(size=(n, n, share))
    expected, clock, steps = held.sum(0), 0.0, 0
    while not np.allclose(held, expected[None]):
        turn, spreading = steps % (n - 1), steps >= n - 1
        moved = [(device, (device - turn + spreading) % n) for device in range(n)]
        buffers = [held[device, part].copy() for device, part in moved]
        for (device, part), buffer in zip(moved, buffers, strict=True):
            target = held[(device + 1) % n]
            target[part] = buffer if spreading else target[part] + buffer
        clock += latency + 8 * share / bandwidth
        steps += 1
        assert steps <= 2 * (n - 1)
    assert ring(8 * share * n, n, bandwidth, latency).total == pytest.approx(clock)


def test_a_collective_over_hosts_goes_inside_first_and_small_ones_take_the_tree():
    link = Link("two", "two levels", (Level("inside", 4, 100e9, 1e-6), Level("between", None, 10e9, 10e-6)), 3e-6, "")
    big = collective(link, "all-reduce", 8e9, 32)
    assert big.transfer == pytest.approx(2 * 3 / 4 * 8e9 / 100e9 + 2 * 7 / 8 * 2e9 / 10e9)
    assert big.latency == pytest.approx(2 * 3 * 1e-6 + 2 * 7 * 10e-6 + 3e-6)
    small = collective(link, "all-reduce", 256, 32)
    assert small.latency == pytest.approx(2 * 2 * 1e-6 + 2 * 3 * 10e-6 + 3e-6)
    halves = [collective(link, kind, 8e9, 32).transfer for kind in ("reduce-scatter", "all-gather")]
    assert sum(halves) == pytest.approx(big.transfer)
    assert collective(link, "all-reduce", 8e9, 1) == Cost(0.0, 0.0)
    assert collective(link, "collective-permute", 1e9, 32).transfer == pytest.approx(0.1)
    assert collective(link, "all-to-all", 1e9, 4).transfer == pytest.approx(0.75e9 / 100e9)


CHIP = Chip("chip", "a chip", {"float32": 1e12}, 1e11, 1e9, 0.5, 0.5, 4, "none", "")
FLAT = Link("flat", "one level", (Level("all", None, 1e9, 1e-5),), 0.0, "")


def _facts(n: int, batch: int, *, collectives: tuple[Collective, ...] = (), held: int = 10**8) -> Facts:
    return Facts(n, batch, 1e10 * batch, 1e8 * batch / n, held, collectives if n > 1 else (), len(collectives))


def _row(n=4, batch=32, cores=4.0, plan_name="weak", **facts):
    alone = batch // n if plan_name == "weak" else batch
    machine = Machine(CHIP, FLAT, "float32", 1000.0, cores)
    return predict.predict(_facts(n, batch, **facts), _facts(1, alone), machine, plan_name)


def test_a_row_adds_up_by_hand():
    row = _row(collectives=(Collective("all-reduce", 4_000_000, 3, 4),))
    assert row["seconds"] == pytest.approx(
        {"compute": 0.16, "memory": 0.016, "transfer": 0.006, "latency": 6e-5, "input": 0.002}
    )
    assert row["step"] == pytest.approx({"none": 0.18206, "full": 0.16})
    assert row["images_per_second"] == pytest.approx({"none": 32 / 0.18206, "full": 200})
    assert row["efficiency"] == pytest.approx({"none": 0.176 / 0.18206, "full": 1.0})
    assert row["limit"] == "compute" and row["fits"] and row["batch_per_device"] == 8


def test_strong_scaling_refers_to_the_same_batch_on_one_device():
    row = _row(n=8, batch=8, plan_name="strong", collectives=(Collective("all-reduce", 4_000_000, 3, 8),))
    alone, step = 0.16 + 0.016, 0.02 + 0.002 + 2 * 7 / 8 * 4e6 / 1e9 + 14 * 1e-5
    # The tree is slower here: 2 x 4 MB at 1 GB/s.
    assert row["efficiency"]["none"] == pytest.approx(alone / 8 / step)


@pytest.mark.parametrize(
    ("limit", "facts"),
    [
        ("input", {"cores": 0.01}),
        ("transfer", {"collectives": (Collective("all-reduce", 10**9, 1, 4),)}),
        ("latency", {"collectives": (Collective("all-reduce", 4, 1, 4, times=10**5),)}),
        ("capacity", {"held": 2 * 10**9}),
    ],
)
def test_what_limits_is_named(limit, facts):
    row = _row(**facts)
    assert row["limit"] == limit
    if limit == "input":
        assert row["step"]["none"] == row["step"]["full"] == 8 / (0.01 * 1000)
    assert page.LIMITS.keys() >= {limit}


def test_cores_that_are_needed_are_enough():
    row = _row()
    fed = _row(cores=row["cores_needed"])
    assert fed["seconds"]["input"] == pytest.approx(fed["step"]["none"])


def test_operations_are_told_apart_into_split_and_repeated_ones():
    programs = {n: _program(n, 8) for n in (1, 2, 4, 8)}
    found = check.counted(tiny.experiment(Path("unused")), programs, dict.fromkeys(programs, 0))
    for n, one in found["operations"].items():
        assert one["found"] == pytest.approx(one["expected"]) and one["own_share"] == pytest.approx(100 / one["found"])
        assert one["found"] == 100 + 800 / int(n)
    assert found["collective_bytes"] == {"2": 44, "4": 44, "8": 44}


def test_a_step_on_shared_memory_is_priced_by_what_is_done_more_often():
    programs = {n: _program(n, 8) for n in (1, 2)}
    links = {2: {"latency": 0.5, "bandwidth": 44.0}}
    found = check.timed(programs, {1: [2.0, 1.0, 3.0], 2: [9.0, 9.0, 9.0]}, links, 10.0)
    assert found["1"]["model"] == 2.0 and found["1"]["ratio"] == 1.0
    # 2 x 70 - 90 bytes more at 10 bytes/s; two collectives of 0.5 s; 44 bytes at 44 bytes/s.
    assert found["2"]["model"] == 2.0 + 5.0 + 1.0 + 1.0 and found["2"]["ratio"] == 1.0


def _program(n: int, batch: int) -> dict:
    """A record's entry with round numbers."""
    sums = [{"kind": "all-reduce", "bytes": size, "arrays": 1, "group": n, "times": 1} for size in (40, 4)]
    return {
        "devices": n,
        "batch": batch,
        "side": 256,
        "form": "accelerator",
        "parameters": 10,
        "state_bytes": 120,
        "batch_bytes": 80 * batch,
        "flop": 1e10 * batch,
        "flop_compiled": 100 + 800 / n,
        "traffic": {"computing": 30 + 40 / n, "rearranging": 20},
        "memory": {"arguments": 200, "outputs": 120, "temporaries": 30, "shared": 120, "total": 230},
        "collectives": sums if n > 1 else [],
        "rounds": 2 if n > 1 else 0,
        "seconds": {"lowering": 1.0, "compiling": 2.0},
        "process_peak": 1,
    }


# ------------------------------------------------------------------------------------------------- the tool


def _tool():
    spec = importlib.util.spec_from_file_location("scaling_tool", REPOSITORY / "tools" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scaling(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the tool in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = _tool().main([str(word) for word in arguments])
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def compiled(monkeypatch):
    """Programs are asked for and not compiled; what was asked."""
    asked = []

    def in_child(module, spec, count, **_):
        asked.append((spec["devices"], spec["batch"], count, Path(spec["experiment"]).name))
        return _program(spec["devices"], spec["batch"])

    monkeypatch.setattr(plan, "in_child", in_child)
    return asked


def test_a_plan_is_one_json_object_a_record_and_a_page(compiled, tmp_path):
    code, out, err = scaling("--method", "upcracknet", "--devices", 8, 64, "--out", tmp_path, "--json")
    record = json.loads(out)
    assert code == 0 and "compiling for 64 devices, 512 images" in err
    assert compiled == [(n, b, n, "upcracknet_deepcrack.py") for n, b in ((1, 8), (8, 8), (8, 64), (64, 512))]
    assert json.loads((tmp_path / "upcracknet-float32.json").read_text()) == record
    assert str(tmp_path) not in json.dumps(record) and record["command"].startswith("python tools/scaling.py --method")
    rows = {(r["chip"], r["plan"], r["devices"]): r for r in record["predictions"]}
    assert rows["h100-sxm", "strong", 64]["limit"] == "batch", "eight images are not enough for 64 devices"
    assert rows["h100-sxm", "weak", 64]["batch"] == 512
    assert ("laptop", "weak", 1) in rows and ("laptop", "weak", 8) not in rows
    text = (tmp_path / "README.md").read_text()
    rate = rows["tpu-v5e", "weak", 64]["images_per_second"]["none"]
    assert "less than one image each" in text and f"{rate:,.0f}" in text


def test_programs_on_record_are_not_compiled_again(compiled, tmp_path):
    scaling("--method", "upcracknet", "--devices", 8, "--out", tmp_path)
    before = compiled.copy()
    code, out, _ = scaling(*H100, "--devices", 8, "--cores-per-device", 1e-3, "--programs", tmp_path, "--json")
    assert code == 0 and compiled == before
    assert {row["limit"] for row in json.loads(out)["predictions"]} == {"input"}
    scaling(*H100, "--devices", 8, 64, "--programs", tmp_path)
    assert compiled[len(before) :] == [(64, 512, 64, "upcracknet_deepcrack.py")]
    (tmp_path / "upcracknet-float32.json").write_text("{}")
    code, _, err = scaling(*H100, "--programs", tmp_path)
    assert code == 1 and "is no record of programs" in err


def test_the_page_is_made_again_from_records_alone(compiled, tmp_path):
    scaling("--method", "crackseg", "--precision", "bfloat16", "--chip", "h100-sxm", "--devices", 8, "--out", tmp_path)
    first = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").unlink()
    code, out, _ = scaling("table", tmp_path)
    assert code == 0 and out.strip().endswith("README.md") and (tmp_path / "README.md").read_text() == first
    assert "CrackSeg, bfloat16" in first and "InfiniBand" in first and "TPU" not in first


def test_a_check_s_record_has_its_place_on_the_page(compiled, tmp_path):
    scaling("--method", "upcracknet", "--chip", "h100-sxm", "--devices", 8, "--out", tmp_path)
    programs = {n: _program(n, 8) for n in (1, 2, 4, 8)}
    links = {n: {"latency": 0.5, "bandwidth": 44.0, "points": []} for n in (2, 4, 8)}
    record = {
        **json.loads((tmp_path / "upcracknet-float32.json").read_text()),
        "kind": "check",
        "label": "check-upcracknet-float32",
        "batch": 8,
        "side": 256,
        "memory_bandwidth": 10.0,
        "links": links,
        "counts": check.counted(tiny.experiment(Path("unused")), programs, dict.fromkeys(programs, 0)),
        "times": check.timed(programs, {n: [float(n)] for n in programs}, links, 10.0),
    }
    (tmp_path / "check-upcracknet-float32.json").write_text(json.dumps(record))
    text = page.write_page(tmp_path).read_text()
    assert "## Checked" in text and "do NOT have the bytes" in text


H100 = ("--method", "upcracknet", "--chip", "h100-sxm")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "unet"), "--method unet: expected one of upcracknet, crackseg"),
        (("--method", "crackseg", "--chip", "h900"), "--chip h900: expected one of laptop, rtx-4090, h100-sxm"),
        ((*H100, "--link", "string"), "--link string: expected one of none, pcie-ethernet"),
        ((*H100, "--precision", "float8"), "--precision float8: expected one of float32, tf32, bfloat16"),
        (("--method", "crackseg", "--chip", "tpu-v5e", "--precision", "tf32"), "tpu-v5e has float32, bfloat16; use"),
        ((*H100, "--devices", 3), "--batch 8 cannot be split evenly over 3 devices; use 6 or 9"),
        ((*H100, "--devices", 8, 0), "--devices 0: expected a whole number, at least 1"),
        ((*H100, "--devices", "many"), "invalid int value: 'many'"),
        ((*H100, "--batch-per-device", -1), "--batch-per-device -1: expected a whole number, at least 1"),
        ((*H100, "--batch", 0, "--batch-per-device", 0), "neither --batch nor --batch-per-device"),
        ((*H100, "--shard", "all"), "--shard all: expected one of none, optimiser, parameters"),
        ((*H100, "--cores-per-device", 0), "--cores-per-device 0: expected more than 0"),
        (("--method", "crackseg", "--chip", "laptop", "--devices", 8), "--link none joins at most 1 devices, not 8"),
        (("check", "--method", "crackseg", "--batch", 4), "--batch 4: expected 8 images at least"),
        (("check", "--method", "crackseg", "--repeats", 0), "--repeats 0: expected a whole number"),
        (("table", "nowhere"), "nowhere: there is no such folder"),
        ((), "the following arguments are required: --method"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line_and_code_2(compiled, arguments, said):
    code, out, err = scaling(*arguments)
    assert code == 2 and out == ""
    last = [line for line in err.splitlines() if line.startswith("scaling: ")]
    assert len(last) == 1 and said in last[0], err


def test_what_is_missing_is_one_line_and_code_1(compiled, tmp_path):
    code, _, err = scaling(*H100, "--benchmarks", tmp_path)
    assert code == 1 and "holds no record of upcracknet's input; `python tools/benchmark.py input" in err
    code, _, err = scaling("table", tmp_path)
    assert code == 1 and "holds no records; `python tools/scaling.py --out" in err


def test_a_child_that_fails_says_why_in_one_line():
    with pytest.raises(CracksError, match=r"nothing.py on 2 devices: .*no such experiment file"):
        plan.in_child("cracks_jax.scaling.program", {"experiment": "nothing.py", "precision": "float32"}, 2)


def test_every_chip_and_link_says_where_its_figures_stand():
    for one in (*CHIPS.values(), *LINKS.values()):
        assert len(one.source) > 10 and one.title
    for chip in CHIPS.values():
        assert chip.link in LINKS and 0 < chip.share <= 1 and 0 < chip.memory_share <= 1
    assert "H100 SXM" in page.known()
    with pytest.raises(UsageError):
        LINKS["none"].sides(2)

"""A sweep trains, scores and tabulates what is missing and nothing else, whatever happens to it on the way."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cracks_jax.errors import UsageError
from cracks_jax.launch import local
from cracks_jax.launch.job import do
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runtime.records import Records, read_json
from cracks_jax.sweep import parse_seeds, plan, show
from tests.conftest import forget_programs
from tests.processes import children, commands, ended, until
from tests.reliability import faults
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import REPOSITORY

# Members that differ in numbers alone; `broken` has no data. CACHE is shared, so that pavements are drawn once.
FILE = """
from pathlib import Path

from cracks_jax.members import changed, rows
from tests import tiny


def experiment(form):
    base = tiny.with_machine(tiny.experiment(Path({cache!r}), steps={steps}, validate_every=50), checkpoint_every=5)
    base = changed(base, {{"data.recipe_settings.test": {test}}})
    return rows(base, {{
        "plain": {{}},
        "heavy": {{"training.loss_weights.mae": 3.0}},
        "fast": {{"training.learning_rate": 0.01}},
        "striped": {{"data.pipeline.corruption": "stripes"}},
    }} | {broken})
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture
def table(shared, tmp_path):
    """Writes an experiment file; FILE.py as a path."""

    def write(steps=4, broken="{}", scored=False):
        file = tmp_path / "table.py"
        # Without a split `test` nothing is scored, which most of these tests are not about.
        text = FILE.format(cache=str(shared / "cache"), steps=steps, broken=broken, test=2 if scored else 0)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def started(shared):
    """Starts `cracks-jax sweep FILE --out OUT ...`."""
    with commands(shared) as start:
        yield lambda file, out, *words, devices=1: start(["sweep", str(file), "--out", str(out), *words], devices)


def digests(out):
    return {
        read_json(path.with_name("experiment.json"))["member"]: read_json(path)["state_sha256"]
        for path in out.glob("*/metrics.json")
    }


def attempts(out):
    return {
        (found := read_json(path))["member"]: len(found["attempts"]) for path in out.glob("*/experiment.json")
    }


def steps_logged(folder):
    return [record["step"] for record in Records(folder / "records.jsonl") if record["event"] == "train"]


def workers_of(process):
    """The sweep's own children that train."""
    return [pid for pid in children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


# --- what is done, and only once


def test_all_members_are_trained_scored_and_tabulated_once_and_a_bad_one_stops_no_other(table, started, tmp_path):
    file, out = table(broken="{'broken': {'data.name': 'nowhere'}}", scored=True), tmp_path / "out"
    code, printed, said = ended(started(file, out, "--jobs", "1"))
    assert code == 1 and "broken failed: data set 'nowhere': no such folder" in said, said
    assert set(digests(out)) == {"plain", "heavy", "fast", "striped"}
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line.split()[1] for line in lines[2:]] == ["plain", "heavy", "fast", "striped"]
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["member"] for row in rows] == ["plain", "heavy", "fast", "striped"]
    for row in rows:
        score = next((out / f"tiny_restoration-smoke-{row['member']}-{row['run_id']}" / "scores").glob("*.json"))
        assert float(row["f1"]) == read_json(score)["f1"]
    assert (out / "table.md").read_text().strip() == printed.strip()
    # Again, it does the broken one alone, and prints the same.
    code, again, _ = ended(started(file, out, "--jobs", "1"))
    assert (code, again) == (1, printed) and attempts(out) == dict.fromkeys(digests(out), 1)
    # Another way to score trains nothing.
    code, other, _ = ended(started(file, out, "--jobs", "1", "--only", "plain", "--rule", "otsu"))
    assert code == 0 and "rule otsu" in other and attempts(out) == dict.fromkeys(digests(out), 1)
    starts = read_json(out / "sweep.json")["starts"]
    assert len(starts) == 3 and starts[0]["members"]["heavy"]["state"] == "done"
    spent = starts[0]["members"]["heavy"]["spent"]
    assert sum(spent.values()) == pytest.approx(starts[0]["members"]["heavy"]["seconds"]["train"], abs=1.0)


def test_members_that_differ_in_numbers_share_one_program(table, quick_compile, tmp_path, monkeypatch):  # noqa: F811
    """As a worker does them: one trace of the step for four members, their validations and their detections."""
    traces = []
    step = Restoration.train_step
    monkeypatch.setattr(Restoration, "train_step", lambda self, *args: traces.append(1) or step(self, *args))
    forget_programs()
    for job in plan(str(table(steps=2)), tmp_path / "out", tests=()).jobs:
        do(job, print)
    assert len(traces) == 1


def test_a_full_disk_at_one_member_stops_no_other_and_it_goes_on_once_there_is_room(
    table, started, tmp_path, monkeypatch
):
    try:
        library = faults.compiled(tmp_path)
    except faults.Unavailable as why:
        pytest.skip(str(why))
    file, out = table(steps=12), tmp_path / "out"
    heavy = next(job.folder for job in plan(str(file), out).jobs if job.id == "heavy")
    # From its thirtieth write on: after the first step, before the first checkpoint is whole.
    full = faults.Fault(str(heavy), str(tmp_path / "operations"), 30, faults.FOR_EVER, errno.ENOSPC)
    with monkeypatch.context() as disk:
        for name, value in {"LD_PRELOAD": str(library), **full.environment()}.items():
            disk.setenv(name, value)
        code, printed, said = ended(started(file, out, "--jobs", "1", "--only", "[ph]*"))
    assert code == 1 and set(digests(out)) == {"plain"} and "| plain" in printed
    assert "heavy failed: " in said and os.strerror(errno.ENOSPC) in said and "Traceback" not in said
    assert any(one.hit for one in full.operations())
    code, printed, said = ended(started(file, out, "--jobs", "1", "--only", "[ph]*"))
    assert code == 0 and set(digests(out)) == {"plain", "heavy"} and attempts(out) == {"plain": 1, "heavy": 2}, said
    assert steps_logged(heavy) == list(range(1, 13))


# --- several devices

# Two and eight are what differs: more cores than processes, and fewer.
FOUR = pytest.param(4, "*", "0", marks=pytest.mark.long)
EIGHT = pytest.param(8, "*", "0,1", marks=pytest.mark.long)


@pytest.mark.parametrize(("devices", "only", "seeds"), [(2, "[ph]*", "0"), FOUR, EIGHT])
def test_each_device_trains_a_member_at_a_time_and_each_equals_its_solo_run(
    devices, only, seeds, table, started, shared, tmp_path
):
    """One process a device; a solo run has as many cores as a process of each has."""
    file, out = table(steps=3), tmp_path / "out"
    found = plan(str(file), out, seeds=parse_seeds(seeds), only=only)
    assert len(found.jobs) == devices
    code, _, said = ended(started(file, out, "--seeds", seeds, "--only", only, devices=devices))
    assert code == 0 and read_json(out / "sweep.json")["starts"][0]["jobs"] == devices, said
    cores = sorted(os.sched_getaffinity(0))
    mine = cores if len(cores) < devices else cores[: len(cores) // devices]
    solo = shared / f"solo-{len(mine)}"
    os.sched_setaffinity(0, mine)
    code, _, said = ended(started(file, solo, "--seeds", seeds, "--only", only, "--jobs", "1"))
    os.sched_setaffinity(0, cores)
    assert code == 0, said
    for job in found.jobs:
        expected = read_json(solo / job.folder.name / "metrics.json")["state_sha256"]
        assert read_json(job.folder / "metrics.json")["state_sha256"] == expected, job.id


def test_a_process_sees_its_share_of_the_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_other=1")
    cpu = local.Devices("cpu", 8)
    assert local.environment(3, 4, cpu) == {"XLA_FLAGS": "--xla_other=1 --xla_force_host_platform_device_count=2"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = local.Devices("gpu", 4)
    assert [local.environment(n, 2, gpu)["CUDA_VISIBLE_DEVICES"] for n in (0, 1)] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [local.environment(n, 2, local.Devices("gpu", 2))["CUDA_VISIBLE_DEVICES"] for n in (0, 1)] == ["5", "7"]
    tpu = local.environment(1, 4, local.Devices("tpu", 4))
    assert tpu["TPU_VISIBLE_CHIPS"] == "1" and tpu["TPU_PROCESS_BOUNDS"] == "1,1,1"
    shares = [local.cores(n, 2) for n in (0, 1)]
    assert not shares[0] & shares[1] or len(os.sched_getaffinity(0)) < 2
    assert local.cores(3, 10_000) == os.sched_getaffinity(0)
    with pytest.raises(UsageError, match="--jobs 5: each member at a time needs one of the 4 devices here"):
        local.check_jobs(5, local.Devices("tpu", 4))
    assert local.check_jobs(None, gpu) == 4 and local.check_jobs(5, cpu) == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(UsageError, match="--jobs 0: each member at a time needs one of the 2 cores here; give 1"):
        local.check_jobs(0, local.Devices("cpu", 1))
    assert local.check_jobs(2, local.Devices("cpu", 1)) == 2


def test_members_share_a_gpu_and_its_memory_where_more_are_asked_for_than_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    gpus = local.Devices("gpu", 2)
    shares = [local.environment(n, 3, gpus) for n in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["5", "7", "5"]
    assert {share["XLA_PYTHON_CLIENT_MEM_FRACTION"] for share in shares} == {"0.450"}
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in local.environment(1, 2, gpus)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in local.environment(0, 3, gpus)  # the user's own is passed on
    assert local.check_jobs(8, gpus) == 8 and local.check_jobs(None, gpus) == 2
    with pytest.raises(UsageError, match="a share of one of the 2 GPUs here, 4 of each; give 1 to 8"):
        local.check_jobs(9, gpus)


# --- killed, stopped


def test_a_killed_worker_costs_its_member_the_work_since_its_checkpoint_and_no_other(table, started, tmp_path):
    file, out, whole = table(steps=24), tmp_path / "out", tmp_path / "whole"
    words = ("--jobs", "1", "--only", "[ph]*")
    assert ended(started(file, whole, *words))[0] == 0
    sweep = started(file, out, *words)
    logs = lambda: list(out.glob("*plain*/checkpoints/5/digests.json"))  # noqa: E731
    until(logs, "the first checkpoint")
    os.kill(workers_of(sweep)[0], signal.SIGKILL)
    code, _, said = ended(sweep)
    assert code == 1 and "plain failed: its process was killed by signal 9 (out of memory?)" in said
    assert set(digests(out)) == {"heavy"}
    # A stop in the middle of what is left, then the rest.
    sweep = started(file, out, *words)
    folder = next(out.glob("*plain*"))
    until(lambda: len(attempts(out)) == 2 and attempts(out)["plain"] == 2, "the second attempt")
    until(lambda: len(steps_logged(folder)) > 8, "its steps")
    sweep.send_signal(signal.SIGTERM)
    code, _, said = ended(sweep)
    assert code in (0, 75), said  # it may have been at its last step
    if code == 75:
        assert "run the same command again to go on" in said
        assert ended(started(file, out, *words))[0] == 0
    assert digests(out) == digests(whole)
    assert steps_logged(folder) == list(range(1, 25))


def test_a_killed_sweep_leaves_no_process_and_goes_on(table, started, tmp_path):
    file, out = table(steps=100), tmp_path / "out"
    sweep = started(file, out, "--jobs", "1", "--only", "plain")
    until(lambda: list(out.glob("*plain*/checkpoints/5/digests.json")), "the first checkpoint")
    worker = workers_of(sweep)[0]
    sweep.kill()
    until(lambda: not Path(f"/proc/{worker}").exists(), "the worker's end", 30)
    code, _, said = ended(started(file, out, "--jobs", "1", "--only", "plain"))
    assert code == 0 and attempts(out) == {"plain": 2}, said
    assert steps_logged(next(out.glob("*plain*"))) == list(range(1, 101))


# --- what cannot be done is said


def test_a_dry_run_says_what_would_be_done_and_does_nothing(table, tmp_path):
    found = plan(str(table()), tmp_path / "out", seeds=(0, 1))
    said = show(found)
    assert said.count("to train") == 8 and "8 of 8 members to do; 1 compiled training program" in said
    assert not (tmp_path / "out").exists()
    assert [job.id for job in found.jobs][:2] == ["plain-seed0", "plain-seed1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "nothing*"}, "--only nothing.: no member matches; .*table.py has plain, heavy, fast, striped"),
        ({"seeds": (1, 1)}, "seeds: 1 is given twice, so two members would have one id"),
        ({"settings": ["training.steps=0"]}, "training.steps is 0"),
        ({"settings": ["training.speed=0"]}, "there is no setting 'speed'"),
    ],
)
def test_what_cannot_be_planned_is_refused(table, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        plan(str(table()), tmp_path / "out", **options)


def test_two_members_that_are_one_experiment_are_refused(table, tmp_path, monkeypatch):
    file = table()
    monkeypatch.setattr("cracks_jax.experiment.Experiment.run_id", "12345678")
    monkeypatch.setattr("cracks_jax.experiment.Experiment.label", "one")
    with pytest.raises(UsageError, match="members plain and heavy are one experiment .run_id 12345678."):
        plan(str(file), tmp_path / "out")


@pytest.mark.parametrize("text", ["", "a", "0,", "1;2", "-1"])
def test_seeds_that_are_no_numbers_are_refused(text):
    with pytest.raises(UsageError, match="expected whole numbers with commas, such as 0,1,2"):
        parse_seeds(text)


# --- Slurm


def test_a_slurm_array_does_each_member_by_the_same_command(table, started, tmp_path, monkeypatch):
    """Against a stub of sbatch, which runs every task of the array as Slurm would, one after another."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        "#!/bin/bash\nset -e\nfor i in $(seq 0 $(sed -n 's/#SBATCH --array=0-//p' $1)); do\n"
        "  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i bash $1 >/dev/null 2>&1\ndone\necho Submitted batch job 7\n"
    )
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    file, out = table(), tmp_path / "out"
    words = ("--only", "[pf]*", "--set", "training.steps=2")
    code, printed, said = ended(started(file, out, *words, "--launcher", "slurm"))
    assert code == 0 and "an array of 2 members" in printed and not digests(out), said
    script = (out / "sweep.sbatch").read_text()
    assert "#SBATCH --array=0-1\n" in script and "members=(plain fast)" in script
    code, printed, said = ended(started(file, out, *words, "--launcher=slurm", "--submit"))
    assert code == 0 and printed.startswith("Submitted batch job 7"), said
    assert set(digests(out)) == {"plain", "fast"}
    code, printed, _ = ended(started(file, out, *words, "--launcher", "slurm"))
    assert code == 0 and printed.startswith("every member is done")
    code, printed, _ = ended(started(file, out, *words))
    assert code == 0 and attempts(out) == {"plain": 1, "fast": 1} and "| fast" in printed
    (folder / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2; exit 1\n")
    code, _, said = ended(started(file, tmp_path / "other", "--launcher", "slurm", "--submit"))
    assert code == 1 and "sbatch refused" in said and "invalid partition" in said
    assert json.dumps(said) and "Traceback" not in said


def test_jax_is_not_started_by_planning(table, tmp_path):
    """Whoever starts a sweep must not hold an accelerator's memory: its processes need it."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom cracks_jax.sweep import plan, show\n"
        f"print(show(plan({str(table())!r}, Path({str(tmp_path / 'out')!r}))))\n"
        "from jax._src import xla_bridge\nassert not xla_bridge._backends, xla_bridge._backends\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    assert jax.local_device_count() >= 1

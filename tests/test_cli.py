"""The command line is a contract: every verb and flag, what is printed where, and how a stopped training goes on."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cracks_jax import cli, train
from cracks_jax.data.images import read_image, read_mask, write_image, write_mask
from tests.tiny import quick_compile, short_trunk  # noqa: F401
from tests.tiny_runs import command, contents, finish, pavements, photo, runs, start  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile")
FLOOR = ("--method", "background_difference")
KEYS = (
    "precision recall f1 iou accuracy miou best_threshold best_f1 best_iou images crack_share rule geometry"
).split()
VERBS = ("quickstart", "train", "evaluate", "score", "detect", "data check", "data prepare", "systems")

# ------------------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_itself_with_an_example(verb):
    answer = command(*verb.split(), "--help")
    assert answer.code == 0 and f"example: cracks-jax {verb}" in " ".join(answer.out.split())


@pytest.mark.parametrize("words", [(), ("fly",), ("evaluate",), ("detect", "a.jpg"), ("score", "a"), ("data",)])
def test_a_wrong_command_line_is_exit_code_2_and_shows_how_it_is_used(words):
    answer = command(*words)
    assert answer.code == 2 and answer.out == "" and answer.err.startswith("usage: cracks-jax")


def test_as_a_process_results_go_to_standard_output_and_everything_else_to_standard_error(tmp_path):
    data = f"{pavements()}:test"
    good = start("evaluate", *FLOOR, "--data", data, "--json")
    bad = start("evaluate", *FLOOR, "--data", tmp_path / "nowhere", "--json")
    good, bad = finish(good), finish(bad)
    assert good.code == 0 and good.json["images"] == 3
    assert "scoring" in good.err
    bad.refused(1, "nowhere", "CRACKS_DATA")


# -------------------------------------------------------------------------------------------------- train


@pytest.fixture
def asked(monkeypatch):
    """What `train` would have been called with: [(experiment, folder)]."""
    calls = []

    def record(experiment, folder, profiled, _group):
        calls.append((experiment, folder))
        return {}

    monkeypatch.setattr(train, "train", record)
    return calls


def test_train_takes_form_member_run_and_settings(asked, tmp_path):
    command("train", "experiments/upcracknet_deepcrack.py").ok()
    command("train", "experiments/upcracknet_deepcrack.py:cpu", "--member", "unlabelled").ok()
    settings = ("--set", "training.steps=7", "data.pipeline.crop=64", "data.pipeline.resize=none", "--set")
    command(
        "train", "experiments/upcracknet_deepcrack.py:smoke", "--run", tmp_path / "here", *settings, "method.depth=3"
    ).ok()
    (paper, none), (cpu, _), (smoke, here) = asked
    assert (paper.form, paper.member, paper.training.steps, none) == ("paper", "masks", 6750, None)
    assert (cpu.form, cpu.member, cpu.data.recipe) == ("cpu", "unlabelled", "undamaged-unlabelled")
    assert (smoke.form, smoke.training.steps, smoke.method.depth, here) == ("smoke", 7, 3, tmp_path / "here")
    assert (smoke.data.pipeline.crop, smoke.data.pipeline.resize) == (64, None)


def test_settings_that_only_fit_together_may_come_in_any_order(asked):
    file = "experiments/upcracknet_deepcrack.py:smoke"
    pairs = ["data.pipeline.crop=48", "data.pipeline.resize=50", "method.depth=4"]
    for settings in (pairs, pairs[::-1], [*pairs, "method.depth=4"]):
        command("train", file, "--set", *settings).ok()
    assert len({experiment for experiment, _ in _hashable(asked)}) == 1
    command("train", file, "--set", *pairs[:2]).refused(2, "method.depth is 5", "48 px", "2 to 4")


def _hashable(asked):
    return [(experiment.run_id, folder) for experiment, folder in asked]


def test_a_training_preset_comes_first_wherever_it_stands(asked):
    file = "experiments/upcracknet_deepcrack.py:cpu"
    command("train", file, "--set", "method.losses.bgr=false", "training.preset=authors").ok()
    ((experiment, _),) = asked
    assert experiment.method.losses.generator_again and not experiment.method.losses.bgr
    assert experiment.data.pipeline.corrupt_before and experiment.training.patience is None
    command("train", "experiments/crackseg_deepcrack.py", "--set", "training.preset=paper").refused(2, "CrackSeg")


def test_train_prints_its_metrics_last_and_again_when_nothing_is_left_to_do():
    run = runs().restoration
    first = json.loads((run.parent / "restoration.json").read_text())
    assert first == json.loads((run / "metrics.json").read_text())
    assert {"run_id", "step", "best_step", "state_sha256", "validation"} <= first.keys()
    assert (first["step"], len(first["state_sha256"])) == (4, 64)
    before = (run / "records.jsonl").read_text()
    again = command("train", f"{runs().file}:smoke", "--member", "restoration", "--run", run).ok()
    assert again.last == first and (run / "records.jsonl").read_text() == before


def test_a_run_directory_describes_itself_and_names_no_folder_of_this_machine():
    run = runs().restoration
    described = json.loads((run / "experiment.json").read_text())
    expected = "run_id name form member science machine software device data git_revision attempts".split()
    assert set(expected) <= described.keys()
    assert described["run_id"] == json.loads((run / "metrics.json").read_text())["run_id"]
    events = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "train"] == [1, 2, 3, 4]
    assert [e["step"] for e in events if e["event"] == "validation"] == [2, 4]
    for file in run.glob("*.json*"):
        assert str(run.parent) not in file.read_text() and str(Path.home()) + "/" not in file.read_text()


def test_repeat_trains_the_same_bits_into_a_folder_beside_the_run(tmp_path, monkeypatch):
    run = tmp_path / "once"
    shutil.copytree(runs().restoration, run)
    monkeypatch.chdir(run)  # the run named as "." still has a name of its own
    again = command("train", "--repeat", ".", "--set", f"machine.cache={runs().folder / 'cache'}").ok()
    assert again.last == json.loads((run / "metrics.json").read_text())
    assert (tmp_path / "once-repeat" / "experiment.json").is_file()
    assert "the same final state as ., bit for bit" in again.err
    said = again.err.splitlines()
    assert said[said.index("its environment is rebuilt by") + 1].startswith(("git checkout ", "python3"))


def test_without_a_run_directory_the_name_says_file_form_member_and_run_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("train", f"{runs().file}:smoke", "--member", "restoration", "--set", "training.steps=1").ok().last
    (made,) = (tmp_path / "runs").glob("tiny*")
    assert made.name == f"tiny_restoration-smoke-restoration-{done['run_id']}"


def test_sigterm_is_exit_code_75_and_the_same_command_then_ends_in_the_same_bits(tmp_path):
    """A real signal to a real process; the uninterrupted training is the witness."""
    words = ("train", f"{runs().file}:smoke", "--member", "restoration", "--set", "training.steps=60",
             "training.validate_every=60", "--run")  # fmt: skip
    whole = command(*words, tmp_path / "whole").ok().last
    run, records = tmp_path / "stopped", tmp_path / "stopped" / "records.jsonl"
    process = start(*words, run)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and not (records.exists() and records.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == cli.EXIT_STOPPED == 75, stopped.err
    message = [line for line in stopped.err.splitlines() if line.startswith("cracks-jax: ")]
    assert len(message) == 1 and "run the same command again to go on" in message[0]
    assert "Traceback" not in stopped.err and stopped.out == ""
    assert not (run / "metrics.json").exists()
    resumed = command(*words, run).ok()
    assert "resuming" in resumed.err
    assert resumed.last == whole
    steps = [json.loads(line)["step"] for line in records.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 61))


def test_a_second_signal_leaves_at_once_and_the_same_command_goes_on(tmp_path):
    """No wait for the step's end, no crash of the interpreter under running threads; then the same bits."""
    words = ("train", f"{runs().file}:smoke", "--member", "restoration", "--set", "training.steps=40",
             "training.validate_every=40", "--run")  # fmt: skip
    run, records = tmp_path / "left", tmp_path / "left" / "records.jsonl"
    process = start(*words, run)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and not (records.exists() and records.stat().st_size):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGSTOP)  # both signals are waiting when it goes on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    left = finish(process)
    assert left.code == 75, (left.code, left.err)
    assert "stopped at once; run the same command again" in left.err and "Traceback" not in left.err
    assert command(*words, run).ok().last == command(*words, tmp_path / "whole").ok().last


def test_a_signal_while_training_is_being_prepared_is_exit_code_75_too(tmp_path, monkeypatch):
    prepared = train.open_training_data

    def slow(experiment):
        os.kill(os.getpid(), signal.SIGTERM)
        return prepared(experiment)

    monkeypatch.setattr(train, "open_training_data", slow)
    words = ("train", f"{runs().file}:smoke", "--member", "restoration", "--run", tmp_path / "run")
    command(*words).refused(75, "stopped before the making of the initial state", "run the same command again to go on")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    assert command(*words).ok().last == json.loads((runs().restoration / "metrics.json").read_text())


# ------------------------------------------------------------------------------------------ score and detect


def test_score_reads_masks_and_score_maps_and_prints_one_object(tmp_path):
    masks = pavements() / "test" / "masks"
    for number, path in enumerate(sorted(masks.iterdir())):
        mask = read_mask(path)
        if number % 2:
            np.save(tmp_path / f"{path.stem}.npy", np.where(mask, 0.7, 0.2).astype(np.float32))
        else:
            write_mask(tmp_path / path.name, mask)
    found = command("score", tmp_path, masks, "--json").ok().json
    assert list(found)[: len(KEYS)] == KEYS
    assert (found["f1"], found["images"], found["rule"], found["geometry"]) == (1.0, 3, "value:0.5", "as_given")
    assert command("score", tmp_path, masks, "--json", "--threshold", 0.1).ok().json["recall"] == 1.0
    assert command("score", tmp_path, masks, "--json", "--threshold", 0.1).ok().json["precision"] < 1
    text = command("score", tmp_path, masks).ok().out
    assert "f1                   100.00 %" in text and "optimistic" in text


@pytest.mark.parametrize("rule", ["otsu", "0.02"])
def test_what_detect_writes_scores_as_evaluate_says(tmp_path, rule):
    """Two ways to one number: masks and maps written to disk and scored, or evaluated directly."""
    test = pavements() / "test"
    direct = command("evaluate", *FLOOR, "--data", f"{pavements()}:test", "--rule", rule, "--json").ok().json
    done = command("detect", test / "images", "--out", tmp_path, *FLOOR, "--rule", rule, "--scores").ok()
    assert done.out == f"3 written to {tmp_path}, 0 skipped\n"
    by_mask = command("score", tmp_path / "masks", test / "masks", "--json").ok().json
    decided = ("precision", "recall", "f1", "iou", "accuracy", "miou", "crack_share", "images")
    assert {key: by_mask[key] for key in decided} == {key: direct[key] for key in decided}
    by_map = command("score", tmp_path / "scores", test / "masks", "--json", "--threshold", 0.02).ok().json
    best = ("best_threshold", "best_f1", "best_iou")
    assert {key: by_map[key] for key in best} == {key: direct[key] for key in best}
    if rule != "otsu":
        assert {key: by_map[key] for key in decided} == {key: direct[key] for key in decided}


def test_detect_takes_files_folders_and_every_flag(tmp_path, photo):  # noqa: F811
    out = tmp_path / "found"
    folder = tmp_path / "photos"
    write_image(folder / "other.png", read_image(photo))
    answer = command(
        "detect", photo, folder, "--out", out, "--method", "darkness", "--rule", "0.5", "--tile", 64,
        "--geometry", "resize256", "--set", "detection.filter=gaussian", "--mm-per-px", 0.5, "--every", 2,
        "--tile-batch", 2,
    ).ok()  # fmt: skip
    assert answer.out == f"2 written to {out}, 0 skipped\n"
    assert not (out / "scores").exists()
    header, *rows = (out / "measurements.csv").read_text().splitlines()
    assert "length_mm" in header and len(rows) == 2
    for name in (photo.stem, "other"):
        assert read_mask(out / "masks" / f"{name}.png").shape == read_image(out / "overlays" / f"{name}.png").shape[:2]


def test_a_tile_batch_changes_speed_and_no_mask(tmp_path, photo):  # noqa: F811
    answers = {}
    for batch in (1, 3):
        words = ("detect", photo.parent, "--out", tmp_path / str(batch), "--run", runs().restoration, "--rule", "0.3")
        command(*words, "--tile", 64, "--tile-batch", batch).ok()
        answers[batch] = contents(tmp_path / str(batch))
    assert answers[1] == answers[3] and len(answers[1]) > 3
    words = ("detect", photo, "--out", tmp_path / "none", "--method", "darkness")
    command(*words, "--tile-batch", 0).refused(2, "--tile-batch 0: expected 1")


def test_train_evaluate_and_detect_leave_a_trace_where_it_is_asked_for(tmp_path, photo):  # noqa: F811
    file = runs().file
    command("train", f"{file}:smoke", "--member", "restoration", "--run", tmp_path / "run", "--profile",
            tmp_path / "train", "--set", "training.steps=9", "training.validate_every=9").ok()  # fmt: skip
    rule = ("--tile", 64, "--rule", "0.3")
    command("detect", photo, "--out", tmp_path / "out", "--run", tmp_path / "run", *rule, "--tile-batch", 1,
            "--profile", tmp_path / "detect").ok()  # fmt: skip
    command("evaluate", tmp_path / "run", "--data", pavements() / "test", *rule, "--profile", tmp_path / "eval").ok()
    for name in ("train", "detect", "eval"):
        assert list((tmp_path / name).rglob("*.xplane.pb")), name


def test_detect_with_a_run_takes_presets_rules_and_checkpoints(tmp_path, photo):  # noqa: F811
    run = runs().restoration
    for words in (
        ("--preset", "paper"),
        ("--rule", "undamaged:0.9", "--checkpoint", "last"),
        ("--rule", "otsu", "--tile", 64, "--checkpoint", 4),
    ):
        answer = command("detect", photo, "--out", tmp_path, "--run", run, *words).ok()
        assert answer.out == f"1 written to {tmp_path}, 0 skipped\n"
        assert read_mask(tmp_path / "masks" / f"{photo.stem}.png").shape == (48, 64)


ODD = [(1, 1), (3, 5), (40, 3000)]


@pytest.mark.parametrize(
    ("kind", "size"),
    [*(("floor", size) for size in ODD), *(("restoration", size) for size in ODD), ("segmentation", (1, 1))],
)
def test_an_image_smaller_or_longer_than_the_network_likes_is_padded(tmp_path, size, kind, rng, short_trunk):  # noqa: F811
    write_image(tmp_path / "odd.png", rng.integers(0, 256, (*size, 3), np.uint8))
    which = FLOOR if kind == "floor" else ("--run", getattr(runs(), kind))
    command("detect", tmp_path / "odd.png", "--out", tmp_path / "out", *which, "--rule", "0.1").ok()
    assert read_mask(tmp_path / "out" / "masks" / "odd.png").shape == size


def test_a_photograph_of_4000x3000_by_a_network_takes_bounded_memory(tmp_path):
    """In a process of its own, whose peak is what the operating system says (`ru_maxrss` is inherited)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process its own peak")
    shade = np.linspace(60, 180, 4000, dtype=np.uint8)
    picture = np.repeat(np.tile(shade, (3000, 1))[..., None], 3, axis=2)
    cv2.line(picture, (100, 100), (3900, 2900), (10, 10, 10), 9)
    write_image(tmp_path / "large.png", picture)
    words = ("detect", tmp_path / "large.png", "--out", tmp_path / "out", "--run", runs().restoration,
             "--rule", "0.3", "--tile", "512")  # fmt: skip
    measured = (
        "import sys; from cracks_jax.cli import main; code = main(sys.argv[1:]); "
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM'))); sys.exit(code)"
    )
    done = finish(start(*words, program=("-c", measured))).ok()
    said, peak, *_ = done.out.strip().splitlines()
    assert "1 written" in said and int(peak.split()[1]) < 1.2 * 2**20  # kB
    assert read_mask(tmp_path / "out" / "masks" / "large.png").shape == (3000, 4000)


# --------------------------------------------------------------------------------------------------- data


def test_data_check_gives_a_verdict_and_exit_code_1_where_it_is_broken(tmp_path):
    whole = command("data", "check", pavements()).ok()
    assert whole.out.strip().splitlines()[-1] == "pavements: whole"
    shutil.copytree(pavements(), tmp_path / "broken")
    next((tmp_path / "broken" / "train" / "masks").iterdir()).unlink()
    broken = command("data", "check", tmp_path / "broken")
    assert broken.code == 1 and broken.out.strip().splitlines()[-1] == "broken: broken (1 finding)"
    assert "image without mask" in broken.out and "Traceback" not in broken.err


def test_data_prepare_prints_its_counts_and_makes_the_same_windows_again(tmp_path):
    words = ("data", "prepare", "undamaged", f"{pavements()}:train", "--set", "min_side=16", "max_side=32", "--out")
    first, second = (command(*words, tmp_path / name).ok().json for name in ("a", "b"))
    assert first["digest"] == second["digest"]
    assert first["counts"]["windows"] == len(list((tmp_path / "a" / "images").iterdir())) > 0
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["counts"] == first["counts"]
    assert command(*words, tmp_path / "a").ok().json == first


# ------------------------------------------------------------------------------------------------- systems


@pytest.fixture(scope="module")
def systems(quick_compile):  # noqa: F811
    return {one["name"]: one for one in command("systems", "--json").ok().json["systems"]}


def test_systems_lists_every_method_with_the_parameters_of_the_papers(systems):
    assert systems["crackseg"]["parameters"] == 52_289_090
    assert systems["crackseg-r50"]["parameters"] == 33_296_962
    assert systems["upcracknet"]["parameters"] == 54_419_459 + 2_769_601
    assert [systems[name]["parameters"] for name in ("darkness", "background_difference")] == [0, 0]
    assert all(one["source"] and one["side"] == 256 for one in systems.values())


def test_systems_counts_the_multiply_adds_of_upcracknets_generator(systems):
    """By hand: 8 strided 4x4 convolutions down and 8 transposed ones up, taps that fall on the padding left out."""
    widths = [3, 64, 128, 256, 512, 512, 512, 512, 512]
    products, side = 0, 256
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        side //= 2
        products += inputs * outputs * _taps(side)
    below, ups = 512, [512, 512, 512, 512, 256, 128, 64, 3]
    for outputs in ups:
        # A transposed convolution takes each product of the strided one that it is the gradient of.
        products += below * outputs * _taps(side)
        below, side = 2 * outputs, side * 2
    assert side == 256
    assert systems["upcracknet"]["gflop"] == pytest.approx(2 * products / 1e9, rel=0.01)


def _taps(out: int) -> int:
    """Products per channel pair of a 4x4 convolution of stride 2 and padding 1 that gives out x out."""
    along = sum(0 <= 2 * position - 1 + tap < 2 * out for position in range(out) for tap in range(4))
    return along**2


def test_systems_prints_a_table(systems, monkeypatch):
    monkeypatch.setattr("cracks_jax.systems.systems", lambda: list(systems.values()))  # counted once is enough
    lines = command("systems").ok().out.splitlines()
    assert len(lines) == 1 + len(systems)
    assert any(line.startswith("upcracknet ") and "57,189,060" in line for line in lines)

"""The papers' ablations on the pages: records that are kept, tables that are made of them, and nothing listed twice."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from cracks_jax import identity, pages, study, sweep_table
from cracks_jax.errors import CracksError
from cracks_jax.experiment import to_json
from cracks_jax.published.papers import ABLATIONS
from tests import tiny

ROOT = Path(__file__).parents[1]
WAY = {"data": "deepcrack:test", "geometry": "native", "detection_preset": "default", "rule": "undamaged:0.995"}
PAPER = {"data": "deepcrack:test", "geometry": "resize256", "detection_preset": "paper", "rule": "otsu"}


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch):
    """Costs are those on record: pages are the same whichever version of jax is installed."""
    monkeypatch.setattr(sweep_table, "size", None)


@pytest.fixture
def put(tmp_path):
    """Lays a finished run down as training and scoring leave it."""

    def make(name, member, seed=0, ways=(WAY,), f1=0.5, rate=1e-3, kind="restoration", folder="records", **scored):
        one = tiny.experiment(tmp_path, kind, learning_rate=rate)
        one = dataclasses.replace(one, name=name, form="cpu", member=member, seed=seed)
        about = {"run_id": one.run_id, "name": name, "form": "cpu", "member": member}
        run = tmp_path / folder / f"{one.label}-{one.run_id}"
        around = {"device": {"kind": "CPU"}, "software": {"jax": "0"}, "git_revision": "0123456789"}
        metric = f"best_{one.method.selection[0]}"
        files = {
            "experiment.json": {**about, **to_json(one), **around, "attempts": [{"seconds": 60.0}, {"seconds": 30.0}]},
            "metrics.json": {"run_id": one.run_id, "step": 4, "best_step": 2, metric: 0.75, "state_sha256": "0"},
            "records.jsonl": {"event": "train", "step": 1},
        }
        for number, way in enumerate(ways):
            values = {name: f1 for name in ("f1", "iou", "precision", "recall", "accuracy", "miou")}
            cost = {"cost": {"parameters": 1234567, "gflop_256": 8.25}}
            files[f"scores/{number}.json"] = {**way, **values, **cost, "run_id": one.run_id, "experiment": one.label,
                                              **scored}  # fmt: skip
        for file, content in files.items():
            (run / file).parent.mkdir(parents=True, exist_ok=True)
            (run / file).write_text(json.dumps(content) + "\n")
        return run

    (tmp_path / "records").mkdir()
    return make


def rows(text):
    """The cells of every table's lines, heads and rules left out."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if line[0] != "member" and not line[0].startswith("-")]


def test_what_is_not_on_record_is_said_so(put, tmp_path):
    put("upcracknet_deepcrack", "masks")
    text = pages.ablations(tmp_path / "records")
    assert text.count("Nothing is on record yet.") == len(ABLATIONS) and not rows(text)
    assert all(f"`{name}.py`: Nothing" in text for name in ABLATIONS)
    assert pages.ablated(tmp_path / "records") == "Nothing is on record yet."


def test_a_member_stands_with_its_spread_over_seeds_beside_its_printed_row(put, tmp_path):
    """Table I's columns by what they hold; the paper prints F1 39.457 for mae alone and 61.808 for all five."""
    put("upcracknet_table1", "all", f1=0.9)
    for seed, f1 in ((1, 0.6), (0, 0.5)):
        put("upcracknet_table1", "mae", seed, f1=f1)
    text = pages.ablations(tmp_path / "records")
    assert "**UP-CrackNet, Table I: Ablation of the five training losses of UP-CrackNet**" in text
    assert "`upcracknet_table1.py:cpu`, revision 0123456" in text and "paper: Table I, on Crack500" in text
    mae, every_loss = rows(text)
    ours = ["55.0 ± 7.1"] * 5
    assert mae[:12] == ["mae", "0,1", *ours, "60.03", "29.39", "89.70", "39.46", "24.58"]
    assert mae[12:] == ["0.7500 ± 0.0000", "4, 2", "1,234,567", "8.2", "1.5 ± 0.0"]
    assert every_loss[:7] == ["all", "0", *["90.0"] * 5] and every_loss[10] == "61.81"


def test_members_stand_in_the_papers_order_controls_behind_them_without_a_printed_number(put, tmp_path):
    for member in ("none_noise", "none", "squares", "striped", "jumbled"):
        put("upcracknet_table2", member)
    found = rows(pages.ablations(tmp_path / "records"))
    assert [row[0] for row in found] == ["jumbled", "striped", "squares", "none", "none_noise"]
    assert found[2][5:8] == ["95.48", "61.81", "44.73"] and found[3][5:8] == ["-"] * 3


def test_cracksegs_ablations_have_the_columns_of_their_paper(put, tmp_path):
    put("crackseg_table5", "both_x3", kind="segmentation", f1=0.81)
    (row,) = rows(pages.ablations(tmp_path / "records"))
    assert row[:6] == ["both_x3", "0", "81.0", "81.0", "98.43", "71.82"]
    assert rows(pages.ablated(tmp_path / "records")) == [["both_x3", "0", "81.0", "71.82"]]


def test_each_way_of_scoring_is_a_table_and_means_are_of_what_was_scored_so(put, tmp_path):
    put("upcracknet_table1", "mae", 0, ways=(WAY, PAPER), f1=0.4)
    put("upcracknet_table1", "mae", 1, f1=0.6)
    text = pages.ablations(tmp_path / "records")
    first, second = rows(text)
    assert first[1:3] == ["0,1", "50.0 ± 14.1"] and second[1:3] == ["0", "40.0"]
    assert "detection paper, rule otsu" in text
    (short,) = rows(pages.ablated(tmp_path / "records"))
    assert short == ["mae", "0,1", "50.0 ± 14.1", "40.0", "39.46"]


def test_no_mean_is_taken_over_trainings_that_differ_in_more_than_the_seed(put, tmp_path):
    one, other = (put("upcracknet_table1", "mae", rate=rate, f1=f1).name for rate, f1 in ((1e-3, 0.4), (2e-3, 0.6)))
    found = {row[0]: row[2] for row in rows(pages.ablations(tmp_path / "records"))}
    names = [f"mae ({name.rpartition('-')[2]})" for name in (one, other)]
    assert found == {names[0]: "40.0", names[1]: "60.0"}


def test_who_copies_what_it_sees_stands_below_table_two(put, tmp_path):
    put("upcracknet_table2", "squares")
    numbers = ("error_crack", "error_background", "ratio", "auroc", "copied_crack", "copied_background")
    record = {
        "study": "identity", "name": "upcracknet_table2", "form": "cpu", "member": "squares", "seed": 0, "every": 1,
        "data": "deepcrack:test", "data_digest": "0", "images": 237, "batch_norm": "batch", "dropout": False,
        "device": {"kind": "CPU"}, "inputs": {part: dict.fromkeys(numbers, 0.125) for part in identity.INPUTS},
    }  # fmt: skip
    folder = tmp_path / "records" / "identity"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(record))
    text = pages.ablations(tmp_path / "records")
    title = "Restoration error, deepcrack:test, 237 images, native, batch norm batch, dropout off; upcracknet_table2:"
    assert text.index("Table II") < text.index("| squares") < text.index(title) < text.index("CrackSeg, Table 4")
    assert [row[1:5] for row in rows(text)[1:]] == [[part, "0", "12.50", "12.50"] for part in identity.INPUTS]
    assert text.count(identity.LEGEND) == 1


def test_the_floor_stands_beside_them_and_what_is_our_reading_is_marked(put, tmp_path):
    """The committed floor on DeepCrack at native size: 65.8 by Otsu, 80.3 by the labelled threshold."""
    (tmp_path / "records" / "floor").symlink_to(ROOT / "experiments" / "records" / "floor")
    for member in ("all", "mae_adv"):
        put("upcracknet_table1", member)
    put("crackseg_table5", "both_x3", kind="segmentation")
    first, second = pages.ablations(tmp_path / "records").split("**UP-CrackNet, Table II")
    assert "The floor there (deepcrack:test, native): F1 65.8 by otsu, 80.1 by undamaged:0.995 of runs/" in first
    assert ", 80.3 by validation of deepcrack:train." in first and "resize256" not in first
    assert "which printed row is of mae_adv is our reading" in first
    assert "The floor there (deepcrack:test, native): mIoU " in second


@pytest.mark.parametrize("block", [pages.everything, pages.short])
def test_what_has_a_block_of_its_own_is_not_listed_again(put, tmp_path, block):
    """Beside real records: the tables are those without the ablation, though it was scored in the same way."""
    records = tmp_path / "records"
    for name in ("floor", "upcracknet_deepcrack-cpu-masks-1b32c53a", "crackseg_crack500-cpu-imagenet_v2-3d493c27"):
        (records / name).symlink_to(ROOT / "experiments" / "records" / name)
    before = block(records)
    way = {**WAY, "geometry": "resize256", "images": 237, "data_digest": "0", "detection": {}}
    put("upcracknet_table1", "mae", ways=(way, {**way, "data": "cfd:without042"}), intervals={"f1": [0.4, 0.6]})
    assert rows(pages.ablations(records)) and block(records) == before and "1b32c53a" in pages.everything(records)


def test_the_pages_come_out_the_same_again(put, tmp_path):
    put("upcracknet_table1", "mae")
    page = tmp_path / "README.md"
    names = ("ablations", "ablated")
    page.write_text("\n\n".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->" for name in names) + "\n")
    pages.write_tables(tmp_path / "records", [page])
    text = page.read_text()
    assert "39.46" in text
    pages.write_tables(tmp_path / "records", [page])
    assert page.read_text() == text


# ---------------------------------------------------------------------------------------- what is kept


def _tool(monkeypatch, *words):
    """`python tools/study.py WORDS` in this process."""
    spec = importlib.util.spec_from_file_location("study_tool", ROOT / "tools" / "study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["study.py", *map(str, words)])
    return module.main()


def test_keep_copies_records_and_scores_of_finished_runs_and_no_checkpoint(put, tmp_path, monkeypatch, capsys):
    """A sweep's folder as it is: its logs and a member that still trains are passed over, and that is said."""
    done = put("upcracknet_table1", "mae", folder="sweep")
    begun = put("upcracknet_table1", "all", folder="sweep")
    (begun / "metrics.json").unlink()
    (done / "checkpoints" / "4").mkdir(parents=True)
    (done / "undamaged").mkdir()
    (done / "scores" / "1.json.tmp").write_text("half")
    (tmp_path / "sweep" / "logs").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"starts": []}')
    out = tmp_path / "kept"
    for words in ([tmp_path / "sweep"], sorted((tmp_path / "sweep").iterdir())):  # a folder of runs, or `sweep/*`
        assert _tool(monkeypatch, "keep", *words, "--out", out) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[0] == f"kept {done.name}"
        assert f"passed over {begun.name}: not finished" in printed.err
    assert (out / "sweeps" / "sweep.json").read_text() == '{"starts": []}'
    kept = sorted(str(path.relative_to(out)) for path in out.glob("upcracknet*/**/*") if path.is_file())
    names = ("experiment.json", "metrics.json", "records.jsonl", "scores/0.json")
    assert kept == [f"{done.name}/{name}" for name in names]
    assert all((out / name).read_bytes() == (tmp_path / "sweep" / name).read_bytes() for name in kept)
    assert [row[0] for row in rows(pages.ablations(out))] == ["mae"]


def test_a_run_of_another_folders_name_is_kept_under_its_own(put, tmp_path):
    run = put("upcracknet_table1", "mae", folder="sweep")
    name = run.name
    study.keep_runs([run.rename(tmp_path / "mine")], tmp_path / "kept", print)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [name]


def test_where_nothing_is_finished_there_is_nothing_to_keep(put, tmp_path, monkeypatch, capsys):
    with pytest.raises(CracksError, match="no finished run"):
        study.finished_runs([tmp_path / "nowhere", tmp_path], print)
    assert _tool(monkeypatch, "keep", tmp_path / "nowhere", "--out", tmp_path / "kept") == 1
    assert "no finished run" in capsys.readouterr().err


def test_what_a_sweep_took_is_kept_and_said_without_validations_scores_and_members_that_trained_nothing(put, tmp_path):
    """100 s of training, 4 of them validating and 2 saving, beside 80 s of steps and 10 s of compiling: 94 / 90."""
    put("upcracknet_table1", "mae")
    spent = {"restart": 3.0, "compile": 10.0, "input": 1.0, "step": 80.0, "evaluation": 4.0, "checkpoint": 2.0}
    done = {"run": "upcracknet_table1-cpu-mae-1", "state": "done", "seconds": {"train": 100.0, "score": 50.0}}
    members = {
        "mae": {**done, "spent": spent},
        "scored again": {**done, "spent": {}},
        "another form": {**done, "run": "upcracknet_table1-smoke-mae-1", "spent": spent},
        "stopped": {**done, "state": "stopped", "spent": spent},
    }
    folder = tmp_path / "table1"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"starts": [{"jobs": 1, "members": members}]}))
    study.keep_sweeps([folder, tmp_path / "records"], tmp_path / "records", print)
    text = pages.ablations(tmp_path / "records")
    assert "Swept with 1 at a time: 1 trainings took 94 s" in text and "1.044 times their steps (80 s)" in text

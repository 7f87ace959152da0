"""The verb `quickstart`: from nothing to two trained methods beside the floor, in minutes on two cores.

  OUT/data/pavement/           drawn pavements with exact masks (train, test) and without cracks (undamaged)
  OUT/pictures/first_look.png  what was drawn, and what a method without a network says to it
  OUT/runs/upcracknet/         UP-CrackNet, small, trained on undamaged pictures: no label is used
  OUT/runs/crackseg/           CrackSeg, small, trained on labelled pictures
  OUT/pictures/overlays.png    test pictures with everyone's answers      OUT/pictures/curves.png  learning curves
  OUT/table.md, results.json   every method under every rule, and how it stands to the floor under the same rule
  OUT/report/report.html       all of it on one page: settings, every metric with its interval, curves, pictures

The same command again goes on where the last one stopped; what is finished is not done twice.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cracks_jax import figures
from cracks_jax.calibrate import Thresholds, undamaged_windows
from cracks_jax.data.datasets import Dataset, open_dataset, split_validation
from cracks_jax.data.elements import Pipeline
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.evaluate import judge
from cracks_jax.experiment import Data, Experiment, Machine, Training
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference
from cracks_jax.methods.presets import DETECTION_PRESETS, preset_of
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.metrics.uncertainty import compare_counts
from cracks_jax.postprocess.thresholds import parse_rule
from cracks_jax.predict import Scorer
from cracks_jax.report.make import Shown, report
from cracks_jax.runs import EXPERIMENT, METRICS, open_run
from cracks_jax.runtime.records import read_json, write_json
from cracks_jax.scores import save
from cracks_jax.scoring import Scoring
from cracks_jax.surroundings import surroundings
from cracks_jax.train import STOPPED, Stopped, train

FLOOR, UPCRACKNET, CRACKSEG = "floor", "UP-CrackNet", "CrackSeg"
UNDAMAGED_RULE = DETECTION_PRESETS["default"].rule
ARGMAX = "0.5"
RULES = {
    FLOOR: (UNDAMAGED_RULE, "otsu", "validation"),
    UPCRACKNET: (UNDAMAGED_RULE, "otsu", "validation"),
    CRACKSEG: (ARGMAX, "validation"),
}
# Argmax was learned from labels, so the floor it must clear is the one whose threshold came from labels too.
FLOOR_RULE = {ARGMAX: "validation"}
COUNTS = ("tp", "fp", "fn", "tn")
METRIC_NAMES = ("f1", "iou", "precision", "recall")
# What the report shows: figures that compile no program of their own.
REPORTED = ("curves", "pr", "method-grid", "failures")
COMMAND = "cracks-jax quickstart"
# What fixes the floor's threshold: the pictures that the two trainings held out.
_CALIBRATED_BY = {UNDAMAGED_RULE: "runs/upcracknet/undamaged", "validation": "pavement:train, held out"}


@dataclass(frozen=True)
class _Settings:
    """How large everything is. The data set's look is `data/synthetic.py`'s and was settled before any training."""

    seed: int = 0
    train: int = 96
    test: int = 32
    undamaged: int = 96
    side: int = 192
    validation: float = 0.15
    shown: int = 6
    up_crop: int = 64
    up_base: int = 16
    up_depth: int = 6
    up_batch: int = 8
    up_steps: int = 800
    up_validate_every: int = 100
    up_rate: float = 4e-4
    seg_variant: str = "table5_both_x3"
    seg_narrow: int = 4
    seg_crop: int = 64
    seg_batch: int = 8
    seg_steps: int = 800
    seg_validate_every: int = 200
    seg_rate: float = 2e-3


def quickstart(out: Path, settings: _Settings | None = None) -> str:
    """Does all of it in the folder `out` and returns what to print: where the pictures are, and the table.

    Raises:
      UsageError: `out` holds a data set or a run of other settings.
      CracksError: with exit code 75, a signal asked training to stop; the same command goes on.
    """
    how = settings or _Settings()
    clock = _Clock()
    clock.say("1/5 drawing pavements")
    data = out / "data" / "pavement"
    _draw(data, how)
    held_out = split_validation(open_dataset(data, "train", need_masks=True), how.validation)[1]
    test = open_dataset(data, "test", need_masks=True)
    first_look = out / "pictures" / "first_look.png"
    _draw_first_look(first_look, data, test, held_out, how)
    clock.say(f"first picture: {first_look}")

    clock.say(f"2/5 training {UPCRACKNET} on undamaged pictures, without labels")
    up_run = _trained(_upcracknet(data, how), out / "runs" / "upcracknet")
    clock.say(f"3/5 training {CRACKSEG} on labelled pictures")
    seg_run = _trained(_crackseg(data, how), out / "runs" / "crackseg")

    clock.say(f"4/5 scoring {len(test)} test pictures")
    judges = _judges(up_run, seg_run, held_out)
    rows = _score(test, judges, out)
    clock.say("5/5 drawing overlays, curves and the report")
    _draw_overlays(out / "pictures" / "overlays.png", test, judges, how)
    _draw_curves(out / "pictures" / "curves.png", up_run, seg_run)
    notes = _notes(test, held_out, up_run, how)
    shown = table(rows)
    _write(out, rows, shown, notes, how)
    report([out / "runs", out / FLOOR], out / "report", Shown(test, limit=how.shown, figures=REPORTED))
    clock.say("done")
    return _last_words(out, shown, notes)


# ------------------------------------------------------------------------------------------------- data


def _draw(folder: Path, how: _Settings) -> None:
    size = (how.side, how.side)
    with tqdm(desc="drawing", unit="picture", file=sys.stderr, mininterval=_interval()) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        draw_dataset(
            folder,
            seed=how.seed,
            train=how.train,
            test=how.test,
            undamaged=how.undamaged,
            size=size,
            progress=step,
        )


# ------------------------------------------------------------------------------------------- experiments


def _upcracknet(data: Path, how: _Settings) -> Experiment:
    """UP-CrackNet with a quarter of the channels, on windows at the pictures' own scale, the one it is scored at."""
    return Experiment(
        name="quickstart_upcracknet",
        form="cpu",
        method=Restoration(base=how.up_base, depth=how.up_depth, discriminator_base=how.up_base),
        data=Data(
            name=str(data),
            split="undamaged",
            validation=how.validation,
            pipeline=Pipeline(crop=how.up_crop, flip_horizontal=True, flip_vertical=True, corruption="squares"),
        ),
        training=Training(
            steps=how.up_steps,
            batch_size=how.up_batch,
            schedule="poly",
            learning_rate=how.up_rate,
            discriminator_learning_rate=how.up_rate,
            loss_weights=LOSS_WEIGHTS,
            validate_every=how.up_validate_every,
        ),
        detection=DETECTION_PRESETS["hidden"],
        seed=how.seed,
        machine=Machine(log_every=10, checkpoint_every=how.up_validate_every),
    )


def _crackseg(data: Path, how: _Settings) -> Experiment:
    """The full CrackSeg on a narrow ResNet-50 from random weights; a batch-norm decay that fits so few steps."""
    return Experiment(
        name="quickstart_crackseg",
        form="cpu",
        method=Segmentation(variant=how.seg_variant, narrow=how.seg_narrow, bn_momentum=0.97),
        data=Data(
            name=str(data),
            split="train",
            validation=how.validation,
            pipeline=Pipeline(crop=how.seg_crop, flip_horizontal=True, flip_vertical=True),
        ),
        training=Training(
            steps=how.seg_steps,
            batch_size=how.seg_batch,
            schedule="poly",
            learning_rate=how.seg_rate,
            colour=0.1,
            validate_every=how.seg_validate_every,
        ),
        detection=Detection(rule=ARGMAX),
        seed=how.seed,
        machine=Machine(log_every=10, checkpoint_every=how.seg_validate_every),
    )


def _trained(experiment: Experiment, folder: Path) -> Path:
    """The run directory, trained to its end; a run that is finished is left alone."""
    if (folder / EXPERIMENT).is_file():
        found = read_json(folder / EXPERIMENT).get("run_id")
        if found != experiment.run_id:
            raise UsageError(
                f"{folder}: was trained by a quickstart of other settings or of another version (run_id {found}, this "
                f"one is {experiment.run_id}); name another folder with --out, or delete it"
            )
    if (folder / METRICS).is_file() and read_json(folder / METRICS).get("run_id") == experiment.run_id:
        _say(f"{folder}: trained already")
        return folder
    try:
        train(experiment, folder)
    except Stopped as stopped:
        error = CracksError(str(stopped))
        error.exit_code = STOPPED
        raise error from stopped
    return folder


# ---------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class _Judge:
    """A method that scores pictures, under each of its rules; the first is its own default.

    `scores`: the folder of its records, below the quickstart's own.
    """

    name: str
    scorer: Scorer
    rules: tuple[Scoring, ...]
    scores: str


def _judges(up_run: Path, seg_run: Path, held_out: Dataset) -> list[_Judge]:
    """The floor and both runs. All thresholds come from the same undamaged windows and the same labelled pictures."""
    restoration, segmentation = open_run(up_run), open_run(seg_run)
    kept = restoration.undamaged()
    assert kept is not None  # UP-CrackNet's runs keep theirs
    windows = undamaged_windows(*kept)

    def judge_of(name: str, scorer: Scorer, names: dict[str, Any], scores: str) -> _Judge:
        """Thresholds of all come from the same undamaged windows and the same labelled pictures."""
        rules = (Thresholds(parse_rule(r), scorer, labelled=held_out, undamaged=windows) for r in RULES[name])
        names = names | {"preset": None, "detection_preset": preset_of(scorer.method, scorer.how)}
        return _Judge(name, scorer, tuple(Scoring(scorer, rule, names) for rule in rules), scores)

    floor = Scorer(BackgroundDifference(), {}, Detection(rule=UNDAMAGED_RULE))
    judges = [judge_of(FLOOR, floor, {"method": "background_difference"}, FLOOR)]
    for name, run in ((UPCRACKNET, restoration), (CRACKSEG, segmentation)):
        experiment = run.experiment
        jax.config.update("jax_default_matmul_precision", experiment.matmul_precision)
        step, state = run.state("best")
        scorer = Scorer(experiment.method, state, experiment.detection, seed=experiment.seed)
        names = {"run_id": experiment.run_id, "experiment": experiment.label, "checkpoint": step}
        judges.append(judge_of(name, scorer, names, f"runs/{run.folder.name}/scores"))
    return judges


def _score(test: Dataset, judges: Sequence[_Judge], out: Path) -> list[dict[str, Any]]:
    """One row per method and rule, each beside the floor under the rule that compares; all are kept as records."""
    rows, counts = [], {}
    for one in judges:
        for asked, scoring, judged in zip(RULES[one.name], one.rules, judge(test, one.rules), strict=True):
            # Without what it cost this machine just now: the same again is then the same file.
            metrics = {name: value for name, value in judged.metrics.items() if name != "cost"}
            rows.append({**metrics, "method": one.name, "asked": asked})
            counts[one.name, asked] = np.array([[image[name] for name in COUNTS] for image in judged.images], float)
            calibration = _CALIBRATED_BY.get(asked) if one.name == FLOOR else None
            save(out / one.scores / f"{asked.replace(':', '_')}.json", judged, scoring, COMMAND, calibration)
    floor = {row["asked"]: row["f1"] for row in rows if row["method"] == FLOOR}
    for row in rows:
        row["floor_rule"] = FLOOR_RULE.get(row["asked"], row["asked"])
        row["f1_above_floor"] = row["f1"] - floor[row["floor_rule"]] if row["method"] != FLOOR else None
        if row["method"] != FLOOR:
            pair = counts[row["method"], row["asked"]], counts[FLOOR, row["floor_rule"]]
            found = compare_counts("f1", test.stems, *pair)
            row["f1_above_floor_interval"], row["f1_above_floor_p"] = found.interval, found.p
    return rows


def _draw_first_look(path: Path, data: Path, test: Dataset, held_out: Dataset, how: _Settings) -> None:
    """Undamaged and cracked pavement, the exact masks, and what darkness alone makes of it."""
    floor = Scorer(BackgroundDifference(), {}, Detection(rule="validation"))
    rule = Thresholds(parse_rule("validation"), floor, labelled=held_out)
    undamaged = [read_image(record.image) for record in open_dataset(data, "undamaged").records[: how.shown]]
    shown = _pairs(test, how.shown)
    count = min(len(undamaged), len(shown))
    rows = [
        undamaged[:count],
        [image for image, _ in shown[:count]],
        [figures.white_on_black(mask) for _, mask in shown[:count]],
        [figures.answer(image, rule.mask(floor(image)), mask) for image, mask in shown[:count]],
    ]
    figures.sheet(
        path,
        rows,
        title="Drawn pavements, and what a method without a network finds",
        across=[""] * count,
        down=["undamaged", "cracked", "exact mask", "the floor"],
        legend=True,
    )


def _draw_overlays(path: Path, test: Dataset, judges: Sequence[_Judge], how: _Settings) -> None:
    """Test pictures in their order, none chosen, with the answer of every method under its own rule."""
    rows = []
    for image, mask in _pairs(test, how.shown):
        answers = [figures.answer(image, j.rules[0].thresholds.mask(j.scorer(image)), mask) for j in judges]
        rows.append([image, figures.white_on_black(mask), *answers])
    titles = [f"{j.name}\n({_rule_name(RULES[j.name][0])})" for j in judges]
    figures.sheet(
        path,
        rows,
        title="The first test pictures and who finds what",
        across=["photograph (drawn)", "exact mask", *titles],
        down=[record.stem for record in test.records[: how.shown]],
        legend=True,
    )


def _draw_curves(path: Path, up_run: Path, seg_run: Path) -> None:
    up, seg = (list(open_run(folder).records) for folder in (up_run, seg_run))

    def lines(records: list[dict[str, Any]], event: str, **names: str) -> dict[str, list[tuple[float, float]]]:
        return {shown.replace("_", " "): figures.points(records, event, name) for shown, name in names.items()}

    figures.curves(
        path,
        {
            f"{UPCRACKNET}: training": (
                "loss term",
                lines(up, "train", mae="mae", one_minus_SSIM="ssim", MSGMS="msgms"),
            ),
            f"{UPCRACKNET}: undamaged validation pictures": (
                "restoration loss (selects the checkpoint)",
                lines(up, "validation", restoration_loss="restoration_loss"),
            ),
            f"{CRACKSEG}: training": ("cross-entropy", lines(seg, "train", loss="loss")),
            f"{CRACKSEG}: labelled validation pictures": (
                "crack IoU and F1 at argmax",
                lines(seg, "validation", IoU="iou", F1="f1"),
            ),
        },
    )


def _pairs(dataset: Dataset, count: int) -> list[tuple[Any, Any]]:
    return [(read_image(r.image), read_mask(r.mask)) for r in dataset.records[:count] if r.mask is not None]


# ------------------------------------------------------------------------------------------ what is told


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, its columns aligned so that it reads well in a terminal too. Percent, pooled over all pixels."""
    head = ("method", "threshold", "F1", "IoU", "precision", "recall", "against the floor")
    body = [head, *((row["method"], _rule_name(row["asked"]), *_percents(row), _stands(row)) for row in rows)]
    widths = [max(len(line[i]) for line in body) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in body]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _percents(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple("undefined" if row[name] is None else f"{100 * row[name]:.1f}" for name in METRIC_NAMES)


def _stands(row: dict[str, Any]) -> str:
    difference = row["f1_above_floor"]
    if difference is None:
        return "is the floor"
    points, ends = abs(100 * difference), row.get("f1_above_floor_interval")
    where = f"{points:.1f} points {'above' if difference > 0 else 'below'} the floor by {_rule_name(row['floor_rule'])}"
    return where if ends is None else f"{where} ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"


def _rule_name(rule: str) -> str:
    """A rule as the table calls it."""
    if rule == ARGMAX:
        return "argmax"
    return {"validation": "labelled pictures", "otsu": "Otsu"}.get(rule, rule.replace(":", " pictures, "))


def _notes(test: Dataset, held_out: Dataset, up_run: Path, how: _Settings) -> str:
    """What the table's words mean and what it depends on."""
    kept = open_run(up_run).undamaged()
    assert kept is not None
    around = surroundings()
    software = ", ".join(f"{name} {around['software'][name]}" for name in ("cracks-jax", "python", "jax", "flax"))
    lines = (
        f"Percent of crack pixels, pooled over {len(test)} test pictures of {how.side}x{how.side}, native size; "
        "points are differences of F1, in brackets the 95 % interval over the pictures: with zero inside, not sure.",
        f"Thresholds: `{_rule_name(UNDAMAGED_RULE)}` is that quantile of the score on {len(kept[1])} undamaged "
        "pictures, without any label;",
        f"`labelled pictures` is the best F1 on {len(held_out)} labelled pictures that no method was trained on; "
        "`Otsu` is chosen anew for each picture.",
        "UP-CrackNet detects by the preset `hidden`: every square is judged while it is hidden from the network.",
        "The floor is darkness against a blurred background: no network, nothing learned.",
        f"Seed {how.seed}; data {test.digest()[:16]} (drawn); {software}; {around['device']['kind']}; "
        f"revision {(around['git_revision'] or 'unknown')[:12]}.",
    )
    return "\n".join(lines)


def _write(out: Path, rows: Sequence[dict[str, Any]], shown: str, notes: str, how: _Settings) -> None:
    text = f"# What cracks-jax quickstart found\n\n{shown}\n\n{notes}\n"
    results = {
        "seed": how.seed,
        "rows": list(rows),
        "data_digest": rows[0]["data_digest"],
        **surroundings(),
    }
    write_json(out / "results.json", results)
    temporary = out / "table.md.tmp"
    temporary.write_text(text)
    temporary.replace(out / "table.md")


def _last_words(out: Path, shown: str, notes: str) -> str:
    pictures = [out / "report" / "report.html"]
    pictures += [out / "pictures" / f"{name}.png" for name in ("first_look", "overlays", "curves")]
    listed = "\n".join(f"  {path}" for path in pictures)
    return f"To look at:\n{listed}\n\n{shown}\n\n{notes}\nThe same in {out / 'table.md'} and {out / 'results.json'}."


# --------------------------------------------------------------------------------------------- progress


class _Clock:
    """Names each step with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        _say(f"[{time.monotonic() - self._start:4.0f} s] {text}")


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 5


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""The words of the command `cracks-jax`: every verb with its flags, and the help that teaches them. `cli.py` acts."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from cracks_jax import __version__
from cracks_jax.errors import shown


class _Parser(argparse.ArgumentParser):
    """One whose messages can be shown, whatever file's name the shell put in the place of a word."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


def parser() -> argparse.ArgumentParser:
    """The whole command line; `cracks-jax VERB --help` teaches one verb."""
    top = _Parser(
        prog="cracks-jax",
        description="Find cracks in photographs of roads: CrackSeg (supervised), UP-CrackNet (unsupervised) and the "
        "no-network floor. Start with `cracks-jax quickstart`.",
        epilog="Data sets are found by name under $CRACKS_DATA, pretrained files under $CRACKS_WEIGHTS, or by a path.",
    )
    top.add_argument("--version", action="version", version=f"cracks-jax {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    quick = _verb(verbs, "quickstart", "draw a data set, train both methods small, show what they find",
                  "cracks-jax quickstart --out quickstart")  # fmt: skip
    quick.add_argument("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="default: ./quickstart")

    train = _verb(verbs, "train", "train an experiment; run again to resume",
                  "cracks-jax train experiments/crackseg_deepcrack.py:cpu --member scratch "
                  "(Ctrl-C stops after the current step and saves; the same command goes on)")  # fmt: skip
    train.add_argument("file", nargs="?", metavar="FILE.py[:FORM]", help="FORM: paper (default), cpu or smoke")
    train.add_argument("--member", metavar="NAME", help="one row of a file that defines a table (default: its first; "
                       "a name that is not there lists them)")  # fmt: skip
    train.add_argument("--run", type=Path, metavar="DIR", help="default: runs/<file>-<form>[-<member>]-<run_id>")
    train.add_argument("--repeat", type=Path, metavar="RUN", help="train what RUN's experiment.json says, again")
    train.add_argument("--coordinator", metavar="HOST:PORT",
                       help="train together with other processes, here or on other machines: where process 0 listens, "
                       "the same in all; `auto` where Slurm, Kubernetes or Cloud TPU started them. --run must lie on a "
                       "disk that all share")  # fmt: skip
    train.add_argument("--processes", type=int, metavar="N", help="how many there are")
    train.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    train.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="for all to come (default 300)")
    _settings(train, "training.steps=100")
    _profile(train, "steps 5 to 8")

    sweep = _verb(verbs, "sweep", "train, score and tabulate every member of an experiment file; run again to "
                  "go on", "cracks-jax sweep experiments/upcracknet_table1.py:cpu --out runs/table1 --seeds 0,1 "
                  "(the same command does what is missing; another --preset or --data only scores)")  # fmt: skip
    sweep.add_argument("file", metavar="FILE.py[:FORM]", help="FORM: paper (default), cpu or smoke")
    sweep.add_argument("--out", type=Path, required=True, metavar="DIR", help="of run directories, logs and table")
    sweep.add_argument("--only", metavar="PATTERN", help="members whose id matches (*, ?); with --seeds an id is "
                       "MEMBER-seedN")  # fmt: skip
    sweep.add_argument("--seeds", metavar="0,1,2", help="every member with each seed (default: the file's own)")
    sweep.add_argument("--jobs", type=int, metavar="N", help="members at a time, each with its share of the devices "
                       "(default: one a device; up to four share a GPU of this machine)")  # fmt: skip
    sweep.add_argument("--launcher", choices=("local", "ray", "slurm"), default="local",
                       help="where: processes of this machine (default), a Ray cluster, or a Slurm array, whose script "
                       "is written")  # fmt: skip
    sweep.add_argument("--submit", action="store_true", help="with slurm: give the script to sbatch")
    sweep.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    sweep.add_argument("--data", action="extend", nargs="+", default=[], metavar="NAME_OR_PATH[:SPLIT]",
                       help="labelled images to score on (default: the test split of what is trained on)")  # fmt: skip
    _scored(sweep)
    _settings(sweep, "training.steps=100")

    evaluate = _verb(verbs, "evaluate", "score a labelled split",
                     "cracks-jax evaluate runs/RUN --data deepcrack:test --geometry resize256 --rule otsu")  # fmt: skip
    evaluate.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run directory")
    evaluate.add_argument("--method", metavar="NAME", help="instead of RUN: darkness or background_difference")
    evaluate.add_argument("--data", required=True, metavar="NAME_OR_PATH[:SPLIT]", help="images with masks")
    _detection(evaluate)
    _crack_free(evaluate)
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="keep the record there, with each image's counts and "
                          "the curve; in RUN/scores `cracks-jax report RUN` finds it")  # fmt: skip
    _profile(evaluate, "calls 3 to 8 of the network")
    evaluate.add_argument("--json", action="store_true", help="one JSON object on standard output")

    score = _verb(verbs, "score", "score any tool's predictions against masks",
                  "cracks-jax score predictions/ masks/ --json")  # fmt: skip
    score.add_argument("predictions", type=Path,
                       help="folder of PNG masks (0 and 255), grey PNG, .npy or .npz score maps in [0, 1]")  # fmt: skip
    score.add_argument("masks", type=Path, help="folder of masks (0 and 255, or 0 and 1); matched by stem")
    score.add_argument("--threshold", type=float, default=0.5, help="crack = score > threshold (default 0.5)")
    score.add_argument("--resize", choices=("prediction", "mask"),
                       help="where sizes differ: bring the prediction to its mask's size, or the mask to its "
                       "prediction's (default: that is an error)")  # fmt: skip
    score.add_argument("--unmatched", action="store_true",
                       help="score the pairs although some files are alone, and list those")  # fmt: skip
    _crack_free(score)
    score.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; 0: none besides)")
    score.add_argument("--json", action="store_true", help="one JSON object on standard output")

    detect = _verb(verbs, "detect", "photographs, folders, videos -> masks, overlays, measurements",
                   "cracks-jax detect --method background_difference photo.jpg --out found")  # fmt: skip
    detect.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="image, folder of images, or video")
    detect.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="masks/, overlays/ (crack in magenta) and measurements.csv go there")  # fmt: skip
    which = detect.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, metavar="RUN", help="a trained run")
    which.add_argument("--method", metavar="NAME", help="darkness or background_difference: no training needed")
    _detection(detect)
    _profile(detect, "calls 3 to 8 of the network")
    detect.add_argument("--scores", action="store_true", help="write score maps (.npy, float32) too")
    detect.add_argument("--mm-per-px", type=float, metavar="X", help="measure in millimetres too")
    detect.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame of a video")

    detect.add_argument("--tile-batch", type=int, metavar="N", help="windows in one call of the network: speed and "
                        "memory alone (default: 2**20 pixels, halved where memory does not suffice)")  # fmt: skip

    report = _verb(verbs, "report", "run directories and records -> one HTML page, Markdown and figures",
                   "cracks-jax report quickstart/runs quickstart/floor --data quickstart/data/pavement:test "
                   "--out report")  # fmt: skip
    report.add_argument("paths", nargs="+", type=Path, metavar="RUN_OR_DIR",
                        help="run directories, or folders that hold some or records of `evaluate --out`")  # fmt: skip
    report.add_argument("--out", type=Path, required=True, metavar="DIR", help="report.html, report.md and figures/")
    report.add_argument("--data", metavar="NAME_OR_PATH[:SPLIT]",
                        help="labelled images for pictures (default: none, from records alone)")  # fmt: skip
    report.add_argument("--images", nargs="+", default=[], metavar="STEM", help="which of them (default: the first)")
    report.add_argument("--limit", type=int, default=12, metavar="N", help="how many in method-grid (default 12)")
    report.add_argument("--preset", metavar="NAME",
                        help="UP-CrackNet's detection in pictures: default, hidden, paper or authors (default: the "
                        "run's own)")  # fmt: skip
    report.add_argument("--figures", nargs="+", metavar="NAME",
                        help="some of curves, pr, method-grid, restoration, feature-maps, failures "
                        "(default: all)")  # fmt: skip

    data = verbs.add_parser("data", help="check and prepare data sets").add_subparsers(required=True, metavar="VERB")
    check = _verb(data, "check",
                  "pairs, sizes, label values, crack share, near-duplicates; exit 1 if broken",
                  "cracks-jax data check deepcrack")  # fmt: skip
    check.add_argument("root", metavar="ROOT", help="a data set's name or folder")
    prepare = _verb(data, "prepare", "carry out a paper's data recipe",
                    "cracks-jax data prepare undamaged deepcrack:train --out windows --set min_side=128")  # fmt: skip
    prepare.add_argument("recipe", metavar="RECIPE",
                         help="undamaged, undamaged-unlabelled, crackseg-blocks, crack500 or cfd200")  # fmt: skip
    prepare.add_argument("root", metavar="ROOT", help="NAME_OR_PATH[:SPLIT]")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR")
    _settings(prepare, "min_side=128")

    systems = _verb(verbs, "systems", "every method that runs, its paper, parameters and operations",
                    "cracks-jax systems")  # fmt: skip
    systems.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return top


def _verb(verbs: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    made = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
    )
    made.set_defaults(verb=made.prog.partition(" ")[2])
    return made


def _crack_free(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--crack-free", choices=("left_out", "perfect_if_empty"), default="left_out",
                      help="an image without cracks in means over images: left out, or 1 where nothing is predicted "
                      "and 0 otherwise (default left_out)")  # fmt: skip


def _settings(verb: argparse.ArgumentParser, example: str) -> None:
    verb.add_argument("--set", action="extend", nargs="+", default=[], metavar="PATH=VALUE", help=f"e.g. {example}")


def _profile(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--profile", type=Path, metavar="DIR", help=f"write a jax.profiler trace of {what} to DIR")


def _detection(verb: argparse.ArgumentParser) -> None:
    """The flags that evaluate and detect share."""
    _scored(verb)
    verb.add_argument("--checkpoint", default="best", metavar="best|last|STEP", help="default: best")
    _settings(verb, "detection.filter=gaussian")


def _scored(verb: argparse.ArgumentParser) -> None:
    """How images are scored."""
    verb.add_argument("--preset", metavar="NAME", help="UP-CrackNet's detection: default, hidden, paper or authors")
    verb.add_argument("--rule", metavar="RULE", help="otsu, validation, undamaged[:Q] or a number (crack = score > it)")
    verb.add_argument("--geometry", choices=("native", "resize256"), help="native (default) or the papers' 256x256")
    verb.add_argument("--tile", type=int, metavar="N", help="cut images larger than NxN into overlapping NxN tiles")
    verb.add_argument("--calibration", metavar="NAME_OR_PATH[:SPLIT]",
                      help="labelled images for --rule validation, undamaged windows for --rule undamaged "
                      "(default: what the run held out)")  # fmt: skip

"""The command `cracks-jax`: one function per verb; each hands over to the module of that name.

Exit codes: 0 done, 1 the run or the data is bad, 2 the command line is wrong, 75 stopped by a signal and resumable.
With --json one JSON object goes to standard output and nothing else; progress and logs go to standard error.
"""

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from cracks_jax import __version__
from cracks_jax.errors import CracksError, UsageError, shown
from cracks_jax.runtime.memory import keep_freed_memory
from cracks_jax.untrusted import parse_json

EXIT_STOPPED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; every foreseeable failure ends in one message and an exit code, never in a traceback."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return options.run_verb(options) or 0
    except CracksError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is on disk", 130)
    except OSError as error:
        name = error.filename or "a file"
        return _fail(f"{name}: {error.strerror or error}; free space or check its permissions, then run again", 1)
    except MemoryError:
        return _fail("not enough memory; use smaller images or batches, or another machine, then run again", 1)


def entry() -> None:
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's encoding has not is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] in (["train"], ["quickstart"], ["sweep"]):  # until training hears signals itself
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
    grouped = "CRACKS_JAX_SUPERVISED" in os.environ
    code = main()
    # All is saved, and an interpreter takes seconds to end; one of a group that fails would wait for the others.
    if code == EXIT_STOPPED or grouped:
        if grouped and code == 1:
            time.sleep(1)  # the others have their own words to say before they lose this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _leave(_number: int, _frame: Any) -> None:
    with suppress(OSError):
        os.write(2, b"stopped; run the same command again to go on\n")
    os._exit(EXIT_STOPPED)


def _fail(message: str, code: int) -> int:
    print(f"cracks-jax: {shown(message)}", file=sys.stderr)
    return code


# ------------------------------------------------------------------------------------------------ verbs


def _quickstart(options: argparse.Namespace) -> int:
    from cracks_jax.quickstart import quickstart
    from cracks_jax.runtime.compilation import keep_compiled

    keep_compiled()
    print(quickstart(options.out))
    return 0


def _train(options: argparse.Namespace) -> int:
    from cracks_jax.group.supervised import CHILD, end_with_parent, supervise

    group = _group(options)
    if group is not None and CHILD not in os.environ:
        return supervise(sys.argv[1:])  # before jax is imported: this process only watches
    from cracks_jax.experiment import apply_settings, load_file
    from cracks_jax.group.processes import first, leave
    from cracks_jax.repeat import compared, rebuild
    from cracks_jax.runs import open_run
    from cracks_jax.runtime.compilation import keep_compiled
    from cracks_jax.train import Stopped, train

    if group is not None:
        end_with_parent()
    if (options.file is None) == (options.repeat is None):
        raise UsageError("train: give an experiment FILE.py[:FORM], or --repeat RUN, and not both")
    folder = options.run
    if options.repeat is not None:
        if options.member is not None:
            raise UsageError(f"--member {options.member}: --repeat takes the member of its run; leave one of them out")
        opened = open_run(options.repeat)
        experiment = opened.experiment
        for line in ("its environment is rebuilt by", *rebuild(opened.description).splitlines()):
            _say(line)
        repeated = options.repeat.resolve()
        folder = folder or repeated.with_name(repeated.name + "-repeat")
    else:
        experiment = load_file(options.file, options.member)
    experiment = apply_settings(experiment, options.set)
    keep_compiled(experiment.machine.compilation_cache)
    try:
        metrics = train(experiment, folder, options.profile, group)
    except Stopped as stopped:
        if group is not None:
            leave()
        return _fail(str(stopped), EXIT_STOPPED)
    if group is not None:
        leave()
        if not first():
            return 0
    if options.repeat is not None:
        for line in compared(metrics, folder, options.repeat).splitlines():
            _say(line)
    print(json.dumps(metrics))
    return 0


def _group(options: argparse.Namespace) -> Any:
    """The processes that train together, where this is one of them."""
    from cracks_jax.group.meeting import Group

    if options.coordinator is None:
        for flag in ("processes", "process"):
            if getattr(options, flag) is not None:
                raise UsageError(f"--{flag} {getattr(options, flag)}: give --coordinator HOST:PORT too")
        return None
    group = Group(options.coordinator, options.processes, options.process, options.wait)
    group.check()
    return group


def _evaluate(options: argparse.Namespace) -> int:
    from cracks_jax.data.datasets import open_dataset, parse_spec
    from cracks_jax.evaluate import evaluate, table
    from cracks_jax.runtime.compilation import keep_compiled
    from cracks_jax.scores import calibration_of, command_of, file_name, save
    from cracks_jax.scoring import open_scoring

    dataset = open_dataset(*parse_spec(options.data), need_masks=True)
    keep_compiled()
    request = _request(options)
    scoring = open_scoring(request)
    with _profiled_calls(options.profile, scoring):
        judged = evaluate(dataset, scoring, options.crack_free)
    if options.out is not None:
        path = options.out / file_name(request, options.data)
        save(path, judged, scoring, command_of(request, options.data), calibration_of(request))
        _say(f"kept in {path}")
    print(json.dumps(judged.metrics) if options.json else table(judged.metrics))
    return 0


def _score(options: argparse.Namespace) -> int:
    from cracks_jax.evaluate import table
    from cracks_jax.score import run

    metrics = run(
        options.predictions,
        options.masks,
        options.threshold,
        resize=options.resize,
        unmatched=options.unmatched,
        crack_free=options.crack_free,
        workers=options.workers,
    )
    print(json.dumps(metrics) if options.json else table(metrics))
    return 0


def _detect(options: argparse.Namespace) -> int:
    from cracks_jax.detect import detect
    from cracks_jax.runtime.compilation import keep_compiled
    from cracks_jax.scoring import open_scoring

    keep_compiled()
    scoring = open_scoring(_request(options, tile_batch=options.tile_batch))
    with _profiled_calls(options.profile, scoring):
        summary = detect(
            options.inputs,
            options.out,
            scoring.scorer,
            scoring.thresholds,
            scores=options.scores,
            mm_per_px=options.mm_per_px,
            every=options.every,
            say=_say,
        )
    print(shown(f"{summary.written} written to {options.out}, {len(summary.skipped)} skipped"))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from cracks_jax.sweep import parse_seeds, plan, show, sweep

    detection = {name: getattr(options, name) for name in ("preset", "rule", "geometry", "tile", "calibration")}
    found = plan(
        options.file,
        options.out,
        only=options.only,
        seeds=() if options.seeds is None else parse_seeds(options.seeds),
        settings=options.set,
        tests=options.data,
        detection={name: value for name, value in detection.items() if value is not None},
    )
    if options.dry_run:
        _print_lines(show(found))
        return 0
    if options.launcher == "slurm":
        from cracks_jax.launch.slurm import array

        _print_lines(array(found.spec, found.out, [job.id for job in found.missing], sys.argv[1:], options.submit))
        return 0
    table, code = sweep(found, jobs=options.jobs, launcher=options.launcher)
    _print_lines(table)
    return code


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        print(shown(line))


def _report(options: argparse.Namespace) -> int:
    from cracks_jax.data.datasets import open_dataset, parse_spec
    from cracks_jax.report.make import Shown, report
    from cracks_jax.runtime.compilation import keep_compiled

    keep_compiled()
    dataset = None if options.data is None else open_dataset(*parse_spec(options.data), need_masks=True)
    figures = {} if options.figures is None else {"figures": tuple(options.figures)}
    pictures = Shown(dataset, tuple(options.images), options.limit, options.preset, **figures)
    print(shown(report(options.paths, options.out, pictures)))
    return 0


@contextmanager
def _profiled_calls(folder: Path | None, scoring: Any) -> Iterator[None]:
    """Traces calls of the network from the third on: the first of each size compile."""
    from cracks_jax.runtime.profile import profile

    with profile(folder, 3, 8, "network call") as trace:
        scoring.scorer.calls.after_call = trace
        yield


def _data_check(options: argparse.Namespace) -> int:
    from cracks_jax.data.check import check

    with _bar("checking", "image") as step:
        report = check(options.root, step)
    print(report.text())
    return 0 if report.ok else 1


def _data_prepare(options: argparse.Namespace) -> int:
    from cracks_jax.data.prepare import RESERVED, prepare

    settings = dict(_setting(text) for text in options.set)
    for name in RESERVED & settings.keys():
        raise UsageError(f"--set {name}: is no setting of a recipe; name it on the command line itself")
    with _bar("cutting", "photograph") as step:
        manifest = prepare(options.recipe, options.root, options.out, progress=step, **settings)
    print(json.dumps({"out": str(options.out), "counts": manifest["counts"], "digest": manifest["digest"]}))
    return 0


def _systems(options: argparse.Namespace) -> int:
    from cracks_jax.systems import systems, table

    found = systems()
    print(json.dumps({"systems": found}) if options.json else table(found))
    return 0


# ----------------------------------------------------------------------------------------------- parser


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

    quick = _verb(verbs, "quickstart", _quickstart, "draw a data set, train both methods small, show what they find",
                  "cracks-jax quickstart --out quickstart")  # fmt: skip
    quick.add_argument("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="default: ./quickstart")

    train = _verb(verbs, "train", _train, "train an experiment; run again to resume",
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

    sweep = _verb(verbs, "sweep", _sweep, "train, score and tabulate every member of an experiment file; run again to "
                  "go on", "cracks-jax sweep experiments/upcracknet_table1.py:cpu --out runs/table1 --seeds 0,1 "
                  "(the same command does what is missing; another --preset or --data only scores)")  # fmt: skip
    sweep.add_argument("file", metavar="FILE.py[:FORM]", help="FORM: paper (default), cpu or smoke")
    sweep.add_argument("--out", type=Path, required=True, metavar="DIR", help="of run directories, logs and table")
    sweep.add_argument("--only", metavar="PATTERN", help="members whose id matches (*, ?); with --seeds an id is "
                       "MEMBER-seedN")  # fmt: skip
    sweep.add_argument("--seeds", metavar="0,1,2", help="every member with each seed (default: the file's own)")
    sweep.add_argument("--jobs", type=int, metavar="N", help="members at a time, each with its share of the devices "
                       "(default: one a device)")  # fmt: skip
    sweep.add_argument("--launcher", choices=("local", "ray", "slurm"), default="local",
                       help="where: processes of this machine (default), a Ray cluster, or a Slurm array, whose script "
                       "is written")  # fmt: skip
    sweep.add_argument("--submit", action="store_true", help="with slurm: give the script to sbatch")
    sweep.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    sweep.add_argument("--data", action="extend", nargs="+", default=[], metavar="NAME_OR_PATH[:SPLIT]",
                       help="labelled images to score on (default: the test split of what is trained on)")  # fmt: skip
    _scored(sweep)
    _settings(sweep, "training.steps=100")

    evaluate = _verb(verbs, "evaluate", _evaluate, "score a labelled split",
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

    score = _verb(verbs, "score", _score, "score any tool's predictions against masks",
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

    detect = _verb(verbs, "detect", _detect, "photographs, folders, videos -> masks, overlays, measurements",
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

    report = _verb(verbs, "report", _report, "run directories and records -> one HTML page, Markdown and figures",
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
    check = _verb(data, "check", _data_check,
                  "pairs, sizes, label values, crack share, near-duplicates; exit 1 if broken",
                  "cracks-jax data check deepcrack")  # fmt: skip
    check.add_argument("root", metavar="ROOT", help="a data set's name or folder")
    prepare = _verb(data, "prepare", _data_prepare, "carry out a paper's data recipe",
                    "cracks-jax data prepare undamaged deepcrack:train --out windows --set min_side=128")  # fmt: skip
    prepare.add_argument("recipe", metavar="RECIPE",
                         help="undamaged, undamaged-unlabelled, crackseg-blocks, crack500 or cfd200")  # fmt: skip
    prepare.add_argument("root", metavar="ROOT", help="NAME_OR_PATH[:SPLIT]")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR")
    _settings(prepare, "min_side=128")

    systems = _verb(verbs, "systems", _systems, "every method that runs, its paper, parameters and operations",
                    "cracks-jax systems")  # fmt: skip
    systems.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return top


def _verb(verbs: Any, name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
    made = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
    )
    made.set_defaults(run_verb=run)
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


def _request(options: argparse.Namespace, **more: Any) -> Any:
    from cracks_jax.scoring import Request

    return Request(
        run=options.run,
        method=options.method,
        preset=options.preset,
        rule=options.rule,
        geometry=options.geometry,
        tile=options.tile,
        settings=options.set,
        checkpoint=options.checkpoint,
        calibration=options.calibration,
        **more,
    )


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: expected NAME=VALUE, for example min_side=128")
    try:
        return name, parse_json(value)
    except json.JSONDecodeError:
        return name, value
    except ValueError as error:
        raise UsageError(f"--set {name}: {error}") from error


def _bar(label: str, unit: str) -> Any:
    """A progress bar fed by callbacks (done, total)."""
    from tqdm import tqdm

    @contextmanager
    def bar() -> Any:
        often = 0.2 if sys.stderr.isatty() else 15
        with tqdm(desc=label, unit=unit, file=sys.stderr, delay=0.5, mininterval=often) as shown:

            def step(done: int, total: int) -> None:
                shown.total = total
                shown.n = done
                shown.update(0)

            yield step

    return bar()


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    entry()

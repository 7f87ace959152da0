"""The command `cracks-jax`: one function per verb; each hands over to the module of that name. Flags: command_line.py.

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
from typing import Any

from cracks_jax.command_line import parser
from cracks_jax.errors import CracksError, UsageError, shown
from cracks_jax.runtime.memory import keep_freed_memory
from cracks_jax.untrusted import parse_json

EXIT_STOPPED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; every foreseeable failure ends in one message and an exit code, never in a traceback."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return VERBS[options.verb](options) or 0
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
    if options.submit and options.launcher != "slurm":
        raise UsageError("--submit hands a script to Slurm: give --launcher slurm too, or leave --submit out")
    if options.dry_run:
        _print_lines(show(found, options.jobs, options.launcher))
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


VERBS = {
    "quickstart": _quickstart,
    "train": _train,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "score": _score,
    "detect": _detect,
    "report": _report,
    "data check": _data_check,
    "data prepare": _data_prepare,
    "systems": _systems,
}


# --------------------------------------------------------------------------------------- what they share


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

"""How fast a system trains, scores and reads, beside its PyTorch twin and the machine's own limit.

  python tools/benchmark.py step --system upcracknet --batch 4 --size 256 --repeats 7 --peer torch --json
  python tools/benchmark.py infer --system crackseg-r50 --batch 1 --size 256 --repeats 15 --peer torch
  python tools/benchmark.py input --system crackseg-r50 --data deepcrack:train --workers 2 --target-rate 100
  python tools/benchmark.py pipeline --system upcracknet --data drawn [--fake-data]
  python tools/benchmark.py forms --system upcracknet                       # each convolution, XLA's form and ours
  python tools/benchmark.py detect --system upcracknet --megapixels 1 3 12 48 --images 1000 [--run RUN]
  python tools/benchmark.py members --system upcracknet --members 2         # a sweep's ways to train several at a time
  python tools/benchmark.py sweep experiments/upcracknet_table1.py:cpu --set training.steps=40 --peer torch
  python tools/benchmark.py all --out experiments/benchmarks [--quick]      # every line of the table, and the page
  python tools/benchmark.py table experiments/benchmarks                    # the page from its records

Exit codes: 0 done, 1 the measurement failed, 2 the command line is wrong.
"""

import argparse
import contextlib
import fnmatch
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # the package and the twins of tests/reference, from wherever this is started
    sys.path.insert(0, str(ROOT))

from cracks_jax.benchmark import detection, forms, machine, members, page, reading, suite, sweeps, workloads  # noqa: E402
from cracks_jax.benchmark.job import KINDS, NARROW, TRAINABLE, Job  # noqa: E402
from cracks_jax.errors import CracksError, UsageError  # noqa: E402
from cracks_jax.runtime.memory import keep_freed_memory  # noqa: E402
from cracks_jax.runtime.records import write_json  # noqa: E402
from cracks_jax.surroundings import cores  # noqa: E402

CONTENDERS = ("eager", "compile", "onnxruntime", "openvino")


class Parser(argparse.ArgumentParser):
    """One line for a wrong command, as for everything else that is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"benchmark: {message} (--help shows what there is)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    try:
        if options.kind == "table":
            print(page.write_page(_folder(options.folder)))
        elif options.kind == "all":
            return _all(options)
        else:
            _one(options, arguments)
    except CracksError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        return 130
    return 0


def _one(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    # Peers and their exporters print; standard output is the record's alone.
    with contextlib.redirect_stdout(sys.stderr):
        record = {"detect": _detected, "sweep": _swept}.get(options.kind, _measured)(options)
    record = {"command": _command(arguments), **record}
    if options.out is not None:
        _folder(options.out, make=True)
        write_json(options.out / f"{options.name or record['label']}.json", record)
    print(json.dumps(record, allow_nan=False) if options.json else page.lines(record))


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    if options.threads is not None:
        machine.limit_threads(options.threads)
    given = {name: value for name, value in vars(options).items() if name in Job.__dataclass_fields__}
    job = Job(**given | {"threads": options.threads or cores()})
    if job.kind == "input":
        measure: Callable[[], dict[str, Any]] = lambda: reading.read_input(  # noqa: E731
            job, options.data, workers=options.workers, target_rate=options.target_rate
        )
    elif job.kind == "pipeline":
        measure = lambda: reading.train_fed(  # noqa: E731
            job, options.data, workers=options.workers, fake=options.fake_data
        )
    elif job.kind == "members":
        measure = lambda: members.measure_members(job, options.members)  # noqa: E731
    elif job.kind == "forms":
        measure = lambda: forms.measure_forms(job)  # noqa: E731
    else:
        peers = _torch(options.contenders) if options.peer == "torch" else None
        measure = lambda: (workloads.step if job.kind == "step" else workloads.infer)(job, peers)  # noqa: E731
    return workloads.run(measure, job.label)


def _detected(options: argparse.Namespace) -> dict[str, Any]:
    subject = detection.Subject(options.system, options.run, options.narrow, options.tile_batch)
    return detection.measure_detection(
        subject,
        megapixels=tuple(options.megapixels),
        photograph=options.photograph,
        folder_images=options.images,
        folder_side=options.side,
        repeats=options.repeats,
        say=workloads.say,
    )


def _swept(options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, "-m", "tests.reference.sweep_torch"]
    forms = {"optuna_eager": words, "optuna_compile": [*words, "--compile"]} if options.peer == "torch" else {}
    return sweeps.measure_sweep(options.file, options.set, forms, options.jobs)


def _torch(contenders: Sequence[str]) -> workloads.PeerMaker:
    try:
        twin = importlib.import_module("tests.reference.benchmark_torch")
    except ImportError as error:
        raise CracksError(
            f"--peer torch: the PyTorch twin cannot be imported ({error}); `pip install '.[bench]'` in a clone of the "
            "repository brings PyTorch, or leave --peer out"
        ) from error
    return lambda job: twin.peers(job, contenders)


def _all(options: argparse.Namespace) -> int:
    """Each measurement in its own process; what fails is named at the end and does not stop the others."""
    asked = suite.entries(quick=options.quick, data=options.data, size=options.size)
    names = [name for name in asked if fnmatch.fnmatch(name, options.only)]
    if not names:
        raise UsageError(f"--only {options.only}: matches none of {', '.join(asked)}")
    _folder(options.out, make=True)
    failed = []
    for number, name in enumerate(names, 1):
        words = [*asked[name], *(["--threads", str(options.threads)] if options.threads else [])]
        print(f"[{number}/{len(names)}] {' '.join(words)}", file=sys.stderr, flush=True)
        run = subprocess.run([sys.executable, __file__, *words, "--out", str(options.out), "--name", name], check=False)
        failed += [name] if run.returncode else []
    print(page.write_page(options.out))
    if failed:
        raise CracksError(f"{len(failed)} of {len(names)} measurements failed (messages above): {', '.join(failed)}")
    return 0


def _command(arguments: Sequence[str]) -> str:
    """As it can be typed again: without where the record went, and without this machine's paths."""
    kept, skip = [], False
    for word in arguments:
        if skip or word in ("--out", "--name"):
            skip = not skip
            continue
        kept.append(Path(word).name if Path(word).is_absolute() else word)
    return " ".join(["python tools/benchmark.py", *kept])


def _folder(path: Path, *, make: bool = False) -> Path:
    try:
        if make:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CracksError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such folder of records")
    return path


def _parser() -> argparse.ArgumentParser:
    top = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = top.add_subparsers(dest="kind", required=True)
    for kind in KINDS:
        _add_measurement(kinds.add_parser(kind), kind)
    _add_detection(kinds.add_parser("detect"))
    _add_sweep(kinds.add_parser("sweep"))
    every = kinds.add_parser("all")
    every.add_argument("--out", type=Path, default=Path("experiments/benchmarks"))
    every.add_argument("--quick", action="store_true", help="tiny sizes: a rehearsal, whose times mean nothing")
    every.add_argument("--only", default="*", help="measurements whose name matches, such as 'step-*'")
    every.add_argument("--data", default="drawn", help="of input and pipeline, NAME_OR_PATH[:SPLIT]")
    every.add_argument("--size", type=int, default=256)
    every.add_argument("--threads", type=int)
    kinds.add_parser("table").add_argument("folder", type=Path, help="a folder of records")
    return top


def _add_measurement(parser: argparse.ArgumentParser, kind: str) -> None:
    parser.add_argument("--system", required=True, help=", ".join(TRAINABLE))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--narrow", type=int, default=1, help=f"divide every channel count: {NARROW}")
    parser.add_argument("--threads", type=int, help="cores of every contender (default: all that may be used)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--out", type=Path, help="folder that the record is written to")
    parser.add_argument("--name", help=argparse.SUPPRESS)  # the record's name in the full table
    if kind != "input":
        parser.add_argument("--precision", choices=("default", "high", "highest"), default="highest")
    if kind == "step":
        parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the layers")
    if kind in ("step", "pipeline"):
        parser.add_argument("--losses", choices=("core4", "all"), default="core4", help="UP-CrackNet's; all: style too")
    if kind == "infer":
        parser.add_argument("--batch-norm", choices=("window", "running"), help="default: detection's")
    if kind == "members":
        parser.add_argument("--members", type=int, default=2, help="at a time (default 2)")
    if kind in ("forms", "members"):
        return
    if kind in ("step", "infer"):
        parser.add_argument("--peer", choices=("torch",), help="the PyTorch twin, measured in turn with ours")
        parser.add_argument(
            "--contenders", type=_contenders, default=CONTENDERS, help=f"forms of it: {','.join(CONTENDERS)}"
        )
    else:
        parser.add_argument("--data", default="drawn", help="NAME_OR_PATH[:SPLIT], or drawn (default)")
        parser.add_argument("--workers", type=int, default=0, help="processes that decode; 0: this one")
    if kind == "input":
        parser.add_argument("--target-rate", type=_rate, help="images/s of a training that must not wait")
    if kind == "pipeline":
        parser.add_argument("--fake-data", action="store_true", help="batches in memory only: compute without input")


def _add_detection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default="upcracknet", help="its network with random weights, unless --run is given")
    parser.add_argument("--run", help="a trained run instead")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1.0, 3.0, 12.0, 48.0])
    parser.add_argument("--photograph", type=Path, help="a real one, mirrored to each size (default: a drawn pavement)")
    parser.add_argument("--images", type=int, default=1000, help="small ones, beside one large image; 0 leaves it out")
    parser.add_argument("--side", type=int, default=192, help="of the small ones, px")
    parser.add_argument("--narrow", type=int, default=1, help=f"divide every channel count: {NARROW}")
    parser.add_argument("--tile-batch", type=int, help="as of `cracks-jax detect`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--out", type=Path, help="folder that the record is written to")
    parser.add_argument("--name", help=argparse.SUPPRESS)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.py[:FORM]", help="an experiment file with members")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="PATH=VALUE", help="for every member")
    parser.add_argument("--jobs", type=int, help="members at a time, of ours (default: one for each device)")
    parser.add_argument("--peer", choices=("torch",), help="Optuna over PyTorch twins (UP-CrackNet's tables)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--out", type=Path, help="folder that the record is written to")
    parser.add_argument("--name", help=argparse.SUPPRESS)


def _contenders(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(CONTENDERS)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(CONTENDERS)}")
    return names


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected images per second, more than 0")
    return value


if __name__ == "__main__":
    keep_freed_memory()  # as the command line does; peers in this process get the same
    sys.exit(main())

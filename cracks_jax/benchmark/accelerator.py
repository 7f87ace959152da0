"""What an accelerator is good for, in one record and within a few minutes: behind `tools/accelerator_check.py`.

Every measurement (measures.py, layers.py) is a process of its own: none inherits another's memory, and none can take
the record with it. This process never starts jax, so that the device is the measurements' alone. Time that a part
leaves goes to the parts behind it; a part without enough of it is skipped, and the record says so.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.runtime.records import read_json, write_json

Record = dict[str, Any]
_SPARE = 3.0  # s that a measurement is given to leave by itself before it is ended
# XLA would otherwise take three quarters of the memory at once, and PyTorch has to live beside it.
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# As much as can be had: what a training would set that wants the largest batch.
_ALL_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the defaults are what is asked of an accelerator.

    Attributes:
      size, narrow: side of an image in px; divisor of every channel count.
      restores, segments: the systems.
      batches: of the benchmark, in the order they are measured.
      repeats: timed runs of a training step; `calls`: of one layer.
      steps, batch: of the loss curves; `digest_steps`: behind which a state of the systems `digested` is digested.
      largest: batch at which the search for the largest one begins, and the one where it ends.
      layers: how many of the decoder's are measured; `layer_batch`: of these and of the dilated ones.
      sides: images of the decoder's inputs and of the dilated layers are divided by it, as their channels are.
      contenders: forms of the PyTorch twin.
      tests: what pytest is given.
    """

    size: int = 256
    narrow: int = 1
    restores: str = "upcracknet"
    segments: str = "crackseg"
    batches: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    repeats: int = 5
    calls: int = 20
    steps: int = 200
    batch: int = 8
    digest_steps: int = 20
    digested: tuple[str, ...] = ("upcracknet", "crackseg")
    largest: tuple[int, int] = (64, 4096)
    sides: int = 1
    layers: int = 5
    layer_batch: int = 32
    contenders: tuple[str, ...] = ("eager", "compile")
    tests: tuple[str, ...] = (
        "tests/layers",
        "tests/losses",
        "tests/ops/test_convolution.py",
        "tests/ops/test_resize.py",
        "tests/ops/test_colour.py",
        "tests/test_cost.py",
        "tests/methods/test_compute_dtype.py",
        # One accelerator: forms over several devices are other machines' business.
        "tests/runtime/test_parallel.py::test_every_array_and_loss_equals_one_devices[restoration-jit-1]",
        "tests/runtime/test_parallel.py::test_every_array_and_loss_equals_one_devices[segmentation-jit-1]",
    )


SMALL = Sizes(
    size=32,
    narrow=16,
    segments="crackseg-r50",
    batches=(2, 4),
    repeats=2,
    calls=2,
    steps=5,
    batch=2,
    digest_steps=2,
    digested=("upcracknet",),
    largest=(2, 4),
    sides=8,
    layers=2,
    layer_batch=1,
    contenders=("eager",),
    tests=("tests/losses/test_adversarial.py",),
)


class Check:
    """One check under way: its time, and how a measurement is started.

    Attributes:
      command: words that start `measures.child` in a process of its own; the request is appended to them.
      environment: variables of every such process.
      platform: jax's name of the device's, once it is known.
    """

    platform = "cpu"

    def __init__(
        self,
        sizes: Sizes,
        minutes: float,
        command: Sequence[str],
        environment: dict[str, str],
        say: Callable[[str], None],
    ):
        self.sizes, self.command, self.say = sizes, list(command), say
        self.environment = {**os.environ, **environment}
        self.end = time.monotonic() + 60 * minutes
        self.part_end = self.end

    def left(self) -> float:
        """Seconds of the part that runs."""
        return self.part_end - time.monotonic()

    def measure(self, name: str, environment: dict[str, str] | None = None, **arguments: Any) -> Record:
        """What a measurement found, in a process of its own with these variables; `failed` says what went wrong."""
        with tempfile.TemporaryDirectory(prefix="cracks-jax-check-") as work:
            found = Path(work) / "found.json"
            seconds = max(self.left() - _SPARE, 0.0)
            request = {"measure": name, "sizes": dataclasses.asdict(self.sizes), "seconds": seconds, "to": str(found)}
            words = [*self.command, json.dumps({**request, "arguments": arguments})]
            code = _run(words, {**self.environment, **(environment or {})}, self.left())
            record = read_json(found) if found.exists() else {}
        if code is None:
            record["failed"] = f"ended after its {seconds:.0f} s; what it had found is kept"
        elif code and "failed" not in record:
            record["failed"] = f"its process left with code {code}"
        return record


# ---------------------------------------------------------------------------------------------------- parts


def _tests(check: Check) -> Record:
    """Tests of layers, losses and steps, on the accelerator; counts, and the names of what fails."""
    with tempfile.TemporaryFile("w+") as output:
        # Without a word, tests stay on the processor (tests/conftest.py).
        platform = os.environ.get("JAX_PLATFORMS") or {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}.get(check.platform, "cpu")
        # Witnesses are exact: products in tensor cores' short formats would fail them.
        settings = {"JAX_PLATFORMS": platform, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        words = [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
        words += ["-v", "--continue-on-collection-errors", "--color=no", "--tb=line", *check.sizes.tests]
        root = Path(__file__).parents[2]
        code = _run(words, {**check.environment, **settings}, check.left(), cwd=root, output=output)
        output.seek(0)
        found = counted(output.read())
    if code is None:
        found["failed"] = "ended before its last test; the counts are of those before"
    elif code:
        found["failed"] = f"{len(found['names'])} tests failed" if found["names"] else f"pytest left with code {code}"
    return found


def counted(text: str) -> Record:
    """Outcomes in what `pytest -v` prints, line by line, and the names of the failures."""
    outcomes = re.findall(r"^(\S+::.+?|ERROR \S+|\S+) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE)
    broken = re.findall(r"^ERROR (\S+\.py)\s", text, re.MULTILINE)  # could not be imported
    counts = {kind: sum(one == kind for _, one in outcomes) for kind in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    names = [name for name, kind in outcomes if kind in ("FAILED", "ERROR")] + sorted(set(broken))
    return {
        "passed": counts["PASSED"],
        "not_passed": len(names),
        "skipped": counts["SKIPPED"],
        "names": names[:30],
    }


def _step_of(system: str) -> Callable[[Check], Record]:
    return lambda check: check.measure("step", system=getattr(check.sizes, system))


def _determinism(check: Check) -> Record:
    """Twice in one process and once in another, which compiles anew: three digests; and the time beside free choice."""
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), _DETERMINISTIC]).strip()
    runs: Record = {}
    for name, settings, count in (
        ("deterministic", {"XLA_FLAGS": flags}, 2),
        ("again", {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}, 1),
        ("free", {}, 2),
    ):
        if check.left() < _SPARE:
            return {**runs, "failed": f"no time left for the run {name!r}"}
        runs[name] = check.measure("digests", settings, count=count)
        if "failed" in runs[name]:
            return {**runs, "failed": f"{name}: {runs[name]['failed']}"}
    return runs | {"systems": {system: _verdict(runs, system) for system in runs["free"]}}


def _verdict(runs: Record, system: str) -> Record:
    """The digests' number and whether all are one; the cost as a ratio of seconds, above 1 where exactness is paid."""
    digests = [digest for run in ("deterministic", "again") for digest in runs[run].get(system, {}).get("digests", [])]
    exact, free = (runs[run].get(system, {}).get("seconds") for run in ("deterministic", "free"))
    return {
        "digests": len(digests),
        "equal": len(set(digests)) == 1,
        "free_equal": len(set(runs["free"][system]["digests"])) == 1,
        "cost": exact / free if exact and free else None,
    }


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
      run: measures it.
      weight: its share of the time, beside the weights of the parts behind it.
      least: seconds below which it is not begun, with an accelerator's sizes.
    """

    run: Callable[[Check], Record]
    weight: float
    least: float


PARTS: dict[str, Part] = {
    "transposed": Part(lambda check: check.measure("transposed"), 45, 20),
    "dilated": Part(lambda check: check.measure("dilated"), 30, 15),
    "step-restoration": Part(_step_of("restores"), 110, 40),
    "step-segmentation": Part(_step_of("segments"), 110, 40),
    "dtypes": Part(lambda check: check.measure("curves"), 80, 40),
    "determinism": Part(_determinism, 70, 45),
    "batch": Part(lambda check: check.measure("largest", _ALL_MEMORY), 60, 30),
    "tests": Part(_tests, 60, 20),
}


# --------------------------------------------------------------------------------------------------- the check


def run(
    command: Sequence[str],
    *,
    small: bool = False,
    minutes: float = 9.0,
    parts: Sequence[str] = tuple(PARTS),
    batches: Sequence[int] = (),
    out: Path | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> tuple[Path, list[str]]:
    """Measures part after part; returns the record's path and the names of the parts that failed.

    Args:
      command: starts `measures.child` (see `Check`).
      small: the rehearsal, for any machine.
      minutes: wall time of the whole.
      parts: names of PARTS, measured in the table's order.
      batches: of the training steps, in their order; the form's own where empty.
      out: the record's file; None: experiments/benchmarks/accelerator-<device>.json below the current folder.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UsageError(f"--parts {unknown[0]}: expected names of {', '.join(PARTS)}")
    if not 0 < minutes < float("inf") or any(batch < 1 for batch in batches):
        raise UsageError(f"--minutes {minutes}, --batches {list(batches)}: expected numbers above 0")
    sizes = SMALL if small else Sizes()
    sizes = dataclasses.replace(sizes, batches=tuple(batches) or sizes.batches)
    with tempfile.TemporaryDirectory(prefix="cracks-jax-compiled-") as compiled:
        kept = {"JAX_COMPILATION_CACHE_DIR": compiled, **_quick(small), **_SHARED}
        check = Check(sizes, minutes, command, kept, say)
        return _measured(check, [name for name in PARTS if name in parts], small, minutes, out)


def _measured(check: Check, names: list[str], small: bool, minutes: float, out: Path | None) -> tuple[Path, list[str]]:
    began = time.monotonic()
    check.say("the machine")
    machine = check.measure("machine")
    if "failed" in machine:
        raise CracksError(f"no device can be measured: {machine['failed']}")
    check.platform = machine["device"]["platform"]
    path = out or Path("experiments/benchmarks") / f"accelerator-{_file_name(machine['device']['kind'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"small": small, "minutes": minutes, "parts_asked": names, "sizes": dataclasses.asdict(check.sizes)}
    record: Record = {"kind": "accelerator", **machine, **form, "parts": {}}
    for number, name in enumerate(names):
        check.say(f"[{number + 1}/{len(names)}] {name}: {check.end - time.monotonic():.0f} s left")
        record["parts"][name] = _part(check, name, names[number:], small)
        record["wall_seconds"] = time.monotonic() - began
        write_json(path, record)
        if "failed" in record["parts"][name]:
            check.say(f"{name} failed: {record['parts'][name]['failed']}")
    return path, [name for name, found in record["parts"].items() if "failed" in found]


def _part(check: Check, name: str, to_come: list[str], small: bool) -> Record:
    """The part within its share of what is left, or why it was not begun."""
    left = check.end - time.monotonic()
    share = left * PARTS[name].weight / sum(PARTS[other].weight for other in to_come)
    least = _SPARE if small else PARTS[name].least
    if left < least:
        return {"skipped": f"it needs {least:.0f} s, {max(left, 0):.0f} s were left"}
    began = time.monotonic()
    check.part_end = min(check.end, began + max(share, least))
    found = PARTS[name].run(check)
    return {**found, "part_seconds": time.monotonic() - began}


def _quick(small: bool) -> dict[str, str]:
    # A rehearsal's times mean nothing: what XLA optimises costs more there than it saves.
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"} if small else {}


def _file_name(kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def _run(
    words: list[str], environment: dict[str, str], seconds: float, *, cwd: Path | None = None, output: Any = None
) -> int | None:
    """The exit code, or None where the process and all that it started had to be ended."""
    # Standard output is the record's path alone.
    process = subprocess.Popen(
        words, env=environment, cwd=cwd, stdout=output or 2, start_new_session=True, stdin=subprocess.DEVNULL
    )
    try:
        return process.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

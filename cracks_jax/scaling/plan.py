"""Which programs a question needs, each compiled in a process of its own, and the record of the answer.

A process gets its number of devices before jax starts, so every mesh has its own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.runtime.records import read_json
from cracks_jax.scaling.machines import CHIPS, PRECISIONS, Chip, chip_named, link_named, rate_of
from cracks_jax.scaling.predict import Facts, Machine, Plan, check_split, predict, sent, splits, unusable
from cracks_jax.surroundings import surroundings

# Whose paper form is planned with.
EXPERIMENTS = {"upcracknet": "upcracknet_deepcrack.py", "crackseg": "crackseg_deepcrack.py"}
PAPER_BATCH = 8
MEASURED = (1, 2, 4, 8)
# As `runtime.parallel.Shard`, which importing jax would be needed for.
SHARDS = ("none", "optimiser", "parameters")
_COUNT = "--xla_force_host_platform_device_count"
# XLA ends a process in which a device waits 40 s for another: a busy machine must only be slow.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
Say = Callable[[str], None]
Way = Literal["decoding", "cached"]


@dataclass(frozen=True)
class Question:
    """What is asked, checked before anything is compiled. Wrong values raise UsageError.

    Attributes:
      method: one of EXPERIMENTS.
      experiment: `FILE.py[:FORM]`, the training.
      devices: sizes of the meshes.
      batch: over all devices, whatever their number (strong scaling); None leaves that out.
      batch_per_device: of each device, however many there are (weak scaling); None leaves that out.
      precision: one of machines.PRECISIONS.
      chips: names; None: all that have this precision.
      link: of all chips; None: each chip's own.
      cores: host cores for each device; None: each chip's own.
      way: whether input is decoded anew or has been decoded before.
      shard: what of the state is split over the devices, as `machine.shard` of a training.
    """

    method: str
    experiment: str
    devices: tuple[int, ...] = (8, 64, 512)
    batch: int | None = PAPER_BATCH
    batch_per_device: int | None = PAPER_BATCH
    precision: str = "float32"
    chips: tuple[str, ...] | None = None
    link: str | None = None
    cores: float | None = None
    way: Way = "decoding"
    shard: str = "none"

    def __post_init__(self) -> None:
        if self.method not in EXPERIMENTS:
            raise UsageError(f"--method {self.method}: expected one of {', '.join(EXPERIMENTS)}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision}: expected one of {', '.join(PRECISIONS)}")
        if self.shard not in SHARDS:
            raise UsageError(f"--shard {self.shard}: expected one of {', '.join(SHARDS)}")
        for count in self.devices:
            _at_least_one("--devices", count)
        for option, value in (("--batch", self.batch), ("--batch-per-device", self.batch_per_device)):
            if value is not None:
                _at_least_one(option, value)
        if self.batch is None and self.batch_per_device is None:
            raise UsageError("neither --batch nor --batch-per-device is given; give one, or both")
        if self.cores is not None and not 0 < self.cores < float("inf"):
            raise UsageError(f"--cores-per-device {self.cores:g}: expected more than 0")
        for count in self.devices:
            if self.batch is not None:
                check_split(self.batch, count)
        for chip in self.named_chips:
            rate_of(chip, self.precision)
            link = link_named(self.link or chip.link)
            for count in self.devices if self.chips is not None else ():
                link.sides(count)

    @property
    def named_chips(self) -> list[Chip]:
        if self.chips is None:
            return [chip for chip in CHIPS.values() if self.precision in chip.flops]
        return [chip_named(name) for name in self.chips]

    @property
    def label(self) -> str:
        form = self.experiment.rpartition(":")[2] if ".py:" in self.experiment else "paper"
        extra = ([] if form == "paper" else [form]) + ([] if self.shard == "none" else [f"shard_{self.shard}"])
        return "-".join([self.method, self.precision, *extra])

    def rows(self) -> list[tuple[Plan, int, int]]:
        """(plan, devices, batch over all) of every row, one device first; a batch may be too small for its mesh."""
        counts = sorted({1, *self.devices})
        strong: list[tuple[Plan, int, int]] = [("strong", n, self.batch) for n in counts] if self.batch else []
        each = self.batch_per_device
        return strong + ([("weak", n, n * each) for n in counts] if each else [])

    def programs(self) -> list[tuple[int, int]]:
        """(devices, batch) of every program that the rows need, each once."""
        return list(dict.fromkeys((n, batch) for _, n, batch in self.rows() if splits(batch, n)))


def answer(question: Question, benchmarks: Path, say: Say, known: Path | None = None) -> dict[str, Any]:
    """The record: what every program says, and the predictions made of it.

    `known`: a folder of records; programs that are in it are taken as they are instead of compiled.
    """
    reading = input_rates(benchmarks, question.method)
    asked, around = question.programs(), surroundings()
    found_before = {} if known is None else recorded(known, question.label)
    programs = []
    for number, (count, batch) in enumerate(asked, 1):
        if (count, batch) in found_before:
            programs.append(found_before[count, batch])
            continue
        say(f"[{number}/{len(asked)}] {question.label}: compiling for {count} devices, {batch} images")
        spec = {"experiment": question.experiment, "precision": question.precision, "shard": question.shard}
        found = in_child("cracks_jax.scaling.program", {**spec, "devices": count, "batch": batch}, count)
        megabytes = sent(found) / 1e6
        say(f"  {found['seconds']['compiling']:.0f} s; {len(found['collectives'])} collectives, {megabytes:.1f} MB")
        programs.append({**found, "git_revision": around["git_revision"]})
    return {
        "kind": "plan",
        "label": question.label,
        "method": question.method,
        "experiment": Path(question.experiment).name,
        "precision": question.precision,
        "shard": question.shard,
        "paper_batch": PAPER_BATCH,
        **around,
        "input": {**reading, "way": question.way},
        "programs": programs,
        "predictions": predictions(question, programs, reading),
    }


def recorded(folder: Path, label: str) -> dict[tuple[int, int], dict[str, Any]]:
    """By (devices, batch): the programs of a record, each with the revision that it was compiled at."""
    record = read_json(folder / f"{label}.json")
    try:
        revision = record["git_revision"]
        return {(one["devices"], one["batch"]): {"git_revision": revision, **one} for one in record["programs"]}
    except (KeyError, TypeError) as error:
        path = folder / f"{label}.json"
        raise CracksError(f"{path}: is no record of programs ({error!r}); leave --programs out") from error


def checked(method: str, experiment: str, batch: int, repeats: int, say: Say) -> dict[str, Any]:
    """The record of the model beside what is measured on 1 to MEASURED[-1] devices that are threads of this machine."""
    question = Question(method, experiment, MEASURED, batch, None)
    if repeats < 1:
        raise UsageError(f"--repeats {repeats}: expected a whole number, at least 1")
    if batch < MEASURED[-1]:
        raise UsageError(f"--batch {batch}: expected {MEASURED[-1]} images at least, one for each device")
    spec = {"experiment": experiment, "precision": "float32", "devices": MEASURED, "batch": batch, "repeats": repeats}
    say(f"{question.label}: measuring {', '.join(map(str, MEASURED))} devices; several minutes")
    found = in_child("cracks_jax.scaling.check", spec, MEASURED[-1], show=True)
    head = {"kind": "check", "label": f"check-{question.label}", "method": method, "precision": "float32"}
    return {**head, "experiment": Path(experiment).name, **found}


def predictions(question: Question, programs: list[dict[str, Any]], reading: dict[str, Any]) -> list[dict[str, Any]]:
    """Every row on every chip that its link can join. Pure."""
    facts = {(one.devices, one.batch): one for one in map(Facts.of, programs)}
    found = []
    for chip in question.named_chips:
        link = link_named(question.link or chip.link)
        rate = reading["images_per_second_per_core"][question.way]
        machine = Machine(chip, link, question.precision, rate, question.cores or chip.cores)
        for plan, count, batch in question.rows():
            if count > 1 and not link.levels and question.chips is None:
                continue  # a chip that stands alone is no mesh, unless somebody asks for one
            if not splits(batch, count):
                found.append(unusable(machine, plan, count, batch))
                continue
            alone = facts[1, batch if plan == "strong" else batch // count]
            found.append(predict(facts[count, batch], alone, machine, plan))
    return found


def input_rates(benchmarks: Path, method: str) -> dict[str, Any]:
    """Images per second that one core reads, from the records of `tools/benchmark.py input`."""
    for path in sorted(benchmarks.glob("input-*.json")):
        record = read_json(path)
        if record.get("kind") == "input" and str(record.get("system", "")).startswith(method):
            rates = {
                "decoding": record["images_per_second_per_core"],
                "cached": record["cached"]["images_per_second_per_core"],
            }
            if all(rates.values()):
                return {
                    "record": path.name,
                    "data": record["data"],
                    "size": record["size"],
                    "processor": record["device"].get("processor"),
                    "images_per_second_per_core": rates,
                }
    raise CracksError(
        f"{benchmarks}: holds no record of {method}'s input; `python tools/benchmark.py input --system SYSTEM --out "
        f"{benchmarks.name}` makes one"
    )


def in_child(module: str, spec: dict[str, Any], count: int, *, show: bool = False) -> dict[str, Any]:
    """The JSON that a module prints, run on so many devices that are threads of this machine.

    `show`: what it says on its way is shown; otherwise only its last line, where it fails.
    """
    arguments = [sys.executable, "-m", module, json.dumps(spec)]
    errors = None if show else subprocess.PIPE
    done = subprocess.run(
        arguments, env=environment(count), stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )
    if done.returncode:
        last = ((done.stderr or "").strip().splitlines() or ["see above"])[-1]
        raise CracksError(f"{Path(spec['experiment']).name} on {count} devices: {last} (exit code {done.returncode})")
    return json.loads(done.stdout)


def environment(count: int) -> dict[str, str]:
    """This process's, with `count` devices, the processor as platform, and this package to import."""
    flags = re.sub(rf"{_COUNT}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    folder = str(Path(__file__).resolve().parents[2])
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "XLA_FLAGS": f"{flags} {_COUNT}={count} {_PATIENCE}".strip(),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def command(arguments: Sequence[str]) -> str:
    """As it can be typed again: without where the record went, and without this machine's paths."""
    kept, skip = [], False
    for word in arguments:
        if skip or word == "--out":
            skip = not skip
            continue
        kept.append(Path(word).name if Path(word).is_absolute() else word)
    return " ".join(["python tools/scaling.py", *kept])


def _at_least_one(option: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{option} {value}: expected a whole number, at least 1")

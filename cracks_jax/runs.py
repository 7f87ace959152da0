"""A run directory: open one and get its experiment, method, state, records and calibration windows.

  experiment.json   the resolved settings, seed, software, device, git revision, data digest, attempts
  records.jsonl     one line per logged event
  checkpoints/      states by step
  undamaged/        the undamaged validation windows (restoration only): the label-free threshold comes from them
  metrics.json      final validation metrics, run_id, step, best_step, state_sha256
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cracks_jax.data.datasets import Dataset, Record, open_dataset
from cracks_jax.data.manifest import MANIFEST, read_manifest
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import Experiment, from_json, to_json
from cracks_jax.group.checkpoints import SharedCheckpoints
from cracks_jax.group.processes import first, several
from cracks_jax.methods.restoration import Restoration
from cracks_jax.pretrained import state_like, weights_digests
from cracks_jax.runtime.checkpoints import Checkpoints, DamagedCheckpoint
from cracks_jax.runtime.records import Records, read_json, write_json
from cracks_jax.runtime.spent import Spent
from cracks_jax.runtime.stopping import Stopped
from cracks_jax.surroundings import surroundings
from cracks_jax.training_data import TrainingData

EXPERIMENT = "experiment.json"
RECORDS = "records.jsonl"
METRICS = "metrics.json"
CHECKPOINTS = "checkpoints"
UNDAMAGED = "undamaged"
# Tenths of a second for a killed process to let go of its run.
_TRIES = 100


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    folder: Path
    experiment: Experiment
    description: dict[str, Any]

    @property
    def records(self) -> Records:
        return Records(self.folder / RECORDS)

    def state(self, which: str = "best") -> tuple[int, Any]:
        """(step, state) of the checkpoint `best`, `last` or a step's number; of `last` the newest intact one."""
        folder = self.folder / CHECKPOINTS
        checkpoints = Checkpoints(folder, self.experiment.run_id, read_only=True) if folder.is_dir() else None
        steps = checkpoints.steps() if checkpoints is not None else []
        if checkpoints is None or not steps:
            raise CracksError(f"{folder}: holds no checkpoint yet; let the run train further")
        like = state_like(self.experiment)
        if which == "last":
            found = checkpoints.newest(like, _warn)
            assert found is not None
            return found
        step = self._step(which, steps)
        try:
            return step, checkpoints.restore(step, like)
        except DamagedCheckpoint as damage:
            raise CracksError(
                f"{damage}; restore it from a copy, or choose another checkpoint (--checkpoint last takes the newest "
                "intact one)"
            ) from damage

    def undamaged(self) -> tuple[Path, Dataset] | None:
        """The undamaged validation windows that the run kept, if it kept any."""
        folder = self.folder / UNDAMAGED
        return (folder, open_dataset(folder)) if folder.is_dir() else None

    def labelled_validation(self) -> Dataset:
        """The labelled images that the run held out of training (its record lists them)."""
        data, held_out = self.experiment.data, self._held_out()
        try:
            dataset = open_dataset(data.name, data.split, need_masks=True)
        except CracksError as error:
            raise CracksError(f"{error}; or name labelled images with --calibration") from error
        # Windows were cut from photographs: the photographs behind the held-out windows are held out too.
        stems = set(held_out["validation" if data.recipe is None else "validation_photographs"])
        if not stems or not stems <= set(dataset.stems):
            raise CracksError(
                f"{dataset.label}: does not hold the {len(stems)} images that this run held out of training, so it is "
                "not what the run was trained on; name labelled images with --calibration"
            )
        return dataset.subset(stems, "validation")

    def _held_out(self) -> dict[str, list[str]]:
        """What experiment.json lists as held out: windows or images, and the photographs behind windows."""
        listed = self.description.get("data")
        lists = {k: v for k, v in listed.items() if isinstance(v, list)} if isinstance(listed, dict) else {}
        wanted = "validation" if self.experiment.data.recipe is None else "validation_photographs"
        if wanted not in lists:
            raise CracksError(
                f"{self.folder / EXPERIMENT}: does not list the images held out of training; restore it, or name "
                "labelled images with --calibration"
            )
        return lists

    def _step(self, which: str, steps: list[int]) -> int:
        if which == "last":
            return steps[-1]
        if which == "best":
            selection = getattr(self.experiment.method, "selection", None)
            best = self.records.best(*selection) if selection else None
            if best is not None and best[0] not in steps:
                raise CracksError(
                    f"{self.folder / CHECKPOINTS / str(best[0])}: the best checkpoint is not there; run its training "
                    "again to go on, or choose another with --checkpoint last"
                )
            return steps[-1] if best is None else best[0]
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise UsageError(f"--checkpoint {which}: this run has best, last and the steps {', '.join(map(str, steps))}")


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_run(folder: Path) -> Run:
    """The run in a folder; CracksError where it is none."""
    if not folder.is_dir():
        raise CracksError(f"{folder}: there is no such run directory; `cracks-jax train` makes one")
    description = read_json(folder / EXPERIMENT)
    return Run(folder, from_json(description, str(folder / EXPERIMENT)), description)


def open_checkpoints(folder: Path, experiment: Experiment, held: contextlib.ExitStack) -> Checkpoints:
    """A run's checkpoints, to go on with or to begin; until `held` ends, no other process trains there.

    Raises:
      CracksError: another process trains there, or nothing can be written.
    """
    try:
        if first():
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone_in(folder))
        if several():
            return SharedCheckpoints(folder / CHECKPOINTS, experiment.run_id)
        for leftover in folder.glob("*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        return Checkpoints(folder / CHECKPOINTS, experiment.run_id)
    except OSError as error:
        raise CracksError(f"{folder}: cannot be written ({error.strerror}); give another --run") from error


@contextlib.contextmanager
def alone_in(folder: Path, doing: str = "is training this run") -> Iterator[None]:
    """Keeps every other process that asks from a folder meanwhile: from training a run, or writing a sweep's table.

    A process that was just killed lets go a moment later, so this waits for a while. Where the disk knows no locks,
    nothing is kept.

    Raises:
      CracksError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for left in range(_TRIES, -1, -1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not left:
                    raise CracksError(
                        f"{folder}: another process {doing}; wait for it or stop it, or give another folder"
                    ) from error
                time.sleep(0.1)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def check_same_run(folder: Path, experiment: Experiment) -> None:
    """A run directory belongs to one experiment; nothing in it is touched by another."""
    if (folder / EXPERIMENT).exists():
        found = read_json(folder / EXPERIMENT).get("run_id")
        if found != experiment.run_id:
            raise CracksError(
                f"{folder}: holds another experiment (run_id {found}, this one is {experiment.run_id}); "
                "give another --run, or leave it out"
            )
    elif folder.exists() and not _only_begun(folder):
        was = (folder / CHECKPOINTS).is_dir()
        how = f": {EXPERIMENT} is missing; restore it, or give another --run" if was else "; give another --run"
        raise CracksError(f"{folder}: exists and is no run directory{how}")


def _only_begun(folder: Path) -> bool:
    """Whether it holds nothing, or what a start that was killed leaves before experiment.json."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if path.suffix != ".tmp"}
    begun = {CHECKPOINTS, RECORDS, UNDAMAGED, UNDAMAGED + ".partial"}
    saved = (folder / CHECKPOINTS).iterdir() if (folder / CHECKPOINTS).is_dir() else iter(())
    return names <= begun and not any(path.name.isdecimal() for path in saved)


def describe_run(
    folder: Path, experiment: Experiment, data: TrainingData, loaded: list[str] | None, start: int
) -> None:
    """Writes experiment.json, this attempt added; lists the validation stems and keeps undamaged windows.

    `loaded`: names of the pretrained arrays; None where the state comes from a checkpoint, which holds them.

    Raises:
      CracksError: the run began on other data.
    """
    path = folder / EXPERIMENT
    before = read_json(path) if path.exists() else {}
    _check_same_data(path, before, data)
    around, described_settings = surroundings(), to_json(experiment)
    described = {
        "run_id": experiment.run_id,
        "name": experiment.name,
        "form": experiment.form,
        "member": experiment.member,
        **described_settings,
        **around,
        "data": {
            "digest": data.digest,
            **_extent([*data.train, *data.validation]),
            "train": len(data.train),
            "records_per_epoch": data.records_per_epoch,
            "validation": list(data.validation.stems),
            "bad": [dataclasses.asdict(one) for one in data.bad],
        },
        "weights": weights_digests(experiment),
        "loaded": before.get("loaded", []) if loaded is None else loaded,
        "attempts": [
            *before.get("attempts", []),
            {"from_step": start, **around, "machine": described_settings["machine"]},
        ],
    }
    if data.folder is not None:
        sources = {item["stem"]: item["source"] for item in read_manifest(data.folder)["items"]}
        described["data"]["validation_photographs"] = sorted({sources[stem] for stem in data.validation.stems})
    if isinstance(experiment.method, Restoration):
        _keep_windows(folder / UNDAMAGED, data.validation, data.folder)
    write_json(path, described)


def _check_same_data(path: Path, before: dict[str, Any], data: TrainingData) -> None:
    listed = before.get("data")
    found = listed.get("digest") if isinstance(listed, dict) else None
    if found is not None and found != data.digest:
        raise CracksError(
            f"{path}: this run began on other data (digest {found[:16]}, now {data.digest[:16]}): a file of the data "
            "set was changed, added or removed; restore it, or train a new run with --run"
        )


def _extent(records: list[Record]) -> dict[str, int]:
    files = [path for record in records for path in (record.image, record.mask) if path is not None]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files if path.exists())}


def lost_since(folder: Path, start: int) -> list[str]:
    """What a run's own record says was there and is not, before training goes on from `start`."""
    path, found = folder / EXPERIMENT, []
    attempts = read_json(path).get("attempts", []) if path.exists() else []
    saved = max((one.get("saved_step") or 0 for one in attempts if isinstance(one, dict)), default=0)
    if saved and not start:
        found.append(f"{folder / CHECKPOINTS}: holds none, though step {saved} was saved; training from the beginning")
    if start and not (folder / RECORDS).exists():
        found.append(f"{folder / RECORDS}: is missing; what was logged up to step {start} is lost")
    return found


class Attempt:
    """This start of a run in its experiment.json: how far it came, when and why it ended, where its time went.

    As a context manager it notes whatever ended it; a process that is killed leaves what was noted at its last save.
    Of several processes one writes.

    Args:
      steps: the steps that have a checkpoint; the newest is noted whenever something is.
    """

    def __init__(
        self, folder: Path, spent: Spent, start: int, steps: Callable[[], list[int]] = list, writes: bool = True
    ):
        self._folder, self._spent, self._start = folder, spent, start
        self._steps, self._writes = steps, writes
        self._ended = False
        self._write(started=_stamp(spent.began))

    def first_step(self) -> float:
        """Notes how long this start took, data, compiling and one step; seconds."""
        seconds = round(sum(self._spent.seconds().values()), 2)
        self._write(seconds_to_first_step=seconds)
        return seconds

    def note(self, **values: Any) -> None:
        self._write(**values)

    def end(self, why: str, step: int | None = None) -> None:
        """`why`: finished, signal, or the kind of error."""
        if not self._ended:
            self._ended = True
            reached = {} if step is None else {"to_step": step}
            self._write(stopped=_stamp(datetime.now(UTC)), ended=why, **reached)

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: Any) -> None:
        if error is not None and not self._ended:
            with contextlib.suppress(CracksError):  # what went wrong first is what must be said
                self.end("signal" if isinstance(error, Stopped) else type(error).__name__)

    def _write(self, **values: Any) -> None:
        seconds = self._spent.seconds()
        if not self._writes:
            return
        described = read_json(self._folder / EXPERIMENT)
        if committed := self._steps():
            values["saved_step"] = committed[-1]
        described["attempts"][-1] |= {"seconds": round(sum(seconds.values()), 2), "spent": seconds, **values}
        write_json(self._folder / EXPERIMENT, described)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _keep_windows(folder: Path, validation: Dataset, prepared: Path | None) -> None:
    """The undamaged validation windows and their manifest, so that a run can be calibrated wherever it is."""
    if folder.exists():
        return
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "images").mkdir(parents=True)
    for record in validation:
        shutil.copyfile(record.image, aside / "images" / record.image.name)
    if prepared is not None:
        kept = set(validation.stems)
        items = [item for item in read_manifest(prepared)["items"] if item["stem"] in kept]
        write_json(aside / MANIFEST, {"items": items})
    aside.rename(folder)

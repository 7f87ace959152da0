"""Checkpoints that are whole or not there, and are believed only when every byte is what was saved.

  checkpoints/<step>/arrays/        the state, as orbax writes it
  checkpoints/<step>/digests.json   written last: SHA-256 of every file and of every array, the run, the version
  checkpoints/<step>.saving/        a save under way, or one that was killed: removed by the next save or start
  checkpoints/<step>.damaged/       found damaged when training went on: removed once it has come as far again

Saving copies the state to the host's memory, which is all that the training waits for; a thread does the rest.
Kept are the two newest checkpoints and the best one; others go once a newer one is committed.
"""

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from cracks_jax import __version__
from cracks_jax.errors import CracksError, WriteError
from cracks_jax.untrusted import parse_json

# A generator and a discriminator with Adam's moments take 650 MB; the least that must be free before a save.
_SPARE_BYTES = 64 * 2**20
ARRAYS, _DIGESTS, SAVING, _DAMAGED = "arrays", "digests.json", ".saving", ".damaged"
_FORMAT = 1
_KEPT = 2


class DamagedCheckpoint(CracksError):
    """A checkpoint that is not what was saved there, or was not saved by this run; the message names the file."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they lie; made unless `read_only`.
      run_id: of the experiment that they belong to; another one's are refused.
      read_only: write nothing, so that a run can be scored where it may only be read, or while it is being trained.
    """

    def __init__(self, folder: Path, run_id: str, *, read_only: bool = False):
        _quieten()
        self.folder, self.run_id = folder, run_id
        self._orbax = _alone()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
            self._sweep()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, intact or not."""
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))

    # ------------------------------------------------------------------------------------------- saving

    def save(self, step: int, state: Any, *, best: int | None, before: Callable[[], None] = lambda: None) -> None:
        """Begins to save once the save before is committed; returns while it goes on.

        Args:
          best: the step that is kept beside the newest.
          before: called before the checkpoint is committed: what must not be older on disk than it.

        Raises:
          WriteError: there is no room for it, or the save before could not be written.
        """
        self.wait()
        if step in self.steps():
            return
        self._check_room(state)
        # A copy, as the buffers are the next step's: on a processor an array is only a view of them.
        host = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
        self._under_way = self._pool.submit(self._write, step, host, best, before)

    def _check_room(self, state: Any) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise WriteError(
                f"{self.folder}: {free / 2**20:.0f} MB are free, a checkpoint needs {needed / 2**20:.0f} MB; "
                f"free space and run the same command again (it goes on from step {max(self.steps(), default=0)})"
            )

    def check(self) -> None:
        """Raises what went wrong with the save under way, if that is known already."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Until the save under way, if any, is committed; raises what went wrong with it."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Ends once the save under way is committed."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def prune(self, best: int | None) -> None:
        """Deletes all but the two newest and the best, once the save under way is committed."""
        self.wait()
        self._prune(best)

    def _write(self, step: int, host: Any, best: int | None, before: Callable[[], None]) -> None:
        """The thread's part: arrays, digests, all of it on the disk, and only then the checkpoint's name."""
        self._check_finite(step, host)
        with self._saving(step) as aside:
            self._orbax.save((aside / ARRAYS).absolute(), args=ocp.args.StandardSave(host))
            self._commit(step, aside, host, before)
        self._prune(best)

    def _check_finite(self, step: int, host: Any) -> None:
        wrong = first_not_finite(host)
        if wrong is not None:
            raise CracksError(f"step {step}: {wrong} is not finite, so it is not saved; the last checkpoint is finite")

    @contextmanager
    def _saving(self, step: int) -> Iterator[Path]:
        """An empty folder for a save; WriteError where anything fails, and nothing of it is left."""
        aside = self.folder / f"{step}{SAVING}"
        try:
            self._sweep()
            aside.mkdir()
            yield aside
        except Exception as error:  # orbax and tensorstore raise whatever they like where the disk fails
            _remove(aside)
            before = "the checkpoints before it are intact" if self.steps() else "there is none before it"
            raise WriteError(
                f"{self.folder}: checkpoint {step} could not be written ({_reason(error)}); {before}; free space, or "
                "see to the disk, and run the same command again"
            ) from error

    def _commit(self, step: int, aside: Path, host: Any, before: Callable[[], None]) -> None:
        """Digests beside the arrays, all of it on the disk, and then the checkpoint's name."""
        entries = {
            "format": _FORMAT,
            "run_id": self.run_id,
            "step": step,
            "version": __version__,
            "arrays": {path: array_entry(leaf) for path, leaf in sorted(flat(host).items())},
            "files": {str(path.relative_to(aside)): _file_entry(path) for path in sorted(_files(aside))},
        }
        (aside / _DIGESTS).write_text(json.dumps({"sha256": _sha256_of(entries), **entries}, indent=1) + "\n")
        _to_disk(aside)
        before()
        os.replace(aside, self.folder / str(step))
        _sync(self.folder)

    def _sweep(self) -> None:
        """Removes what saves left that were killed, or failed with the disk."""
        for leftover in self.folder.glob(f"*{SAVING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _prune(self, best: int | None) -> None:
        steps = self.steps()
        for damaged in self.folder.glob(f"*{_DAMAGED}"):
            step = damaged.name.removesuffix(_DAMAGED)
            if step.isdecimal() and int(step) <= max(steps, default=-1):
                shutil.rmtree(damaged, ignore_errors=True)
        for old in steps[:-_KEPT]:
            if old != best:
                # Renamed first: what is half deleted must not look like a checkpoint.
                gone = self.folder / f"{old}{SAVING}"
                try:
                    os.replace(self.folder / str(old), gone)
                except OSError:
                    continue  # it stays, which costs room and nothing else
                shutil.rmtree(gone, ignore_errors=True)

    # ---------------------------------------------------------------------------------------- restoring

    def newest(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """(step, state) of the newest intact checkpoint, placed as `like` is; None where none was ever saved.

        `warn` is told of every newer one that is not intact.

        Raises:
          CracksError: there are checkpoints, and none of them is intact.
        """
        steps, damages = self.steps(), []
        for step in reversed(steps):
            try:
                state = self.restore(step, like)
            except DamagedCheckpoint as damage:
                damages.append(str(damage))
                continue
            for text in damages:
                warn(f"{text}; passed over: the newest intact checkpoint is {step}")
            return step, state
        if not steps:
            return None
        more = f" (the {len(damages) - 1} older are not intact either)" if len(damages) > 1 else ""
        raise CracksError(
            f"{damages[0]}{more}; no intact checkpoint is left: restore one from a copy, or delete {self.folder} to "
            "train from the beginning"
        )

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, placed as `like` is, every byte checked.

        Raises:
          DamagedCheckpoint: it is not what was saved there, or belongs to another experiment or version.
          CracksError: there is no such checkpoint.
        """
        folder = self.folder / str(step)
        if step not in self.steps():
            raise CracksError(f"{folder}: there is no checkpoint {step}; there are {self.steps() or 'none'}")
        entries = self._entries(folder, step)
        _check_arrays(folder, entries, like)
        with _as_damage(folder):
            _check_files(folder, entries["files"])
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            state = self._orbax.restore((folder / ARRAYS).absolute(), args=ocp.args.StandardRestore(target))
        for path, leaf in sorted(flat(state).items()):
            if array_entry(leaf) != entries["arrays"][path]:
                raise DamagedCheckpoint(f"{folder}: {path} is not the array that was saved")
        return state

    def set_aside(self, newer_than: int) -> None:
        """Renames what lies beyond a step: training is about to take those steps again."""
        for step in self.steps():
            if step > newer_than:
                aside = self.folder / f"{step}{_DAMAGED}"
                shutil.rmtree(aside, ignore_errors=True)
                try:
                    os.replace(self.folder / str(step), aside)
                except OSError as error:
                    raise WriteError(f"{self.folder / str(step)}: cannot be renamed ({error.strerror})") from error

    def _entries(self, folder: Path, step: int) -> dict[str, Any]:
        """What digests.json says, itself checked."""
        path = folder / _DIGESTS
        try:
            entries = parse_json(path.read_bytes())
            sound = entries.pop("sha256") == _sha256_of(entries)
        except FileNotFoundError as error:
            raise DamagedCheckpoint(f"{path}: is missing, so this checkpoint cannot be trusted") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpoint(f"{path}: is damaged ({_first_line(error)})") from error
        if not sound:
            raise DamagedCheckpoint(f"{path}: is damaged (it is not what was written)")
        if entries.get("format") != _FORMAT:
            raise DamagedCheckpoint(
                f"{path}: has format {entries.get('format')!r}, this version reads {_FORMAT}; it was saved by "
                f"cracks-jax {entries.get('version')}"
            )
        for name, expected in (("run_id", self.run_id), ("step", step)):
            if entries[name] != expected:
                raise DamagedCheckpoint(
                    f"{folder}: is the checkpoint of another experiment or step ({name} {entries[name]}, expected "
                    f"{expected})"
                )
        return entries


def _alone() -> ocp.Checkpointer:
    """Orbax for this process, which waits for no other one."""
    me = jax.process_index()
    options = MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


# ------------------------------------------------------------------------------------------------ digests


def state_sha256(state: Any) -> str:
    """SHA-256 over every array: sorted '/'-joined paths, then dtype, shape and little-endian bytes of each."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flat(state).items()):
        digest.update(f"{path}\0{np.asarray(leaf).dtype.name}\0{np.shape(leaf)}\0".encode())
        digest.update(_little_endian_bytes(leaf))
    return digest.hexdigest()


def array_entry(leaf: Any) -> list[Any]:
    """[dtype, shape, SHA-256 of the little-endian bytes] of one array."""
    return [np.asarray(leaf).dtype.name, list(np.shape(leaf)), hashlib.sha256(_little_endian_bytes(leaf)).hexdigest()]


def first_not_finite(state: Any) -> str | None:
    """The '/'-joined path of the first array that holds a NaN or an infinity, in the order of the paths."""
    for path, leaf in sorted(flat(state).items()):
        array = np.asarray(leaf)
        if jax.numpy.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return path
    return None


def flat(tree: Any) -> dict[str, Any]:
    """'/'-joined path -> leaf."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {"/".join(_name(entry) for entry in path): leaf for path, leaf in leaves}


def _little_endian_bytes(leaf: Any) -> memoryview:
    array = np.asarray(leaf)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).view(np.uint8).data


def _sha256_of(entries: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _file_entry(path: Path) -> list[Any]:
    """[bytes, SHA-256] of one file."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


# ----------------------------------------------------------------------------------------------- checking


def _check_files(folder: Path, files: dict[str, list[Any]]) -> None:
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path}: is missing")
        found = path.stat().st_size
        if found != size:
            raise DamagedCheckpoint(f"{path}: has {found} bytes, {size} were written")
        if _file_entry(path)[1] != digest:
            raise DamagedCheckpoint(f"{path}: its bytes are not those that were written")


def _check_arrays(folder: Path, entries: dict[str, Any], like: Any) -> None:
    """Name the first array that differs: orbax's own message names none that a user would know."""
    saved, wanted = entries["arrays"], flat(like)
    for path in sorted(set(saved) | set(wanted)):
        found = tuple(saved[path][1]) if path in saved else None
        expected = tuple(wanted[path].shape) if path in wanted else None
        if found != expected:
            raise DamagedCheckpoint(
                f"{folder}: does not fit this experiment: {path} is {found}, expected {expected}; it was saved by "
                f"another experiment or version (cracks-jax {entries.get('version')}, this is {__version__})"
            )


@contextmanager
def _as_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except CracksError:
        raise
    except Exception as error:  # orbax and tensorstore raise whatever they like on damaged files
        if "KeyboardInterrupt" in str(error):  # tensorstore's wrapping: the file is as good as before
            raise KeyboardInterrupt from error
        raise DamagedCheckpoint(f"{folder}: cannot be read ({_first_line(error)})") from error


# --------------------------------------------------------------------------------------------- messages


@functools.cache
def _quieten() -> None:
    """What is wrong with a checkpoint is said once, by the error that is raised.

    Where a disk fails, orbax logs a traceback for each of its threads, leaves the errors of other arrays for asyncio to
    log, and closes its event loop under tensorstore's threads, which then report that.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _reason(error: BaseException) -> str:
    """The system's words for what failed; tensorstore's errors hold them behind a page of its settings."""
    words = getattr(error, "strerror", None) or next(
        (os.strerror(number) for number in errno.errorcode if os.strerror(number) in str(error)), None
    )
    return words or _first_line(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


# ---------------------------------------------------------------------------------------------- the disk


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _to_disk(folder: Path) -> None:
    """Every file and folder below, so that the name that is given next never stands for less."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _remove(folder: Path) -> None:
    """Removes what was written so far; where one array failed, tensorstore's threads may still write others there."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
        if not folder.exists():
            break


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)

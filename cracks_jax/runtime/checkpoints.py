"""States on disk: `checkpoints/<step>/`, written by orbax in the background, committed whole or not at all."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cracks_jax.errors import CracksError

# A generator and a discriminator with Adam's moments take 650 MB; the least that must be free before a save.
_SPARE_BYTES = 64 * 2**20


class Checkpoints:
    """The checkpoints of one run. The newest and the best are kept, others go once a newer one is committed.

    `read_only` writes nothing, so that a run can be scored where it may only be read, or while it is being trained.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder = folder
        if read_only:  # orbax warns of what was asked for
            absl.logging.set_verbosity(absl.logging.ERROR)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            # Named here, or a manager that has not saved yet cannot describe what another one saved.
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None,
                enable_async_checkpointing=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
        )

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, *, best: int | None) -> None:
        """Begin to save; what came before is committed by then, and pruned to the newest and the best."""
        self.prune(best)
        if step in self.steps():
            return
        needed = sum(x.nbytes for x in jax.tree.leaves(state)) + _SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise CracksError(
                f"{self.folder}: {free / 2**20:.0f} MB are free, a checkpoint needs {needed / 2**20:.0f} MB; "
                f"free space and run the same command again (it goes on from step {max(self.steps(), default=0)})"
            )
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state))
        except OSError as error:
            raise self._write_error(step, error) from error

    def prune(self, best: int | None) -> None:
        """Delete all but the newest and the best, once the save under way is committed."""
        self.wait()
        for old in self.steps()[:-1]:
            if old != best:
                self._manager.delete(old)

    def wait(self) -> None:
        """Until the save under way, if any, is committed."""
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise self._write_error("the last", error) from error

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, placed as `like` is; CracksError where it does not fit or cannot be read."""
        folder = self.folder / str(step)
        if step not in self.steps():
            raise CracksError(f"{folder}: there is no checkpoint {step}; there are {self.steps() or 'none'}")
        self._check_shapes(step, like)
        try:
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # orbax and tensorstore raise whatever they like on damaged files
            if "KeyboardInterrupt" in str(error):  # tensorstore's wrapping: the file is as good as before
                raise KeyboardInterrupt from error
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CracksError(
                f"{folder}: the checkpoint cannot be read ({first[:200]}); where its training is under way, try again; "
                "else delete that folder to go on from an earlier one"
            ) from error

    def close(self) -> None:
        """Ends once the save under way is committed."""
        self.wait()
        self._manager.close()

    def _check_shapes(self, step: int, like: Any) -> None:
        """Name the first array that differs: orbax's own message names none that a user would know."""
        try:
            saved = self._manager.item_metadata(step)
            saved = _flat(getattr(saved, "tree", saved))
        except Exception as error:
            raise CracksError(
                f"{self.folder / str(step)}: the checkpoint's description cannot be read ({type(error).__name__}); "
                "where its training is under way, try again; else delete that folder to go on from an earlier one"
            ) from error
        wanted = _flat(like)
        for path in sorted(set(saved) | set(wanted)):
            found = tuple(saved[path].shape) if path in saved else None
            expected = tuple(wanted[path].shape) if path in wanted else None
            if found != expected:
                raise CracksError(
                    f"{self.folder / str(step)}: does not fit this experiment: {path} is {found}, expected {expected}; "
                    "it was saved by another experiment or version"
                )

    def _write_error(self, step: int | str, error: OSError) -> CracksError:
        return CracksError(
            f"{self.folder}: checkpoint {step} could not be written ({error.strerror or error}); free space and run "
            f"the same command again"
        )


def first_not_finite(state: Any) -> str | None:
    """The '/'-joined path of the first array that holds a NaN or an infinity, in the order of the paths."""
    arrays = {path: leaf for path, leaf in _flat(state).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    finite = jax.device_get(_finite(arrays))
    return next((path for path in sorted(arrays) if not finite[path]), None)


@jax.jit
def _finite(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: jnp.isfinite(array).all() for path, array in arrays.items()}


def state_sha256(state: Any) -> str:
    """SHA-256 over every array: sorted '/'-joined paths, then dtype, shape and little-endian bytes of each."""
    digest = hashlib.sha256()
    for path, leaf in sorted(_flat(state).items()):
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{path}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _flat(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {"/".join(_name(entry) for entry in path): leaf for path, leaf in leaves}


def _name(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)

"""Checkpoints of a training in several processes on one disk: its arrays written by all, the rest by the first.

What lies on the disk is what one process writes, so another number of processes, or one alone, goes on from it. Saving
holds all of them up, because a copy of arrays that lie in several processes is no process's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from cracks_jax.errors import CracksError, WriteError
from cracks_jax.group.processes import first, from_all, from_first, together
from cracks_jax.runtime.checkpoints import ARRAYS, SAVING, Checkpoints


class SharedCheckpoints(Checkpoints):
    """As `Checkpoints`; every process makes one and calls it alike.

    Raises:
      CracksError: the folder that process 0 made is not seen by another process.
    """

    def __init__(self, folder: Path, run_id: str):
        super().__init__(folder, run_id, read_only=not first())
        self._by_all = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        together("checkpoints")
        blind = [number for number, sees in enumerate(from_all(folder.is_dir())) if not sees]
        if blind:
            raise CracksError(
                f"{folder}: processes {', '.join(map(str, blind))} do not see the folder that process 0 made; give all "
                "of them one --run on a disk that they share"
            )

    def save_placed(
        self, step: int, placed: Any, whole: Any, *, best: int | None, before: Callable[[], None] = lambda: None
    ) -> None:
        """Saves, and returns once it is committed.

        Args:
          placed: the state as it lies on the devices of all processes.
          whole: a copy of it on this process's.

        Raises:
          WriteError: in every process, where one of them could not write.
        """
        if from_first([step in self.steps()])[0]:
            return
        problem: CracksError | None = None
        try:
            if first():
                self._check_finite(step, whole)
                self._check_room(whole)
            self._save(step, placed, whole, before)
        except CracksError as error:
            problem = error
        if not all(from_all(problem is None)):
            raise problem or WriteError(f"{self.folder}: checkpoint {step} could not be written; process 0 says why")
        if first():
            self._prune(best)

    def _save(self, step: int, placed: Any, whole: Any, before: Callable[[], None]) -> None:
        if not first():
            if from_first([0])[0]:
                arrays = (self.folder / f"{step}{SAVING}" / ARRAYS).absolute()
                try:
                    self._by_all.save(arrays, args=ocp.args.StandardSave(placed))
                except Exception as error:  # as in `_saving`
                    raise WriteError(f"{self.folder}: checkpoint {step} could not be written ({error})") from error
            return
        told = False
        try:
            with self._saving(step) as aside:
                told = bool(from_first([1]))
                self._by_all.save((aside / ARRAYS).absolute(), args=ocp.args.StandardSave(placed))
                self._commit(step, aside, whole, before)
        finally:
            if not told:
                from_first([0])

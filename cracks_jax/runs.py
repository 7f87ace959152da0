"""A run directory: open one and get its experiment, method, state, records and calibration windows.

  experiment.json   the resolved settings, seed, software, device, git revision, data digest, attempts
  records.jsonl     one line per logged event
  checkpoints/      states by step
  undamaged/        the undamaged validation windows (restoration only): the label-free threshold comes from them
  metrics.json      final validation metrics, run_id, step, best_step, state_sha256
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.data.datasets import Dataset, open_dataset
from cracks_jax.data.manifest import MANIFEST, read_manifest
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import Experiment, from_json, to_json
from cracks_jax.methods.restoration import Restoration
from cracks_jax.pretrained import weights_digests
from cracks_jax.runtime.checkpoints import Checkpoints
from cracks_jax.runtime.records import Records, read_json, write_json
from cracks_jax.surroundings import surroundings

EXPERIMENT = "experiment.json"
RECORDS = "records.jsonl"
METRICS = "metrics.json"
CHECKPOINTS = "checkpoints"
UNDAMAGED = "undamaged"


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
        """(step, state) of the checkpoint `best`, `last` or a step's number."""
        import jax
        import jax.numpy as jnp

        from cracks_jax.runtime.randomness import device_key

        folder = self.folder / CHECKPOINTS
        checkpoints = Checkpoints(folder, read_only=True) if folder.is_dir() else None
        steps = checkpoints.steps() if checkpoints is not None else []
        if checkpoints is None or not steps:
            raise CracksError(f"{folder}: holds no checkpoint yet; let the run train further")
        step = self._step(which, steps)
        side = self.experiment.data.pipeline.crop
        batch = {"image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)}
        method = self.experiment.method
        like = jax.eval_shape(
            lambda key: method.init(key, batch), device_key(self.experiment.seed, "init", 0)
        )
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
        state = checkpoints.restore(step, like)
        checkpoints.close()
        return step, state

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


def open_run(folder: Path) -> Run:
    """The run in a folder; CracksError where it is none."""
    if not folder.is_dir():
        raise CracksError(f"{folder}: there is no such run directory; `cracks-jax train` makes one")
    description = read_json(folder / EXPERIMENT)
    return Run(folder, from_json(description, str(folder / EXPERIMENT)), description)


def check_same_run(folder: Path, experiment: Experiment) -> None:
    """A run directory belongs to one experiment; nothing in it is touched by another."""
    if (folder / EXPERIMENT).exists():
        found = read_json(folder / EXPERIMENT).get("run_id")
        if found != experiment.run_id:
            raise CracksError(
                f"{folder}: holds another experiment (run_id {found}, this one is {experiment.run_id}); "
                "give another --run, or leave it out"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CracksError(f"{folder}: exists and is no run directory; give another --run")


def describe_run(
    folder: Path,
    experiment: Experiment,
    train: Dataset,
    validation: Dataset,
    prepared: Path | None,
    digest: str,
    loaded: list[str],
    start: int,
) -> None:
    """Writes experiment.json, this attempt added; lists the validation stems and keeps undamaged windows.

    `prepared` is the folder of a recipe's windows, `digest` the data's, `loaded` the pretrained arrays' names.
    """
    path = folder / EXPERIMENT
    attempts = read_json(path).get("attempts", []) if path.exists() else []
    around, described_settings = surroundings(), to_json(experiment)
    described = {
        "run_id": experiment.run_id,
        "name": experiment.name,
        "form": experiment.form,
        "member": experiment.member,
        **described_settings,
        **around,
        "data": {
            "digest": digest,
            "train": len(train),
            "validation": list(validation.stems),
        },
        "weights": weights_digests(experiment),
        "loaded": loaded,
        "attempts": [*attempts, {"from_step": start, **around, "machine": described_settings["machine"]}],
    }
    if prepared is not None:
        sources = {item["stem"]: item["source"] for item in read_manifest(prepared)["items"]}
        described["data"]["validation_photographs"] = sorted({sources[stem] for stem in validation.stems})
    if isinstance(experiment.method, Restoration):
        _keep_windows(folder / UNDAMAGED, validation, prepared)
    write_json(path, described)


def note_attempt(folder: Path, **values: Any) -> None:
    """What is known of this attempt at its end, added to its entry."""
    described = read_json(folder / EXPERIMENT)
    described["attempts"][-1] |= values
    write_json(folder / EXPERIMENT, described)


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

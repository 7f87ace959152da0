"""UP-CrackNet on DeepCrack (paper, Table IV): 300 undamaged windows, one per training image; 237 test images.

  cracks-jax train experiments/upcracknet_deepcrack.py                       # paper form: 256 px, 200 epochs
  cracks-jax train experiments/upcracknet_deepcrack.py:cpu                   # 128 px, half the channels, two cores
  cracks-jax train experiments/upcracknet_deepcrack.py:cpu --member unlabelled
  cracks-jax evaluate RUN --data deepcrack:test                              # label-free rule, native size
  cracks-jax evaluate RUN --data deepcrack:test --geometry resize256

Members: `masks` cuts the windows clear of every labelled pixel, `unlabelled` chooses them without any annotation, as
the paper's setting asks. Times, devices and results over seeds: README.md here, rows upcracknet_deepcrack. The paper
prints F1 74.0, IoU 58.7 (at 256x256, per-image Otsu).
"""

import dataclasses

from cracks_jax.data.elements import Pipeline
from cracks_jax.experiment import Data, Experiment, Machine, Training
from cracks_jax.methods.presets import DETECTION_PRESETS
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration

RECIPES = {"masks": "undamaged", "unlabelled": "undamaged-unlabelled"}
# 300 windows, a tenth of them held out: 270 / 8 steps an epoch, 200 epochs.
EPOCH, STEPS = 34, 6_750
# The smoke form's pavements.
DRAWN = {"train": 8, "test": 4, "undamaged": 12, "size": [64, 64]}


def experiment(form: str) -> dict[str, Experiment]:
    return {member: _member(form, recipe) for member, recipe in RECIPES.items()}


def _member(form: str, recipe: str) -> Experiment:
    method = Restoration(style_extractor="squeezenet1.1")
    paper = Experiment(
        name="upcracknet_deepcrack",
        form=form,
        method=method,
        data=Data(
            name="deepcrack",
            split="train",
            recipe=recipe,
            pipeline=Pipeline(crop=256, resize=286, flip_horizontal=True, corruption="squares"),
        ),
        training=Training(
            steps=STEPS,
            batch_size=8,
            schedule="exponential",
            learning_rate=1e-4,
            discriminator_learning_rate=4e-4,
            loss_weights=LOSS_WEIGHTS,
            validate_every=EPOCH,
            patience=20,
            style_weights="squeezenet1.1_nchw.npz",
        ),
        detection=DETECTION_PRESETS["default"],
    )
    if form == "paper":
        return paper
    if form == "cpu":
        # A third of the steps (71 epochs), so the generator learns at four times the paper's rate. Half to full size,
        # because a photograph squashed to 256x256 shows its road at half of the scale at which the windows were cut.
        short = _shrunk(paper, method, crop=128, base=32, steps=2_400, validate_every=120)
        return dataclasses.replace(
            short,
            data=dataclasses.replace(
                short.data, pipeline=dataclasses.replace(short.data.pipeline, scale=(0.5, 1.0))
            ),
            training=dataclasses.replace(short.training, learning_rate=4e-4),
        )
    method = dataclasses.replace(method, style_extractor="none")
    smoke = _shrunk(paper, method, crop=32, base=4, steps=4, validate_every=2)
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(
            smoke.data, name="drawn", split="undamaged", recipe=None, recipe_settings=DRAWN
        ),
        training=dataclasses.replace(smoke.training, batch_size=4, style_weights=None),
        machine=Machine(log_every=1, checkpoint_every=2),
    )


def _shrunk(
    paper: Experiment, method: Restoration, *, crop: int, base: int, steps: int, validate_every: int
) -> Experiment:
    """Smaller windows, fewer channels and one layer less for each halving; the paper's losses and rates."""
    return dataclasses.replace(
        paper,
        method=dataclasses.replace(method, base=base, discriminator_base=base, depth=crop.bit_length() - 1),
        data=dataclasses.replace(
            paper.data,
            pipeline=dataclasses.replace(paper.data.pipeline, crop=crop, resize=round(crop * 286 / 256)),
        ),
        training=dataclasses.replace(paper.training, steps=steps, validate_every=validate_every),
    )

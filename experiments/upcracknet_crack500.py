"""UP-CrackNet on Crack500 (paper, Table III): 1,000 undamaged 256-px windows of the training crops; 745 test images.

  cracks-jax train experiments/upcracknet_crack500.py                        # paper form: 256 px, 200 epochs
  cracks-jax train experiments/upcracknet_crack500.py:cpu                    # 128 px, half the channels, two cores
  cracks-jax evaluate RUN --data crack500:test                               # label-free rule, native size
  cracks-jax evaluate RUN --data crack500:test --preset paper                # Otsu at 256x256
  cracks-jax evaluate RUN --data cfd                                         # unseen (Table V)

The windows are 1.75 times the scale of the test images; the authors' own differ in scale too. Times, devices and
results over seeds: README.md here, rows upcracknet_crack500. The paper prints F1 61.8, IoU 44.7 (at 256x256, per-image
Otsu, on 1,124 test images), and for the same model, unseen, F1 49.9 on CFD and 75.8 on DeepCrack.
"""

import dataclasses

from cracks_jax.data.elements import Pipeline
from cracks_jax.experiment import Data, Experiment, Machine, Training
from cracks_jax.methods.presets import DETECTION_PRESETS
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration

# 1,000 windows, a tenth of the photographs' held out: 899 / 8 steps an epoch, 200 epochs.
EPOCH, STEPS = 113, 22_475
# The smoke form's pavements.
DRAWN = {"train": 8, "test": 4, "undamaged": 12, "size": [64, 64]}


def experiment(form: str) -> Experiment:
    method = Restoration(style_extractor="squeezenet1.1")
    paper = Experiment(
        name="upcracknet_crack500",
        form=form,
        method=method,
        data=Data(
            name="crack500",
            split="undamaged",
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
        # A twenty-eighth of the steps (7 epochs), so the generator learns at four times the paper's rate.
        short = _shrunk(paper, method, crop=128, base=32, steps=800, validate_every=200)
        return dataclasses.replace(short, training=dataclasses.replace(short.training, learning_rate=4e-4))
    method = dataclasses.replace(method, style_extractor="none")
    smoke = _shrunk(paper, method, crop=32, base=4, steps=4, validate_every=2)
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, name="drawn", recipe_settings=DRAWN),
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

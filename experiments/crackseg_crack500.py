"""CrackSeg with ResNet-50 on Crack500: 1,896 training images (a tenth held out), 745 test images, all 256x256.

  cracks-jax train experiments/crackseg_crack500.py                           # paper form, needs resnet50.pth
  cracks-jax train experiments/crackseg_crack500.py --member imagenet_v2      # weights at hand: stages 1 to 3
  cracks-jax train experiments/crackseg_crack500.py:cpu --member imagenet_v2  # two cores
  cracks-jax evaluate RUN --data crack500:test                                # argmax, native size

Members: `imagenet_v1` is the paper's (torchvision's ResNet-50 weights, in a file `resnet50.pth` under
$CRACKS_WEIGHTS), `imagenet_v2` starts from a pre-activation ResNet-50 whose Block4 is drawn, `scratch` from random
weights. Times, devices and results over seeds: README.md here, rows crackseg_crack500. The paper reports no figure on
Crack500.
"""

import dataclasses

from cracks_jax.data.elements import Pipeline
from cracks_jax.experiment import Data, Experiment, Machine, Training
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.segmentation import Segmentation

# The paper's 4,736 images x 20 epochs at batch 8; a validation every 592 steps.
STEPS, EPOCH = 11_840, 592
# The smoke form's pavements.
DRAWN = {"train": 8, "test": 4, "undamaged": 12, "size": [64, 64]}
MEMBERS = {
    "imagenet_v1": (1, "resnet50.pth"),
    "imagenet_v2": (2, "resnet50v2_stages1to3_nchw.npz"),
    "scratch": (1, None),
}


def experiment(form: str) -> dict[str, Experiment]:
    return {member: _member(form, *how) for member, how in MEMBERS.items()}


def _member(form: str, version: int, pretrained: str | None) -> Experiment:
    method = Segmentation(variant="table5_both_x3", version=1 if version == 1 else 2)
    paper = Experiment(
        name="crackseg_crack500",
        form=form,
        method=method,
        data=Data(
            name="crack500",
            split="train",
            pipeline=Pipeline(crop=256, scale=(1.0, 2.0), flip_horizontal=True, flip_vertical=True),
        ),
        training=Training(
            steps=STEPS,
            batch_size=8,
            schedule="poly",
            learning_rate=1e-4,
            weight_decay=5e-4,
            colour=0.2,
            validate_every=EPOCH,
            pretrained=pretrained,
        ),
        detection=Detection(rule="0.5"),
    )
    if form == "paper":
        return paper
    if form == "cpu":
        # A thirtieth of the steps: three times the rate, and a batch-norm decay whose time constant is 100 steps.
        method = dataclasses.replace(method, bn_momentum=0.99)
        short = _short(paper, method, crop=160, batch=6, steps=400, validate_every=200)
        return dataclasses.replace(short, training=dataclasses.replace(short.training, learning_rate=3e-4))
    method = dataclasses.replace(method, bn_momentum=0.9, narrow=8)
    smoke = _short(paper, method, crop=64, batch=2, steps=2, validate_every=2)
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, name="drawn", recipe_settings=DRAWN),
        training=dataclasses.replace(smoke.training, pretrained=None),
        machine=Machine(log_every=1, checkpoint_every=2),
    )


def _short(
    paper: Experiment, method: Segmentation, *, crop: int, batch: int, steps: int, validate_every: int
) -> Experiment:
    return dataclasses.replace(
        paper,
        method=method,
        data=dataclasses.replace(paper.data, pipeline=dataclasses.replace(paper.data.pipeline, crop=crop)),
        training=dataclasses.replace(
            paper.training, batch_size=batch, steps=steps, validate_every=validate_every
        ),
    )

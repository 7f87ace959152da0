"""F1 against how bad a photograph is: shadow, stain, exposure, motion blur, noise at five severities, DeepCrack test.

  python tools/study.py carry-out experiments/robustness.py       # paper forms, hours on a GPU
  python tools/study.py carry-out experiments/robustness.py:cpu   # two cores, each fourth image, an hour with trainings

Both methods and the floor, with thresholds fixed on sound images, at 256x256 (the papers' size) after degrading the
photograph at its own. Degradations are a function of the photograph's name and a seed (see data/degradations.py); their
strengths were set by eye, before any method was scored on them. CrackSeg was trained with random colour (0.2),
UP-CrackNet without. Record: records/robustness.json; results: README.md here. Both papers claim robustness to such
conditions and print no figure.
"""

from pathlib import Path

from cracks_jax.experiment import load_members
from cracks_jax.robustness import Robustness

HERE = Path(__file__).parent


def study(form: str) -> Robustness:
    crackseg = load_members(HERE / "crackseg_deepcrack.py", form)["imagenet_v2"]
    upcracknet = load_members(HERE / "upcracknet_deepcrack.py", form)["masks"]
    every = 1 if form == "paper" else 4
    return Robustness((crackseg, upcracknet), test="deepcrack:test", labelled="deepcrack:train", every=every)

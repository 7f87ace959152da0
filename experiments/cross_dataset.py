"""Trained on one data set, tested on another: UP-CrackNet's Tables V to VIII, with CrackSeg and the floor beside.

  python tools/study.py carry-out experiments/cross_dataset.py        # paper forms, hours on a GPU
  python tools/study.py carry-out experiments/cross_dataset.py:cpu    # two cores, about two hours with the trainings
  cracks-jax report experiments/records --out report                  # the matrix as a page

Trained on DeepCrack and on Crack500, each run is tested on both and, unseen, on CFD (without image 042, whose mask is
wrong). The floor has no training; its thresholds come from the same training images. Every rule was fixed beforehand.
Results: README.md here. The paper prints F1 49.9 on CFD and 75.8 on DeepCrack for UP-CrackNet trained on Crack500, 46.8
and 57.0 on CFD and Crack500 trained on DeepCrack (at 256x256, per-image Otsu).
"""

from pathlib import Path

from cracks_jax.experiment import Experiment, load_members
from cracks_jax.study import Study

HERE = Path(__file__).parent
TESTS = ("deepcrack:test", "crack500:test", "cfd:without042")
# The start of CrackSeg whose weights are at hand; `imagenet_v1` is the paper's.
MEMBER = "imagenet_v2"


def study(form: str) -> Study:
    deepcrack = load_members(HERE / "upcracknet_deepcrack.py", form)["masks"]
    crack500 = load_members(HERE / "upcracknet_crack500.py", form)[""]
    return Study(
        trainings=(_crackseg("deepcrack", form), deepcrack, _crackseg("crack500", form), crack500),
        tests=TESTS if form != "smoke" else (),
        floors={"deepcrack:train": deepcrack, "crack500:train": crack500} if form != "smoke" else {},
        # The small form at the papers' size alone: native takes three times as long.
        geometries=("native", "resize256") if form == "paper" else ("resize256",),
    )


def _crackseg(data: str, form: str) -> Experiment:
    return load_members(HERE / f"crackseg_{data}.py", form)[MEMBER]

"""CrackSeg trained on several sources together: DeepCrack (300) and Crack500 (1,896 images), tested unseen on CFD.

  cracks-jax train experiments/crackseg_multisource.py                           # paper form, needs resnet50.pth
  cracks-jax train experiments/crackseg_multisource.py --member imagenet_v2      # weights at hand: stages 1 to 3
  cracks-jax train experiments/crackseg_multisource.py:cpu --member imagenet_v2  # two cores
  python tools/study.py carry-out experiments/crackseg_multisource.py:cpu        # trains, and scores on CFD, never seen

The stand-in for CrackSeg's own multi-source CrackDataset (photographs of 14 cities), which is not to be had. A tenth of
both sources is held out together; images are drawn alike, so six of seven are Crack500's. Members as in
crackseg_deepcrack.py. Times, devices and results: README.md here, rows crackseg_multisource. The paper prints no figure
on CFD.
"""

import dataclasses
from pathlib import Path

from cracks_jax.experiment import Experiment, load_members
from cracks_jax.study import Study

# Rates and windows are Crack500's, which is most of the images; the small form is as long as DeepCrack's.
LIKE = Path(__file__).with_name("crackseg_crack500.py")


def experiment(form: str) -> dict[str, Experiment]:
    return {name: _of_both(member) for name, member in load_members(LIKE, form).items()}


def study(form: str) -> Study:
    """The member whose weights are at hand, on CFD, beside the floor with a threshold from the same images."""
    both = "deepcrack+crack500:train"
    trained = load_members(Path(__file__), form)["imagenet_v2"]
    return Study((trained,), ("cfd:without042",), floors={both: None})


def _of_both(member: Experiment) -> Experiment:
    data = member.data if member.form == "smoke" else dataclasses.replace(member.data, name="deepcrack+crack500")
    training = dataclasses.replace(member.training, steps=600) if member.form == "cpu" else member.training
    return dataclasses.replace(member, name="crackseg_multisource", data=data, training=training)

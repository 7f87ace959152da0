"""CrackSeg's Table 4: heads behind the trunk (bilinear x16 decoder). Five networks, a program each.

  cracks-jax sweep experiments/crackseg_table4.py --out runs/table4            # paper form, needs resnet50.pth
  cracks-jax sweep experiments/crackseg_table4.py:cpu --out runs/table4-cpu    # about 30 min, two cores

Members are the rows in the paper's order: a classifier on Block4, ASPP, the multiscale module with rates {6, 12, 18}
and {1, 3, 5}, and that on Block3 and Block4 together. Trained and tested on DeepCrack: the paper's CrackDataset cannot
be obtained. Results: README.md here. The paper prints mIoU 65.1 to 67.9.
"""

import dataclasses
from pathlib import Path

from cracks_jax.experiment import Experiment, load_members
from cracks_jax.members import rows

HERE = Path(__file__).parent
VARIANTS = {
    "baseline": "table4_baseline",
    "aspp": "table4_aspp",
    "b_dilated": "table4_b_dilated",
    "s_dilated": "table4_s_dilated",
    "fusion_s_dilated": "table4_fusion_s_dilated",
}


def experiment(form: str) -> dict[str, Experiment]:
    return rows(base(form), {name: {"method.variant": variant} for name, variant in VARIANTS.items()})


def base(form: str) -> Experiment:
    """The training of all rows: the paper's trunk weights, or those at hand for the small form."""
    found = load_members(HERE / "crackseg_deepcrack.py", form)["imagenet_v2" if form == "cpu" else "imagenet_v1"]
    if form == "cpu":
        found = dataclasses.replace(found, training=dataclasses.replace(found.training, steps=300))
    return dataclasses.replace(found, name=Path(__file__).stem)

"""CrackSeg's Table 5: low-level features and convolutions of the decoder. Six networks, a program each.

  cracks-jax sweep experiments/crackseg_table5.py --out runs/table5            # paper form, needs resnet50/101.pth
  cracks-jax sweep experiments/crackseg_table5.py:cpu --out runs/table5-cpu    # about 60 min, two cores

Members are the rows in the paper's order. Trained and tested on DeepCrack: the paper's CrackDataset cannot be obtained.
The small form starts from the pre-activation weights at hand, which exist for ResNet-50 alone: its ResNet-101 row
starts from random weights, so it says nothing about depth. Results: README.md here. The paper prints mIoU 70.9 to 73.5.
"""

import dataclasses
from pathlib import Path
from typing import Any

from cracks_jax.experiment import Experiment, load_members
from cracks_jax.members import rows

HERE = Path(__file__).parent
VARIANTS = {
    "conv1_x2": "table5_conv1_x2",
    "conv1_x3": "table5_conv1_x3",
    "conv1_x4": "table5_conv1_x4",
    "block1_x3": "table5_block1_x3",
    "both_x3": "table5_both_x3",
    "both_x3_r101": "table5_both_x3_r101",
}
# What the deepest trunk starts from, form by form.
R101 = {"paper": "resnet101.pth", "cpu": None, "smoke": None}


def experiment(form: str) -> dict[str, Experiment]:
    table4 = load_members(HERE / "crackseg_table4.py", form)["baseline"]
    changes: dict[str, dict[str, Any]] = {name: {"method.variant": variant} for name, variant in VARIANTS.items()}
    changes["both_x3_r101"]["training.pretrained"] = R101[form]
    return rows(dataclasses.replace(table4, name=Path(__file__).stem), changes)

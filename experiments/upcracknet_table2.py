"""UP-CrackNet's Table II: which corruption teaches to restore. One program, the corruption is data.

  cracks-jax sweep experiments/upcracknet_table2.py --out runs/table2 --preset paper      # Crack500, hours
  cracks-jax sweep experiments/upcracknet_table2.py:cpu --out runs/table2-cpu             # two cores, 40 min
  python tools/study.py identity runs/table2-cpu/* --data deepcrack:test --out DIR        # who copies what it sees

Members: the paper's rows in its order (RIAD's jumbled squares, SCADN's stripes, the paper's multi-scale squares), then
two controls that hide nothing: `none`, a plain autoencoder, and `none_noise`, which removes additive noise (standard
deviation a tenth of a pixel's range). If corruption is what prevents the identity mapping, the controls must copy
cracks. Forms and data are those of upcracknet_table1. Results: README.md here. The paper prints F1 48.7, 58.9 and 61.8.
"""

import dataclasses
from pathlib import Path

from cracks_jax.experiment import Experiment, load_members
from cracks_jax.members import rows

HERE = Path(__file__).parent
CORRUPTIONS = {
    "jumbled": "jumbled",
    "striped": "stripes",
    "squares": "squares",
    "none": "identity",
    "none_noise": "noise",
}


def experiment(form: str) -> dict[str, Experiment]:
    every_loss = load_members(HERE / "upcracknet_table1.py", form)["all"]
    base = dataclasses.replace(every_loss, name=Path(__file__).stem)
    return rows(base, {name: {"data.pipeline.corruption": kind} for name, kind in CORRUPTIONS.items()})

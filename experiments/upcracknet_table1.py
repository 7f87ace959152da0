"""UP-CrackNet's Table I: which of the five losses helps. Nine weight vectors of one loss, so one compiled program.

  cracks-jax sweep experiments/upcracknet_table1.py --out runs/table1 --preset paper          # Crack500, hours
  cracks-jax sweep experiments/upcracknet_table1.py:cpu --out runs/table1-cpu                 # two cores, an hour
  cracks-jax sweep experiments/upcracknet_table1.py:cpu --out runs/table1-cpu --preset paper  # only scores anew
  cracks-jax train experiments/upcracknet_table1.py:cpu --member mae                          # one row alone

Members are the rows in the paper's order. Its scan lost the ticks of rows 2 to 8: they are read from their number and
the text (cracks_jax/published/tables.json). A loss that a row leaves out has weight 0; a discriminator is trained all
the same. The `paper` form trains on Crack500's undamaged windows, as the paper does; the `cpu` form on DeepCrack's,
where so short a training is still told from noise. Results: README.md here. The paper prints F1 39.5 (mae) to
61.8 (all).
"""

import dataclasses
from pathlib import Path

from cracks_jax.experiment import Experiment, load_members
from cracks_jax.members import rows
from cracks_jax.methods.restoration import LOSS_WEIGHTS

HERE = Path(__file__).parent
ROWS = {
    "mae": ("mae",),
    "mae_ssim": ("mae", "ssim"),
    "mae_msgms": ("mae", "msgms"),
    "mae_style": ("mae", "style"),
    "mae_adv": ("mae", "adversarial"),
    "mae_ssim_msgms": ("mae", "ssim", "msgms"),
    "mae_ssim_msgms_style": ("mae", "ssim", "msgms", "style"),
    "mae_ssim_msgms_adv": ("mae", "ssim", "msgms", "adversarial"),
    "all": ("mae", "ssim", "msgms", "style", "adversarial"),
}
TERMS = ROWS["all"]


def experiment(form: str) -> dict[str, Experiment]:
    return rows(
        base(form),
        {
            name: {
                f"training.loss_weights.{term}": LOSS_WEIGHTS[term] if term in on else 0.0 for term in TERMS
            }
            for name, on in ROWS.items()
        },
    )


def base(form: str) -> Experiment:
    """The training of all rows, with every loss on."""
    if form == "cpu":
        found = load_members(HERE / "upcracknet_deepcrack.py", form)["masks"]
        short = dataclasses.replace(found.training, steps=600, validate_every=150)
        found = dataclasses.replace(found, training=short)
    else:
        found = load_members(HERE / "upcracknet_crack500.py", form)[""]
    return dataclasses.replace(found, name=Path(__file__).stem)

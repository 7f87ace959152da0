"""The same sweep as a researcher writes it without us: Optuna's grid over a table's members, PyTorch twins, one loop.

  python -m tests.reference.sweep_torch FILE.py[:FORM] --out DIR [--set PATH=VALUE ...] [--compile]

Each trial trains one member of UP-CrackNet from a file of ours: the same networks, losses, optimisers, schedule, batch
size, steps and validations, on the batches of our input pipeline. A loss whose weight is 0 is left out, as one would.
Prints a JSON line: seconds in all, in steps, in validations and in checkpoints, and each member's validation.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from cracks_jax.benchmark.job import Job
from cracks_jax.data.pipeline import batches, windows
from cracks_jax.experiment import Experiment, apply_settings, load_members, parse_file
from cracks_jax.ops.corruption import multiscale_squares
from cracks_jax.training_data import open_training_data
from tests.reference import losses_torch as losses
from tests.reference.benchmark_torch import RestorationStep, compiled, scaled, standardised
from tests.reference.squeezenet_torch import SqueezeNet
from tests.reference.upcracknet_torch import Discriminator, Generator


class Spent:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began


class MemberStep(RestorationStep):
    """The twin's step with a member's weights of its losses."""

    def __init__(self, experiment: Experiment, compile: bool):
        method: Any = experiment.method
        networks = {
            "generator": Generator(method.base, method.depth, dropout=True),
            "discriminator": Discriminator(method.discriminator_base),
        }
        networks = {name: network.to(memory_format=torch.channels_last) for name, network in networks.items()}
        wrap = compiled if compile else lambda function: function
        super().__init__(Job("step", "upcracknet"), networks, torch.device("cpu"), wrap)
        self.weights = dict(experiment.training.loss_weights)
        self.extractor = SqueezeNet().requires_grad_(False).to(memory_format=torch.channels_last)

    def _guide(self, broken: torch.Tensor, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        on = {name for name, weight in self.weights.items() if weight}
        pixels = torch.zeros(())
        if "mae" in on:
            pixels = pixels + self.weights["mae"] * losses.mae(fake, real)
        if "ssim" in on:
            pixels = pixels + self.weights["ssim"] * (1 - losses.ssim(fake, real))
        if "msgms" in on:
            pixels = pixels + self.weights["msgms"] * losses.msgms_loss(fake, real)
        if "style" in on:
            with torch.no_grad():
                target = self.extractor(standardised((real + 1) / 2))
            found = self.extractor(standardised((fake + 1) / 2))
            pixels = pixels + self.weights["style"] * losses.style_loss(found, target)
        loss = self.weights["restoration"] * pixels
        if "adversarial" in on:
            judged = losses.generator_loss(self.through(self.discriminator, broken, fake), "non_saturating")
            loss = loss + self.weights["adversarial"] * judged
        return loss


def train(experiment: Experiment, folder: Path, spent: Spent, compile: bool) -> float:
    """One member from its first step to its checkpoint; its last validation."""
    training = experiment.training
    torch.manual_seed(experiment.seed)
    data = open_training_data(experiment)
    step = MemberStep(experiment, compile)
    factor = training.rate_factor(data.records_per_epoch / training.batch_size)
    stream = batches(
        data.train, experiment.data.pipeline, batch_size=training.batch_size, seed=experiment.seed
    )
    held_out = windows(data.validation, experiment.data.pipeline.crop)
    value = float("nan")
    for number in range(training.steps):
        with spent.on("input"):
            batch = {k: v for k, v in next(stream).items() if k in ("image", "corrupted")}
        with spent.on("step"):
            for adam, rate in (
                (step.g_adam, training.learning_rate),
                (step.d_adam, training.discriminator_learning_rate),
            ):
                adam.param_groups[0]["lr"] = rate * factor(number)
            step.run(step.place(batch))
        if (number + 1) % training.validate_every == 0 or number + 1 == training.steps:
            with spent.on("evaluation"):
                value = validate(step, held_out)
            with spent.on("checkpoint"):
                parts = {"generator": step.generator, "discriminator": step.discriminator}
                adams = {"g_adam": step.g_adam, "d_adam": step.d_adam}
                torch.save({k: v.state_dict() for k, v in {**parts, **adams}.items()}, folder)
    stream.close()  # type: ignore[attr-defined]
    return value


@torch.no_grad()
def validate(step: MemberStep, images: np.ndarray, most: int = 32) -> float:
    """MAE, SSIM and MSGMS of the held-out windows, restored from each of the six square masks."""
    step.generator.eval()
    sums = []
    for first in range(0, len(images), most):
        real = scaled(torch.from_numpy(images[first : first + most])) * 2 - 1
        for keep in multiscale_squares(images.shape[1]):
            kept = torch.from_numpy(np.ascontiguousarray(keep)).permute(2, 0, 1)[None]
            fake = step.generator((real + 1) * kept - 1)
            terms = losses.mae(fake, real) + 1 - losses.ssim(fake, real) + losses.msgms_loss(fake, real)
            sums += [float(terms)] * len(real)
    step.generator.train()
    return float(np.mean(sums))


def main() -> int:
    options = _parser().parse_args()
    spent, began = Spent(), time.perf_counter()
    members = {
        name: apply_settings(one, options.set) for name, one in load_members(*parse_file(options.file)).items()
    }
    options.out.mkdir(parents=True, exist_ok=True)

    def objective(trial: optuna.Trial) -> float:
        name = trial.suggest_categorical("member", list(members))
        print(f"{trial.number + 1} of {len(members)}: {name}", file=sys.stderr, flush=True)
        return train(members[name], options.out / f"{name}.pt", spent, options.compile)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"member": list(members)}, seed=0))
    study.optimize(objective, n_trials=len(members))
    found = {
        "seconds": time.perf_counter() - began,
        "spent": dict(spent.seconds),
        "members": {trial.params["member"]: trial.value for trial in study.trials},
        "software": {"torch": torch.__version__, "optuna": optuna.__version__},
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="extend", nargs="*", default=[])
    parser.add_argument("--compile", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())

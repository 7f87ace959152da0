"""Seconds, efficiency and memory of a training step on a mesh, and what limits it. Pure arithmetic.

The model, for one device of n with b images each (global batch B = n b):

  compute   operations of the whole step / n / (the chip's rate at this precision x its share)
  memory    bytes that the partitioned program reads and writes, copies for a processor's layouts left out / (the
            chip's bandwidth x its share)
  transfer  what the bytes of all collectives take on the link
  latency   what the hops and launches of all collectives take on the link
  input     b / (host cores for each device x images per second that one core reads)

A step without overlap takes compute + memory + transfer + latency: a pessimist's bound. With full overlap it takes the
largest of them: no program of these operations on this machine is faster. Either way it takes no less than its input,
which is read while the step before runs. The truth lies between; what limits is the largest term.
"""

from dataclasses import dataclass
from typing import Any, Literal

from cracks_jax.errors import UsageError
from cracks_jax.scaling.hlo import Collective
from cracks_jax.scaling.machines import Chip, Cost, Link, collective, rate_of

Plan = Literal["strong", "weak"]
TERMS = ("compute", "memory", "transfer", "latency", "input")
OVERLAPS = ("none", "full")


@dataclass(frozen=True)
class Facts:
    """What one compiled program says.

    Attributes:
      devices, batch: of the mesh, and images over all of them.
      flop: operations of the whole step, as it is lowered for an accelerator.
      bytes: what one device's program reads and writes to compute, without what only makes arrays lie otherwise.
      held: bytes that one device holds while the step runs.
      collectives: of one step.
      rounds: how many of them must follow one another.
    """

    devices: int
    batch: int
    flop: float
    bytes: float
    held: int
    collectives: tuple[Collective, ...]
    rounds: int

    @staticmethod
    def of(program: dict[str, Any]) -> "Facts":
        """From a record's entry, as `program.describe` makes it."""
        return Facts(
            program["devices"],
            program["batch"],
            program["flop"],
            program["traffic"]["computing"],
            program["memory"]["total"],
            tuple(Collective(**one) for one in program["collectives"]),
            program["rounds"],
        )


@dataclass(frozen=True)
class Machine:
    """A chip, its link and precision, and what its host reads: images per second of a core, cores for each device."""

    chip: Chip
    link: Link
    precision: str
    rate_per_core: float
    cores: float


def sent(program: dict[str, Any]) -> int:
    """Bytes of all collectives of one step, from a record's entry."""
    return sum(one["bytes"] * one["times"] for one in program["collectives"])


def communicate(facts: Facts, link: Link) -> Cost:
    """All collectives of a step, one after another."""
    transfer = latency = 0.0
    for one in facts.collectives:
        cost = collective(link, one.kind, one.bytes, one.group)
        transfer, latency = transfer + one.times * cost.transfer, latency + one.times * cost.latency
    return Cost(transfer, latency)


def terms(facts: Facts, machine: Machine) -> dict[str, float]:
    """Seconds of each of TERMS."""
    chip, sent = machine.chip, communicate(facts, machine.link)
    return {
        "compute": facts.flop / facts.devices / (rate_of(chip, machine.precision) * chip.share),
        "memory": facts.bytes / (chip.bandwidth * chip.memory_share),
        "transfer": sent.transfer,
        "latency": sent.latency,
        "input": facts.batch / facts.devices / (machine.cores * machine.rate_per_core),
    }


def step_seconds(seconds: dict[str, float]) -> dict[str, float]:
    """Of a step, by overlap."""
    device = [seconds[name] for name in TERMS if name != "input"]
    return {"none": max(sum(device), seconds["input"]), "full": max(*device, seconds["input"])}


def predict(facts: Facts, alone: Facts, machine: Machine, plan: Plan) -> dict[str, Any]:
    """One row of the answer.

    Args:
      alone: the program of one device that efficiency refers to: the same global batch (strong) or the same batch for
        each device (weak).
    """
    n = facts.devices
    expected = facts.batch if plan == "strong" else facts.batch // n
    assert (alone.devices, alone.batch) == (1, expected), "efficiency refers to one device at the plan's batch"
    seconds = terms(facts, machine)
    steps, single = step_seconds(seconds), step_seconds(terms(alone, machine))
    rates = {how: facts.batch / taken for how, taken in steps.items()}
    fits = facts.held <= machine.chip.memory
    return {
        "chip": machine.chip.name,
        "link": machine.link.name,
        "precision": machine.precision,
        "plan": plan,
        "devices": n,
        "batch": facts.batch,
        "batch_per_device": facts.batch // n,
        "seconds": seconds,
        "step": steps,
        "images_per_second": rates,
        "efficiency": {how: rates[how] / (n * alone.batch / single[how]) for how in OVERLAPS},
        "memory_bytes": facts.held,
        "fits": fits,
        "limit": max(TERMS, key=lambda name: seconds[name]) if fits else "capacity",
        "cores_needed": cores_needed(rates["none"] / n, machine),
    }


def unusable(machine: Machine, plan: Plan, devices: int, batch: int) -> dict[str, Any]:
    """The row of a mesh that the batch cannot be split over."""
    return {
        "chip": machine.chip.name,
        "link": machine.link.name,
        "precision": machine.precision,
        "plan": plan,
        "devices": devices,
        "batch": batch,
        "limit": "batch",
    }


def cores_needed(rate: float, machine: Machine) -> float:
    """Host cores for each device with which so many images per second of one device never wait."""
    return rate / machine.rate_per_core


def splits(batch: int, devices: int) -> bool:
    """Whether every device gets as many images as every other, and one at least."""
    return batch >= devices and batch % devices == 0


def check_split(batch: int, devices: int) -> None:
    """UsageError, for a batch that is large enough but uneven."""
    if batch >= devices and not splits(batch, devices):
        lower = batch // devices * devices
        raise UsageError(
            f"--batch {batch} cannot be split evenly over {devices} devices; use {lower} or {lower + devices}"
        )

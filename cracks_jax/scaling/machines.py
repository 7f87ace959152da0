"""Chips and links as their makers state them, and what a collective costs on a link.

Every figure here is printed by a maker or assumed, and says which; none is measured. A link is a list of levels, the
innermost first: so many devices at each, and the bandwidth and latency with which one device of a level sends to its
next. A collective over several levels goes through them in turn: inside first, on ever smaller shares.
"""

import math
from dataclasses import dataclass
from typing import Any

from cracks_jax.errors import UsageError

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      flops: matrix operations per second by precision (one of PRECISIONS), 2 for a multiply-add.
      bandwidth: bytes per second of its memory.
      memory: bytes.
      share: of `flops` that a whole training step reaches. Assumed; see the page's check for where it was measured.
      memory_share: of `bandwidth`, likewise.
      cores: host cores for each device, which read the input.
      link: name of the link that it usually has.
      source: where the figures stand.
    """

    name: str
    title: str
    flops: dict[str, float]
    bandwidth: float
    memory: float
    share: float
    memory_share: float
    cores: float
    link: str
    source: str


@dataclass(frozen=True)
class Level:
    """Devices (or, from the second level on, groups of them) that reach each other alike; `size` None: any number."""

    name: str
    size: int | None
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Link:
    """How devices reach each other. `launch`: seconds that any collective takes before its first byte moves."""

    name: str
    title: str
    levels: tuple[Level, ...]
    launch: float
    source: str

    def sides(self, devices: int) -> list[tuple[Level, int]]:
        """The levels that so many devices use, with how many take part at each; UsageError where there are more."""
        left, used = devices, []
        for level in self.levels:
            here = left if level.size is None else min(level.size, left)
            used += [(level, here)] if here > 1 else []
            left = -(-left // here)
        if left > 1:
            most = math.prod(level.size or 1 for level in self.levels)
            raise UsageError(
                f"--link {self.name} joins at most {most} devices, not {devices}; use fewer --devices or another link"
            )
        return used


@dataclass(frozen=True)
class Cost:
    """Seconds of one collective: what its bytes take, and what its hops take."""

    transfer: float
    latency: float

    @property
    def total(self) -> float:
        return self.transfer + self.latency


def ring(size: float, devices: int, bandwidth: float, latency: float) -> Cost:
    """An all-reduce around a ring: n - 1 steps to sum shares of 1/n, n - 1 to spread them."""
    steps = 2 * (devices - 1)
    return Cost(steps / devices * size / bandwidth, steps * latency)


def collective(link: Link, kind: str, size: float, devices: int) -> Cost:
    """What one collective over `devices` costs; `size` as `hlo.Collective.bytes`.

    An all-reduce takes the cheaper of a ring at each level and a tree, as libraries of collectives do: few bytes over
    many devices would wait for 2 (n - 1) hops around a ring, and for 2 log2(n) up and down a tree.
    """
    sides = link.sides(devices)
    if not sides:
        return Cost(0.0, 0.0)
    forms = {"all-reduce": (_rings, _tree), "reduce-scatter": (_half_rings,), "all-gather": (_half_rings,)}
    costs = [form(size, sides) for form in forms.get(kind, (_everyone,) if kind == "all-to-all" else (_neighbour,))]
    cheapest = min(costs, key=lambda cost: cost.total)
    return Cost(cheapest.transfer, cheapest.latency + link.launch)


_Sides = list[tuple[Level, int]]


def _rings(size: float, sides: _Sides) -> Cost:
    transfer = latency = 0.0
    for level, here in sides:
        one = ring(size, here, level.bandwidth, level.latency)
        transfer, latency, size = transfer + one.transfer, latency + one.latency, size / here
    return Cost(transfer, latency)


def _half_rings(size: float, sides: _Sides) -> Cost:
    whole = _rings(size, sides)
    return Cost(whole.transfer / 2, whole.latency / 2)


def _tree(size: float, sides: _Sides) -> Cost:
    """Up and down at every level with all bytes, in pieces that follow each other: the slowest level sets the rate."""
    hops = sum(2 * math.ceil(math.log2(here)) * level.latency for level, here in sides)
    return Cost(max(2 * size / level.bandwidth for level, _ in sides), hops)


def _everyone(size: float, sides: _Sides) -> Cost:
    """Each sends a share of its own to each other one."""
    return Cost(
        sum((here - 1) / here * size / level.bandwidth for level, here in sides),
        sum((here - 1) * level.latency for level, here in sides),
    )


def _neighbour(size: float, sides: _Sides) -> Cost:
    slowest = min((level for level, _ in sides), key=lambda level: level.bandwidth)
    return Cost(size / slowest.bandwidth, slowest.latency)


_NCCL = "latencies: NCCL's own cost model (src/graph/tuning.cc), rounded"
LINKS = {
    link.name: link
    for link in (
        Link("none", "one device", (), 0.0, "nothing to send"),
        Link(
            "pcie-ethernet",
            "PCIe 4.0 inside a host of 4, 10 Gb/s Ethernet for each device between hosts",
            (Level("PCIe", 4, 20e9, 1e-6), Level("Ethernet", None, 1.25e9, 30e-6)),
            5e-6,
            f"PCIe 4.0 x16 is 32 GB/s each way, of which 20 are assumed; {_NCCL}; Ethernet's latency assumed",
        ),
        Link(
            "nvlink-infiniband",
            "NVLink 4 inside a host of 8, 400 Gb/s InfiniBand for each device between hosts",
            (Level("NVLink", 8, 450e9 * 0.8, 0.5e-6), Level("InfiniBand", None, 50e9 * 0.9, 5e-6)),
            4e-6,
            "NVIDIA's H100 data sheet: 900 GB/s both ways together; DGX H100: one 400 Gb/s adapter for each GPU; 80 "
            f"and 90 % of these assumed; {_NCCL}",
        ),
        Link(
            "tpu-v5e-torus",
            "a torus of 16 x 16 chips, the data centre's network between pods",
            (
                Level("first axis", 16, 100e9 * 0.9, 1e-6),
                Level("second axis", 16, 100e9 * 0.9, 1e-6),
                Level("data centre", None, 3.125e9 * 0.9, 50e-6),
            ),
            2e-6,
            "Google's TPU v5e page: 400 GB/s both ways together over four ports, 6.4 Tb/s of data-centre network for a "
            "pod of 256; 90 % of these and the latencies assumed",
        ),
    )
}
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "laptop",
            "a laptop's processor: 8 cores with AVX2 at 3 GHz, two channels DDR5-4800",
            {"float32": 8 * 3e9 * 32},
            76.8e9,
            16e9,
            0.7,
            0.6,
            8,
            "none",
            "cores x clock x 32 operations a cycle; 2 x 38.4 GB/s; shares assumed, below those of our own records",
        ),
        Chip(
            "rtx-4090",
            "GeForce RTX 4090",
            {"float32": 82.6e12, "tf32": 82.6e12, "bfloat16": 165.2e12},
            1008e9,
            24e9,
            0.35,
            0.8,
            4,
            "pcie-ethernet",
            "NVIDIA's Ada architecture paper, dense, float32 accumulation; shares assumed",
        ),
        Chip(
            "h100-sxm",
            "H100 SXM",
            {"float32": 66.9e12, "tf32": 494.7e12, "bfloat16": 989.4e12},
            3350e9,
            80e9,
            0.35,
            0.8,
            14,
            "nvlink-infiniband",
            "NVIDIA's H100 data sheet, dense; DGX H100: 112 host cores for 8; shares assumed",
        ),
        Chip(
            "tpu-v5e",
            "TPU v5e",
            # Without bfloat16's rounding a product takes six passes; jax's default on a TPU is one.
            {"float32": 197e12 / 6, "bfloat16": 197e12},
            819e9,
            16e9,
            0.35,
            0.8,
            14,
            "tpu-v5e-torus",
            "Google's TPU v5e page; float32 as six passes in bfloat16; 112 host cores for 8 and shares assumed",
        ),
    )
}


def chip_named(name: str) -> Chip:
    return _named("--chip", name, CHIPS)


def link_named(name: str) -> Link:
    return _named("--link", name, LINKS)


def rate_of(chip: Chip, precision: str) -> float:
    """Matrix operations per second; UsageError where the chip has no such precision."""
    if precision not in chip.flops:
        have = ", ".join(chip.flops)
        raise UsageError(f"--precision {precision}: {chip.name} has {have}; use one of these or another --chip")
    return chip.flops[precision]


def _named(option: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise UsageError(f"{option} {name}: expected one of {', '.join(known)}")
    return known[name]

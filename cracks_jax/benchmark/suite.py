"""The full table's measurements, as arguments of `tools/benchmark.py`; each runs in a process of its own.

A process of its own: peak memory is a process's, and no measurement inherits another's threads or caches.
"""

from cracks_jax.benchmark import flops
from cracks_jax.benchmark.job import Job

PEERS = ("--peer", "torch")
UPCRACKNET, CRACKSEG = "upcracknet", "crackseg-r50"
# Names of the measurements -> what they are, without batch, size and repeats.
_COMPUTE = [
    (f"{kind}-{system}-b{batch}" + (f"-{norm}" if norm else ""), kind, system, batch, norm)
    for kind, system, batch, norm in (
        ("step", UPCRACKNET, 4, None),
        ("step", CRACKSEG, 4, None),
        ("infer", UPCRACKNET, 4, "window"),
        ("infer", UPCRACKNET, 4, "running"),
        ("infer", CRACKSEG, 4, "running"),
        ("infer", UPCRACKNET, 1, "window"),
        ("infer", UPCRACKNET, 1, "running"),
        ("infer", CRACKSEG, 1, "running"),
    )
]
_REPEATS = {"step": 7, "infer": 15, "input": 32, "pipeline": 20}
# Small enough for a rehearsal of every line in a minute or two; its times mean nothing.
_QUICK = ("--narrow", "16", "--size", "64", "--repeats", "2")
# What input is planned for: a training that reaches the aimed 35 % of the 989 TFLOP/s (dense bfloat16) that an H100 or
# H200 is sold for.
AIMED_GFLOPS = 0.35 * 989e3
_DETECTION = ("--repeats", "1", "--images", "1000")
_QUICK_DETECTION = ("--narrow", "16", "--repeats", "1", "--megapixels", "0.1", "0.2", "--images", "4")


def entries(*, quick: bool, data: str, size: int = 256) -> dict[str, list[str]]:
    """Name -> arguments, in the order of the table."""
    found: dict[str, list[str]] = {}
    for name, kind, system, batch, norm in _COMPUTE:
        arguments = [kind, "--system", system, "--batch", str(batch), *_shape(kind, quick, size), *PEERS]
        arguments += ["--batch-norm", norm] if norm else []
        found[name] = arguments + (["--contenders", "eager"] if quick else [])
    for kind in ("input", "pipeline"):
        for system in (UPCRACKNET, CRACKSEG):
            arguments = [kind, "--system", system, "--batch", "4", *_shape(kind, quick, size), "--data", data]
            arguments += ["--target-rate", str(aimed_rate(system, size))] if kind == "input" else []
            found[f"{kind}-{system}"] = arguments
    for system in (UPCRACKNET, CRACKSEG):
        shape = _QUICK if quick else ("--size", str(size), "--repeats", "5")
        found[f"forms-{system}"] = ["forms", "--system", system, "--batch", "4", *shape]
    found[f"detect-{UPCRACKNET}"] = ["detect", "--system", UPCRACKNET, *(_QUICK_DETECTION if quick else _DETECTION)]
    return found


def aimed_rate(system: str, size: int) -> int:
    """Images per second of a training step at AIMED_GFLOPS, by the hand count of its operations."""
    return round(AIMED_GFLOPS / flops.step_gflop(Job("step", system, size=size)))


def _shape(kind: str, quick: bool, size: int) -> list[str]:
    return list(_QUICK) if quick else ["--size", str(size), "--repeats", str(_REPEATS[kind])]

"""What a result depends on besides its settings, as records say it."""

import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from cracks_jax import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "dm-pix", "numpy", "opencv-python-headless")


def surroundings() -> dict[str, Any]:
    """What a result depends on besides its settings: software, device and revision. No host name, no path."""
    import jax

    device = jax.devices()[0]
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "software": {"cracks-jax": __version__, "python": platform.python_version(), **versions},
        "device": {"kind": _device_kind(device), "count": jax.device_count(), "platform": device.platform},
        "threads": cores(),
        "xla_flags": _without_folders(os.environ.get("XLA_FLAGS", "")),
        "git_revision": git_revision(),
        "lock": lock(),
    }


def lock() -> dict[str, str] | None:
    """The lock file of this Python in the package's checkout and its SHA-256; None outside a checkout.

    It says what was meant to be installed, `software` what was.
    """
    name = f"locks/py{sys.version_info.major}{sys.version_info.minor}.txt"
    path = Path(__file__).resolve().parents[1] / name
    try:
        return {"file": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return None


def _without_folders(flags: str) -> str:
    """A flag's path is this machine's: its last part stays."""
    return re.sub(r"(?<==)\S*/", "", flags)


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def peak_memory() -> int:
    """The largest resident size of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_peak_memory() -> int | None:
    """The accelerator's peak use, bytes; None on a CPU."""
    import jax

    stats = device_stats(jax.local_devices()[0])
    return None if stats is None else stats.get("peak_bytes_in_use")


def device_stats(device: Any) -> dict[str, int] | None:
    try:
        return device.memory_stats()
    except (AttributeError, NotImplementedError, RuntimeError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_kind(device: Any) -> str:
    if device.platform != "cpu":
        return device.device_kind
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def git_revision() -> str | None:
    """The commit of the package's checkout, with `+changes` where its own files differ; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", str(here)],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changed else "")

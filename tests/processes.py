"""`cracks-jax` in processes of its own, as a user starts it, compiled quickly; and waiting for what they do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tiny_runs import REPOSITORY

Start = Callable[..., subprocess.Popen]


@contextmanager
def commands(folder: Path) -> Iterator[Start]:
    """Starts `cracks-jax WORDS` with so many devices; what still runs at the end is killed.

    Args:
      folder: where the compiled programs lie that all of them share.
    """
    running: list[subprocess.Popen] = []

    def start(words: Sequence[str], devices: int = 1) -> subprocess.Popen:
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        command = [sys.executable, "-m", "cracks_jax.cli", *words]
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        return process

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()


def ended(process: subprocess.Popen, timeout: float = 280) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def children(process: subprocess.Popen) -> list[int]:
    """The processes that one has started and not seen end."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def until(condition: Callable[[], object], what: str, seconds: float = 200) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds} s for {what}"
        time.sleep(0.05)

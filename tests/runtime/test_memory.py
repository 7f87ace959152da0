"""Freed buffers stay with the process: what a second use of the same size costs in page faults."""

import os
import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import numpy as np
from cracks_jax.runtime.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")

def use():
    buffer = np.empty(2**26, np.uint8)  # 64 MiB: 16,384 pages of 4 KiB
    buffer[::4096] = 1

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, env=env)
    if done.stderr.strip() == "no glibc":
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_kept_buffers_are_not_cleared_again():
    assert _faults("keep") < 100
    assert _faults("default") > 1000

"""Freed buffers stay with the process, as page faults tell, until they are given back, as its size tells."""

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


PIECES = """
import sys
import numpy as np
from cracks_jax.runtime.memory import give_back_freed_memory, keep_freed_memory

if not keep_freed_memory():
    sys.exit("no glibc")

def mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

before = mib()
buffers, between = [], []
for _ in range(100):  # 200 MiB, held apart by small ones that stay
    buffers.append(np.ones(2**21, np.uint8))
    between.append(np.ones(2**10, np.uint8))
del buffers
kept = mib() - before
assert give_back_freed_memory()
print(kept, mib() - before)
"""


def _said(program: str, *words: str) -> list[int]:
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, env=env)
    if done.stderr.strip() == "no glibc":
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_kept_buffers_are_not_cleared_again():
    assert _said(CHILD, "keep")[0] < 100
    assert _said(CHILD, "default")[0] > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_what_was_kept_is_given_back_on_request_though_it_lies_in_pieces():
    kept, left = _said(PIECES)
    assert kept > 150 and left < 20

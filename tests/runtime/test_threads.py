"""XLA's workers get a core each; the process's other threads may run anywhere."""

import json
import os
import subprocess
import sys

import pytest

CHILD = """
import json, os
import jax
from cracks_jax.runtime.threads import _WORKER, spread_workers

jax.block_until_ready(jax.numpy.ones((8, 8)) @ jax.numpy.ones((8, 8)))
done = spread_workers()
found = {}
for task in os.listdir("/proc/self/task"):
    name = open(f"/proc/self/task/{task}/comm").read().strip()
    found.setdefault(name == _WORKER, []).append(sorted(os.sched_getaffinity(int(task))))
print(json.dumps([done, found.get(True, []), found[False]]))
"""


def _child(cores: set[int]) -> tuple[bool, list[list[int]], list[list[int]]]:
    # Several fake devices share the machine's cores: then there are more workers than those.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    code = f"import os; os.sched_setaffinity(0, {cores})\n{CHILD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return tuple(json.loads(done.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="affinity as Linux has it")
def test_each_worker_gets_a_core_and_nothing_else_is_moved():
    cores = os.sched_getaffinity(0)
    done, workers, others = _child(cores)
    assert done
    assert sorted(workers) == [[core] for core in sorted(cores)]
    assert all(set(allowed) == cores for allowed in others)


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_no_worker_leaves_the_cores_that_the_process_was_given():
    core = max(os.sched_getaffinity(0))
    done, workers, others = _child({core})
    assert all(allowed == [core] for allowed in [*workers, *others])

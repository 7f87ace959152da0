"""A process of a group, watched from outside: when jax ends it because another one was lost, one line says so.

jax's coordination service ends every process that has lost another with SIGABRT and a page of addresses, from a thread
that Python cannot reach (DESIGN section 7). So the command runs in a child, and this process passes on what it prints
up to there, and ends with exit code 1.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

# Marks the child; its value is the descriptor whose end means that the parent is gone.
CHILD = "CRACKS_JAX_SUPERVISED"
# What jax prints of its own when a group falls apart; the first pattern names the lost ones on lines of their own.
_UNHEALTHY = re.compile(rb"tasks are unhealthy")
_TASK = re.compile(rb"^(?:/job:\S*task:)?(\d+)\s*$")
_NOISE = re.compile(
    rb"coordination_service|preemption_sync|client\.h:\d+\] Terminating|Check failure stack trace|^\s+@ +0x|"
    rb"^terminate called|^\s*what\(\):|^The tasks have crashed|^Additional GRPC|^RPC: /|^:UNKNOWN:|^\[Gloo\]|"
    rb"^/job:\S*task:\d+\s*$"
)


def supervise(arguments: Sequence[str]) -> int:
    """Runs `cracks-jax ARGUMENTS` in a child to its end; its exit code, 1 where the group fell apart."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", "from cracks_jax.cli import entry; entry()", *arguments],
        env={**os.environ, CHILD: str(reading)},
        pass_fds=[reading],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(reading)
    printed = threading.Thread(target=_pass_on, args=(child.stdout, sys.stdout))
    printed.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _frame: child.send_signal(signum))
    lost = _pass_on(child.stderr, sys.stderr)
    printed.join()
    code = child.wait()
    os.close(writing)
    if code >= 0:
        return code
    if code == -signal.SIGABRT or lost:
        who = f"process {', '.join(map(str, sorted(lost)))}" if lost else "another process"
        _say(f"cracks-jax: {who} of this training was lost; start all processes again with the same command: training "
             "goes on from its last checkpoint")  # fmt: skip
        return 1
    _say(f"cracks-jax: this process was killed by signal {-code}; start all processes again with the same command")
    return 1


def _pass_on(stream: Any, to: Any) -> set[int]:
    """What the child prints, without what jax says of the group; the numbers of the processes that it names as lost."""
    lost: set[int] = set()
    naming, line = False, b""
    while chunk := os.read(stream.fileno(), 65536):
        line += chunk
        while ends := [place for mark in (b"\n", b"\r") if (place := line.find(mark)) >= 0]:
            whole, line = line[: min(ends) + 1], line[min(ends) + 1 :]
            task = _TASK.match(whole)
            if naming and task:
                lost.add(int(task[1]))
            elif _UNHEALTHY.search(whole):
                naming = True
            elif not _NOISE.search(whole):
                naming = False
                _write(whole, to)
            else:
                naming = naming and not whole.startswith(b"The tasks")
    _write(line if not _NOISE.search(line) else b"", to)
    return lost


def end_with_parent() -> None:
    """In the child: leaves at once when the supervising process is gone."""
    descriptor = int(os.environ.pop(CHILD))

    def watch() -> None:
        os.read(descriptor, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(what: bytes, to: Any) -> None:
    to.buffer.write(what)
    to.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

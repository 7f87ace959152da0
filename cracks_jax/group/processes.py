"""Several processes that train one model: how they find each other, agree, and notice that one is lost.

jax.distributed does the work: its coordinator lives in process 0. What this module adds is what a user sees: a message
with a remedy where jax would wait, or end the process with a page of addresses.
"""

import contextlib
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from cracks_jax.errors import CracksError
from cracks_jax.group.meeting import AUTO, Group

# Seconds: without a sign of life before a process counts as lost; for jax to name it then.
LOST, NAMED = 10, 5


def join(group: Group) -> None:
    """Returns once every process has come.

    Raises:
      CracksError: the coordinator does not answer, or not all have come in time.
    """
    group.check()
    began, seconds = time.monotonic(), group.wait
    if group.coordinator != AUTO:
        others = f"process 0 of {group.count}" if group.index else f"{group.count} processes"
        _say(f"waiting for {others} to come to {group.coordinator}, {seconds:.0f} s at most")
    if group.coordinator != AUTO and group.index:
        _reach(group.coordinator, seconds)
    where = () if group.coordinator == AUTO else (group.coordinator, group.count, group.index)
    failed: list[BaseException] = []

    def initialise() -> None:
        try:
            jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself
            # Its own time limits end the process with a trace; ours, below, with a message.
            limits = {"initialization_timeout": int(10 * seconds), "heartbeat_timeout_seconds": LOST}
            jax.distributed.initialize(*where, **limits)  # type: ignore[misc, arg-type]
        except BaseException as error:
            failed.append(error)

    # In a thread, so that a signal can end the waiting.
    waiting = threading.Thread(target=initialise, daemon=True)
    waiting.start()
    while waiting.is_alive() and time.monotonic() - began < seconds:
        waiting.join(0.2)
    if failed and group.coordinator == AUTO and "should be defined" in str(failed[0]):
        raise CracksError(
            "--coordinator auto: no job of Slurm, Kubernetes, Cloud TPU or MPI is found here; start the processes by "
            "one of these, or give --coordinator HOST:PORT --processes N --process I"
        ) from failed[0]
    if failed:
        raise CracksError(
            f"--coordinator {group.coordinator}: the processes cannot join ({_first_line(failed[0])}); give "
            "--coordinator HOST:PORT --processes N --process I, the same in all but I"
        ) from failed[0]
    if waiting.is_alive():
        _say(
            f"cracks-jax: not all of the {group.count} processes have come to {group.coordinator} within "
            f"{seconds:.0f} s; start each once, with the same --coordinator and --processes"
        )
        os._exit(1)  # the thread is inside jax, which would end the process with a trace


def _reach(coordinator: str, seconds: float) -> None:
    host, _, port = coordinator.rpartition(":")
    began, reason = time.monotonic(), "no answer"
    while time.monotonic() - began < seconds:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except socket.gaierror as error:
            raise CracksError(f"--coordinator {coordinator}: there is no such host ({error.strerror})") from error
        except OSError as error:
            reason = error.strerror or str(error) or reason
            time.sleep(0.5)
    raise CracksError(
        f"--coordinator {coordinator}: does not answer ({reason}, for {seconds:.0f} s); start process 0 on that host, "
        "let its port through the firewall, and give all processes the same address"
    )


def several() -> bool:
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process writes what one process writes."""
    return jax.process_index() == 0


def agree(what: str, value: str) -> None:
    """CracksError in every process unless all have the same value; it names who differs from process 0."""
    if not several():
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(digest))
    others = [number for number, one in enumerate(found) if not np.array_equal(one, found[0])]
    if others:
        mine = "" if jax.process_index() not in (0, *others) else f" (here: {value})"
        raise CracksError(
            f"processes disagree on {what}: {', '.join(map(str, others))} differ from 0{mine}; start all of them with "
            "the same command, package version and data"
        )


def from_first(values: Sequence[float]) -> list[float]:
    """Process 0's numbers, to the last bit, in every process."""
    if not several():
        return list(values)
    words = np.asarray(values, np.float64).view(np.uint32)  # jax would round float64
    return np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.float64).tolist()


def from_all(value: float | bool) -> list[float]:
    """Every process's number, in every process."""
    if not several():
        return [float(value)]
    return [float(one) for one in np.asarray(multihost_utils.process_allgather(np.float32(value)))]


def together(name: str) -> None:
    """Waits for every process."""
    if several():
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def in_turn(name: str) -> Iterator[None]:
    """Process 0 inside first, then the others: what it makes on a shared disk they find."""
    if not first():
        together(name)
    yield
    if first():
        together(name)


def leave() -> None:
    """Ends the group once every process has come here."""
    if several():
        jax.distributed.shutdown()


@contextlib.contextmanager
def while_all_live() -> Iterator[None]:
    """An error of a collective inside means a lost process: then this one waits to be told which, and ends."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not several() or isinstance(error, CracksError):
            raise
        _say(f"a step over all processes failed ({_first_line(error)})")
        time.sleep(LOST + NAMED)  # jax ends the process within LOST seconds, and names the lost one
        _say("cracks-jax: another process of this training was lost")
        os._exit(1)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""The short form of the stops, what only a bare process shows of signals, and proof that faults are seen."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability import stops

SHORT = ("initialising", "compiling", "stepping, everyone", "saving, twice", "validating")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stops")


@pytest.mark.timeout(1200)
def test_a_training_told_to_stop_at_any_moment_leaves_and_goes_on_to_the_same_bits(folder):
    moments = {name: stops.MOMENTS[name] for name in SHORT}
    found = stops.measure(folder, 1, {"restoration": moments}, quick=True)
    assert found["wrong"] == [] and list(found["by_moment"]) == list(SHORT)
    assert all(one["codes"] == [75] for one in found["by_moment"].values())
    (kept,) = found["by_moment"]["validating"]["kept"]
    assert kept > 0 and kept % 10 == 0


@pytest.mark.timeout(600)
def test_the_harness_sees_a_training_that_does_not_listen(folder):
    deaf = stops.FILE + "\nimport signal\n\nfrom cracks_jax.runtime import stopping\n\nstopping._SIGNALS = ()\n"
    deaf += "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"  # the command's own way out, before training listens
    name, bench = "initialising", stops.Bench(folder, True, deaf)
    told = bench.tell("restoration", folder / "deaf", name, stops.MOMENTS[name], signal.SIGTERM, random.Random(0))
    assert told.code == -signal.SIGTERM
    assert any("exit code -15" in fault for fault in told.faults) and any("no line" in fault for fault in told.faults)


# ------------------------------------------------------------------------------------------ bare processes

HEAD = """
import os, signal, sys, time
from cracks_jax.runtime.stopping import stop_on_signal

def say(what):
    os.write(1, what + b"\\n")

"""


def bare(body: str, **kwargs) -> subprocess.Popen:
    """A process that imports nothing but the handling of signals; it has begun once this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body],
        cwd=stops.REPOSITORY,
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, **kwargs},
    )
    assert process.stdout.readline() == b"begun\n"
    return process


def test_who_leaves_at_once_begins_nothing_any_more():
    """What was under way ends while the process is leaving: nothing may follow it, and one line says what it was."""
    process = bare("""
with stop_on_signal() as stop:
    stop.before_leaving = lambda: time.sleep(0.5)
    with stop.at_once("a validation"):
        say(b"begun")
        while not stop.asked:
            time.sleep(0.01)
    say(b"went on")
""")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, b"")
    assert err == b"stopped during a validation; run the same command again to go on from what is saved\n"


def test_an_error_while_leaving_changes_nothing():
    process = bare("""
with stop_on_signal() as stop:
    stop.before_leaving = lambda: 1 / 0
    with stop.at_once("a compilation"):
        say(b"begun")
        while not stop.asked:
            time.sleep(0.01)
        raise RuntimeError
""")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, b"") and b"Traceback" not in err and b"stopped during" in err


@pytest.mark.parametrize("long", ["nullcontext()", "stop.at_once('a validation')"])
def test_a_second_signal_leaves_at_once_whatever_is_under_way(long):
    """An endless step, and a leaving that never ends."""
    process = bare(f"""
from contextlib import nullcontext
with stop_on_signal() as stop:
    stop.before_leaving = lambda: time.sleep(600)
    with {long}:
        say(b"begun")
        while not stop.asked:
            time.sleep(0.01)
        say(b"asked")
        time.sleep(600)
""")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == b"asked\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and b"stopped at once; run the same command again to go on" in err
    assert time.monotonic() - began < 10


def test_a_second_signal_leaves_although_nobody_reads_standard_error():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:  # full
        os.set_blocking(writing, True)
    process = bare("""
with stop_on_signal() as stop:
    say(b"begun")
    print("this waits", file=sys.stderr, flush=True)
""", stderr=writing)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75
    os.close(reading)
    os.close(writing)


def test_signals_are_heard_although_standard_error_is_gone():
    reading, writing = os.pipe()
    process = bare("""
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
with stop_on_signal() as stop:
    say(b"begun")
    time.sleep(600)
""", stderr=writing)
    os.close(reading)
    os.close(writing)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75

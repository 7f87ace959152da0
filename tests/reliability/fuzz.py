"""Mutated input, thousands of times: each time a sound value comes out, or one message. Anything else is a finding.

  python -m tests.reliability.fuzz --count 10000 --seed 1
  python -m tests.reliability.fuzz --seed 1 --only 4711          # a finding again, with its traceback

Every input is a function of (seed, number) alone, but for the names and dates that orbax writes into checkpoints. The
doors are in `target_*.py`.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError

SLOW = 60.0  # seconds that no input may take, on a busy machine either


@dataclass(frozen=True)
class Target:
    """One door for input.

    Attributes:
      share: of a hundred inputs.
      prepare: makes what it needs in a folder of its own, and returns what takes a source of randomness and hands one
        input over: it returns normally or by a CracksError, and what comes out is checked there.
    """

    name: str
    share: int
    prepare: Callable[[Path], Callable[[random.Random], None]]


class NotSound(Exception):
    """A value came out that cannot be one."""


@dataclass
class Counts:
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass
class Found:
    """What came of it; `wrong` and `stray` (what C libraries print) name the number that repeats each."""

    counts: dict[str, Counts]
    wrong: list[dict[str, Any]] = field(default_factory=list)
    stray: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The figures in words."""
        accepted = sum(one.accepted for one in self.counts.values())
        refused = sum(one.refused for one in self.counts.values())
        return (
            f"{accepted + refused + len(self.wrong):,} inputs through {len(self.counts)} doors: {accepted:,} read, "
            f"{refused:,} refused, {len(self.wrong)} otherwise"
        )


def fuzz(
    count: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    targets: Sequence[Target] | None = None,
    numbers: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Feeds `count` mutated inputs to the targets and tells what came of them.

    Args:
      folder: an empty folder to work in. `current` in it is the number of the input at hand, should the process die.
      targets: None for all there are.
      numbers: these inputs alone, for repeating a finding.

    Returns:
      `seed`, `count`, `seconds`, `peak_mb` (memory beyond what the start had taken), `targets` (for each `accepted`,
      `refused`, `seconds`), `wrong` (the findings: `number`, `target`, `fault`), `stray` (how many `inputs` made a
      library print, and some `samples`), `shown` (the figures in words).
    """
    if targets is None:
        from tests.reliability.target_commands import TARGETS

        targets = TARGETS
    give, folder = {}, folder.resolve()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))  # never the user's own
    for target in targets:
        place = folder / target.name
        place.mkdir(parents=True)
        with _in(place):
            give[target.name] = target.prepare(place)
    order = [target.name for target in targets for _ in range(target.share)]
    random.Random(0).shuffle(order)
    found = Found({target.name: Counts() for target in targets})
    start, peak = time.monotonic(), _peak_mb()
    with _caught_stderr(folder) as printed, open(folder / "current", "wb", buffering=0) as current:
        for done, number in enumerate(range(count) if numbers is None else numbers, 1):
            name = order[number % len(order)]
            os.pwrite(current.fileno(), f"{number:<12}\n".encode(), 0)
            with _in(folder / name):
                _one(found, name, number, give[name], random.Random(f"{seed}:{number}"))
            if text := printed():
                found.stray.append({"number": number, "target": name, "printed": text})
            if done % 1000 == 0:
                say(f"{done} inputs, {time.monotonic() - start:.0f} s, {len(found.wrong)} findings")
    return {
        "count": count if numbers is None else len(numbers),
        "seed": seed,
        "seconds": round(time.monotonic() - start, 1),
        "peak_mb": round(_peak_mb() - peak, 1),
        "targets": {name: vars(one) | {"seconds": round(one.seconds, 2)} for name, one in found.counts.items()},
        "wrong": found.wrong,
        "stray": {"inputs": len(found.stray), "samples": found.stray[:20]},
        "shown": found.shown,
    }


def _one(found: Found, name: str, number: int, give: Callable[[random.Random], None], draw: random.Random) -> None:
    counts, start, fault = found.counts[name], time.monotonic(), None
    try:
        give(draw)
        kind = "accepted"
    except CracksError as error:
        kind = "refused"
        fault = None if len(str(error)) > 10 else f"a message of no help: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what is looked for: libraries may raise anything, panics too
        fault = "".join(traceback.format_exception(error)[-3:])
    took = time.monotonic() - start
    counts.seconds += took
    if fault is None and took > SLOW:
        fault = f"took {took:.0f} s"
    if fault is None:
        setattr(counts, kind, getattr(counts, kind) + 1)
    else:
        found.wrong.append({"number": number, "target": name, "fault": fault})


@contextlib.contextmanager
def _in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _caught_stderr(folder: Path) -> Iterator[Callable[[], str]]:
    """What is written to the file that is standard error, by C libraries too, since the last time it was asked for."""
    before = os.dup(2)
    with open(folder / "stderr", "w+b", buffering=0) as file:
        os.dup2(file.fileno(), 2)

        def printed() -> str:
            size = os.fstat(2).st_size
            if not size:
                return ""
            file.seek(0)
            text = file.read(2000).decode(errors="replace")
            file.seek(0)
            file.truncate()
            return text

        try:
            yield printed
        finally:
            os.dup2(before, 2)
            os.close(before)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--count", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--only", type=int, nargs="+", help="numbers of inputs")
    options = words.parse_args()
    faulthandler.enable(open(os.dup(2), "w"))
    out = io.TextIOWrapper(open(os.dup(2), "wb", buffering=0), write_through=True)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="cracks-jax-fuzz-", dir=memory) as folder:
        found = fuzz(
            options.count, options.seed, Path(folder) / "work", lambda text: print(text, file=out), numbers=options.only
        )
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

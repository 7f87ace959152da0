"""Every file of a run's newest checkpoint damaged in every way: what comes back is right, or is refused.

A case is (what is damaged, how). For each the newest checkpoint of a fresh copy is damaged and read twice: beside an
older intact one, which must then be restored bit for bit while a warning names the damaged file, and alone, which must
end in a refusal that names it too.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError
from cracks_jax.runtime.checkpoints import Checkpoints, state_sha256

FLIPS = 8  # places in each file where a bit is turned, the first and the last byte among them


def measure(states: dict[int, Any], folder: Path, run_id: str = "0badcafe", flips: int = FLIPS) -> dict[str, Any]:
    """Saves two states by step and damages the newer one; returns how many cases there were and what went wrong."""
    older, newer = sorted(states)
    source = folder / "source"
    saved = Checkpoints(source, run_id)
    for step in (older, newer):
        saved.save(step, states[step], best=older)
    saved.close()
    expected = {step: state_sha256(state) for step, state in states.items()}
    counts: dict[str, int] = {}
    wrong = []
    for kind, name, spoil in [*_cases(source / str(newer), flips), *_odd_cases()]:
        counts[kind] = counts.get(kind, 0) + 1
        for alone in (False, True):
            copy = folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy)
            if alone:
                shutil.rmtree(copy / str(older))
            spoil(copy, newer)
            fault = _read(copy, run_id, states, expected, older, name, alone)
            if fault is not None:
                wrong.append({"kind": kind, "file": name, "alone": alone, "fault": fault})
    return {"cases": sum(counts.values()), "by_kind": counts, "wrong": wrong}


def _read(
    copy: Path, run_id: str, states: dict[int, Any], expected: dict[int, str], older: int, name: str, alone: bool
) -> str | None:
    """What is wrong with reading the damaged copy; None where it is as it should be."""
    warnings: list[str] = []
    try:
        found = Checkpoints(copy, run_id, read_only=True).newest(states[older], warnings.append)
    except CracksError as error:
        if not alone:
            return f"refused although step {older} is intact: {error}"
        return None if name in str(error) and "no intact checkpoint is left" in str(error) else f"not named: {error}"
    except Exception as error:  # the fault that is looked for
        return f"{type(error).__name__}: {error}"
    if alone or found is None:
        return f"accepted: {found and found[0]}"
    step, state = found
    if step != older:
        return f"step {step} was restored"
    if state_sha256(state) != expected[older]:
        return "another state was restored"
    return None if any(name in text for text in warnings) else f"the warnings name no {name}: {warnings}"


# ------------------------------------------------------------------------------------------------- cases

Spoil = Callable[[Path, int], None]


def _cases(checkpoint: Path, flips: int) -> Iterator[tuple[str, str, Spoil]]:
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        name = str(path.relative_to(checkpoint))
        size = path.stat().st_size
        yield "deleted", name, _on(name, lambda path: path.unlink())
        yield "emptied", name, _on(name, lambda path: path.write_bytes(b""))
        yield "halved", name, _on(name, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))
        for place in sorted({round(i * (size - 1) / (flips - 1)) for i in range(flips)}):
            yield "bit flipped", name, _on(name, _flipped(place))


def _on(name: str, change: Callable[[Path], Any]) -> Spoil:
    return lambda folder, step: change(folder / str(step) / name)


def _flipped(place: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)

    return change


def _odd_cases() -> list[tuple[str, str, Spoil]]:
    """Folders that are no checkpoints of this run. Each stands where the newest one was."""

    def empty(folder: Path, step: int) -> None:
        shutil.rmtree(folder / str(step))
        (folder / str(step)).mkdir()

    def alien(folder: Path, step: int) -> None:
        empty(folder, step)
        (folder / str(step) / "thesis.tex").write_text("...")

    def renamed(folder: Path, step: int) -> None:
        (folder / str(step)).rename(folder / str(step + 5))

    def described(**changes: Any) -> Spoil:
        """As another run or version would have written it: digests.json is whole, and says so."""

        def change(folder: Path, step: int) -> None:
            from cracks_jax.runtime.checkpoints import _sha256_of

            path = folder / str(step) / "digests.json"
            entries = {**json.loads(path.read_text()), **changes}
            del entries["sha256"]
            path.write_text(json.dumps({"sha256": _sha256_of(entries), **entries}))

        return change

    return [
        ("empty folder", "digests.json", empty),
        ("alien folder", "digests.json", alien),
        ("renamed folder", "another experiment or step", renamed),
        ("another experiment", "another experiment", described(run_id="deadbeef")),
        ("another version", "format 2", described(format=2, version="9.0.0")),
        ("another network", "does not fit this experiment", described(arrays={"a/b": ["float32", [2], "0" * 64]})),
    ]

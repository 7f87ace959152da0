"""Folders of made data: finished with a manifest, or not there at all.

A folder is filled aside and renamed when its manifest, written last, is in it. So a folder with a manifest is
a finished one, a stopped run leaves none, and asking again for the same thing costs nothing.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cracks_jax.data.images import write_bytes
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.untrusted import parse_json

MANIFEST = "manifest.json"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a made folder (CracksError where there is none)."""
    path = Path(folder) / MANIFEST
    try:
        found = parse_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not an object")
        return found
    except FileNotFoundError:
        raise CracksError(f"{path}: not found; expected a folder made by `cracks-jax data prepare`") from None
    except (OSError, ValueError) as error:
        raise CracksError(f"{path}: unreadable ({error}); delete the folder and make it again") from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest; everything it speaks of must be there already."""
    write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def finished(out: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest in `out` if all that `head` names agrees; None where `out` is absent or empty.

    Raises UsageError where `out` holds something else: nothing is ever overwritten.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise UsageError(f"{out}: exists and was not made by this command; name another folder")
    found = read_manifest(out)
    for part, expected in head.items():
        if found.get(part) != expected:
            raise UsageError(
                f"{out}: holds something else ({part} {json.dumps(found.get(part))},"
                f" not {json.dumps(expected)}); name another folder, or delete it"
            )
    return found


@contextmanager
def filled_aside(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that becomes `out` when the block ends well and vanishes when it does not."""
    aside = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        aside.replace(out)
    except OSError as error:
        raise CracksError(
            f"{out}: could not be written ({error.strerror}), nothing was left there; free some space or name"
            " another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)

"""A report's files on disk: all of them or none; what an earlier report left is taken away, and nothing else.

`figures/SHA256SUMS` lists the files of a report in `figures/` as `sha256sum` does. A file that an earlier list names
is removed when the new report has none of that name, unless it was changed since.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cracks_jax.errors import CracksError

FIGURES = "figures"
_SUMS = f"{FIGURES}/SHA256SUMS"
# What `page.markdown` writes there; a list that names anything else was not written here.
_OURS = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_-]+(?:\.svg|/\d+-\d+\.(?:png|jpg)))")


def write(out: Path, contents: Mapping[str, bytes]) -> None:
    """Every file whole, and none where one cannot be written.

    Args:
      contents: by path relative to `out`.

    Raises:
      CracksError: a file cannot be written.
    """
    figures = {name: data for name, data in contents.items() if name.startswith(f"{FIGURES}/")}
    before = _listed(out)
    if figures or before:
        sums = (f"{_sum(data)}  {name.removeprefix(f'{FIGURES}/')}\n" for name, data in sorted(figures.items()))
        contents = {**contents, _SUMS: "".join(sums).encode()}
    _write_all({out / name: data for name, data in contents.items()})
    for name, digest in before.items():
        if name not in contents:
            _remove(out / name, digest)


def _listed(out: Path) -> dict[str, str]:
    """Path below `out` -> SHA-256 of each file that the last report here wrote into its figures."""
    try:
        text = (out / _SUMS).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    lines = (_OURS.fullmatch(line) for line in text.splitlines())
    return {f"{FIGURES}/{line[2]}": line[1] for line in lines if line}


def _remove(path: Path, digest: str) -> None:
    """A file that is still as it was written, and its folder where that is empty then."""
    try:
        if path.is_symlink() or _sum(path.read_bytes()) != digest:
            return
        path.unlink()
        if path.parent.name != FIGURES:
            path.parent.rmdir()
    except OSError:
        pass  # gone already, or something else lies beside it


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """All stand beside their places before one is replaced."""
    beside = {path: path.with_name(path.name + ".tmp") for path in contents}
    path = next(iter(contents))
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "a folder has its name")
            beside[path].write_bytes(data)
        for path, partial in beside.items():
            os.replace(partial, path)
    except OSError as error:
        for partial in beside.values():
            _forget(partial)
        what = error.strerror or error
        raise CracksError(f"{path}: cannot be written ({what}); free space or name another folder by --out") from error


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # what could not be written is not there; its error is on its way

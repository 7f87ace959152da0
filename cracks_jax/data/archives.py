"""Unpacking archives from elsewhere: no path may leave the folder, no links, a bound on what comes out."""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from cracks_jax.errors import CracksError

MAX_UNPACKED_BYTES = 16 << 30
_MAX_FILES = 200_000
_FREE_MARGIN = 64 << 20
_CHUNK = 1 << 18
# RuntimeError: an encrypted zip; NotImplementedError: a compression that Python does not know.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, zlib.error)


def unpack(archives: list[Path], folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Unpacks zip or tar archives into a new folder, whole or not at all; one common top folder is left out.

    Raises CracksError for an archive that is damaged, holds links or paths that lead elsewhere, or unpacks to
    more than `max_bytes`; nothing of it stays then.
    """
    workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        budget = min(max_bytes, shutil.disk_usage(folder.parent).free - _FREE_MARGIN)
        for archive in archives:
            budget -= _extract(archive, workplace, budget)
        entries = [entry for entry in workplace.iterdir() if entry.name[0] != "."]
        whole = entries[0] if len(entries) == 1 and entries[0].is_dir() else workplace
        if not entries:
            raise CracksError(f"{archives[0]}: the archive is empty; remove it and download again")
        whole.chmod(0o755)
        os.replace(whole, folder)
    except OSError as error:
        reason = error.strerror or error
        raise CracksError(f"{folder}: cannot be unpacked ({reason}); free some space") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    is_plain: bool
    open: Callable[[], IO[bytes] | None]


def _extract(archive: Path, folder: Path, budget: int) -> int:
    """Bytes written. Every member is judged before the first is written."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return _write(archive, list(_zip_members(opened)), folder, budget)
        with tarfile.open(archive) as opened:
            return _write(archive, list(_tar_members(opened)), folder, budget)
    except _DAMAGED as error:
        raise CracksError(
            f"{archive}: not a whole zip or tar archive ({error}); remove it and run again"
        ) from error


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        yield _Member(info.filename, info.file_size, info.is_dir(), plain, partial(opened.open, info))


def _tar_members(opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        plain = info.isfile() or info.isdir()
        yield _Member(info.name, info.size, info.isdir(), plain, partial(opened.extractfile, info))


def _write(archive: Path, members: list[_Member], folder: Path, budget: int) -> int:
    targets = [(member, folder / _safe(archive, member)) for member in members]
    total = sum(member.size for member in members)
    if total > budget or len(members) > _MAX_FILES:
        raise CracksError(
            f"{archive}: unpacks to {total} bytes in {len(members)} files; at most {budget} bytes (by the "
            f"free space and a bound against crafted archives) and {_MAX_FILES} files are written"
        )
    written = 0
    for member, target in targets:
        if target.relative_to(folder).parts[0] == "__MACOSX":
            continue
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        assert source is not None  # links and devices were refused
        with source, open(target, "wb") as output:
            # What the archive says of its sizes is not trusted either.
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > budget:
                    raise CracksError(f"{archive}: unpacks to more than the {budget} bytes it may")
                output.write(chunk)
    return written


def _safe(archive: Path, member: _Member) -> PurePosixPath:
    path = PurePosixPath(member.name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name
    if leaves or not path.parts:
        raise CracksError(f"{archive}: the path '{member.name}' in it leads out of the folder; not unpacked")
    if not member.is_plain:
        raise CracksError(f"{archive}: '{member.name}' is a link or device, not a file; not unpacked")
    return path

"""Unpacking archives from elsewhere: no path may leave the folder, no links, a bound on what comes out.

Every member is judged by its name and by the size it claims before the first is written; what is written is counted
too, because claims are not trusted.
"""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from cracks_jax.data.images import is_safe_name
from cracks_jax.errors import CracksError, WriteError

MAX_UNPACKED_BYTES = 16 << 30
_MAX_FILES = 200_000
# What a file system takes for a part of a path; and for a path, less room for the folder's own.
_MAX_NAME, _MAX_PATH = 255, 1024
# A zip's directory is read whole, into about ten times its size; an entry takes at least 46 bytes of it.
_MAX_DIRECTORY = _MAX_FILES * (46 + _MAX_NAME)
# A long name or an extended attribute of a tar is read whole.
_MAX_TAR_HEADER = 1 << 20
_MAX_TAIL = 1 << 24
_FREE_MARGIN = 64 << 20
_CHUNK = 1 << 18


def unpack(archives: list[Path], folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Unpacks zip or tar archives into a new folder, whole or not at all; one common top folder is left out.

    Raises CracksError for an archive that is damaged, holds links, paths that lead elsewhere, names that are no text
    or there twice, or unpacks to more than `max_bytes`; nothing of it stays then.
    """
    with _writing(folder):
        workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        budget = min(max_bytes, shutil.disk_usage(folder.parent).free - _FREE_MARGIN)
    try:
        for archive in archives:
            budget -= _extract(archive, workplace, budget)
        with _writing(folder):
            entries = [entry for entry in workplace.iterdir() if entry.name[0] != "."]
            whole = entries[0] if len(entries) == 1 and entries[0].is_dir() else workplace
            if not entries:
                raise CracksError(f"{archives[0]}: the archive is empty; remove it and download again")
            whole.chmod(0o755)
            os.replace(whole, folder)
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
            _check_directory(archive)
            with zipfile.ZipFile(archive) as opened:
                return _write(archive, _judged(archive, _zip_members(opened), budget), folder, budget)
        with tarfile.open(archive, tarinfo=_TarHeader) as opened:
            written = _write(archive, _judged(archive, _tar_members(opened), budget), folder, budget)
            _check_end(opened)
            return written
    except CracksError:
        raise
    except Exception as error:  # both libraries raise whatever the damaged bytes lead them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CracksError(f"{archive}: not a whole zip or tar archive ({reason}); remove it and run again") from error


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        yield _Member(info.filename, info.file_size, info.is_dir(), plain, partial(opened.open, info))


def _tar_members(opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        plain = info.isfile() or info.isdir()
        yield _Member(info.name, info.size, info.isdir(), plain, partial(opened.extractfile, info))


def _judged(archive: Path, members: Iterator[_Member], budget: int) -> list[tuple[_Member, PurePosixPath]]:
    """Every member and its path below the folder, once all of them are known to do no harm."""
    found: list[tuple[_Member, PurePosixPath]] = []
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    total = 0
    for member in members:
        path = _safe(archive, member)
        total += max(0, member.size)
        if total > budget or len(found) == _MAX_FILES:
            raise CracksError(
                f"{archive}: unpacks to {total} bytes in {len(found) + 1} files or more; at most {budget} bytes (by "
                f"the free space and a bound against crafted archives) and {_MAX_FILES} files are written"
            )
        if path in files or (path in folders and not member.is_folder) or not files.isdisjoint(path.parents):
            raise CracksError(f"{archive}: '{member.name}' is there twice, or as a file and a folder; not unpacked")
        folders.update(path.parents)
        (folders if member.is_folder else files).add(path)
        found.append((member, path))
    return found


def _safe(archive: Path, member: _Member) -> PurePosixPath:
    path = PurePosixPath(member.name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name
    if leaves or not path.parts:
        raise CracksError(f"{archive}: the path '{member.name}' in it leads out of the folder; not unpacked")
    if not is_safe_name(member.name):
        raise CracksError(f"{archive}: the name '{member.name}' in it holds control characters; not unpacked")
    if len(str(path)) > _MAX_PATH or any(len(part.encode()) > _MAX_NAME for part in path.parts):
        raise CracksError(
            f"{archive}: the path '{member.name[:_MAX_NAME]}...' in it is longer than file systems take; not unpacked"
        )
    if not member.is_plain:
        raise CracksError(f"{archive}: '{member.name}' is a link or device, not a file; not unpacked")
    return path


def _write(archive: Path, members: list[tuple[_Member, PurePosixPath]], folder: Path, budget: int) -> int:
    written = 0
    for member, path in members:
        target = folder / path
        if path.parts[0] == "__MACOSX":
            continue
        with _writing(folder):
            (target if member.is_folder else target.parent).mkdir(parents=True, exist_ok=True)
            if member.is_folder:
                continue
            with open(target, "wb") as output:
                for chunk in _chunks(member):
                    # What the archive says of its sizes is not trusted either.
                    written += len(chunk)
                    if written > budget:
                        raise CracksError(f"{archive}: unpacks to more than the {budget} bytes it may")
                    output.write(chunk)
    return written


def _chunks(member: _Member) -> Iterator[bytes]:
    """A member's content. What is wrong with the archive is no OSError, so that an OSError is the disk's."""
    try:
        source = member.open()
        assert source is not None  # links and devices were refused
        with source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except Exception as error:
        raise tarfile.ReadError(str(error) or type(error).__name__) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{folder}: cannot be unpacked ({error.strerror or error}); free some space") from error


def _check_directory(archive: Path) -> None:
    """Refuses a zip whose directory alone would fill the memory, by the size that its end record gives."""
    with open(archive, "rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 100))
        end = file.read()
    start = end.rfind(b"PK\5\6")
    size = int.from_bytes(end[start + 12 : start + 16], "little")
    large = end.rfind(b"PK\6\6", 0, start)
    if large >= 0:  # zip64
        size = int.from_bytes(end[large + 40 : large + 48], "little")
    if size > _MAX_DIRECTORY:
        raise CracksError(
            f"{archive}: lists its files in {size} bytes; at most {_MAX_DIRECTORY} are read, for {_MAX_FILES} files"
        )


class _TarHeader(tarfile.TarInfo):
    """Refuses sizes below 0, and long names and extended attributes that would fill the memory: they are read whole."""

    @classmethod
    def frombuf(cls, *arguments: object) -> "_TarHeader":
        header = super().frombuf(*arguments)  # type: ignore[arg-type]
        file = header.type in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)
        if header.size < 0 or (header.size > _MAX_TAR_HEADER and not file):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def _check_end(opened: tarfile.TarFile) -> None:
    """Refuses a tar that is cut or damaged between two files; reads to the end, where a compressed one has its sum."""
    stream = opened.fileobj
    assert stream is not None
    stream.seek(opened.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends, or is damaged, between two files")
    for _ in range(_MAX_TAIL // _CHUNK):
        if not stream.read(_CHUNK):
            return
    raise tarfile.ReadError("it goes on behind its end")

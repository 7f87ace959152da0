"""Public crack data sets, fetched from where their authors publish them: licence first, resumable.

Nothing is downloaded before its licence is accepted. A download that breaks off keeps its bytes in a `.part`
file and goes on from there; where a size or SHA-256 is on record, it is checked before anything is unpacked.
Standard library only.
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cracks_jax import __version__
from cracks_jax.data.archives import unpack
from cracks_jax.errors import CracksError, UsageError

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 18
_ATTEMPTS = 3
_TIMEOUT_S = 30


@dataclass(frozen=True)
class RemoteFile:
    """One archive; `size` (bytes) and `sha256` are None where they may change or are not known."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A public data set; `by_hand` says how to get it where its authors offer no direct address."""

    title: str
    home: str
    licence: str
    citation: str
    files: tuple[RemoteFile, ...] = ()
    by_hand: str = ""

    def notice(self) -> str:
        """What to read before downloading."""
        return f"{self.title}\n  home:    {self.home}\n  licence: {self.licence}\n  cite:    {self.citation}"


_GITHUB = "https://github.com"
_CFD_COMMIT = "ed57c2d96754e6c7d105805cd29aeeb3a799f267"

REGISTRY: Mapping[str, Source] = {
    "cfd": Source(
        title="CFD, the CrackForest Dataset: 118 labelled road images, 480x320",
        home=f"{_GITHUB}/cuilimeng/CrackForest-dataset",
        licence="The dataset is made available for non-commercial research purposes only.",
        citation="Shi, Cui, Qi, Meng, Chen: Automatic Road Crack Detection Using Random Structured Forests, "
        "IEEE T-ITS 17(12), 2016",
        # Archives that the host packs anew at each request have no lasting digest; the commit pins them.
        files=(
            RemoteFile(
                f"https://codeload.github.com/cuilimeng/CrackForest-dataset/zip/{_CFD_COMMIT}",
                "CrackForest-dataset.zip",
            ),
        ),
    ),
    "deepcrack": Source(
        title="DeepCrack: 300 training and 237 test images, 544x384",
        home=f"{_GITHUB}/yhlleo/DeepCrack",
        licence="The authors own the copyrights to part of the original crack images and all annotated maps. "
        "Their use is RESTRICTED to non-commercial research and educational purposes.",
        citation="Liu, Yao, Lu, Xie, Li: DeepCrack: A Deep Hierarchical Feature Learning Architecture for "
        "Crack Segmentation, Neurocomputing 338, 2019",
        files=(
            RemoteFile(f"{_GITHUB}/yhlleo/DeepCrack/raw/master/dataset/DeepCrack.zip", "DeepCrack.zip"),
        ),
    ),
    "crack500": Source(
        title="Crack500: 1,896 + 348 + 1,124 crops of 500 photographs",
        home=f"{_GITHUB}/fyangneil/pavement-crack-detection",
        licence="None stated; the authors ask to cite their papers.",
        citation="Zhang, Yang, Zhang, Zhu: Road Crack Detection Using Deep Convolutional Neural Network, "
        "ICIP 2016; Yang et al.: Feature Pyramid and Hierarchical Boosting Network, IEEE T-ITS 2019",
        by_hand="The authors publish it as a Google Drive folder, linked from the home page. Download "
        "CRACK500, unpack it so that traincrop/, valcrop/ and testcrop/ lie together, and name its folder",
    ),
    "aiglern": Source(
        title="AigleRN (with ESAR, LCMS, LRIS, TEMPEST2): 38 images of AIGLE_RN with ground truth",
        home="https://www.irit.fr/~Sylvie.Chambon/Crack_Detection_Database.html",
        licence="None stated; for research, the authors ask to cite their paper.",
        citation="Amhaz, Chambon, Idier, Baltazart: Automatic Crack Detection on Two-Dimensional Pavement "
        "Images, IEEE T-ITS 17(10), 2016",
        by_hand="The authors' page offers CrackDataset. Download and unpack it, and name the folder that "
        "holds IMAGES/ and GROUND_TRUTH/",
    ),
}


def find_source(name: str, registry: Mapping[str, Source] = REGISTRY) -> Source:
    """The registered data set of that name; UsageError lists the names."""
    if name not in registry:
        raise UsageError(f"data set '{name}' is not in the list; known: {', '.join(sorted(registry))}")
    return registry[name]


def download(
    name: str,
    out: str | Path,
    *,
    accept: Callable[[Source], bool],
    progress: Progress | None = None,
    registry: Mapping[str, Source] = REGISTRY,
) -> Path:
    """Fetches a data set into `out/name` and returns that folder; run again after a break, it resumes.

    Args:
      accept: is shown the source, licence and all, before anything is fetched; False ends it.
      progress: called with the bytes so far and the total (None where the server does not say).

    Raises UsageError: unknown name, no direct address, licence not accepted. CracksError: everything that
    goes wrong on the way, with the remedy.
    """
    source = find_source(name, registry)
    folder = Path(out) / name
    if not source.files:
        raise UsageError(f"data set '{name}' has no direct address. {source.by_hand} ({source.home})")
    if folder.exists():
        raise CracksError(f"{folder}: is there already; remove it to download again, or name another --out")
    if not accept(source):
        raise UsageError(f"the licence of '{name}' was not accepted; nothing was downloaded")
    _make_folder(Path(out))
    archives = [fetch(file, Path(out), progress) for file in source.files]
    unpack(archives, folder)
    for archive in archives:
        archive.unlink(missing_ok=True)
    return folder


def fetch(file: RemoteFile, folder: Path, progress: Progress | None = None) -> Path:
    """Downloads one file into a folder, going on from its `.part`; complete and checked when it returns.

    A server that breaks off is asked again, up to three times, for the rest only.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.exists():
        _check_content(target, file)
        return target
    for attempt in range(_ATTEMPTS):
        try:
            _fetch_rest(file, part, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt + 1 == _ATTEMPTS or not _worth_retrying(error):
                raise CracksError(_broken_off(file, part, error)) from error
            time.sleep(0.2 * 2**attempt)
    _check_content(part, file)
    os.replace(part, target)
    return target


def _fetch_rest(file: RemoteFile, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    if file.size is not None and done >= file.size:
        return
    headers = {"User-Agent": f"cracks-jax/{__version__}"} | ({"Range": f"bytes={done}-"} if done else {})
    if not file.url.startswith(("http://", "https://")):
        raise UsageError(f"{file.url}: expected an http or https address")
    request = urllib.request.Request(file.url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":
            return  # the part is the whole
        part.unlink()  # longer than the file: it belongs to another version
        raise ConnectionError("the file on the server has changed; starting anew") from error
    with answer:
        span = answer.headers.get("Content-Range", "")
        resumed = answer.status == 206 and span.startswith(f"bytes {done}-")
        done = done if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as output:
            while chunk := answer.read(_CHUNK):
                output.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _worth_retrying(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (429, 500, 502, 503, 504)
    if isinstance(error, urllib.error.URLError):
        return True
    return isinstance(error, (ConnectionError, TimeoutError, http.client.HTTPException))


def _broken_off(file: RemoteFile, part: Path, error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return (
            f"{file.url}: the server answered {error.code} {error.reason}; the file may have moved: see the "
            "data set's home page (`--list`), download it by hand, and unpack it"
        )
    if not _worth_retrying(error):
        return f"{part}: cannot be written ({error}); free some space or name another --out"
    kept = f"; {part.stat().st_size} bytes are kept in {part}" if part.exists() else ""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"{file.url}: the download broke off ({reason}){kept}; run the same command again to go on"


def _check_content(path: Path, file: RemoteFile) -> None:
    """A wrong file is removed, so that the next run starts anew."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        path.unlink()
        raise CracksError(f"{file.url}: got {size} bytes, expected {file.size}; removed, run again")
    if file.sha256 is None:
        return
    with open(path, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != file.sha256:
        path.unlink()
        raise CracksError(
            f"{file.url}: SHA-256 is {found}, expected {file.sha256}; the file was removed (the publisher "
            "may have changed it: see the home page)"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CracksError(f"{folder}: cannot be created ({error.strerror}); name another --out") from error

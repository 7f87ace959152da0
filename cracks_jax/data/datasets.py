"""Data sets: a name or a path, perhaps with a split, becomes a list of records to read in any order.

A name is looked up under the folder that the environment variable CRACKS_DATA names; anything else is a path.
`deepcrack:train` asks for a split, `deepcrack+crack500:train` for that split of both together. How folders are laid out
is the business of `layouts`. A validation split
is made here where a data set has none, such that nothing in it has a near copy in the training part.
"""

import hashlib
import itertools
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from cracks_jax.data import layouts
from cracks_jax.data.duplicates import near_duplicates, signatures
from cracks_jax.data.images import read_bytes
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.untrusted import parse_json

VARIABLE = "CRACKS_DATA"

# Names of windows that tell their photograph: Crack500's `20160222_081011_1_361` (and `..._y48_x176` cut from
# it) and `IMG_2934_1_969`; DeepCrack's `11289-10`, `IMG33-4`, `7Q3A9060-2`.
_WINDOW_NAMES = (
    re.compile(r"(\d{8}_\d{6}|IMG_\d+)_\d+_\d+(?:_|$)"),
    re.compile(r"((?:IMG_?|7Q3A)?\d+)-\d{1,2}$"),
)


@dataclass(frozen=True)
class Record:
    """One image, and its mask where there is one."""

    stem: str
    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """Records in the order of their stems.

    Attributes:
      name: the data set's name; of a path only its last part, so that records of runs hold no absolute path.
      split: the split's name, "" where the data set has none.
    """

    name: str
    split: str
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(record.stem for record in self.records)

    @property
    def has_masks(self) -> bool:
        """Whether every record has a mask."""
        return all(record.mask is not None for record in self.records)

    def subset(self, stems: Iterable[str], split: str | None = None) -> "Dataset":
        """The records of those stems, in this data set's order; UsageError for a stem that is not here."""
        wanted = set(stems)
        missing = sorted(wanted - set(self.stems))
        if missing:
            raise UsageError(f"{self.label}: no image is called {_first(missing)}")
        kept = tuple(record for record in self.records if record.stem in wanted)
        return replace(self, records=kept, split=self.split if split is None else split)

    @property
    def label(self) -> str:
        """`name:split`, as it would be asked for."""
        return f"{self.name}:{self.split}" if self.split else self.name

    def digest(self, *, tolerant: bool = False) -> str:
        """SHA-256 over stems, file names and contents, sorted; the same wherever the files lie.

        CracksError where a file cannot be read or is empty; `tolerant` takes all such for empty.
        """
        files = [
            (f"{record.stem}\0{role}\0{path.name}\0", path)
            for record in sorted(self.records, key=lambda r: r.stem)
            for role, path in (("image", record.image), ("mask", record.mask))
            if path is not None
        ]
        total = hashlib.sha256()
        with ThreadPoolExecutor(4) as pool:
            contents = pool.map(lambda file: _sha256(file[1], tolerant), files)
            for (name, _), content in zip(files, contents, strict=True):
                total.update(name.encode() + content)
        return total.hexdigest()


def parse_spec(spec: str) -> tuple[str, str | None]:
    """`NAME_OR_PATH[:SPLIT]` -> (name or path, split or None); a path with a colon wins if it exists."""
    if ":" not in spec or _exists(spec):
        return spec, None
    name, _, split = spec.rpartition(":")
    if not name or not split:
        raise UsageError(f"data set '{spec}': expected NAME_OR_PATH[:SPLIT], such as deepcrack:train")
    return name, split


def find_root(name_or_path: str) -> Path:
    """The folder of a data set; CracksError says where it was looked for."""
    named = _named(name_or_path)
    path = Path(name_or_path).expanduser()
    if named is not None and named.is_dir():
        return named
    if path.is_dir():
        return path
    if path.exists():
        raise CracksError(f"{name_or_path}: is a file; expected the folder of a data set")
    where = os.environ.get(VARIABLE)
    hint = f"nor {name_or_path} under {where} ({VARIABLE})" if where else f"and {VARIABLE} is not set"
    raise CracksError(
        f"data set '{name_or_path}': no such folder, {hint}; set {VARIABLE} to the folder that holds the "
        "data sets, or name a path (of a training: --set data.name=PATH)"
    )


def discover(name_or_path: str) -> tuple[Path, dict[str, layouts.Split]]:
    """A data set's folder and its splits by name ("" = the whole); CracksError where there are no images."""
    root = find_root(name_or_path)
    splits = layouts.find_splits(root)
    if not splits:
        raise CracksError(
            f"{root}: no images found; expected images/ and masks/, here or in a subfolder per split, or "
            "image files (JPEG, PNG, TIFF, BMP or WebP)"
        )
    return root, splits


def choose_split(splits: Mapping[str, layouts.Split], name: str, split: str | None) -> layouts.Split:
    """The split asked for, or the only one there is; UsageError lists the splits otherwise."""
    listed = ", ".join(s for s in splits if s) or "none"
    if split is None and layouts.WHOLE not in splits and len(splits) > 1:
        example = f"{name}:{next(iter(splits))}"
        raise UsageError(f"data set '{name}' has the splits {listed}; name one, such as {example}")
    if split is None:
        return splits.get(layouts.WHOLE) or next(iter(splits.values()))
    found = layouts.choose(splits, split)
    if found is None:
        if layouts.WHOLE in splits:
            raise UsageError(
                f"data set '{name}' has no split '{split}': it is one whole; name it without a split (--data {name}; "
                "to train, --set data.split=null)"
            )
        raise UsageError(f"data set '{name}' has no split '{split}'; its splits: {listed}")
    return found


def open_dataset(name_or_path: str | Path, split: str | None = None, *, need_masks: bool = False) -> Dataset:
    """The records of one split, matched by stem; `name_or_path` may carry the split behind a colon.

    `A+B` is the split of that name of A and of B, as one data set in the order of stems.

    Raises CracksError: no such folder, no images, a mask without image, two files of one stem, and with
    `need_masks` an image without mask. UsageError: a split that is not there, or none named where there are
    several.
    """
    if split is None:
        name, split = parse_spec(str(name_or_path))
    else:
        name = str(name_or_path)
    if "+" in name and not _exists(name):
        return _together([open_dataset(part, split, need_masks=need_masks) for part in name.split("+")])
    root, splits = discover(name)
    found = choose_split(splits, name, split)
    records = _records(found, root, name, need_masks)
    return Dataset(name=root.name or root.resolve().name, split=found.name, records=records)


def _together(parts: Sequence[Dataset]) -> Dataset:
    """Several data sets as one; CracksError where two of their images share a stem."""
    records = sorted((record for part in parts for record in part), key=lambda record: record.stem)
    for first, second in itertools.pairwise(records):
        if first.stem == second.stem:
            raise CracksError(
                f"{first.image} and {second.image}: share their stem, so the two data sets cannot be used as one; "
                "rename the images of one of them"
            )
    splits = list(dict.fromkeys(part.split for part in parts))
    return Dataset("+".join(part.name for part in parts), "+".join(splits), tuple(records))


def split_validation(
    dataset: Dataset,
    fraction: float = 0.1,
    progress: Callable[[int, int], None] | None = None,
    unreadable: Collection[Path] = (),
) -> tuple[Dataset, Dataset]:
    """(training, validation): the fraction of records that a hash of names picks, rounded up, at least one.

    Windows of one photograph and near-duplicates stay together, and groups are taken in the order of the
    SHA-256 of their name: so neither the order of the files nor, largely, the rest of the set matters. A
    group that would overshoot the fraction by half is passed over. Every image is read once
    (`progress(done, total)`), but those known to be `unreadable`: they are split as if they had been whole, only that
    nothing is their near-duplicate.
    CracksError where all images belong together, so that nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"validation fraction {fraction}: expected a number between 0 and 1")
    groups = _groups(dataset, progress, unreadable)
    target = math.ceil(fraction * len(dataset) - 1e-9)
    chosen: list[str] = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(chosen) >= target:
            break
        if len(chosen) + len(groups[name]) <= math.ceil(1.5 * target):
            chosen += groups[name]
    if not chosen and groups:
        chosen = sorted(groups.values(), key=len)[0]
    if len(chosen) == len(dataset):
        raise CracksError(
            f"{dataset.label}: all {len(dataset)} images belong to one photograph or are near-duplicates, "
            "so none can be held out for validation; add images, or a split called 'val'"
        )
    held_out = set(chosen)
    rest = [stem for stem in dataset.stems if stem not in held_out]
    prefix = f"{dataset.split}/" if dataset.split else ""
    return dataset.subset(rest, f"{prefix}training"), dataset.subset(chosen, f"{prefix}validation")


def photograph(stem: str) -> str:
    """The photograph that a window's name tells it was cut from; any other name stands for itself."""
    for pattern in _WINDOW_NAMES:
        found = pattern.match(stem)
        if found:
            return found[1]
    return stem


def _exists(spec: str) -> bool:
    named = _named(spec)
    return Path(spec).expanduser().exists() or (named is not None and named.exists())


def _named(name: str) -> Path | None:
    """Where a bare name would lie under CRACKS_DATA, read anew at every call."""
    where = os.environ.get(VARIABLE)
    path = Path(name)
    if not where or not name or path.is_absolute() or name.startswith((".", "~")) or ".." in path.parts:
        return None
    return Path(where).expanduser() / path


def _records(split: layouts.Split, root: Path, name: str, need_masks: bool) -> tuple[Record, ...]:
    where = f"{root} (split {split.name})" if split.name else str(root)
    see = f"`cracks-jax data check {name}` lists all"
    matching = layouts.match(split)
    if not split.images:
        raise CracksError(f"{where}: no images found in the folder of images")
    if need_masks and split.masks is None:
        raise CracksError(f"{where}: has no masks; expected masks/ beside images/ with a PNG per image")
    if matching.duplicates:
        raise CracksError(
            f"{where}: {len(matching.duplicates)} files share their stem with another: "
            f"{_first(matching.duplicates)}; images and masks are matched by stem ({see})"
        )
    if matching.without_image:
        raise CracksError(
            f"{where}: {len(matching.without_image)} masks have no image: {_first(matching.without_image)}; "
            f"a mask shares its image's stem ({see})"
        )
    if need_masks and matching.without_mask:
        raise CracksError(
            f"{where}: {len(matching.without_mask)} images have no mask: {_first(matching.without_mask)}; "
            f"a mask shares its image's stem ({see})"
        )
    return tuple(Record(image.stem, image, mask) for image, mask in matching.pairs)


def _first(items: Sequence[Path | str], count: int = 3) -> str:
    names = [item.name if isinstance(item, Path) else item for item in items[:count]]
    return ", ".join(names) + (", ..." if len(items) > count else "")


def _sha256(path: Path, tolerant: bool) -> bytes:
    try:
        content = read_bytes(path)
    except CracksError:
        if not tolerant:
            raise
        content = b""
    return hashlib.sha256(content).digest()


def _groups(
    dataset: Dataset, progress: Callable[[int, int], None] | None, unreadable: Collection[Path]
) -> dict[str, list[str]]:
    """Stems that must stay together, under the least of their photographs' names."""
    sources = _manifest_sources(dataset)
    names = [photograph(sources.get(record.stem, record.stem)) for record in dataset]
    parent = {name: name for name in names}

    def top(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    vectors = signatures([record.image for record in dataset], progress, unreadable)
    for i, j, _ in near_duplicates(vectors):
        a, b = sorted((top(names[i]), top(names[j])))
        parent[b] = a
    groups: dict[str, list[str]] = defaultdict(list)
    for record, name in zip(dataset, names, strict=True):
        groups[top(name)].append(record.stem)
    return groups


def _manifest_sources(dataset: Dataset) -> Mapping[str, str]:
    """Of prepared windows: stem -> the image it was cut from, by the manifest.json beside `images/`."""
    sources: dict[str, str] = {}
    for folder in sorted({record.image.parent.parent for record in dataset}):
        path = folder / "manifest.json"
        if not path.is_file():
            continue
        try:
            manifest = parse_json(read_bytes(path))
            if "recipe" in manifest:  # else it is some other program's
                sources.update((item["stem"], str(item["source"])) for item in manifest["items"])
        except (ValueError, KeyError, TypeError) as error:
            raise CracksError(
                f"{path}: not a manifest of prepared windows ({error}); prepare the data set again"
            ) from error
    return sources

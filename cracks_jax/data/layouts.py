"""Which files of a folder are images, which are masks, and which belong together: layouts of crack data sets.

A folder is read as the first of these that fits; nothing is opened, only names are looked at.

| layout | looks like |
|---|---|
| CFD as published | `image/001.jpg`, `groundTruth/001.mat` |
| DeepCrack as published | `train_img`, `train_lab`, `test_img`, `test_lab` |
| Crack500 as published | `traincrop`, `valcrop`, `testcrop`: `x.jpg` beside `x.png` or `x_mask.png` |
| | or lists: `train.txt`, ... with an image and its mask per line |
| AigleRN as published | `IMAGES/Im_GT_AIGLE_RN_C18bor.png`, `GROUND_TRUTH/GT_AIGLE_RN_C18b.png` |
| generic | `images/` (and `masks/`), in the folder or in one subfolder per split; or image files alone |
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cracks_jax.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, read_bytes
from cracks_jax.errors import CracksError

WHOLE = ""
_CFD_STEMS = {f"{i:03d}" for i in range(1, 119)}
_SPLITS = ("train", "val", "test")


def _same(stem: str) -> str:
    return stem


@dataclass(frozen=True)
class Split:
    """The files of one split as found, not yet known to fit together.

    Attributes:
      name: "" for a folder without splits, else "train", "native/test", ...
      masks: None where the layout has no place for masks.
      image_key, mask_key: what an image's and its mask's stem have in common.
      derived: made of other splits' files, so that a check of the whole need not read it again.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None = None
    image_key: Callable[[str], str] = _same
    mask_key: Callable[[str], str] = _same
    derived: bool = False


@dataclass(frozen=True)
class Matching:
    """A split's files paired by key; `duplicates` are files that share theirs with an earlier one."""

    pairs: tuple[tuple[Path, Path | None], ...]
    without_mask: tuple[Path, ...]
    without_image: tuple[Path, ...]
    duplicates: tuple[Path, ...]


def match(split: Split) -> Matching:
    """Pairs images with masks, in the order of the images' stems."""
    images, twice = _by_key(split.images, split.image_key)
    masks, mask_twice = _by_key(split.masks or (), split.mask_key)
    ordered = sorted(images.items(), key=lambda item: item[1].stem)
    pairs = tuple((path, masks.get(key)) for key, path in ordered)
    return Matching(
        pairs=pairs,
        without_mask=tuple(image for image, mask in pairs if mask is None),
        without_image=tuple(path for key, path in sorted(masks.items()) if key not in images),
        duplicates=(*twice, *mask_twice),
    )


def find_splits(root: Path) -> dict[str, Split]:
    """Every split of a folder by name; empty where nothing that looks like a data set is found."""
    for layout in (_cfd, _deepcrack, _crack500, _aigle_rn, _generic):
        splits = layout(root)
        if splits:
            found = {split.name: split for split in splits}
            return {**found, **_without_042(found)}
    return {}


def choose(splits: Mapping[str, Split], wanted: str) -> Split | None:
    """The split of that name; its name may be cut where the letters stop (`native` for `native640x360`)."""
    if wanted in splits:
        return splits[wanted]
    near = [s for name, s in splits.items() if name.lower() == wanted.lower()] or [
        s for name, s in splits.items() if "/" not in name and re.match(re.escape(wanted) + "[^a-zA-Z]", name)
    ]
    return near[0] if wanted and len(near) == 1 else None


def _by_key(paths: Iterable[Path], key: Callable[[str], str]) -> tuple[dict[str, Path], list[Path]]:
    first: dict[str, Path] = {}
    duplicates = [path for path in sorted(paths) if first.setdefault(key(path.stem), path) is not path]
    return first, duplicates


def _files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[Path, ...]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CracksError(f"{folder}: the folder cannot be listed ({error.strerror})") from error
    return tuple(p for p in entries if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file())


def _folders(folder: Path) -> list[Path]:
    try:
        return [p for p in sorted(folder.iterdir()) if p.name[0] != "." and p.is_dir()]
    except OSError as error:
        raise CracksError(f"{folder}: the folder cannot be listed ({error.strerror})") from error


def _pair(name: str, images: Path, masks: Path) -> Split:
    return Split(name, _files(images), _files(masks, MASK_SUFFIXES) if masks.is_dir() else None)


# --- published layouts ---


def _cfd(root: Path) -> list[Split]:
    """CrackForest: the repository also holds images that nobody labelled; they are `unlabelled`."""
    if not (root / "image").is_dir() or not (root / "groundTruth").is_dir():
        return []
    images, masks = _files(root / "image"), _files(root / "groundTruth", (".mat",))
    labelled = {path.stem for path in masks}
    rest = tuple(path for path in images if path.stem not in labelled)
    whole = Split(WHOLE, tuple(path for path in images if path.stem in labelled), masks)
    return [whole, Split("unlabelled", rest)] if rest else [whole]


def _deepcrack(root: Path) -> list[Split]:
    return [
        _pair(name, root / f"{name}_img", root / f"{name}_lab")
        for name in _SPLITS
        if (root / f"{name}_img").is_dir() and (root / f"{name}_lab").is_dir()
    ]


def _crack500(root: Path) -> list[Split]:
    """Crops are `train`, `val`, `test`; the photographs that they were cut from are `traindata`, ..."""
    found = []
    for name in _SPLITS:
        for folder, split in ((f"{name}crop", name), (f"{name}data", f"{name}data")):
            place = root / folder / folder if (root / folder / folder).is_dir() else root / folder
            if place.is_dir():
                found.append(_side_by_side(split, _files(place)))
    return found or [_listed(root, source) for source in _lists(root)]


def _side_by_side(name: str, files: tuple[Path, ...]) -> Split:
    """Masks among the images: told by `_mask`, or by being PNGs among JPEGs."""
    photographs = any(path.suffix.lower() in (".jpg", ".jpeg") for path in files)

    def is_mask(path: Path) -> bool:
        return path.stem.endswith("_mask") or (photographs and path.suffix.lower() == ".png")

    masks = tuple(path for path in files if is_mask(path))
    images = tuple(path for path in files if not is_mask(path))
    return Split(name, images, masks, mask_key=lambda stem: stem.removesuffix("_mask"))


def _lists(root: Path) -> list[Path]:
    """`train.txt`, ... where they list pairs; lists of single names mean something else."""
    paths = [root / f"{name}.txt" for name in _SPLITS]
    return [path for path in paths if path.is_file() and len((_rows(path) or [[]])[0]) == 2]


def _rows(source: Path) -> list[list[str]]:
    lines = read_bytes(source).decode("utf-8", "replace").splitlines()
    return [line.split() for line in lines if line.strip()]


def _listed(root: Path, source: Path) -> Split:
    """A text list, one image and its mask per line, relative to the list."""
    rows = _rows(source)
    for row in rows:
        if len(row) != 2 or not all((root / part).is_file() for part in row):
            raise CracksError(
                f"{source}: '{' '.join(row)}'; expected an image and its mask in each line, both under {root}"
            )
    images, masks = (tuple(root / row[i] for row in rows) for i in (0, 1))
    return Split(source.stem, images, masks, mask_key=lambda stem: stem.removesuffix("_mask"))


def _aigle_rn(root: Path) -> list[Split]:
    """Amhaz et al. 2016: `IMAGES` and `GROUND_TRUTH`, flat or with one subfolder (a split) per sensor."""
    if (root / "TITS").is_dir():
        root = root / "TITS"
    folders = [f for f in _folders(root) if f.name not in ("images", "masks")]
    truths = [f for f in folders if re.search(r"ground[ _-]?truth|(^|[ _-])gt$", f.name, re.IGNORECASE)]
    images = [f for f in folders if f not in truths and re.search("images?", f.name, re.IGNORECASE)]
    if len(truths) != 1 or len(images) != 1:
        return []
    sensors = [f.name for f in _folders(images[0]) if (truths[0] / f.name).is_dir()]
    places = [(name, images[0] / name, truths[0] / name) for name in sensors]
    places = places or [(WHOLE, images[0], truths[0])]
    found = []
    for name, image_folder, mask_folder in places:
        files = _files(image_folder)
        unlabelled = tuple(path for path in files if "nogt" in path.stem.lower())
        labelled = tuple(path for path in files if path not in set(unlabelled))
        found.append(Split(name, labelled, _files(mask_folder), _aigle_image_key, _aigle_mask_key))
        if unlabelled:
            found.append(Split(f"{name}/unlabelled" if name else "unlabelled", unlabelled))
    return found


def _aigle_image_key(stem: str) -> str:
    return _aigle_mask_key(re.sub("^im_", "", stem.lower()))


def _aigle_mask_key(stem: str) -> str:
    """Without `GT_` and the `or` (original) that only images of one sensor carry."""
    return re.sub("or$", "", re.sub("^gt_", "", stem.lower()))


# --- the generic layout ---


def _generic(root: Path) -> list[Split]:
    if (root / "images").is_dir():
        inner = [f for f in _folders(root / "images") if _files(f)]
        if inner and not _files(root / "images"):  # images/train, masks/train
            return [_pair(f.name, f, root / "masks" / f.name) for f in inner]
        whole = [_pair(WHOLE, root / "images", root / "masks")]
    elif _files(root):
        masks = root / "masks"
        whole = [Split(WHOLE, _files(root), _files(masks, MASK_SUFFIXES) if masks.is_dir() else None)]
    else:
        whole = []
    return whole + [s for f in _folders(root) if f.name not in ("images", "masks") for s in _subfolder(f)]


def _subfolder(folder: Path) -> list[Split]:
    """A split, or a folder of splits: then all its parts together, and each by itself."""
    if (folder / "images").is_dir():
        return [_pair(folder.name, folder / "images", folder / "masks")]
    if _files(folder):
        return [Split(folder.name, _files(folder))]
    parts = [
        _pair(f"{folder.name}/{f.name}", f / "images", f / "masks")
        for f in _folders(folder)
        if (f / "images").is_dir()
    ]
    if not parts:
        return []
    masks = None if any(p.masks is None for p in parts) else tuple(m for p in parts for m in p.masks or ())
    return [Split(folder.name, tuple(i for p in parts for i in p.images), masks, derived=True), *parts]


def _without_042(found: dict[str, Split]) -> dict[str, Split]:
    """CFD's image 042 has another image's mask; the literature leaves it out, and so does this split."""
    whole = found.get(WHOLE)
    if whole is None or whole.masks is None or {path.stem for path in whole.images} != _CFD_STEMS:
        return {}
    images, masks = (tuple(p for p in paths if p.stem != "042") for paths in (whole.images, whole.masks))
    return {"without042": Split("without042", images, masks, derived=True)}

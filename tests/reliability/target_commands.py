"""The command line as a door: words and files changed, in this process, in a folder of its own. And all the doors."""

import contextlib
import io
import json
import os
import random
import re
import shutil
from pathlib import Path

from cracks_jax import cli
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import CracksError
from cracks_jax.experiment import to_json
from cracks_jax.runs import EXPERIMENT, METRICS, RECORDS
from cracks_jax.runtime.records import Records
from tests.reliability import mutate
from tests.reliability.fuzz import Target
from tests.reliability.target_packed import archives, weights
from tests.reliability.target_pictures import Give, image, mask, score, sound, videos, write
from tests.reliability.target_records import checkpoints, experiment, experiments, records, settings

_FLOOR = ["--method", "darkness"]
# Each runs as it is. Verbs that train, and flags that start processes or trace, are left out.
_COMMANDS = (
    ["score", "found", "roads/masks", "--workers", "0", "--json"],
    ["score", "found", "roads/masks", "--workers", "0", "--threshold", "0.3", "--resize", "mask", "--unmatched"],
    ["detect", "photo.png", "--out", "out", *_FLOOR, "--rule", "0.5"],
    ["detect", "roads/images", "photo.png", "--out", "before", *_FLOOR, "--scores", "--mm-per-px", "0.5"],
    ["evaluate", *_FLOOR, "--data", "roads", "--json"],
    ["evaluate", *_FLOOR, "--data", "roads", "--geometry", "resize256", "--rule", "otsu", "--out", "out"],
    ["evaluate", *_FLOOR, "--data", "roads", "--rule", "undamaged", "--calibration", "windows"],
    ["evaluate", *_FLOOR, "--data", "roads", "--rule", "validation", "--calibration", "roads"],
    ["data", "check", "roads"],
    ["data", "prepare", "undamaged", "roads", "--out", "windows", "--set", "min_side=16", "max_side=16"],
    ["data", "prepare", "undamaged-unlabelled", "roads", "--out", "out", "--set", "min_side=16", "max_side=16"],
)
_REFUSED = (
    ["evaluate", "run", "--data", "roads"],
    ["detect", "empty", "--out", "out", "--run", "run"],
    ["report", "empty", "--out", "out"],
    ["systems", "--json", "--nothing"],
)
# What may stand behind a command: flags with values that are, or are not, for them.
_FLAGS = ("--rule", "--tile", "--geometry", "--preset", "--checkpoint", "--calibration", "--every", "--mm-per-px",
          "--tile-batch", "--threshold", "--resize", "--crack-free", "--limit", "--images", "--data")  # fmt: skip
_SETTINGS = (["detection.rule={}"], ["detection.tile={}"], ["detection.tile=64", "detection.overlap={}"],
             ["detection.filter=gaussian", "detection.filter_sigma={}"], ["detection.filter={}"],
             ["detection.window_pixels={}"], ["detection.{}=1"], ["min_side={}"], ["min_side=16", "max_side={}"],
             ["clearance={}"], ["per_image={}"], ["seed={}"], ["tolerance={}"])  # fmt: skip
_VALUES = ("otsu", "0.3", "64", "65", "1", "0", "-1", "100", "gaussian", "bilateral", "paper", "native", "mask", "last",
           "roads", "windows", "running", "1e9", "1e-9", "1e308", "nan", "inf", "true", "curves", "0000", "99999999999",
           "1000000", "9" * 30)  # fmt: skip


def commands(folder: Path) -> Give:
    good, place = folder / "good", folder / "place"
    _prepare(good)
    files = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())
    contents = {path: (good / path).read_bytes() for path in files}
    expected = _listing(good)

    def give(draw: random.Random) -> None:
        if not place.is_dir() or _listing(place) != expected:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(good, place)
        os.chdir(place)
        spoilt = draw.choice(files) if draw.random() < 0.4 else None
        words = list(draw.choice(_COMMANDS if spoilt else (*_COMMANDS, *_REFUSED)))
        if spoilt:
            write(spoilt, mutate.data(draw, contents[spoilt], tuple(contents.values())))
        elif draw.random() < 0.6:
            for _ in range(draw.choice((1, 1, 2))):
                value = draw.choice((draw.choice(_VALUES), draw.choice(_VALUES), draw.choice(mutate.TOKENS)))
                settings = [one.format(value) for one in draw.choice(_SETTINGS)]
                words += draw.choice(([draw.choice(_FLAGS), value], ["--set", *settings]))
        else:
            words = mutate.words(draw, words, (*_FLAGS, *_VALUES, *words))
        try:
            run(words)
        finally:
            if spoilt:
                write(place / spoilt, contents[spoilt])

    return give


def run(words: list[str]) -> None:
    """The command, made harmless; a CracksError with what it said where it refused."""
    words = [_harmless(word) for word in words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as leaving:
            code = leaving.code or 0  # type: ignore[assignment]
    said = err.getvalue()
    told = f"{[word[:100] for word in words]}: {said[-2000:]}"
    sound(code in (0, 1, 2), f"exit code {code} of {told}")
    sound("Traceback" not in said and "Warning" not in said, told)
    lines = said.replace("\r", "\n").split("\n") + out.getvalue().split("\n")
    sound(all(line.isprintable() for line in lines), f"control characters: {told!r}")
    if "--json" in words and code == 0 and out.getvalue().startswith("{"):
        json.loads(out.getvalue(), parse_constant=lambda name: sound(False, f"{name} in JSON: {told}"))
    if code:
        verdict = words[:2] == ["data", "check"] and "broken" in out.getvalue()
        sound(bool(verdict or (re.search("^cracks-jax[a-z ]*: ", said, re.M) and out.getvalue() == "")), told)
        raise CracksError(said + out.getvalue())


def _prepare(good: Path) -> None:
    """A data set, predictions for it, a photograph, windows, results of `detect`, a run that has only begun."""
    draw_dataset(good / "drawn", train=1, test=3, undamaged=1, size=(40, 48))
    shutil.copytree(good / "drawn" / "test", good / "roads")
    shutil.rmtree(good / "drawn")
    shutil.copytree(good / "roads" / "masks", good / "found")
    shutil.copyfile(good / "roads" / "images" / "0000.png", good / "photo.png")
    (good / "empty").mkdir()
    (good / "run").mkdir()
    (good / "run" / EXPERIMENT).write_text(json.dumps(to_json(experiments()[0])))
    (good / "run" / METRICS).write_text("{}")
    Records(good / "run" / RECORDS).append("train", 1, loss=0.5)
    os.chdir(good)
    for words in (_COMMANDS[3], _COMMANDS[9]):
        run(words)


def _harmless(word: str) -> str:
    """The word, or another where it would train, start processes, trace, or lead out of the folder."""
    leads_out = word.startswith(("/", "~")) or ".." in word or "=/" in word
    busy = word.startswith(("--w", "--pr", "train", "quick")) and word not in ("--workers", "--preset")
    return "out" if leads_out or busy else word


def _listing(folder: Path) -> list[tuple[str, int]]:
    """Every path below a folder with its size."""
    found = (os.path.join(root, name) for root, folders, names in os.walk(folder) for name in [*names, *folders])
    return sorted((os.path.relpath(path, folder), os.lstat(path).st_size) for path in found)


TARGETS = (
    Target("image", 28, image),
    Target("mask", 11, mask),
    Target("score", 10, score),
    Target("settings", 14, settings),
    Target("experiment", 10, experiment),
    Target("records", 6, records),
    Target("weights", 7, weights),
    Target("archives", 6, archives),
    Target("checkpoints", 2, checkpoints),
    Target("videos", 1, videos),
    Target("commands", 5, commands),
)

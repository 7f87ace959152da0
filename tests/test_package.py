"""The package as a whole: what it declares, what imports what, and what must never be committed."""

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cracks_jax

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cracks_jax"
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "cracks_jax."))

# DESIGN section 2: a module imports only what ranks below it, or its own room. Equal ranks know nothing of each other.
RANKS = {
    "cli": 15,
    "command_line": 1,
    "pages": 14,
    "identity": 13,
    "robustness": 13,
    "quickstart": 12,
    "study": 12,
    "scaling": 12,
    "search": 13,
    "search_space": 5,
    "sweep": 13,
    "sweep_table": 12,
    "launch": 11,
    "group": 5,
    "members": 5,
    "benchmark": 14,
    "report": 11,
    "scores": 10,
    "figures": 9,
    "train": 9,
    "evaluate": 9,
    "detect": 9,
    "score": 9,
    "systems": 9,
    "scoring": 8,
    "validation": 7,
    "calibrate": 7,
    "runs": 6,
    "repeat": 7,
    "predict": 6,
    "cost": 5,
    "pretrained": 5,
    "training_data": 5,
    "training_step": 6,
    "watch": 5,
    "experiment": 4,
    "methods": 3,
    "networks": 2,
    "losses": 2,
    "layers": 1,
    "ops": 0,
    "settings": 0,
    "published": 0,
    "surroundings": 0,
}
PURE = {"networks", "losses", "layers", "ops"}
# Used from anywhere above; themselves they use their own room, `ops`, randomness and what `COMMON` holds.
SIDE = {"data", "postprocess", "metrics", "runtime", "weights"}
# The two kinds of error, and what reads foreign bytes with bounds.
COMMON = {"errors", "untrusted"}
# Data workers and scoring tools start fast because these never import jax.
NUMPY_ONLY = ("data", "postprocess", "metrics", "weights", "ops.corruption", "ops.skeleton")
NUMPY_ONLY += ("runtime.randomness", *COMMON)
NUMPY_EXCEPT = ("cracks_jax.data.augment",)  # colour is drawn on the device
# torch reads .pth files where it is installed; the message says so where it is not.
OPTIONAL = {"torch", "ray", "optuna"}


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, `from package import module` as package.module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import; write cracks_jax.<room>.<module>"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def _arrows() -> Iterator[tuple[str, str]]:
    """(importer, imported), both without the package's name; the package itself is left out."""
    for name in MODULES:
        path = ROOT / (name.replace(".", "/") + ".py")
        for imported in _imports(path) if path.is_file() else ():
            if imported.startswith("cracks_jax."):
                yield name.removeprefix("cracks_jax."), imported.removeprefix("cracks_jax.")


def _allowed(importer: str, imported: str) -> bool:
    room, other = importer.split(".")[0], imported.split(".")[0]
    if other in COMMON:
        return room not in PURE | COMMON
    if room == "runtime":
        return False
    if room == other:
        return True
    if room in SIDE:
        return other == "ops" or imported == "runtime.randomness"
    if other in SIDE:
        return room not in PURE
    return room not in RANKS or other not in RANKS or RANKS[room] > RANKS[other]


def test_version_is_the_same_wherever_it_is_written():
    assert importlib.metadata.version("cracks-jax") == cracks_jax.__version__
    assert f"\nversion: {cracks_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{cracks_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_command_is_declared_and_callable():
    module, _, function = _project()["scripts"]["cracks-jax"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name):
    importlib.import_module(name)


def test_every_top_module_has_a_rank():
    rooms = {name.split(".")[1] for name in MODULES}
    assert rooms <= RANKS.keys() | SIDE | COMMON, "give the new room or module its place in RANKS or SIDE"


def test_arrows_run_one_way():
    wrong = sorted({f"{a} imports {b}" for a, b in _arrows() if not _allowed(a, b)})
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("networks.upcracknet", "losses.restoration"),
        ("losses.restoration", "networks.backbones.vgg"),
        ("data.pipeline", "methods.restoration"),
        ("ops.resize", "layers.norm"),
        ("layers.norm", "errors"),
        ("runtime.records", "runtime.checkpoints"),
        ("runtime.parallel", "runs"),
        ("experiment", "train"),
        ("train", "evaluate"),
    ],
)
def test_forbidden_arrows_are_seen(importer, imported):
    assert not _allowed(importer, imported)


def test_numpy_rooms_import_no_jax():
    rooms = tuple(f"cracks_jax.{room}" for room in NUMPY_ONLY)
    names = [n for n in MODULES if n.startswith(rooms) and n not in NUMPY_EXCEPT]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'jax', 'flax', 'torch'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _requirements(*extras: str) -> list[Requirement]:
    project = _project()
    lines = list(project["dependencies"])
    for extra in extras:
        lines += [x for x in project["optional-dependencies"][extra] if not x.startswith("cracks-jax")]
    return [Requirement(line) for line in lines]


def test_every_library_that_is_imported_is_declared():
    declared = {canonicalize_name(r.name) for r in _requirements()}
    providers = importlib.metadata.packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for top in {name.split(".")[0] for name in _imports(path)} - set(sys.stdlib_module_names) - OPTIONAL:
            found = {canonicalize_name(d) for d in providers.get(top, [top])}
            assert found & (declared | {"cracks-jax"}), f"{path}: {top} comes from {found}, which pyproject.toml lacks"


@pytest.mark.parametrize("lock", sorted((ROOT / "locks").glob("py*.txt")), ids=lambda p: p.stem)
def test_lock_pins_every_requirement_within_its_bounds(lock):
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines), "names and exact versions only"
    pinned = dict(line.split("==") for line in lines)
    for requirement in _requirements("test", "dev"):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock.name} lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{lock.name}: {requirement} is pinned to {version}"


def test_no_machine_path_and_no_package_index_is_committed():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files are tracked is unknown")
    # Written in pieces, so that this file does not hold what it looks for.
    home = r"(?<![\w.])/(?:" + "|".join(("home", "root", "Users", "work", "mnt", "opt")) + r")/\w"
    index = "|".join(("py" + r"pi\.", "python" + "hosted", "extra-" + "index-url", "-" + "-index-url"))
    forbidden = re.compile(f"{home}|{index}")
    wrong = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.suffix in {".png", ".jpg", ".npz"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := forbidden.search(line):
                wrong.append(f"{name}:{number}: {found.group()}")
    assert not wrong, "\n".join(wrong)

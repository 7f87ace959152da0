"""The members of a table of experiments: rows by name, a grid, and seeds.

An experiment file that defines a table gives a dict of experiments by name; these functions make such dicts. Settings
are named as `--set` names them, `path.to.field`. Members that differ in numbers alone (loss weights, learning rates,
seeds, the data's corruption) share one compiled program.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cracks_jax.errors import UsageError
from cracks_jax.experiment import Experiment
from cracks_jax.settings import replace_all

Members = dict[str, Experiment]


def rows(base: Experiment, changes: Mapping[str, Mapping[str, Any]]) -> Members:
    """One member for each name: the base with that row's settings."""
    return {name: changed(base, settings) for name, settings in changes.items()}


def grid(base: Experiment, axes: Mapping[str, Sequence[Any]]) -> Members:
    """Every combination of the axes' values; members are called after them, `learning_rate=0.001,steps=100`.

    Raises:
      UsageError: an axis has no values, or two members would have one name.
    """
    for path, values in axes.items():
        if not values:
            raise UsageError(f"grid: {path} has no values, so the grid is empty; give one value at least")
    found: Members = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        name = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in settings.items())
        if name in found:
            raise UsageError(f"grid: two members are called {name}; give each value of an axis once")
        found[name] = changed(base, settings)
    return found


def with_seeds(members: Mapping[str, Experiment], seeds: Iterable[int]) -> Members:
    """Every member with every seed, `NAME-seed0`; of one member "" (a file that defines no table) `seed0`.

    Raises:
      UsageError: no seed, or one of them twice.
    """
    seeds = list(seeds)
    if not seeds:
        raise UsageError("seeds: there is none; give one at least, such as 0,1,2")
    if twice := sorted(seed for seed in set(seeds) if seeds.count(seed) > 1):
        raise UsageError(f"seeds: {twice[0]} is given twice, so two members would have one id; give each seed once")
    found = {}
    for name, one in members.items():
        for seed in seeds:
            found[f"{name}-seed{seed}" if name else f"seed{seed}"] = dataclasses.replace(one, seed=seed)
    return found


def changed(base: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """The experiment with settings by their paths, all at once, each of the type that its field has."""
    return replace_all(base, [(path, json.dumps(value)) for path, value in settings.items()])

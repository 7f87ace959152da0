"""Settings, experiments, records, manifests and checkpoints as doors."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cracks_jax.data.manifest import MANIFEST, read_manifest
from cracks_jax.errors import CracksError
from cracks_jax.experiment import Experiment, apply_settings, from_json, to_json
from cracks_jax.runs import EXPERIMENT, METRICS, RECORDS, open_run
from cracks_jax.runtime.checkpoints import Checkpoints, state_sha256
from cracks_jax.runtime.records import Records, read_json
from tests import tiny
from tests.reliability import mutate
from tests.reliability.target_pictures import UNCHANGED, Give, from_file, sound, write


def experiments() -> list[Experiment]:
    return [tiny.experiment(Path("cache"), kind) for kind in ("restoration", "segmentation")]


def paths(tree: Any, at: str = "") -> dict[str, Any]:
    """Dotted path -> value of every setting."""
    found: dict[str, Any] = {}
    for one in dataclasses.fields(tree):
        value = getattr(tree, one.name)
        found |= paths(value, f"{at}{one.name}.") if dataclasses.is_dataclass(value) else {f"{at}{one.name}": value}
        found |= {f"{at}{one.name}.{key}": held for key, held in value.items()} if isinstance(value, dict) else {}
    return found


def _check_experiment(found: Experiment) -> None:
    text = json.dumps(to_json(found), allow_nan=False)
    again = from_json(json.loads(text))
    # What depends on the machine is not written.
    same = dataclasses.replace(again, machine=found.machine) == found or again.run_id == found.run_id
    sound(same and again.run_id == found.run_id, "JSON gives another experiment")


def settings(folder: Path) -> Give:
    known = [(one, paths(one)) for one in experiments()]

    def give(draw: random.Random) -> None:
        start, its = draw.choice(known)
        given = []
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            path = draw.choice(list(its))
            other = draw.choice(list(its.values()))
            value = draw.choice((json.dumps(its[path]), draw.choice(mutate.TOKENS), str(other)))
            value = mutate.text(draw, value) if draw.random() < 0.3 else value
            word = f"{path}={value}"
            given.append(mutate.text(draw, word) if draw.random() < 0.1 else word)
        _check_experiment(apply_settings(start, given))

    return give


_VALUES = ("0", "-1", str(2**62), "1e308", "0.5", "true", "null", "[]", "{}", '""', '"none"')
_PLACE = "here comes a value"


def experiment(folder: Path) -> Give:
    """A run's experiment.json as text, with a word or a value changed, and with its bytes damaged."""
    trees = [to_json(one) | {"run_id": one.run_id, "data": {"validation": []}} for one in experiments()]
    texts = [json.dumps(tree, indent=2) for tree in trees]

    def give(draw: random.Random) -> None:
        number = draw.randrange(2)
        if draw.random() < 0.6:
            content = _with_another_value(draw, trees[number])
        else:
            content = mutate.text(draw, texts[number]) if draw.random() < 0.5 else texts[number]
        data = content.encode("utf-8", "surrogatepass")
        if draw.random() < 0.2:
            data = mutate.data(draw, data, tuple(text.encode() for text in texts))
        write(folder / EXPERIMENT, data)
        try:
            found = open_run(folder).experiment
        except CracksError as error:
            sound(str(folder) in str(error), f"a message that does not name the file: {error}")
            raise
        _check_experiment(found)

    return give


def _with_another_value(draw: random.Random, tree: dict[str, Any]) -> str:
    """A tree's text with one value, at any depth, taken away or replaced by another or by something odd."""
    copy = json.loads(json.dumps(tree))
    places = list(_places(copy))
    node, key = draw.choice(places)
    if isinstance(node, dict) and draw.random() < 0.2:
        del node[key]
        return json.dumps(copy)
    its, name = draw.choice(places)
    value = draw.choice((json.dumps(its[name]), draw.choice(mutate.TOKENS), draw.choice(_VALUES)))
    node[key] = _PLACE
    return json.dumps(copy).replace(json.dumps(_PLACE), value)


def _places(node: Any) -> Any:
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def records(folder: Path) -> Give:
    log = Records(folder / "good")
    for step in range(1, 9):
        log.append("train" if step % 2 else "validation", step, loss=0.5 / step, iou=None if step == 4 else 0.1 * step)
    lines = (folder / "good").read_bytes()
    objects: dict[str, tuple[Any, Callable[[Path], Any]]] = {
        MANIFEST: ({"recipe": "undamaged", "items": [{"stem": "a"}]}, lambda path: read_manifest(path.parent)),
        METRICS: ({"run_id": "0badcafe", "step": 4, "loss": 0.25, "f1": None}, read_json),
    }

    def give(draw: random.Random) -> None:
        name = draw.choice((RECORDS, RECORDS, MANIFEST, METRICS))
        content = lines if name == RECORDS else json.dumps(objects[name][0]).encode()
        content = mutate.data(draw, content, (lines,))
        if draw.random() < 0.3:
            content = mutate.text(draw, content.decode("utf-8", "replace")).encode("utf-8", "replace")
        path = folder / name
        write(path, content)
        if name == RECORDS:
            readable, _ = Records(path).readable()
            sound(all(isinstance(one["step"], int) and isinstance(one["event"], str) for one in readable), "records")
            sound(from_file(path, lambda path: list(Records(path))) == readable, "two readings differ")
            from_file(path, lambda path: Records(path).best("iou", "max"))
            from_file(path, lambda path: Records(path).validations_since_best("iou", "min"))
        else:
            sound(isinstance(from_file(path, objects[name][1]), dict), "no object")

    return give


def checkpoints(folder: Path) -> Give:
    """One file of the newest checkpoint is damaged, at a time: what is restored is what was saved, or nothing is."""
    states = {step: {"a": np.full((3, 5), step, np.float32), "b": {"n": np.array(step)}} for step in (3, 7)}
    saved = Checkpoints(folder / "kept", "0badcafe")
    for step, state in states.items():
        saved.save(step, state, best=3)
    saved.close()
    expected = {step: state_sha256(state) for step, state in states.items()}
    good = {path: path.read_bytes() for path in sorted((folder / "kept" / "7").rglob("*")) if path.is_file()}

    def give(draw: random.Random) -> None:
        path = draw.choice(list(good))
        if draw.random() > UNCHANGED:
            write(path, mutate.data(draw, good[path], tuple(good.values())))
        warned: list[str] = []
        reader = Checkpoints(folder / "kept", "0badcafe", read_only=True)
        try:
            if draw.random() < 0.5:
                sound(state_sha256(reader.restore(7, states[7])) == expected[7], "another state")
            else:
                found = reader.newest(states[7], warned.append)
                sound(found is not None and state_sha256(found[1]) == expected[found[0]], "another state")
                sound(found is not None and (found[0] == 7) == (not warned), f"step {found and found[0]}, {warned}")
        finally:
            reader.close()
            write(path, good[path])

    return give

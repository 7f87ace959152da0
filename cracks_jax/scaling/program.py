"""The training step, compiled from shapes for a mesh of devices that exist in name only.

The step is the one that `train.py` compiles, with augmentation, guard and shardings. It is lowered in an accelerator's
form (convolutions stay convolutions) and partitioned and compiled by XLA for as many fake devices as this process has:
nothing is drawn, placed or run. What the partitioner puts in, the collectives, is the same for every platform; how many
of them are combined, what is fused and how much memory is held in between is this platform's compiler's choice.

  python -m cracks_jax.scaling.program '{"experiment": "experiments/crackseg_deepcrack.py", ...}'

prints what one program says as JSON, in a process that has the devices it needs; `plan.py` starts these.
"""

import contextlib
import dataclasses
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cracks_jax.experiment import Experiment, load_file
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runtime.parallel import Parallel, devices
from cracks_jax.runtime.randomness import device_key
from cracks_jax.scaling.hlo import Program
from cracks_jax.surroundings import peak_memory
from cracks_jax.training_step import hyper, whole_step

_NETWORKS = ("network", "generator", "discriminator")
# Whose lowering of the step is partitioned: it has the published convolutions, and no calls of a maker's library.
_FORM = "tpu"


def load(spec: dict[str, Any]) -> Experiment:
    """The experiment that a specification names, at its precision, its state sharded as it says."""
    experiment = load_file(spec["experiment"])
    machine = dataclasses.replace(experiment.machine, shard=spec.get("shard", "none"))
    return with_precision(dataclasses.replace(experiment, machine=machine), spec["precision"])


def with_precision(experiment: Experiment, precision: str) -> Experiment:
    """`bfloat16` is the layers' type, `tf32` how products of float32 are rounded."""
    layers: Any = "bfloat16" if precision == "bfloat16" else "float32"
    products: Any = "highest" if precision == "float32" else "default"
    method = dataclasses.replace(experiment.method, dtype=layers)
    return dataclasses.replace(experiment, method=method, matmul_precision=products)


def shapes(experiment: Experiment, batch: int) -> tuple[Any, Any, Any, Any]:
    """State, batch, numbers and key of one step, as training passes them: shapes and types alone."""
    side = experiment.data.pipeline.crop
    like = {"image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)}
    key = jax.eval_shape(lambda: device_key(experiment.seed, "train", 0))
    state = jax.eval_shape(lambda k: experiment.method.init(k, like), key)
    sides: dict[str, tuple[int, ...]] = {"image": (batch, side, side, 3)}
    if isinstance(experiment.method, Restoration):
        sides |= {"corrupted": (batch, 1, side, side, 3), "keep": (batch, 1, side, side, 1)}
    else:
        sides |= {"mask": (batch, side, side)}
    images = {name: jax.ShapeDtypeStruct(shape, np.uint8) for name, shape in sides.items()}
    rates = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in hyper(experiment, 1.0).items()}
    return state, images, rates, key


def jitted_step(experiment: Experiment, count: int, state: Any) -> tuple[Parallel, Any]:
    """The placement over `count` devices, and the step as training jits it for them and for states like this one."""
    jax.config.update("jax_default_matmul_precision", experiment.matmul_precision)
    parallel = Parallel("jit", devices(count), experiment.machine.shard)
    method = dataclasses.replace(experiment.method, axis_name=parallel.axis_name)
    return parallel, parallel.jitted(whole_step(method, experiment.training.colour), state)


def described(
    experiment: Experiment, count: int, batch: int, *, accelerator: bool
) -> tuple[dict[str, Any], Any, Parallel]:
    """What the program of a step over `count` devices says, the compiled program, and its placement.

    Args:
      accelerator: lowered in an accelerator's form; False: in the form that runs here.
    """
    arguments = shapes(experiment, batch)
    parallel, step = jitted_step(experiment, count, arguments[0])
    began = time.perf_counter()
    traced = step.trace(*arguments)
    lowered = traced.lower(lowering_platforms=(_FORM,)) if accelerator else traced.lower()
    lowering = time.perf_counter() - began
    compiled = lowered.compile()
    compiling = time.perf_counter() - began - lowering
    program = Program(compiled.as_text() or "")
    state = arguments[0]
    trained = [state[part]["params"] for part in _NETWORKS if part in state]
    found = {
        "devices": count,
        "batch": batch,
        "side": experiment.data.pipeline.crop,
        "form": "accelerator" if accelerator else "processor",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained)),
        "state_bytes": tree_bytes(state),
        "batch_bytes": tree_bytes(arguments[1]),
        "flop": _operations(lowered),
        "flop_compiled": _operations(compiled),
        "traffic": dict(zip(("computing", "rearranging"), program.traffic(), strict=True)),
        "memory": memory(compiled.memory_analysis()),
        "collectives": [dataclasses.asdict(one) for one in program.collectives()],
        "rounds": program.rounds(),
        "seconds": {"lowering": lowering, "compiling": compiling},
        "process_peak": peak_memory(),
    }
    return found, compiled, parallel


def _operations(stage: Any) -> float:
    return float(stage.cost_analysis()["flops"])


def tree_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def memory(analysis: Any) -> dict[str, int]:
    """Bytes on one device by use; the new state is written over the old one's."""
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "shared": analysis.alias_size_in_bytes,
    }
    return {**parts, "total": parts["arguments"] + parts["outputs"] + parts["temporaries"] - parts["shared"]}


def main() -> None:
    spec = json.loads(sys.argv[1])
    # Of a program that is never run, only machine code is left out: text, operations and memory stay as they are.
    jax.config.update("jax_disable_most_optimizations", True)
    with contextlib.redirect_stdout(sys.stderr):
        found, _, _ = described(load(spec), spec["devices"], spec["batch"], accelerator=True)
    print(json.dumps(found, allow_nan=False))


if __name__ == "__main__":
    main()

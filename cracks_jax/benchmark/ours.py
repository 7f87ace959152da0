"""Our side: the training step as `train.py` compiles it, and the forward pass as detection runs it.

Inputs are drawn as the pipeline makes them: uint8 images, corrupted twins, masks 0/1. A forward pass takes float32
images as the network's method wants them: [-1, 1] for UP-CrackNet, [0, 1] for CrackSeg.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cracks_jax.benchmark import program
from cracks_jax.benchmark.job import Job
from cracks_jax.benchmark.program import Program
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration
from cracks_jax.ops.convolution import prepare_kernels, with_kernels
from cracks_jax.runtime.parallel import Parallel, devices
from cracks_jax.runtime.randomness import device_key, host_rng
from cracks_jax.runtime.threads import spread_workers

NAME = "cracks_jax"
RATES = {"learning_rate": 1e-4, "discriminator_learning_rate": 4e-4, "weight_decay": 5e-4}
_STREAM = "benchmark"
_CELL = 8  # px: side of the squares that are removed from drawn images


def draw_batch(job: Job, number: int) -> dict[str, np.ndarray]:
    """Random uint8 images with what the system's step needs beside them; a function of `number`."""
    rng = host_rng(0, _STREAM, number)
    b, n = job.batch, job.size
    image = rng.integers(0, 256, (b, n, n, 3), np.uint8)
    if not job.restores:
        return {"image": image, "mask": rng.integers(0, 2, (b, n, n), np.uint8)}
    cells = rng.integers(0, 2, (b, -(-n // _CELL), -(-n // _CELL), 1), np.uint8)
    keep = cells.repeat(_CELL, 1).repeat(_CELL, 2)[:, :n, :n]
    return {"image": image, "corrupted": (image * keep)[:, None]}


def draw_images(job: Job, number: int) -> dict[str, np.ndarray]:
    """Random float32 images in the range of the system's forward pass."""
    low = -1.0 if job.restores else 0.0
    shape = (job.batch, job.size, job.size, 3)
    return {"image": host_rng(0, _STREAM, number).uniform(low, 1.0, shape).astype(np.float32)}


class Step:
    """Our training step as a contender: the state lives on the device and is donated to the next step."""

    def __init__(self, job: Job, weights: Mapping[str, Any], build: program.Builder = program.measured):
        self.parallel = _parallel()
        self.program = build(lambda: self.parallel.compile(from_bytes(job.method)), _step_shapes(job))
        self.job, self.weights, self.taken = job, weights, 0
        self.state: Any = None

    def start(self) -> None:
        """Memory is taken here, when it is known that it suffices."""
        self.state = self.parallel.put_state(_with_weights(initial(self.job), self.weights))

    def place(self, batch: dict[str, np.ndarray]) -> Any:
        return jax.block_until_ready(self.parallel.put_batch(batch))

    def dispatch(self, placed: Any) -> dict[str, jax.Array]:
        """The step's metrics, which may still be under way."""
        key = device_key(0, _STREAM, self.taken)
        self.state, metrics = self.program.call(self.state, placed, hyper(), key)
        self.taken += 1
        return metrics

    def run(self, placed: Any) -> Any:
        metrics = self.dispatch(placed)
        jax.block_until_ready((self.state, metrics))
        return metrics["loss"]


class Forward:
    """Our forward pass as a contender, weights frozen: UP-CrackNet restores, CrackSeg gives crack probabilities."""

    def __init__(self, job: Job, weights: Mapping[str, Any]):
        forward = _forward(job)
        self.prepare = jax.jit(lambda state, x: prepare_kernels(forward, state, x))
        self.images = jax.ShapeDtypeStruct(_images(job), jnp.float32)
        state = _scoring_part(_state_shapes(job))
        kernels = jax.eval_shape(self.prepare, state, self.images)
        self.program: Program = program.measured(
            lambda: jax.jit(lambda kernels, state, x: with_kernels(kernels, forward, state, x)),
            (kernels, state, self.images),
        )
        self.job, self.weights = job, weights
        self.state: Any = None
        self.kernels: Any = None

    def start(self) -> None:
        """Memory is taken here, when it is known that it suffices."""
        spread_workers()  # as scoring does
        state = _with_weights(_scoring_part(initial(self.job)), self.weights)
        self.state = jax.device_put(state, devices(1)[0])
        self.kernels = self.prepare(self.state, jnp.zeros(self.images.shape, self.images.dtype))

    def place(self, batch: dict[str, np.ndarray]) -> Any:
        return jax.block_until_ready(jax.device_put(batch["image"], devices(1)[0]))

    def run(self, placed: Any) -> Any:
        return jax.block_until_ready(self.program.call(self.kernels, self.state, placed))


def _parallel() -> Parallel:
    return Parallel("jit", devices(1))


def from_bytes(method: Any) -> Callable[..., tuple[Any, Any]]:
    """Bytes to [0, 1] and the method's step, one program, as training compiles it (without colour augmentation)."""

    def step(state: Any, batch: Any, rates: Any, key: jax.Array) -> tuple[Any, Any]:
        batch = {k: v if k == "mask" else v.astype(jnp.float32) / 255 for k, v in batch.items()}
        return method.train_step(state, batch, rates, key)

    return step


def _forward(job: Job) -> Callable[[Any, jax.Array], jax.Array]:
    method: Any = job.method
    how = Detection(batch_norm="batch" if job.norm == "window" else "running")
    run = method.restore if job.restores else method.score
    return lambda state, x: run(state, x, device_key(0, _STREAM, 0), how)


def hyper() -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float32) for name, value in {**RATES, **LOSS_WEIGHTS}.items()}


def _images(job: Job) -> tuple[int, int, int, int]:
    return (job.batch, job.size, job.size, 3)


def _init(job: Job) -> Callable[[jax.Array], Any]:
    shape = {"image": jax.ShapeDtypeStruct((1, job.size, job.size, 3), jnp.float32)}
    return lambda key: job.method.init(key, shape)


def initial(job: Job) -> Any:
    return jax.jit(_init(job))(device_key(0, "init", 0))


def _state_shapes(job: Job) -> Any:
    return jax.eval_shape(_init(job), device_key(0, "init", 0))


def _step_shapes(job: Job) -> tuple[Any, ...]:
    b, n = job.batch, job.size
    beside = {"corrupted": (b, 1, n, n, 3)} if isinstance(job.method, Restoration) else {"mask": (b, n, n)}
    batch = {k: jax.ShapeDtypeStruct(shape, np.uint8) for k, shape in {"image": _images(job), **beside}.items()}
    rates = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), hyper())
    return _state_shapes(job), batch, rates, jax.eval_shape(lambda: device_key(0, _STREAM, 0))


def _scoring_part(state: Any) -> Any:
    return {name: state[name] for name in ("generator", "network") if name in state}


def _with_weights(tree: Any, given: Any) -> Any:
    """The tree with the given arrays in their places; what is not given stays."""
    if not isinstance(tree, Mapping):
        assert tree.shape == np.shape(given), f"{np.shape(given)} given for {tree.shape}"
        return np.asarray(given, tree.dtype)
    return {k: _with_weights(v, given[k]) if k in given else v for k, v in tree.items()}

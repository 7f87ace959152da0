"""Several members of a sweep at a time: which way takes the most steps a second?

  in_turn    one process with every device, one member's step after another's: the yardstick
  processes  a process for each member, each with its share of the devices (of a CPU: of the cores), all at once
  axis       one process, one program: members over a mesh axis `member`, a device for each
  vmap       one process, one program on one device: the step vectorised over its members

Every way starts from the same states, with the same batches, keys and a learning rate for each member, in processes of
its own, and takes the same number of steps; ways take turns. A round is one step of every member.

  python -m cracks_jax.benchmark.members SPEC        # one process of one way: rounds as they end, then a record
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cracks_jax.benchmark import clock, flops, ours, workloads
from cracks_jax.benchmark.contenders import reason, relative_error
from cracks_jax.benchmark.job import Job
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.launch.local import cores, environment, find_devices
from cracks_jax.runtime.compilation import keep_compiled
from cracks_jax.runtime.memory import keep_freed_memory
from cracks_jax.runtime.parallel import devices
from cracks_jax.runtime.randomness import device_key

WAYS = ("in_turn", "processes", "axis", "vmap")
TURNS = 2
_KEY = "members"
Round = Callable[[int], np.ndarray]


def measure_members(job: Job, members: int) -> dict[str, Any]:
    """Seconds of a round by way, and what its losses are off those of `in_turn` in the first round and the last.

    Raises:
      UsageError: fewer than two members, or more than there are accelerators.
    """
    if members < 2:
        raise UsageError(f"--members {members}: give 2 or more")
    here = find_devices()
    if here.platform != "cpu" and members > here.count:
        raise UsageError(f"--members {members}: this machine has {here.count} devices; give 2 to {here.count}")
    workloads.prepare(job)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for turn in range(TURNS):
        for way in WAYS:
            if way in missing:
                continue
            workloads.say(f"{job.label}: {way}, {members} members, turn {turn + 1} of {TURNS}")
            try:
                rounds, losses[way] = _run(way, job, members, here)
            except CracksError as error:
                missing[way] = str(error)
                workloads.say(f"{way} is missing: {error}")
                continue
            seconds[way] += rounds
    yardstick = seconds["in_turn"]
    found: dict[str, dict[str, Any]] = {way: {"missing": words} for way, words in missing.items()}
    for way, taken in seconds.items():
        if way not in missing:
            found[way] = {
                **clock.summary(taken),
                "member_steps_per_second": members / float(np.median(taken)),
                "speed": float(np.median(yardstick) / np.median(taken)),
                "loss_error": [relative_error(losses[way][k], losses["in_turn"][k]) for k in (0, -1)],
            }
    head = workloads.head(job)
    return {**head, "members": members, "ways": found, "gflop_per_image": {"hand": flops.step_gflop(job)}}


def _run(way: str, job: Job, members: int, here: Any) -> tuple[list[float], np.ndarray]:
    """Seconds of each round and (rounds, members) losses; each process of a way waits until all have compiled."""
    shares = _shares(way, members, here)
    started = [_process(way, job, share, variables, mine) for share, variables, mine in shares]
    try:
        for process in started:
            _word(process)
        for process in started:
            _tell(process)
        told = [_word(process) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    # Processes run at the same time, each at its own pace: a round's time is the mean of theirs.
    rounds = np.mean([one["seconds"] for one in told], axis=0)
    return rounds.tolist(), np.concatenate([np.asarray(one["losses"]) for one in told], axis=1)


def _shares(way: str, members: int, here: Any) -> list[tuple[Sequence[int], dict[str, str], set[int] | None]]:
    """For each process of a way: its members, the variables that show it its devices, and its cores."""
    everyone, cpu = range(members), here.platform == "cpu"
    if way != "processes":
        count = members if way == "axis" else 1
        fake = dataclasses.replace(here, count=count) if cpu else here
        return [(everyone, environment(0, 1, fake), None)]
    one = dataclasses.replace(here, count=members) if cpu else here
    return [([n], environment(n, members, one), cores(n, members) if cpu else None) for n in everyone]


def _process(way: str, job: Job, share: Sequence[int], variables: dict[str, str], mine: Any) -> Any:
    spec = {"way": way, "job": dataclasses.asdict(job), "members": list(share), "cores": sorted(mine or ())}
    return subprocess.Popen(
        [sys.executable, "-m", "cracks_jax.benchmark.members", json.dumps(spec)],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _tell(process: Any) -> None:
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended: what it said before tells why


def _word(process: Any) -> dict[str, Any]:
    """The next line that a process says; CracksError where it failed."""
    line = process.stdout.readline()
    said: dict[str, Any] = json.loads(line) if line else {"failed": f"its process ended with {process.wait()}"}
    if "failed" in said:
        raise CracksError(said["failed"])
    return said


# ---------------------------------------------------------------------------------------- in a process of a way


def child(spec: str) -> int:
    """Compiles, says so, waits for a line, takes the rounds and says what they took."""
    asked = json.loads(spec)
    job = Job(**asked["job"])
    if asked["cores"]:
        os.sched_setaffinity(0, asked["cores"])
    keep_freed_memory()
    keep_compiled()
    jax.config.update("jax_default_matmul_precision", job.precision)
    try:
        take = _MAKERS[asked["way"]](job, asked["members"])
        losses = [take(number).tolist() for number in range(job.warmup)]
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        seconds = []
        for number in range(job.warmup, job.warmup + job.repeats):
            began = time.perf_counter()
            losses.append(take(number).tolist())
            seconds.append(time.perf_counter() - began)
    except Exception as error:  # whatever it is, the record says it and the other ways go on
        print(json.dumps({"failed": reason(error)}), flush=True)
        return 1
    print(json.dumps({"seconds": seconds, "losses": losses}), flush=True)
    return 0


def _in_turn(job: Job, members: Sequence[int]) -> Round:
    step = jax.jit(ours.from_bytes(job.method), donate_argnums=0)
    states = {member: ours.initial(job) for member in members}

    def take(number: int) -> np.ndarray:
        losses = []
        for member in members:
            batch = ours.draw_batch(job, number)
            states[member], metrics = step(states[member], batch, _rates(member), _key(number))
            losses.append(float(metrics["loss"]))
        return np.asarray(losses)

    return take


def _axis(job: Job, members: Sequence[int]) -> Round:
    step, mesh = ours.from_bytes(job.method), Mesh(np.asarray(devices(len(members))), ("member",))
    each = PartitionSpec("member")

    def of_one(*given: Any) -> Any:
        found = step(*(jax.tree.map(lambda x: x[0], one) for one in given))
        return jax.tree.map(lambda x: x[None], found)

    mapped = jax.shard_map(of_one, mesh=mesh, in_specs=each, out_specs=each, check_vma=False)
    return _together(job, members, jax.jit(mapped, donate_argnums=0), NamedSharding(mesh, each))


def _vmap(job: Job, members: Sequence[int]) -> Round:
    return _together(job, members, jax.jit(jax.vmap(ours.from_bytes(job.method)), donate_argnums=0), devices(1)[0])


def _together(job: Job, members: Sequence[int], step: Any, where: Any) -> Round:
    """Rounds of one program whose arguments have the members on a new first axis."""

    def stacked(trees: Sequence[Any]) -> Any:
        return jax.device_put(jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *trees), where)

    held = [stacked([ours.initial(job)] * len(members))]

    def take(number: int) -> np.ndarray:
        given = [(ours.draw_batch(job, number), _rates(member), _key(number)) for member in members]
        held[0], metrics = step(held[0], *(stacked(part) for part in zip(*given, strict=True)))
        return np.asarray(metrics["loss"])

    return take


def _rates(member: int) -> dict[str, Any]:
    """Members differ in a number."""
    rates: dict[str, Any] = ours.hyper()
    return {**rates, "learning_rate": rates["learning_rate"] / np.float32(1 + member)}


def _key(number: int) -> jax.Array:
    return device_key(0, _KEY, number)


_MAKERS: dict[str, Callable[[Job, Sequence[int]], Round]] = {
    "in_turn": _in_turn,
    "processes": _in_turn,
    "axis": _axis,
    "vmap": _vmap,
}


if __name__ == "__main__":
    sys.exit(child(sys.argv[1]))

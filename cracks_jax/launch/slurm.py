"""A sweep as a Slurm array job: a script whose tasks each train and score one member, by the same command.

A task that is told that its time ends saves, and is put back into the queue. When the array is through, the sweep's own
command prints the table, and does what a failed task left.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cracks_jax.errors import CracksError
from cracks_jax.runtime.records import write_text
from cracks_jax.runtime.stopping import STOPPED

SCRIPT = "sweep.sbatch"
# What belongs to the sweep as a whole, and not to one member of it; `None`: also its value.
_OWN = {"--launcher": 1, "--jobs": 1, "--only": 1, "--submit": 0, "--dry-run": 0}

_TEXT = """\
#!/bin/bash
# {count} members of {spec}. Partition, time, memory and devices are your cluster's: add them here, or give them to
# sbatch: sbatch --partition=gpu --gres=gpu:1 --time=24:00:00 {script}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={logs}/slurm-%A_%a.log
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
members=({members})
{command} --jobs 1 --only "${{members[$SLURM_ARRAY_TASK_ID]}}" &
child=$!
trap 'kill -TERM $child' TERM
wait $child; code=$?
# The first wait ends with the signal, the second with the sweep, which has saved.
[ $code -gt 128 ] && {{ wait $child; code=$?; }}
[ $code -eq {stopped} ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit $code
"""


def array(spec: str, out: Path, ids: Sequence[str], arguments: Sequence[str], submit: bool) -> str:
    """Writes OUT/sweep.sbatch for the members `ids`, and gives it to sbatch where that is asked for.

    Args:
      arguments: of the `cracks-jax` command that asked for it, `sweep FILE ...`.

    Returns: what was done, for the user.

    Raises:
      CracksError: there is no sbatch, or it refused the script.
    """
    if not ids:
        return f"every member is done; leave --launcher slurm out for the table of {out}"
    logs = out.absolute() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    script = out / SCRIPT
    command = ["cd", shlex.quote(str(Path.cwd())), "&&", shlex.quote(sys.executable), "-m", "cracks_jax.cli"]
    text = _TEXT.format(
        count=len(ids),
        spec=spec,
        script=shlex.quote(str(script)),
        name=f"sweep-{Path(spec.rpartition(':')[0] or spec).stem}",
        last=len(ids) - 1,
        logs=logs,
        members=" ".join(map(shlex.quote, ids)),
        command=" ".join([*command, *map(shlex.quote, _of_one_member(arguments))]),
        stopped=STOPPED,
    )
    write_text(script, text)
    again = f"run the same command without --launcher for the table of {out}"
    if not submit:
        return f"{script}: an array of {len(ids)} members; `sbatch {script}` submits it. When it is through, {again}"
    if shutil.which("sbatch") is None:
        raise CracksError(f"sbatch is not found, so {script} was written and not submitted; submit it on a login node")
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True)
    if done.returncode:
        raise CracksError(f"sbatch refused {script}: {(done.stderr or done.stdout).strip() or 'no word'}")
    return f"{done.stdout.strip()}; when it is through, {again}"


def _of_one_member(arguments: Sequence[str]) -> list[str]:
    """The command's words without those of the sweep as a whole."""
    kept, skip = [], 0
    for word in arguments:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in _OWN:
            skip = 0 if equals else _OWN[name]
        else:
            kept.append(word)
    return kept

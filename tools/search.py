"""Search for the settings that train best, with Optuna, on an experiment file; started again it goes on.

  python tools/search.py experiments/upcracknet_deepcrack.py:cpu --member masks --out runs/search --trials 20 \\
      --space training.learning_rate=log:1e-5:1e-3 --space training.loss_weights.style=0:20 \\
      --space training.batch_size=choice:4,8

Settings are named as `cracks-jax train --set` names them. Each trial is a training, a run directory below --out; what
counts is the number by which the method selects its best checkpoint, on validation data (never on a test split). Ranges
of rates, weights and other numbers share one compiled program; batch sizes and what changes the network compile anew.
The same command with more --trials adds to the search. A trial whose numbers blow up counts as the worst; one that
fails is listed with its reason. Ctrl-C stops after the current step and saves; the same command goes on.

Exit codes: 0 done, 1 no trial could be trained or the data is bad, 2 the command line is wrong, 75 stopped by a signal.
Needs `pip install 'cracks-jax[search]'`.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError, shown
from cracks_jax.runtime.memory import keep_freed_memory


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("file", metavar="FILE.py[:FORM]", help="an experiment file; FORM: paper (default), cpu or smoke")
    top.add_argument("--member", metavar="NAME", help="one row of a file that defines a table (default: its first)")
    top.add_argument("--out", type=Path, required=True, metavar="DIR", help="of run directories, journal and table")
    top.add_argument("--trials", type=int, required=True, metavar="N", help="how many in all, earlier starts included")
    top.add_argument("--space", action="append", required=True, metavar="PATH=VALUES",
                     help="a setting to search, as LOW:HIGH, log:LOW:HIGH or choice:A,B; may be repeated")  # fmt: skip
    top.add_argument("--seed", type=int, default=0, metavar="S", help="of what is drawn (default 0)")
    top.add_argument("--set", nargs="+", action="extend", default=[], metavar="PATH=VALUE",
                     help="settings that are the same in every trial")  # fmt: skip
    options = top.parse_args()
    if not 0 <= options.seed < 2**32:
        top.error(f"--seed {options.seed}: expected 0 to {2**32 - 1}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_freed_memory()
    for number in (signal.SIGTERM, signal.SIGINT):  # while a trial is trained, training hears signals itself
        signal.signal(number, _leave)

    from cracks_jax.runtime.compilation import keep_compiled
    from cracks_jax.search import plan, search
    from cracks_jax.train import STOPPED, Stopped

    try:
        found = plan(options.file, options.out, options.space, member=options.member, settings=options.set,
                     seed=options.seed)  # fmt: skip
        keep_compiled(found.base.machine.compilation_cache)
        table, code = search(found, options.trials)
    except Stopped as stopped:
        print(f"search: {shown(stopped)}", file=sys.stderr, flush=True)
        os._exit(STOPPED)  # all is saved, and an interpreter takes seconds to end
    except CracksError as error:
        print(f"search: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"search: {shown(error.filename or 'a file')}: {error.strerror or error}", file=sys.stderr)
        return 1
    for line in table.splitlines():
        print(shown(line))
    return code


def _leave(_number: int, _frame: Any) -> None:
    os.write(2, b"stopped; run the same command again to go on\n")
    os._exit(75)


if __name__ == "__main__":
    sys.exit(main())

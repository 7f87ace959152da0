"""Carry out a study of experiments/, or score one trained run in every way that experiments/README.md reports.

  python tools/study.py carry-out experiments/cross_dataset.py:cpu
  python tools/study.py run runs/RUN --data deepcrack:test cfd:without042 --out experiments/records/RUN/scores
  python tools/study.py floor --labelled deepcrack:train --undamaged runs/RUN --data deepcrack:test --out DIR
  python tools/study.py tables README.md experiments/README.md
  python tools/study.py factorial runs/RUN --data deepcrack:test --geometry resize256 --out DIR
  python tools/study.py identity runs/table2-cpu/* --data deepcrack:test --out experiments/records/identity
  python tools/study.py keep runs/table2-cpu --out experiments/records
"""

import argparse
import sys
from pathlib import Path

from cracks_jax import identity
from cracks_jax.data.datasets import open_dataset, parse_spec
from cracks_jax.errors import CracksError
from cracks_jax.pages import write_tables
from cracks_jax.study import (
    GEOMETRIES,
    factorial,
    finished_runs,
    keep_runs,
    keep_sweeps,
    load_study,
    score_floor,
    score_run,
)


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = top.add_subparsers(dest="kind", required=True)
    whole = kinds.add_parser("carry-out", help="train what a study names and is missing, score it, keep the records")
    whole.add_argument("study", metavar="FILE.py[:FORM]", help="an experiment file with a study(form)")
    whole.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="of trainings (default: runs)")
    whole.add_argument("--out", type=Path, default=Path("experiments/records"), metavar="DIR", help="of records")
    run, floor, grid = (kinds.add_parser(kind) for kind in ("run", "floor", "factorial"))
    tables = kinds.add_parser("tables", help="write the pages' tables anew from committed records")
    tables.add_argument("pages", type=Path, nargs="+", help="pages with marked blocks, such as README.md")
    tables.add_argument("--records", type=Path, default=Path("experiments/records"), metavar="DIR")
    for one in (run, grid):
        one.add_argument("run", type=Path)
    run.add_argument("--labelled", help="labelled images, NAME[:SPLIT], for a run that held out none of its own")
    floor.add_argument("--labelled", required=True, help="labelled training images, NAME[:SPLIT]")
    floor.add_argument("--undamaged", type=Path, help="a run whose undamaged windows give the quantile")
    grid.add_argument("--geometry", choices=GEOMETRIES, default="native")
    for one in (run, floor):
        one.add_argument("--data", nargs="+", required=True)
    copies = kinds.add_parser("identity", help="does it copy what it sees: error on crack and on background")
    kept = kinds.add_parser("keep", help="the records of finished runs, without checkpoints, to be committed")
    for one in (copies, kept):
        one.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, or folders that hold some")
    kept.add_argument("--out", type=Path, default=Path("experiments/records"), metavar="DIR")
    copies.add_argument("--every", type=int, default=1, metavar="N", help="each N-th image by name (default: all)")
    for one in (grid, copies):
        one.add_argument("--data", required=True, metavar="NAME[:SPLIT]")
    for one in (run, floor, grid, copies):
        one.add_argument("--out", type=Path, required=True)
    options = top.parse_args()
    say = print
    try:
        if options.kind == "carry-out":
            load_study(options.study).carry_out(options.runs, options.out, say)
        elif options.kind == "run":
            score_run(options.run, options.data, options.out, say, options.labelled)
        elif options.kind == "floor":
            score_floor(options.labelled, options.undamaged, options.data, options.out, say)
        elif options.kind == "tables":
            write_tables(options.records, options.pages)
        elif options.kind == "identity":
            dataset = open_dataset(*parse_spec(options.data), need_masks=True)
            found = identity.keep(finished_runs(options.runs, _note), dataset, options.out, _note, options.every)
            print(identity.as_markdown(found))
        elif options.kind == "keep":
            keep_runs(finished_runs(options.runs, _note), options.out, say)
            keep_sweeps(options.runs, options.out, say)
        else:
            factorial(options.run, options.data, options.geometry, options.out, say)
    except CracksError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

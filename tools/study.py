"""Score a trained run in every way that experiments/README.md reports.

  python tools/study.py run runs/RUN --data deepcrack:test cfd:without042 --out experiments/records/RUN/scores
  python tools/study.py floor --labelled deepcrack:train --undamaged runs/RUN --data deepcrack:test --out DIR
  python tools/study.py table experiments/records [--into experiments/README.md]
  python tools/study.py factorial runs/RUN --data deepcrack:test --geometry resize256 --out DIR
"""

import argparse
import sys
from pathlib import Path

from cracks_jax.errors import CracksError
from cracks_jax.study import GEOMETRIES, factorial, score_floor, score_run, table, write_table


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = top.add_subparsers(dest="kind", required=True)
    run, floor, grid = (kinds.add_parser(kind) for kind in ("run", "floor", "factorial"))
    tables = kinds.add_parser("table")
    tables.add_argument("folder", type=Path)
    tables.add_argument("--into", type=Path, help="a page whose table between two markers is written anew")
    for one in (run, grid):
        one.add_argument("run", type=Path)
    run.add_argument("--labelled", help="labelled images, NAME[:SPLIT], for a run that held out none of its own")
    floor.add_argument("--labelled", required=True, help="labelled training images, NAME[:SPLIT]")
    floor.add_argument("--undamaged", type=Path, help="a run whose undamaged windows give the quantile")
    grid.add_argument("--geometry", choices=GEOMETRIES, default="native")
    for one in (run, floor):
        one.add_argument("--data", nargs="+", required=True)
    grid.add_argument("--data", required=True)
    for one in (run, floor, grid):
        one.add_argument("--out", type=Path, required=True)
    options = top.parse_args()
    say = print
    try:
        if options.kind == "run":
            score_run(options.run, options.data, options.out, say, options.labelled)
        elif options.kind == "floor":
            score_floor(options.labelled, options.undamaged, options.data, options.out, say)
        elif options.kind == "table":
            if options.into is None:
                print(table(options.folder))
            else:
                write_table(options.folder, options.into)
        else:
            factorial(options.run, options.data, options.geometry, options.out, say)
    except CracksError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What an accelerator is good for, in one command and one record, within a shared machine's slot.

  python tools/accelerator_check.py                                # all parts, 9 minutes at most
  python tools/accelerator_check.py --parts step-restoration --batches 64,128
  python tools/accelerator_check.py --small                        # the rehearsal: tiny, on any machine

Parts: GPU tests; both training steps in bfloat16 beside PyTorch's (eager and compiled, channels last, autocast) at
growing batches; loss curves in bfloat16 and float32; the cost of determinism, and digests; the largest batch; forms of
the transposed convolution; dilated convolutions. A part that fails or finds no time is on record, and the others go on.
Prints the record's path. Exit codes: 0 done, 1 a part failed, 2 the command line is wrong.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # the package and the twins of tests/reference, from wherever this is started
    sys.path.insert(0, str(ROOT))

from cracks_jax.benchmark import accelerator  # noqa: E402
from cracks_jax.errors import CracksError  # noqa: E402

_CHILD = "--measure"


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == [_CHILD]:
        return _child(arguments[1])
    options = _parser().parse_args(arguments)
    try:
        path, failed = accelerator.run(
            [sys.executable, str(Path(__file__).resolve()), _CHILD],
            small=options.small,
            minutes=options.minutes,
            parts=options.parts,
            batches=options.batches,
            out=options.out,
        )
    except CracksError as error:
        print(f"accelerator_check: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("accelerator_check: interrupted", file=sys.stderr)
        return 130
    print(path)
    return 1 if failed else 0


def _child(request: str) -> int:
    from cracks_jax.benchmark import measures  # starts jax

    return measures.child(request, _twins)


def _twins(job: Any, contenders: tuple[str, ...]) -> Any:
    twin: Any = importlib.import_module("tests.reference.benchmark_torch")
    return twin.peers(job, contenders)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the rehearsal; its times mean nothing")
    parser.add_argument("--minutes", type=float, default=9.0, help="wall time of the whole (default 9)")
    parser.add_argument(
        "--parts", type=_names, default=tuple(accelerator.PARTS), help=f"of {','.join(accelerator.PARTS)}"
    )
    parser.add_argument("--batches", type=_numbers, default=(), help="of the training steps, such as 32,64")
    parser.add_argument("--out", type=Path, help="default: experiments/benchmarks/accelerator-<device>.json")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())

"""Fetches a public crack data set: `python tools/download.py NAME --out DIR`, `--list` for what there is.

The licence is shown first and must be accepted (`--accept-licence`, or by typing yes). A download that breaks
off is continued by the same command. Exit codes: 0 done, 1 the download failed, 2 the command line is wrong.
"""

import argparse
import sys

from cracks_jax.data.download import REGISTRY, Source, download
from cracks_jax.errors import CracksError


def main(arguments: list[str] | None = None) -> int:
    """Parses, hands over to the package, and turns its errors into one message and an exit code."""
    parser = argparse.ArgumentParser(description="Fetch a public crack data set from its authors.")
    parser.add_argument("name", nargs="?", help="one of: " + ", ".join(sorted(REGISTRY)))
    parser.add_argument("--out", default="data", help="folder for the data sets (default: data)")
    parser.add_argument("--accept-licence", action="store_true", help="accept it without being asked")
    parser.add_argument("--list", action="store_true", help="show every data set, its licence and home page")
    options = parser.parse_args(arguments)
    if options.list:
        for name, source in REGISTRY.items():
            print(f"{name}: {source.notice()}" + (f"\n  by hand: {source.by_hand}" if source.by_hand else ""))
        return 0
    if options.name is None:
        parser.error("name a data set, or pass --list")
    try:
        folder = download(
            options.name, options.out, accept=_accepted if options.accept_licence else _ask, progress=_show
        )
    except CracksError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{folder} is there; `cracks-jax data check {folder}` says whether it is whole", file=sys.stderr)
    return 0


def _accepted(source: Source) -> bool:
    print(source.notice(), file=sys.stderr)
    return True


def _ask(source: Source) -> bool:
    print(source.notice() + "\nDo you accept these terms? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def _show(done: int, total: int | None) -> None:
    of = f" of {total / 1e6:.1f} MB ({done / total:.0%})" if total else " MB"
    print(f"\r{done / 1e6:.1f}{of}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

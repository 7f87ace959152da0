"""Compiled programs kept on disk from one process to the next: the second start of an experiment reads them.

jax keeps a program under a digest of the program itself, the compiler's options and versions and the device, so an old
one is never mistaken for a new one, and the folder may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

# The user's own cache folder; see `user_folder`.
USER = "user"
# Programs that take longer to compile than this, in seconds, are kept. jax's own limit of one second would leave out
# initialisation and validation of small networks; below this lie dozens of programs of a few operations, which take
# about as long to read as to compile.
SHORTEST = 0.1
# In the folder of programs; empty.
LOCKS = "locks"


def user_folder() -> Path:
    """`$XDG_CACHE_HOME/cracks_jax/compiled`, by default below `~/.cache`."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be ignored, says the XDG specification.
    return (base if base.is_absolute() else Path.home() / ".cache") / "cracks_jax" / "compiled"


def keep_compiled(place: str | None = USER) -> Path | None:
    """Keeps what this process compiles from here on in a folder, and reads from it; returns the folder.

    A folder that cannot be written is said on standard error, and nothing is kept.

    Args:
      place: USER, unless jax was told another folder already (JAX_COMPILATION_CACHE_DIR); a path; or None: nowhere.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    told = jax.config.values["jax_compilation_cache_dir"]
    if place == USER and told:
        return Path(told)
    folder = None if place is None else _writable(place)
    wanted = None if folder is None else str(folder)
    if told != wanted:
        jax.config.update("jax_compilation_cache_dir", wanted)
        compilation_cache.reset_cache()  # jax settles on a folder when it first compiles
    return folder


@contextlib.contextmanager
def one_process_at_a_time(program: str) -> Iterator[None]:
    """While one process compiles a program, others that keep programs in the same folder wait, and then read it.

    Where nothing is kept, or the disk knows no locks, nobody waits; nor do processes that are one computation, which
    may have to compile together.

    Args:
      program: tells it from others; where two have one text, one waits in vain, no more.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    with contextlib.ExitStack() as held:
        if folder and jax.process_count() == 1:
            with contextlib.suppress(OSError):
                file = held.enter_context((Path(folder) / LOCKS).open("ab"))
                # A byte of the file for each program: nothing is left behind, and a process that is killed lets go.
                byte = int.from_bytes(hashlib.sha256(program.encode()).digest()[:6])
                fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
        yield


def _writable(place: str) -> Path | None:
    """The folder, made where there is none; None, and a line that says so, where it cannot be written."""
    try:
        folder = (user_folder() if place == USER else Path(place).expanduser()).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        reason = getattr(error, "strerror", None) or error
        print(f"compiled programs are not kept: {place}: cannot be written ({reason})", file=sys.stderr, flush=True)
        return None

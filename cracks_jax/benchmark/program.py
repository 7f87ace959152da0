"""What the compiler says of a program: operations, memory, and how long it takes from cold and from its cache."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

_CACHE = {
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      call: the executable; takes what it was lowered for.
      flop: operations of one call as the compiler counts them; None where it does not say.
      memory: bytes by use; `total` is what one call holds.
      compile_seconds: `cold` with an empty cache, `warm` as a second start finds it; tracing included.
    """

    call: Callable[..., Any]
    flop: float | None
    memory: dict[str, int]
    compile_seconds: dict[str, float]


Builder = Callable[[Callable[[], Any], tuple[Any, ...]], Program]


def measured(make: Callable[[], Any], arguments: tuple[Any, ...]) -> Program:
    """Compiles twice through a persistent cache that nobody else uses.

    Args:
      make: a fresh jitted function; called twice, so that nothing of the first compilation is found in memory.
      arguments: shapes and dtypes.
    """
    with _own_cache():
        cold, compiled = _compile(make, arguments)
        jax.clear_caches()
        warm, _ = _compile(make, arguments)
    return _described(compiled, {"cold": cold, "warm": warm})


def compiled_once(make: Callable[[], Any], arguments: tuple[Any, ...]) -> Program:
    """Compiled as any program is, through the cache that is set: `compile_seconds` holds `once`."""
    seconds, compiled = _compile(make, arguments)
    return _described(compiled, {"once": seconds})


def _described(compiled: Any, compile_seconds: dict[str, float]) -> Program:
    cost = compiled.cost_analysis()
    flop = None if not cost or cost.get("flops", -1) < 0 else float(cost["flops"])
    return Program(compiled, flop, _memory(compiled.memory_analysis()), compile_seconds)


def _compile(make: Callable[[], Any], arguments: tuple[Any, ...]) -> tuple[float, Any]:
    began = time.perf_counter()
    compiled = make().lower(*arguments).compile()
    return time.perf_counter() - began, compiled


def _memory(analysis: Any) -> dict[str, int]:
    if analysis is None:
        return {}
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        # A donated state: its memory is the new state's.
        "shared": analysis.alias_size_in_bytes,
    }
    total = parts["arguments"] + parts["outputs"] + parts["temporaries"] - parts["shared"]
    return {**parts, "total": total}


@contextmanager
def _own_cache() -> Iterator[None]:
    """An empty cache on disk for the time being; jax opens its cache once, so it is told to look again."""
    before = {name: jax.config.values[name] for name in ("jax_compilation_cache_dir", *_CACHE)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, value in {"jax_compilation_cache_dir": folder, **_CACHE}.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()

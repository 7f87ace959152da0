"""What a search draws from: settings and the ranges or choices of each, as `--space` gives them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cracks_jax.errors import UsageError
from cracks_jax.experiment import Experiment, apply_settings
from cracks_jax.methods.restoration import Restoration

# Drawn numbers are rounded to as many digits: a command can be read, and nothing hangs on the fifth.
_DIGITS = 4
_EXAMPLES = "PATH=LOW:HIGH, PATH=log:LOW:HIGH or PATH=choice:A,B,..."


@dataclass(frozen=True)
class Axis:
    """One setting that is searched: a range of numbers, or choices.

    Attributes:
      path: as `--set` names it.
      choices: the texts to choose from; () for a range.
      low, high: the range's ends, both included; whole numbers where the setting is one.
      log: whether its logarithm is drawn evenly.
    """

    path: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def distribution(self, optuna: Any) -> Any:
        kinds = optuna.distributions
        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        kind = kinds.IntDistribution if isinstance(self.low, int) else kinds.FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def setting(self, drawn: Any) -> str:
        """What was drawn, as `--set` takes it."""
        if isinstance(drawn, float):
            drawn = min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)
        return f"{self.path}={drawn}"


def parse_space(texts: Sequence[str], base: Experiment, settings: Sequence[str] = ()) -> tuple[Axis, ...]:
    """The axes that `--space` names, each `PATH=LOW:HIGH`, `PATH=log:LOW:HIGH` or `PATH=choice:A,B,...`.

    Args:
      base: the experiment that is changed: each end, and each choice, must be a value that the setting may have.
      settings: `--set` as given; what is set is not searched.

    Raises:
      UsageError: there is no such setting, it does not take these values, or it is given twice.
    """
    if not texts:
        raise UsageError(f"--space: give one setting to search at least, {_EXAMPLES}")
    taken = {text.partition("=")[0].strip(): "set" for text in settings}
    axes = []
    for text in texts:
        axis = _parse_axis(text, base)
        if axis.path in taken:
            raise UsageError(f"--space {text}: {axis.path} is {taken[axis.path]} already; name it once")
        taken[axis.path] = "searched"
        axes.append(axis)
    return tuple(axes)


def _parse_axis(text: str, base: Experiment) -> Axis:
    path, equals, values = (part.strip() for part in text.partition("="))
    if not (path and equals and values):
        raise UsageError(f"--space {text}: expected {_EXAMPLES}")
    if path.split(".")[0] == "machine":
        raise UsageError(f"--space {text}: machine settings change no result; give one value with --set")
    restored = path == "data.pipeline.crop" and isinstance(base.method, Restoration)
    if restored or (path.startswith("data.") and not path.startswith("data.pipeline.")):
        raise UsageError(
            f"--space {text}: {path} changes what is validated on, so trials could not be compared; give one value "
            "with --set"
        )
    kind, _, rest = values.partition(":")
    if kind == "choice":
        choices = tuple(choice.strip() for choice in rest.split(","))
        if len(set(choices)) < max(2, len(choices)) or "" in choices:
            raise UsageError(f"--space {text}: give two different choices at least, such as choice:4,8")
        for choice in choices:
            _value(text, base, path, choice)
        return Axis(path, choices)
    log = kind == "log"
    ends = (rest if log else values).split(":")
    if len(ends) != 2:
        raise UsageError(f"--space {text}: expected {_EXAMPLES}")
    low, high = (_value(text, base, path, end) for end in ends)
    if isinstance(low, bool) or not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise UsageError(f"--space {text}: {path} is no number; give choices, {path}=choice:A,B,...")
    if not low < high or not math.isfinite(high - low):
        raise UsageError(f"--space {text}: the low end must lie below the high end")
    if log and low <= 0:
        raise UsageError(f"--space {text}: a logarithmic range begins above 0; try log:{high / 1000:g}:{high:g}")
    return Axis(path, (), low, high, log)


def _value(text: str, base: Experiment, path: str, value: str) -> Any:
    """What the setting would be, of its own type."""
    try:
        node: Any = apply_settings(base, [f"{path}={value}"])
    except UsageError as error:
        raise UsageError(f"--space {text}: {str(error).removeprefix('--set ')}") from error
    for name in path.split("."):
        node = node[name] if isinstance(node, Mapping) else getattr(node, name)
    return node

"""The two ways in which input can be wrong; the command line turns each into one message and an exit code.

A message names the file or value, what was found, what was expected, and what to do.
"""


class CracksError(ValueError):
    """The run or the data is bad (exit code 1)."""

    exit_code = 1


class UsageError(CracksError):
    """The command line, an experiment file or a setting is wrong (exit code 2)."""

    exit_code = 2

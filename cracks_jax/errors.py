"""The two ways in which input can be wrong; the command line turns each into one message and an exit code.

A message names the file or value, what was found, what was expected, and what to do.
"""


class CracksError(ValueError):
    """The run or the data is bad (exit code 1). Its message can be shown: the names in it come from anywhere."""

    exit_code = 1

    def __init__(self, message: object = ""):
        super().__init__(shown(message))


class UsageError(CracksError):
    """The command line, an experiment file or a setting is wrong (exit code 2)."""

    exit_code = 2


class WriteError(CracksError):
    """Something could not be written: the disk is full, fails or may not be written. What was there before is whole."""


def shown(text: object) -> str:
    """Text as a terminal or a record may have it: what cannot be printed, a file's name may hold, stands escaped.

    Escapes as in Python (`\\x1b`, `\\udcff` for a byte that is not UTF-8), so that doing it twice changes nothing.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))

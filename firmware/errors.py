"""What this package raises on purpose.

FirmwareError          what happened, to what, and (``hint``) what to do next
├── RefusedError       nothing was touched: a rule forbids it (a disk, a bundle, an old version)
├── StoppedError       somebody stopped it (Ctrl-C)
└── BrokenError        what was read or written is not what it should be
"""

from __future__ import annotations

from typing import NoReturn


class FirmwareError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message
        What happened and to which disk, file or slot, in words for a field engineer.
    hint
        What to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RefusedError(FirmwareError):
    """Nothing was touched: a rule forbids it."""


class StoppedError(FirmwareError):
    """Somebody stopped it (Ctrl-C)."""


class BrokenError(FirmwareError):
    """What was read or written is not what it should be."""


def die(message: str, hint: str = "") -> NoReturn:
    """An error of the one who called: a sentence and what to do next."""
    raise FirmwareError(message, hint)

"""Whether a disk has the size that it says: a forged one loses what is written beyond its real end, weeks later.

Marks are written over all that it claims beyond the image, and read back after all else was written, as f3 does
(Fight Flash Fraud, https://fight-flash-fraud.readthedocs.io). A disk that drops what is beyond its end does not give
them back. On one whose addresses wrap around, a mark comes back as another one, or has landed in the image: up to some
256 GB the marks lie closer than the image's root is long, so one of them hits it, wherever the disk wraps. Of a larger
disk that is certain for powers of two, and likely for others, the more often it wraps the more so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from firmware.errors import BrokenError
from firmware.flash.manifest import PIECE
from firmware.flash.medium import Medium

BLOCK = 4096
_MOST = 1024  # evenly spaced marks: every 64 MB of 64 GB, and half a minute on the slowest sticks
_NONCE = 16


class Marks:
    """Blocks of 4096 bytes that hold their own offset and a number of this run, so that no earlier run's pass for them.

    Parameters
    ----------
    begin, size
        Bytes of the disk between which they lie: the image's end, and what the disk claims.
    anchor
        Byte at which the image has a piece that is compared. Addresses wrap at powers of two above all: a mark lies at
        this distance from each, and lands on the piece there.

    Each of the methods calls ``go_on`` before every mark; it stops by raising.
    """

    def __init__(self, medium: Medium, begin: int, size: int, anchor: int) -> None:
        self._medium, self._size = medium, size
        self._nonce = os.urandom(_NONCE)
        first, last = -(-begin // BLOCK), size // BLOCK - 1
        step = max(PIECE, size // _MOST) // BLOCK
        powers = (((1 << power) + anchor) // BLOCK for power in range(size.bit_length()))
        blocks = {*range(first, last, step), *(block for block in powers if first <= block), last}
        self._places = [BLOCK * block for block in sorted(blocks) if first <= block <= last]

    def write(self, go_on: Callable[[], None]) -> None:
        for place in self._places:
            go_on()
            self._medium.write(place, self._mark(place))
        self._medium.flush()

    def check(self, go_on: Callable[[], None]) -> None:
        """Read them all.

        Raises
        ------
        BrokenError
            One is not there: the disk lies about its size, or is broken.
        """
        for place in self._places:
            go_on()
            content = self._medium.read(place, BLOCK)
            if content != self._mark(place):
                other = content[_NONCE : _NONCE + 8] if content.startswith(self._nonce) else b""
                found = f"there is what was written at byte {int.from_bytes(other)}" if other else "it is lost"
                raise BrokenError(
                    f"{self._medium.path} says that it has {self._size / 1e9:.2f} GB, and does not keep what is "
                    f"written at byte {place}: {found}",
                    hint="it lies about its size, or is broken: do not put it into a box, take another disk",
                )

    def clear(self, go_on: Callable[[], None]) -> None:
        """Zeros in their place."""
        for place in self._places:
            go_on()
            self._medium.write(place, bytes(BLOCK))
        self._medium.flush()

    def _mark(self, place: int) -> bytes:
        head = self._nonce + place.to_bytes(8)
        return head + hashlib.shake_256(head).digest(BLOCK - len(head))

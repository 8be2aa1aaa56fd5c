"""The clock of a box whose battery is flat and that no time server reaches: a time that was signed moves it forward.

Such a box starts at its image's date (``/usr/lib/clock-epoch``), which is that of the sources' last commit, or at the
time that it knew at last.
"""

from __future__ import annotations

import os
import time

from firmware.box import Box


def move_forward(box: Box, to: float) -> bool:
    """Whether the clock was behind a time that has certainly come, and was moved there; never back.

    One that a time server has set since the start is right, and is left.

    Parameters
    ----------
    to
        Seconds since 1970 UTC.
    """
    now = time.time()
    if to <= now or (box.root / "run/systemd/timesync/synchronized").exists():
        return False
    time.clock_settime(time.CLOCK_REALTIME, to)
    kept = box.root / "var/lib/systemd/timesync/clock"  # before its time, systemd-timesyncd lets no start begin
    if kept.exists():
        os.utime(kept, (to, to))
    box.remember_if_possible("clock", was=round(now), signed_at=round(to))
    return True

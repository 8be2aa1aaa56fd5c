"""Log lines on standard error. No patient data goes into a log: UIDs and row numbers only."""

from __future__ import annotations

import logging
import sys
import time
import warnings


def set_up(level: str) -> None:
    """One line a record: UTC time, level, part, message."""
    formatter = logging.Formatter("%(asctime)sZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    warnings.simplefilter("ignore")  # pydicom's quote values of the header
    # These libraries log data sets and UIDs of patients, or every packet; what they raise is told in our own words.
    for name in ("pynetdicom", "pydicom", "highdicom", "watchdog"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

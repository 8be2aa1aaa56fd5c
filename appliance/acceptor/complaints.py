"""Warnings about peers that misbehave."""

from __future__ import annotations

import logging
import threading
import time

_SAY_AGAIN_SECONDS = 60.0
_MOST = 100  # within that time


class Complaints:
    """Warnings about peers, once in a while each: a flood must not fill the log, nor the memory."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def say(self, address: str, words: str) -> None:
        now, key = time.monotonic(), (address, words)
        with self._lock:
            if now - self._said.get(key, -_SAY_AGAIN_SECONDS) < _SAY_AGAIN_SECONDS:
                return
            if len(self._said) >= _MOST:
                oldest = min(self._said, key=self._said.__getitem__)
                if now - self._said[oldest] < _SAY_AGAIN_SECONDS:
                    return
                del self._said[oldest]
            self._said[key] = now
        self._log.warning("%s: %s", address, words)

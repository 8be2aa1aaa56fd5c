"""What many open browsers ask for at the same time is made once: the rendered parts that they poll."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

_MOST = 64


class Once:
    """The latest texts by what they were made of; whoever comes while one is being made waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, str] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}

    def get(self, key: str, make: Callable[[], str]) -> str:
        """The text of a key, made where there is none. ``key`` must name all that it depends on."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._made:
                    return self._made[key]
            try:
                text = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                self._made[key] = text
                while len(self._made) > _MOST:
                    self._made.popitem(last=False)
            return text

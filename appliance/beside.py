"""What runs beside the appliance's work: one thread in the process that receives, which ends when it is told to."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod

_NICE = 19


class Beside(ABC):
    """A part says in `run` what it does until `stopping` is set.

    Parameters
    ----------
    last
        The last to get a core (of this thread alone, on Linux).
    """

    def __init__(self, name: str, last: bool = True) -> None:
        self.stopping = threading.Event()
        self._last = last
        self._thread = threading.Thread(target=self._begin, name=name, daemon=True)

    def start(self) -> None:
        """Once the parts run."""
        self._thread.start()

    def stop(self) -> None:
        """Wait for what it is at."""
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @abstractmethod
    def run(self) -> None: ...

    def _begin(self) -> None:
        if self._last:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        self.run()

"""What looks after safe mode and the test of performance while the appliance runs: every few seconds, in a thread.

So what a person acknowledges, and what a reader says, takes effect with or without a new image.
"""

from __future__ import annotations

import logging

from appliance import performance
from appliance.audit import Trail
from appliance.beside import Beside
from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.safe_mode import SafeMode
from appliance.truth_store import TruthStore

log = logging.getLogger("scanside.safe_mode")

_EVERY_SECONDS = 3.0


class SafetyWatch(Beside):
    def __init__(self, config: Config, trail: Trail) -> None:
        super().__init__("safety", last=False)
        self._config, self._trail = config, trail
        self._mark = ""

    def look(self, mode: SafeMode, store: TruthStore) -> None:
        """Once: open tickets where there is new truth, then enter and leave safe mode."""
        mark = store.mark()
        if mark != self._mark:
            performance.look(self._config, store, self._trail)
            self._mark = store.mark()
        mode.look()

    def run(self) -> None:
        mode, store = SafeMode(self._config, self._trail), TruthStore(self._config.ledger_path)
        try:
            while True:
                try:
                    self.look(mode, store)
                except ApplianceError as error:  # a full disk, for one; the next round looks again
                    log.error("safe mode can't be looked after: %s", error)
                except Exception:
                    log.exception("safe mode can't be looked after")
                if self.stopping.wait(_EVERY_SECONDS):
                    return
        finally:
            mode.close()
            store.close()

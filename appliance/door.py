"""A listener whose TLS files may not serve yet: it opens once they do, and the rest of the appliance runs meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable

from appliance.errors import ApplianceError, ConfigError

log = logging.getLogger("scanside.run")


class Door:
    """Closed, with the reason, while its files are missing or don't belong together; never opened without TLS instead.

    Parameters
    ----------
    who
        In words.
    listen
        Listens; the port. Raises `ConfigError` where the files don't serve.

    Attributes
    ----------
    port
        On which it listens; 0 while it is closed.
    problem
        Why it is closed.
    """

    def __init__(self, who: str, listen: Callable[[], int]) -> None:
        self._who, self._listen = who, listen
        self.port, self.problem = 0, ""

    def look(self) -> None:
        """Open it where it is closed and can be; raises `ApplianceError` of the first try that is not about files."""
        if self.port:
            return
        try:
            self.port = self._listen()
        except ApplianceError as error:
            if not isinstance(error, ConfigError) and not self.problem:
                raise
            if error.message != self.problem:
                log.error("%s does not listen, until this is mended: %s", self._who, error)
            self.problem = error.message
            return
        if self.problem:
            log.info("%s listens now, on port %d", self._who, self.port)
            self.problem = ""

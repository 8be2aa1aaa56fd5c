"""What no appliance starts with, on whatever machine and day: looked for at the start, and by who judges beforehand."""

from __future__ import annotations

from appliance import brand, proof
from appliance.config import Config


def check(config: Config) -> None:
    """What the configuration's keys alone don't show; reads what it names, and writes nothing.

    Raises
    ------
    BackendError, ConfigError
        There is no such backend, or the page can't look so.
    """
    proof.check_backend(config)
    brand.load(config)

"""What the page that answers the current request works with, as `appliance.web.app` has set it."""

from __future__ import annotations

from flask import current_app

from appliance.config import Config
from appliance.store import Store


def config() -> Config:
    found: Config = current_app.config["SCANSIDE"]
    return found


def store() -> Store:
    """Read-only."""
    found: Store = current_app.config["SCANSIDE_STORE"]
    return found

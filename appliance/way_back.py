"""What a model's latest change can be taken back to. The page asks it, so it imports nothing that reads images."""

from __future__ import annotations

from typing import Any

from appliance import installed
from appliance.config import Config
from appliance.errors import ConfigError, PackageError
from appliance.package import Package
from appliance.package_store import BACK, PackageStore


def way_back(config: Config, model: str) -> tuple[dict[str, Any], Package | None]:
    """The latest choice of a model, and what reads once that is taken back; None: nothing of it does.

    Raises
    ------
    ConfigError, PackageError
        Why there is none: there was no switch, it was taken back already by a rollback or a fallback, or the former
        package is gone.
    """
    refuse_fixed(config)
    latest = PackageStore(config.ledger_path, read_only=True).in_force().get(model)
    if latest is None:
        raise PackageError(f"{model} was never switched on this device", hint="scanside models list")
    if latest["kind"] in BACK or latest["former"] == latest["sha256"]:
        was = f"was a {latest['kind']} already" if latest["kind"] in BACK else "confirmed what reads since a fallback"
        raise PackageError(
            f"the latest change of {model} {was}",
            hint="name a version: scanside models switch",
        )
    former = latest["former"]
    return latest, installed.with_sha256(config, former, f"the former {model}") if former else None


def refuse_fixed(config: Config) -> None:
    if not config.models.switches:
        raise ConfigError(
            "models.switches = false: the configuration alone says which packages read",
            hint="set it to true, or change models.packages",
        )

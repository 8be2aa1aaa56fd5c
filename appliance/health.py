"""How the device is: one answer for the page, the API and the command line."""

from __future__ import annotations

import fcntl
import shutil
import time
from typing import Any

import psutil

from appliance import __version__, thermal
from appliance.config import Config
from appliance.package_store import PackageStore
from appliance.recount import COMPONENT
from appliance.safe_mode_store import SafeModeStore
from appliance.store import Store
from appliance.truth_store import TruthStore

# A part that has said nothing for so long isn't running.
STALE_SECONDS = 15.0
_DAY = 86400.0
_UNMADE_DAYS = 30

_watch = thermal.Watch()  # one for all pages, since it tells what changed


def is_running(config: Config) -> bool:
    """Whether an appliance holds the lock of the data folder."""
    try:
        with (config.data / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False


def health(config: Config, store: Store) -> dict[str, Any]:
    """Counts by state, what each part last said, and the machine's figures.

    Returns
    -------
    ``version``, ``running``, ``uptime_seconds``, ``counts`` (state -> instances),
    ``unseen_in_quarantine`` (how many of the quarantined ones nobody has reviewed), ``series`` (those that wait to be
    complete: the number of their first ``instance``, how many ``images`` are here, what each ``waits_for``, since how
    many ``seconds``), ``held_up`` (as of `Store.held_up`), ``unmade`` (as of `Store.unmade`, of the last 30 days),
    ``components`` (part -> its last words with ``age_seconds`` and ``stale``), ``destinations`` (how many results are
    in which state, why they wait, since when it fails, whether it is ``configured``), ``recount`` (the latest outcome
    of `appliance.recount`, None before the first),
    ``cpu_percent``, ``memory`` and ``disk`` (bytes), ``temperature_celsius`` (None where the machine has no
    sensor) of ``temperature_zone``,
    ``safe_mode`` (as of `safe_mode`), ``fallbacks`` (as of `fallbacks`), ``diagnoses`` (as of `diagnoses`),
    ``throttling`` (``now``: whether the machine runs slower than it can, None where it doesn't tell; ``reason``;
    ``events`` since it was started). Nothing of a patient.
    """
    now = time.time()
    running = is_running(config)
    components = store.components()
    recounted = components.pop(COMPONENT, None)
    for part in components.values():
        part["age_seconds"] = round(now - part.pop("updated_at"), 1)
        part["stale"] = not running or part["age_seconds"] > STALE_SECONDS
    appliance = components.get("appliance", {})
    heat = _watch.read()
    configured = {each.name for each in config.destinations}
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(config.data)
    return {
        "version": __version__,
        "running": running,
        "uptime_seconds": round(now - appliance["started_at"]) if running and appliance else None,
        "counts": store.counts(),
        "unseen_in_quarantine": store.unseen_in_quarantine(),
        "series": [
            {
                "instance": row["lead_id"],
                "modality": row["modality"],
                "body_part": row["body_part"],
                "images": row["images"],
                "waits_for": row["why"],
                "seconds": round(now - row["received_at"], 1),
            }
            for row in store.gathered()
        ],
        "held_up": store.held_up(),
        "unmade": store.unmade(now - _UNMADE_DAYS * _DAY),
        "components": components,
        "destinations": [{**row, "configured": row["destination"] in configured} for row in store.destinations()],
        "safe_mode": safe_mode(config),
        "fallbacks": fallbacks(config),
        "diagnoses": diagnoses(config),
        "recount": recounted and {key: value for key, value in recounted.items() if key != "updated_at"},
        "cpu_percent": psutil.cpu_percent(),
        "memory": {
            "total": memory.total,
            "available": memory.available,
            "appliance": resident(appliance.get("pid")) if running else 0,
        },
        "disk": {"total": disk.total, "free": disk.free},
        "temperature_celsius": heat.celsius,
        "temperature_zone": heat.zone,
        "throttling": {"now": heat.throttling, "reason": heat.reason, "events": heat.events},
    }


def safe_mode(config: Config) -> dict[str, Any]:
    """What is ``in_force`` (``id``, ``level``, ``kind``, ``why``, ``entered_at``), how often it was ``entered`` and
    ``left``, how many results are ``on_their_way`` though new ones are withheld, and how many retraining ``tickets``
    are open."""
    store, truth = SafeModeStore(config.ledger_path, read_only=True), TruthStore(config.ledger_path, read_only=True)
    try:
        shown = ("id", "level", "kind", "why", "entered_at")
        return {
            "in_force": [{name: getattr(each, name) for name in shown} for each in store.in_force()],
            **store.changes(),
            "on_their_way": store.on_their_way(),
            "tickets": len(truth.tickets(only_open=True)),
        }
    finally:
        store.close()
        truth.close()


def fallbacks(config: Config) -> list[dict[str, Any]]:
    """Models of which the device itself has put another package in force.

    ``model``, ``version`` ('' where nothing of it reads), ``why``, ``chosen_at``.
    """
    store, shown = PackageStore(config.ledger_path, read_only=True), ("model", "version", "why", "chosen_at")
    try:
        chosen = store.in_force().values() if config.models.switches else ()
    finally:
        store.close()
    return [{name: row[name] for name in shown} for row in chosen if row["kind"] == "fallback"]


def diagnoses(config: Config) -> dict[str, Any] | None:
    """What HL7 senders have brought in the last 24 hours: ``messages``, diagnoses that were ``taken`` or ``repeated``,
    statements about ``others`` than findings that are looked for or ``not_final``, messages that were ``refused``. None
    where nobody listens to them."""
    if not config.diagnoses.enabled:
        return None
    truth = TruthStore(config.ledger_path, read_only=True)
    try:
        rows = truth.of_senders(time.time() - _DAY)
    finally:
        truth.close()
    names = {"refused": "faulty"}
    return {
        name: sum(row[names.get(name, name)] for row in rows)
        for name in ("messages", "taken", "repeated", "others", "not_final", "refused")
    }


def resident(pid: int | None) -> int:
    """Bytes that the appliance and its children hold in memory."""
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0

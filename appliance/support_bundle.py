"""One zip file with what a vendor needs to help, and nothing of a patient.

What goes in is listed here, nothing is taken out afterwards: numbers, names that the configuration or the code gives,
and sentences of the code without what was filled into them (`appliance.own_words`). No column that a header or a file's
name comes into is read, and no file of the spool, the results or the drop folder.
"""

from __future__ import annotations

import platform
import re
import time
import zipfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil

from appliance import certificates, doctor, history, log, machine, problems
from appliance.config import Config
from appliance.health import health
from appliance.history_store import HistoryStore
from appliance.own_words import GAP, own_words
from appliance.processor import processor
from appliance.spool import write_durably
from appliance.store import Store

# Texts of the configuration that are told; all others, those of later versions among them, are left out.
_TOLD = {
    "ae_title", "host", "address", "called_ae_titles", "undecodable", "after", "backend", "receipts_at", "priority",
    "at", "kinds", "messages", "protocol", "name", "send", "when", "url", "character_set", "high_confidence",
    "medium_confidence", "low_confidence", "calling_ae_title", "level", "operating_point", "days", "begin", "end",
    "embed_origins", "accent_dark", "accent_light",
}  # fmt: skip
_LEFT_OUT = "(left out)"
_LOG_LINES = 2000
_MINUTES = 48 * 3600
_WHERE = re.compile(r"image \d+|ledger")
_README = """What this is
============
The state of a Scanside appliance, for its vendor. It was made on the device, by hand, and was sent nowhere.

It holds no patient data. Nothing was taken out to make that so: only numbers, names that the configuration or the
program gives, and sentences of the program went in. Where a sentence was made with a value (of an image's header, of a
file's name, of what another system has answered), an ellipsis ({gap}) stands for it. The device's own page, or
`scanside status` there, shows these values to those who may see them.

versions.json        the software, its libraries, the system, the processor
configuration.json   every number and switch; texts only of settings that are no secrets and no paths
health.json          what the device page shows: counts, parts, destinations, disk, heat, clock, certificates' dates
problems.json        what is wrong, and what to do about it
receipts.json        the proofs of the backends on this device
history/*.json       minutes of two days, hours of two months, days: latency, throughput, queue, load, disk
ledger.json          tables with their rows' numbers, the schema, the latest proof
log.txt              the latest {lines} log lines
doctor.json          what `scanside doctor` says
"""


def write(config: Config, to: Path) -> list[str]:
    """Write the bundle; the names of its members.

    Raises
    ------
    SpoolError
        The ledger can't be read, or the file not be written.
    """
    temporary = to.with_name(f"{to.name}.making")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("README.txt", _README.format(gap=GAP, lines=_LOG_LINES))
            for name, content in contents(config):
                bundle.writestr(name, content if isinstance(content, str) else _json(content))
            names = bundle.namelist()
        write_durably(to, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return names


def contents(config: Config) -> Iterable[tuple[str, Any]]:
    """Name and content of each member but the README."""
    names = _names(config)
    store = Store(config.ledger_path, read_only=True)
    try:
        found = health(config, store)
        yield "versions.json", versions()
        yield "configuration.json", configuration(config)
        yield "health.json", _health(config, found)
        yield "problems.json", _problems(config, found, names)
        yield "receipts.json", [msgspec.json.decode(row["content"]) for row in store.receipts()]
        yield "ledger.json", _ledger(config, found)
    finally:
        store.close()
    yield from _history(config)
    yield "log.txt", _log(config, names)
    yield (
        "doctor.json",
        [
            {"what": check.what, "outcome": check.outcome, "detail": names(check.detail), "hint": names(check.hint)}
            for check in doctor.examine(config)
        ],
    )


def told_health(config: Config) -> dict[str, Any]:
    """What ``health.json`` of the bundle says."""
    store = Store(config.ledger_path, read_only=True)
    try:
        return _health(config, health(config, store))
    finally:
        store.close()


def versions() -> dict[str, Any]:
    cpu, flags = processor()
    system = machine.system()
    return {
        "scanside": metadata.version("scanside"),
        "python": platform.python_version(),
        "system": system.name,
        "kernel": system.kernel,
        "architecture": system.architecture,
        "up_since": system.booted_at,
        "cpu": cpu,
        "cpu_flags": flags,
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "libraries": {each.name: each.version for each in metadata.distributions()},
    }


def configuration(config: Config) -> Any:
    """Every key; numbers and switches with their values, texts only where they are listed above."""
    return _configured(msgspec.to_builtins(config), "")


def _configured(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _configured(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_configured(each, key) for each in value]
    return value if not isinstance(value, str) or not value or key in _TOLD else _LEFT_OUT


def _names(config: Config) -> Callable[[str], str]:
    """Own words, with those names told that the configuration gives."""
    known = {each.name for each in config.destinations} | {config.storage_scp.ae_title, "scanside"}

    def told(text: str) -> str:
        return text if text in known else own_words(text)

    return told


def _health(config: Config, found: dict[str, Any]) -> dict[str, Any]:
    parts = found["components"]
    clock = machine.clock()
    configured = {each.name for each in config.destinations}
    dropped = parts.get("drop_folder", {}).get("problems", {}).values()
    return {
        **{
            key: found[key]
            for key in (
                "version", "running", "uptime_seconds", "counts", "cpu_percent", "memory", "disk",
                "temperature_celsius", "throttling",
            )
        },
        "parts": {
            name: {"state": own_words(str(part.get("state", "running"))), "age_seconds": part["age_seconds"]}
            for name, part in parts.items()
        },
        "gathering": [{"images": each["images"], "seconds": each["seconds"]} for each in found["series"]],
        "backends": [
            {
                "backend": each["backend"], "package": each["package"], "serves": each["serves"],
                "receipt": each["receipt"], "seconds": each["seconds"], "reason": own_words(each["reason"]),
            }
            for each in parts.get("worker", {}).get("trials", ())
        ],
        "restarts": parts.get("inference", {}).get("stops", {}),
        "destinations": [
            {
                **{
                    key: row[key]
                    for key in ("waiting", "sent", "committed", "to_commit", "undelivered", "failing_since", "failures")
                },
                "name": row["destination"] if row["destination"] in configured else GAP,
                "last_error": own_words(row["last_error"]),
            }
            for row in found["destinations"]
        ],
        "drop_folder_problems": sorted(own_words(each) for each in dropped),
        "silent_modalities": len(parts.get("silence", {}).get("silent", ())),
        "clock": {"synchronized": clock.synchronized, "most_off_seconds": clock.most_off_seconds},
        "network": [
            {
                "up": each.up, "addresses": len(each.addresses), "mbit_per_second": each.mbit_per_second,
                "errors": each.errors,
            }
            for each in machine.interfaces()
        ],
        "certificates": [
            {
                "what": own_words(each.what), "begins_at": each.begins_at, "expires_at": each.expires_at,
                "made_at": each.made_at, "problem": own_words(each.problem),
            }
            for each in certificates.found(config)
        ],
    }  # fmt: skip


def _problems(config: Config, found: dict[str, Any], told: Callable[[str], str]) -> list[dict[str, str]]:
    every = problems.find(found, machine.clock(), certificates.found(config), None)
    return [
        {"severity": each.severity, "what": told(each.what), "mend": told(each.mend), "detail": told(each.detail)}
        for each in every
    ]


def _ledger(config: Config, found: dict[str, Any]) -> dict[str, Any]:
    recounted = found["recount"]
    kept = HistoryStore(config.ledger_path, read_only=True)
    try:
        tables, totals, sqlite = kept.tables(), kept.totals(), kept.sqlite_version()
    finally:
        kept.close()
    proof = recounted and {
        **{key: recounted[key] for key in ("kind", "at", "seconds", "counts", "files", "fault_count")},
        "faults": [
            {"where": each["where"] if _WHERE.fullmatch(each["where"]) else "a file", "what": own_words(each["what"])}
            for each in recounted["faults"]
        ],
    }
    counted = {
        name: _of_configured(config, value) if name in ("sent", "committed", "undelivered") else value
        for name, value in msgspec.to_builtins(totals).items()
    }
    return {"sqlite": sqlite, "tables": tables, "totals": counted, "proof": proof}


def _of_configured(config: Config, counts: dict[str, int]) -> dict[str, int]:
    """Counts by destination, those together under an ellipsis that the configuration doesn't name."""
    configured = {each.name for each in config.destinations}
    found = {name: count for name, count in counts.items() if name in configured}
    others = sum(count for name, count in counts.items() if name not in configured)
    return {**found, **({GAP: others} if others else {})}


def _history(config: Config) -> Iterable[tuple[str, Any]]:
    kept = HistoryStore(config.ledger_path, read_only=True)
    try:
        for seconds, name in zip(history.KEPT, ("minutes", "hours", "days"), strict=True):
            since = time.time() - _MINUTES if name == "minutes" else 0.0
            yield (
                f"history/{name}.json",
                [
                    [at, msgspec.to_builtins(msgspec.structs.replace(each, sent=_of_configured(config, each.sent)))]
                    for at, each in kept.periods(seconds, since)
                ],
            )
    finally:
        kept.close()


def _log(config: Config, told: Callable[[str], str]) -> str:
    seen: dict[str, str] = {}

    def value(each: Any) -> Any:
        if not isinstance(each, str):
            return each
        if each not in seen:
            seen[each] = told(each)
        return seen[each]

    lines = []
    for line in reversed(log.latest(config.log_path, _LOG_LINES)):
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(line.at))
        said = line.text([value(each) for each in line.values]) if own_words(line.sentence) != GAP else GAP
        lines.append(f"{at}Z {line.level:<7} {line.part}: {said}")
    return "\n".join([*lines, ""])


def _json(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1)

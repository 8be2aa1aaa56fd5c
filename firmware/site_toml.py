"""A site's configuration, read and checked: one TOML file with its signature beside it (site.toml, site.toml.sig).

    [site]       name, version (rises with each change), box (its identity; left out: any), time_zone, ntp_servers
    [network]    address ("dhcp" or "192.0.2.5/24"), gateway, dns, port (its MAC address or name; left out: every one)
    [[accounts]] name, role: who is to use the page; a stick brings back the code with which each account is made
    [[files]]    name, sha256: what goes with it (`firmware.site_files`)
    [appliance]  the appliance's own tables, as in scanside.toml

A key that is not known, or not of its type, is refused.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import zoneinfo
from collections.abc import Mapping
from typing import Any

from firmware import network, site_files
from firmware.errors import FirmwareError

_SITE = {"name": str, "version": int, "box": str, "time_zone": str, "ntp_servers": list}
_NETWORK = {"address": str, "gateway": str, "dns": list, "port": str}
_ACCOUNT = {"name": str, "role": str}
_FILE = {"name": str, "sha256": str}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")  # as the appliance has it
_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]*")
_ROLES = ("viewer", "clinician", "engineer", "administrator")


def parse(text: str, name: str) -> dict[str, Any]:
    """The tables of a site's configuration, with every key known and of its type."""
    try:
        tables = tomllib.loads(text)
    except ValueError as error:
        raise FirmwareError(f"{name} is no TOML: {error}") from error
    if unknown := set(tables) - {"site", "network", "accounts", "files", "appliance"}:
        raise FirmwareError(f"{name} has tables that are not known: {', '.join(sorted(unknown))}",
                            hint="there are [site], [network], [[accounts]], [[files]] and [appliance]")  # fmt: skip
    if not isinstance(tables.get("appliance", {}), dict):
        raise FirmwareError(f"{name}: appliance must be a table")
    accounts = tables.get("accounts", [])
    for key in ("accounts", "files"):
        if not isinstance(tables.get(key, []), list):
            raise FirmwareError(f"{name}: {key} must be a list", hint=f"write [[{key}]] before each")
    _check(name, "site", tables.get("site", {}), _SITE, ("name", "version"))
    _check(name, "network", tables.get("network", {}), _NETWORK, ())
    for each in accounts:
        _check(name, "accounts", each, _ACCOUNT, ("name", "role"))
        if not _NAME.fullmatch(each["name"]):
            raise FirmwareError(f"{name}: {each['name'][:64]!r} can't be an account's name",
                                hint="use up to 64 letters a-z, digits and . _ @ -")  # fmt: skip
        if each["role"] not in _ROLES:
            raise FirmwareError(f"{name}: there is no role {each['role']}", hint=f"one of {', '.join(_ROLES)}")
    known = [each["name"].lower() for each in accounts]  # as the appliance compares them
    for each in accounts:
        if known.count(each["name"].lower()) > 1:
            raise FirmwareError(f"{name}: two accounts are named {each['name']}",
                                hint="each needs a name of its own, which not only a capital letter makes")  # fmt: skip
    for each in tables.get("files", ()):
        _check(name, "files", each, _FILE, ("name", "sha256"))
    site_files.check(tables, name)
    _check_time(tables["site"], name)
    network.file(tables.get("network", {}), name)
    return tables


def _check(name: str, table: str, values: Any, keys: Mapping[str, type], needed: tuple[str, ...]) -> None:
    """Every key known, of its type, and there where it must be."""
    if not isinstance(values, dict):
        raise FirmwareError(f"{name}: {table} must be a table")
    for key, value in values.items():
        if key not in keys:
            raise FirmwareError(f"{name}: {table}.{key} is not known", hint=f"there are {', '.join(keys)}")
        if type(value) is not keys[key]:  # isinstance() would take true for a number
            raise FirmwareError(f"{name}: {table}.{key} must be of type {keys[key].__name__}")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise FirmwareError(f"{name}: {table}.{key} must be a list of strings", hint='write it as in ["192.0.2.1"]')
    for key in needed:
        if key not in values:
            raise FirmwareError(f"{name}: {table}.{key} is missing")


def _check_time(site: dict[str, Any], name: str) -> None:
    """libc takes a zone that it does not know for UTC, and systemd-timesyncd passes over what is no server."""
    zone, zones = site.get("time_zone", "UTC"), zoneinfo.available_timezones()
    if zone not in zones:
        near = difflib.get_close_matches(zone, zones, 1)
        raise FirmwareError(
            f"{name}: there is no time zone {zone!r}",
            hint=f"did you mean {near[0]}?" if near else "they are those of /usr/share/zoneinfo, as in Europe/Berlin",
        )
    for each in site.get("ntp_servers", ()):
        if not _SERVER.fullmatch(each):
            raise FirmwareError(f"{name}: site.ntp_servers: {each!r} is no name or address of a server")

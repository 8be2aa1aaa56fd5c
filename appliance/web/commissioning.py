"""A box's first configuration, entered on the page: name, time, network, who sends, where results go.

It is left for the firmware like what is handed over (`appliance.web.box`), as JSON and without a signature; the
firmware judges it, and takes none any more once it has taken a signed one. What was entered last is kept, so that a
refusal costs one correction.
"""

from __future__ import annotations

import itertools
import json
import zoneinfo
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, abort, g, redirect, render_template, request
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import Config, StorageScp
from appliance.errors import SpoolError
from appliance.spool import write_durably
from appliance.web import here
from appliance.web.box import leave_for_firmware, report_of_box
from appliance.web.language import gettext as _
from appliance.web.rights import needs

blueprint = Blueprint("commissioning", __name__)

_ROWS = 4  # of scanners and of destinations; a site.toml has room for more
_LONGEST = 255
_FIELDS = ("name", "time_zone", "ntp_servers", "port", "address", "gateway", "dns", "ae_title", "scp_port")
_MODALITY, _DESTINATION = ("ae_title", "address"), ("ae_title", "host", "port")


def register(app: Flask, config: Config) -> None:
    """Add the form, where this is a box."""
    if config.box.report:
        app.register_blueprint(blueprint)


@blueprint.get("/box/site")
@needs("administer")
def form() -> str:
    _refuse_once_signed()
    report = report_of_box()
    return render_template(
        "commissioning.html",
        report=report,
        entered=_entered_before(),
        zones=sorted(zoneinfo.available_timezones()),
        rows=range(_ROWS),
    )


@blueprint.post("/box/site")
@needs("administer")
def enter() -> BaseResponse:
    """Leave what was entered for the firmware, which says on the page of the box what came of it."""
    _refuse_once_signed()
    entered: dict[str, Any] = {name: _field(name) for name in (*_FIELDS, "addressing", "only_modalities")}
    entered["modalities"] = _rows("modality", _MODALITY)
    entered["destinations"] = _rows("destination", _DESTINATION)
    try:
        leave_for_firmware("site.json", json.dumps({**_tables(entered), "by": g.get("person", "")}).encode())
        write_durably(_draft(), json.dumps(entered).encode())
    except (OSError, SpoolError) as error:
        raise ServiceUnavailable(_("The files can't be kept: %(why)s.", why=error)) from error
    return redirect("/box")


def _refuse_once_signed() -> None:
    if not report_of_box().get("may_enter"):
        abort(404, _("This box takes a signed configuration only: hand over site.toml and site.toml.sig."))


def _field(name: str) -> str:
    return request.form.get(name, "").strip()[:_LONGEST]


def _rows(what: str, keys: tuple[str, ...]) -> list[dict[str, str]]:
    """Those in which anything was entered."""
    rows = [{key: _field(f"{what}-{number}-{key}") for key in keys} for number in range(_ROWS)]
    return [row for row in rows if any(row.values())]


def _tables(entered: dict[str, Any]) -> dict[str, Any]:
    """The tables of a site.toml; what is wrong in them is the firmware's and the appliance's to say."""
    site = {"name": entered["name"], "time_zone": entered["time_zone"] or "UTC"}
    network: dict[str, Any] = {"address": "dhcp"}
    if entered["addressing"] == "static":
        network = {"address": entered["address"], **_given(gateway=entered["gateway"])}
    network |= {"dns": entered["dns"].split(), **_given(port=entered["port"])}
    own = entered["ae_title"]
    scp = {
        **_given(ae_title=own, port=_number(entered["scp_port"])),
        "modalities": [_given(**row) for row in entered["modalities"]],
        "only_modalities": bool(entered["only_modalities"]),
    }
    rows = entered["destinations"]
    destinations = [
        {"name": name, **_given(**{**row, "port": _number(row["port"])})}
        for name, row in zip(_names([row["ae_title"] or row["host"] for row in rows]), rows, strict=True)
    ]
    return {
        "site": {**site, "ntp_servers": entered["ntp_servers"].split()},
        "network": network,
        "appliance": {
            "web": {"host": here.config().web.host},
            "storage_scp": scp,
            "delivery": _given(calling_ae_title=own),
            "destinations": destinations,
        },
    }


def _names(wanted: list[str]) -> list[str]:
    """Each with a number behind it where it, or what it would be with one, was there before: PACS, PACS-2."""
    names: list[str] = []
    for name in wanted:
        numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        names.append(next(each for each in numbered if each not in names))
    return names


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not empty."""
    return {key: value for key, value in values.items() if value != ""}


def _number(text: str) -> int | str:
    """As a number where it is one; otherwise it is refused by its type, and named."""
    return int(text) if text.isascii() and text.isdigit() else text


def _defaults() -> dict[str, Any]:
    scp = StorageScp()
    empty: dict[str, Any] = dict.fromkeys((*_FIELDS, "only_modalities"), "")
    return {
        **empty,
        "time_zone": "UTC",
        "addressing": "dhcp",
        "ae_title": scp.ae_title,
        "scp_port": str(scp.port),
        "modalities": [],
        "destinations": [],
    }


def _entered_before() -> dict[str, Any]:
    """The defaults where nothing was, or a cut left it half."""
    try:
        kept = json.loads(_draft().read_bytes())
    except (OSError, ValueError):
        kept = {}
    return {**_defaults(), **kept} if isinstance(kept, dict) else _defaults()


def _draft() -> Path:
    return here.config().data / "entered.json"

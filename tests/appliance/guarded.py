"""The page alone, with accounts of every role, for tests of who may do what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule
from werkzeug.routing.converters import AnyConverter, NumberConverter

from appliance.accounts import ROLES
from appliance.audit_store import AuditStore
from appliance.config import Box, Config, Uploads, Web
from appliance.store import Arrival, Store
from appliance.tokens import Tokens
from appliance.web.app import create_app
from tests.appliance.conftest import account, browser, log_in

SECRET = "SECRET"  # in the name of every patient


class Guarded:
    """A page on a ledger with one rejected and one quarantined image; an account for each role, named like it."""

    def __init__(self, folder: Path, claimed: bool = True, **web: Any) -> None:
        uploads = Uploads(largest_file_mb=1, largest_request_mb=2)
        shown = Web(**{"show_patient": True, **web})
        self.config = Config(data_dir=str(folder), web=shown, uploads=uploads, box=Box(report=str(folder / "box.json")))
        self.store = Store(self.config.ledger_path)
        with self.store.together():
            for number in (1, 2):
                self.add(number, {"patient_name": f"{SECRET}^{number}", "patient_id": f"{SECRET}-{number}"})
        if claimed:
            account(self.config.ledger_path, **{role: role for role in ROLES})
        self.app = create_app(self.config)

    def add(self, number: int, header: dict[str, str], ae_title: str = "CT1", reason: str = "Not an image.") -> int:
        sender = f"{ae_title} at 192.0.2.1"
        arrival = Arrival(f"1.2.{number}", "1.2", f"{number:064d}", "x.dcm", 1, "storage_scp", sender, ae_title)
        identifier = self.store.receive(arrival).instance_id
        self.store.claim("w", 30)
        self.store.triage(identifier, "w", header, "routine", 0.0)
        end = self.store.reject if number % 2 else self.store.quarantine
        end(identifier, "w", reason)
        return identifier

    def client(self, role: str = "") -> FlaskClient:
        """A browser, in which the account of this role is logged in."""
        found = browser(self.app)
        if role:
            assert log_in(found, role).status_code == 302
        return found

    def token(self, *scopes: str) -> dict[str, str]:
        """The header of a new token."""
        tokens = Tokens(self.config.ledger_path)
        text = tokens.add(f"t{len(tokens.rows())}", scopes, None, "")
        tokens.close()
        return {"Authorization": f"Bearer {text}"}

    def trail(self) -> list[dict[str, Any]]:
        """What was recorded, in its order."""
        store = AuditStore(self.config.audit_path, read_only=True)
        try:
            return [json.loads(row["content"]) for row in store.records()]
        finally:
            store.close()


def routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Method, path and endpoint of every route, with values for what is variable in it."""
    for rule in app.url_map.iter_rules():
        path = _path(rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, path, rule.endpoint


def _path(rule: Rule) -> str:
    values: dict[str, Any] = {}
    for name, converter in rule._converters.items():
        if isinstance(converter, NumberConverter):
            values[name] = 1
        elif isinstance(converter, AnyConverter):
            values[name] = sorted(converter.items)[0]
        else:
            values[name] = "x"
    built = rule.build(values)
    assert built is not None
    return built[1]

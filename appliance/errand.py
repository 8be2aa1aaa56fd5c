"""What is done at the press of a button on the device page, in a process of its own: tests, and the support bundle."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec

from appliance import doctor
from appliance.checks import Check
from appliance.config import Config
from appliance.connection import examine
from appliance.connection.asked import questions
from appliance.errors import ApplianceError
from appliance.process import give_way
from appliance.support_bundle import write

SELF_TEST, CONNECTIONS, BUNDLE = "self-test", "connections", "support-bundle"
BUNDLE_NAME = "scanside-support.zip"
_NICE = 10


def main(config: Config, descriptor: int) -> None:
    """Read what to do, a line, from a socket; write the answers as lines of JSON, as they come."""
    give_way(_NICE)
    with socket.socket(fileno=descriptor) as parent, parent.makefile("rwb") as stream:
        what = stream.readline().decode().strip()
        try:
            for check in _checks(config, what):
                stream.write(msgspec.json.encode(check) + b"\n")
                stream.flush()
        except ApplianceError as error:
            stream.write(msgspec.json.encode(Check(what, "fail", error.message, error.hint or "")) + b"\n")


def _checks(config: Config, what: str) -> Iterator[Check]:
    if what == SELF_TEST:
        yield from doctor.examine(config)
    elif what == CONNECTIONS:
        yield from _connections(config)
    elif what == BUNDLE:
        names = write(config, config.support_path / BUNDLE_NAME)
        yield Check("support bundle", "ok", f"{len(names)} files in it, none with patient data")


def _connections(config: Config) -> Iterator[Check]:
    """Of the own Storage SCP and each destination: what fails, and what to do next."""
    if config.storage_scp.enabled:
        for title, question in questions(config):
            for check in examine(question):
                yield Check(f"{title}: {check.what}", check.outcome, check.detail, check.hint)
    for destination in config.destinations:
        if destination.protocol != "dicom" or not config.storage_scp.enabled:
            yield doctor.reach(config, destination)

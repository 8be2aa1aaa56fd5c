"""Does what `appliance.errand` names, in a process of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec

from appliance import doctor, switching
from appliance.audit import Trail, recorded
from appliance.checks import Check
from appliance.config import Config
from appliance.connection import examine
from appliance.connection.asked import questions
from appliance.errand import BUNDLE, BUNDLE_NAME, CONNECTIONS, ROLLBACK, SELF_TEST, Asked
from appliance.errors import ApplianceError
from appliance.process import give_way
from appliance.support_bundle import write

_NICE = 10


def main(config: Config, descriptor: int) -> None:
    """Read what to do (`Asked`, a line of JSON) from a socket; write the answers as lines of JSON, as they come."""
    with socket.socket(fileno=descriptor) as parent, parent.makefile("rwb") as stream:
        asked = msgspec.json.decode(stream.readline(), type=Asked)
        if asked.what != ROLLBACK:  # nobody waits for the others
            give_way(_NICE)
        try:
            for check in _checks(config, asked):
                stream.write(msgspec.json.encode(check) + b"\n")
                stream.flush()
        except ApplianceError as error:
            stream.write(msgspec.json.encode(Check(asked.what, "fail", error.message, error.hint or "")) + b"\n")


def _checks(config: Config, asked: Asked) -> Iterator[Check]:
    if asked.what == SELF_TEST:
        yield from doctor.examine(config)
    elif asked.what == CONNECTIONS:
        yield from _connections(config)
    elif asked.what == ROLLBACK:
        yield _roll_back(config, asked)
    elif asked.what == BUNDLE:
        names = write(config, config.support_path / BUNDLE_NAME)
        yield Check("support bundle", "ok", f"{len(names)} files in it, none with patient data")


def _roll_back(config: Config, asked: Asked) -> Check:
    trail = Trail(config.audit_path, config.key_path)
    try:
        with recorded(trail, event="act", action="models rollback", target=f"package {asked.model}", person=asked.by):
            done = switching.rollback(config, asked.model, asked.by, asked.why, lambda _share, _what: None)
    finally:
        trail.close()
    version = done.choice.version
    said = f"{asked.model} {version} is in force" if version else f"{asked.model} reads no longer"
    if done.served:
        return Check(ROLLBACK, "ok", f"{said}; the appliance reads with it since {done.seconds:.1f} s after the change")
    return Check(
        ROLLBACK, "warning", f"{said}; no appliance reads with it yet", "it will when it starts: see the device page"
    )


def _connections(config: Config) -> Iterator[Check]:
    """Of the own Storage SCP and each destination: what fails, and what to do next."""
    if config.storage_scp.enabled:
        for title, question in questions(config):
            for check in examine(question):
                yield Check(f"{title}: {check.what}", check.outcome, check.detail, check.hint)
    for destination in config.destinations:
        if destination.protocol != "dicom" or not config.storage_scp.enabled:
            yield doctor.reach(config, destination)

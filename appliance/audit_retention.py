"""What is removed of the audit trail, and when: records that are old enough and for certain somewhere else, too.

With a syslog collector, what that has; else what `scanside audit export --format chain` has written. The first record
that must stay keeps all later ones.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import msgspec

from appliance.audit import FIRST, Trail, decode, digest
from appliance.audit_store import AuditStore
from appliance.config import Config
from appliance.errors import ApplianceError

log = logging.getLogger("scanside.audit")

_DAY = 86400.0


@dataclass(frozen=True)
class Due:
    """What may go, and what may not though it is old enough.

    Attributes
    ----------
    first, last
        Numbers of the records that may go; ``first`` is the greater where none may.
    digest
        Of the last one.
    kept
        Why the next one stays though it is old enough; '' where it is not.
    """

    first: int
    last: int
    digest: str
    kept: str

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def due(config: Config) -> Due:
    """What is to go by the configuration.

    Raises
    ------
    ApplianceError
        Its chain is broken there: then it is evidence, and stays.
    SpoolError
        It can't be read.
    """
    store = AuditStore(config.audit_path, read_only=True)
    try:
        with store.snapshot():
            return _due(config, store)
    finally:
        store.close()


def _due(config: Config, store: AuditStore) -> Due:
    anchor = store.anchor()
    number, last = (anchor["number"], anchor["digest"]) if anchor else (0, FIRST)
    first, before = number + 1, time.time() - config.audit.keep_days * _DAY
    if not config.audit.keep_days:
        return Due(first, number, last, "")
    if config.audit.syslog is not None:
        sure, kept = store.elsewhere("collector"), "the syslog collector does not have them"
    else:
        sure = store.elsewhere("file")
        kept = "no export has them: scanside audit export --format chain --to FILE"
    for row in store.records():
        try:
            record = decode(row["content"])
        except msgspec.DecodeError:
            record = None
        if record is None or row["number"] != number + 1 or row["previous"] != last:
            raise ApplianceError(
                f"the audit trail is broken at record {row['number']}, and nothing is removed from it",
                hint="see `scanside audit verify`",
            )
        if record.at >= before:
            break
        if row["number"] > sure:
            return Due(first, number, last, kept)
        number, last = row["number"], digest(row["number"], last, row["content"])
    return Due(first, number, last, "")


def remove(config: Config, trail: Trail) -> Due:
    """Remove what is due, and say in the log what stays only since it is nowhere else; raises as `due`."""
    found = due(config)
    if found.count > 0:
        trail.give_up(found.last, found.digest)
        log.info("audit trail: records %d to %d are removed", found.first, found.last)
    if found.kept:
        days = config.audit.keep_days
        log.warning(
            "audit trail: records from %d on are older than %g d and stay: %s", found.last + 1, days, found.kept
        )
    return found

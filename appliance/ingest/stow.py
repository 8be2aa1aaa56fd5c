"""STOW-RS: the Store transaction of DICOMweb (PS3.18 section 10.5), without its HTTP, which the page's server has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from appliance.errors import DiskFullError, InputError, SpoolError
from appliance.ingest import Intake
from appliance.part10 import Identity

log = logging.getLogger("scanside.stow")

# Failure Reason (PS3.18 table I.2-2; 0111H is PS3.7's, for what that table does not have)
_OUT_OF_RESOURCES, _CANNOT_UNDERSTAND, _PROCESSING_FAILURE, _DUPLICATE = 0xA700, 0xC000, 0x0110, 0x0111
_OTHER_STUDY = 0xC409  # an implementation's own, of the kind Cannot understand


class _NotTakenError(Exception):
    def __init__(self, reason: int) -> None:
        super().__init__()
        self.reason = reason


@dataclass
class Report:
    """What became of each instance of a request.

    Each of the lists holds items of its sequence in the Store Instances Response Module (PS3.18 table I.2-1).
    """

    referenced: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    other_failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int:
        """200, 202 or 409 (PS3.18 table 10.5.3-1); 400 where there was no part that is an instance."""
        failures = bool(self.failed or self.other_failures)
        if not self.referenced:
            return 409 if failures else 400
        return 202 if failures else 200

    def to_json(self) -> dict[str, Any]:
        """By the DICOM JSON model (PS3.18 annex F)."""
        module: dict[str, Any] = {"00081190": {"vr": "UR"}}  # Retrieve URL: nothing can be retrieved from here
        for tag, items in (
            ("00081198", self.failed),  # Failed SOP Sequence
            ("00081199", self.referenced),  # Referenced SOP Sequence
            ("0008119A", self.other_failures),  # Other Failures Sequence
        ):
            if items:
                module[tag] = {"vr": "SQ", "Value": items}
        return module


def store(
    intake: Intake, parts: Iterable[Iterator[bytes]], study_instance_uid: str | None, sender: str, transfer_id: str
) -> Report:
    """Store every part that is an instance; a part that is not stops no other.

    Parameters
    ----------
    parts
        Each the pieces of one PS3.10 file.
    study_instance_uid
        Of which all must be, None where any study is fine.

    Raises
    ------
    Exception
        What ``parts`` raises; what came before it stays stored.
    """
    report = Report()
    for pieces in parts:
        seen: list[Identity] = []
        try:
            _, admission = intake.take_stream(
                pieces,
                source="stow",
                sender=sender,
                transfer_id=transfer_id,
                accept=partial(_accept, study_instance_uid, seen),
            )
            log.info("instance %d: %s", admission.instance_id, admission.outcome)
            # One in conflict is kept and shown, but it is not what the sender has: the sender must know.
            reason = _DUPLICATE if admission.outcome == "conflict" else 0
        except _NotTakenError as error:
            reason = error.reason
        except InputError:
            reason = _CANNOT_UNDERSTAND
        except DiskFullError as error:
            log.error("refused with 0xA700: %s", error)
            reason = _OUT_OF_RESOURCES
        except SpoolError as error:
            log.error("refused with 0x0110: %s", error)
            reason = _PROCESSING_FAILURE
        _add(report, seen[0] if seen else None, reason)
    return report


def _accept(study_instance_uid: str | None, seen: list[Identity], identity: Identity) -> None:
    seen.append(identity)
    if not identity.has_prefix or not identity.sop_class_uid or not identity.sop_instance_uid:
        raise _NotTakenError(_CANNOT_UNDERSTAND)
    if study_instance_uid is not None and identity.study_instance_uid != study_instance_uid:
        raise _NotTakenError(_OTHER_STUDY)


def _add(report: Report, identity: Identity | None, reason: int) -> None:
    failure = {"00081197": {"vr": "US", "Value": [reason]}} if reason else {}
    if identity is None or not identity.sop_class_uid or not identity.sop_instance_uid:
        report.other_failures.append(failure)
        return
    item: dict[str, Any] = {
        "00081150": {"vr": "UI", "Value": [identity.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [identity.sop_instance_uid]},
    }
    if reason:
        report.failed.append({**item, **failure})
    else:
        report.referenced.append({**item, "00081190": {"vr": "UR"}})

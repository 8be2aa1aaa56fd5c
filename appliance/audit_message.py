"""A record of the audit trail as DICOM audit messages (PS3.15 annex A.5), which collectors of IHE ATNA take."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree

from appliance.audit import Record
from appliance.audit_subjects import Subject

_OWN = "99SCANSIDE"  # coding scheme of what the standard has no code for
_RFC3881 = "RFC-3881"
_MEANINGS = {  # PS3.16 CID 400, 401, 402 and 405
    "110100": "Application Activity", "110101": "Audit Log Used", "110102": "Begin Transferring DICOM Instances",
    "110103": "DICOM Instances Accessed", "110104": "DICOM Instances Transferred", "110106": "Export",
    "110107": "Import", "110112": "Query", "110113": "Security Alert", "110114": "User Authentication",
    "110120": "Application Start", "110121": "Application Stop", "110122": "Login", "110123": "Logout",
    "110129": "Security Configuration", "110132": "Use of Restricted Function", "110133": "Audit Recording Stopped",
    "110136": "Security Roles Changed", "110137": "User Security Attributes Changed", "110150": "Application",
    "110152": "Destination Role ID", "110153": "Source Role ID", "110154": "Destination Media",
    "110155": "Source Media", "110180": "Study Instance UID", "110037": "URI",
}  # fmt: skip
_SUCCESS, _MINOR, _SERIOUS = "0", "4", "8"
_ILLEGAL = re.compile("[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 section 2.2
_UNKNOWN = "unknown"
TRAIL_URI = "scanside:audit-trail"


@dataclass(frozen=True)
class Source:
    """Who reports.

    Attributes
    ----------
    name
        AuditSourceID: of this device.
    site
        AuditEnterpriseSiteID, '' for none.
    ae_title
        Of its Storage SCP.
    pseudonym_key
        With which patients' IDs are replaced by a pseudonym; b'' where they are sent.
    """

    name: str
    site: str = ""
    ae_title: str = "SCANSIDE"
    pseudonym_key: bytes = b""

    def patient_id(self, said: str) -> str:
        if not self.pseudonym_key or not said:
            return said or _UNKNOWN
        return f"pseudonym-{hmac.new(self.pseudonym_key, said.encode(), hashlib.sha256).hexdigest()[:16]}"


def messages(record: Record, subjects: Sequence[Subject], source: Source) -> list[str]:
    """XML documents without a declaration: one, or where it is about several patients, one for each."""
    make = _MAKERS.get(record.event, _other)
    whom: Sequence[Subject | None] = subjects or [None]
    return [ElementTree.tostring(make(record, each, source), encoding="unicode") for each in whom]


# --- one for each kind of event (A.5.3) --------------------------------------------------------------------------


def _activity(record: Record, _: Subject | None, source: Source) -> ElementTree.Element:
    code = "110120" if record.event == "start" else "110121"
    made = _begin(record, "110100", "E", code)
    _active(made, source.name, False, "110150", name="Scanside")
    return _end(made, source)


def _authentication(record: Record, _: Subject | None, source: Source) -> ElementTree.Element:
    made = _begin(record, "110114", "E", "110123" if record.event == "logout" else "110122")
    _person(made, record)
    _device(made, source)
    return _end(made, source)


def _accessed(record: Record, subject: Subject | None, source: Source) -> ElementTree.Element:
    """Of an image; a page that shows none is a query, since that is what the standard has for lists."""
    if subject is None:
        return _query(record, subject, source) if record.event == "view" else _other(record, subject, source)
    made = _begin(record, "110103", "R" if record.event == "view" else "U", own=record.action)
    _person(made, record)
    _device(made, source)
    _end(made, source)
    return _about(made, subject, source)


def _query(record: Record, _: Subject | None, source: Source) -> ElementTree.Element:
    made = _begin(record, "110112", "E", own=record.action)
    _person(made, record, "110153")
    _device(made, source, "110152")
    _end(made, source)
    _object(made, "2", "3", ("10", _RFC3881, "Search Criteria"), record.target or "worklist", query=record.action)
    return made


def _transferred(record: Record, subject: Subject | None, source: Source) -> ElementTree.Element:
    begins, outgoing = record.event == "transfer_begin", record.target.startswith("destination ")
    made = _begin(record, "110102" if begins else "110104", "E" if begins else "R" if outgoing else "C")
    other = record.target.removeprefix("destination ") if outgoing else record.person or _UNKNOWN
    _active(made, other, not outgoing, "110152" if outgoing else "110153", address=record.address)
    _active(made, source.name, outgoing, "110153" if outgoing else "110152", other=f"AETITLES={source.ae_title}")
    _end(made, source)
    return _about(made, subject or Subject(_UNKNOWN, {_UNKNOWN: {}}), source)


def _downloaded(record: Record, subject: Subject | None, source: Source) -> ElementTree.Element:
    made = _begin(record, "110106", "R", own=record.action)
    _person(made, record, "110153")
    _media(made, record, "110154")
    _end(made, source)
    return _about(made, subject or Subject(_UNKNOWN, {_UNKNOWN: {}}), source)


def _uploaded(record: Record, subject: Subject | None, source: Source) -> ElementTree.Element:
    made = _begin(record, "110107", "C", own=record.action)
    _person(made, record, "110152")
    _media(made, record, "110155")
    _end(made, source)
    return _about(made, subject or Subject(_UNKNOWN, {_UNKNOWN: {}}), source)


def _used(record: Record, _: Subject | None, source: Source) -> ElementTree.Element:
    made = _begin(record, "110101", "R", own=record.action)
    _person(made, record)
    _end(made, source)
    _object(made, "2", "13", ("12", _RFC3881, "URI"), TRAIL_URI, "Security Audit Log")
    return made


def _alert(record: Record, _: Subject | None, source: Source) -> ElementTree.Element:
    kinds = {"refused": "110132", "gap": "110133"}
    code = kinds.get(record.event, "110136" if record.action == "set_role" else "110137")
    made = _begin(record, "110113", "E", code)
    _person(made, record)
    _device(made, source)
    _end(made, source)
    subject = _object(made, "2", "13", ("12", _RFC3881, "URI"), f"scanside:{record.target or 'device'}", record.action)
    _detail(subject, "Alert Description", record.detail or record.action)
    return made


def _other(record: Record, subject: Subject | None, source: Source) -> ElementTree.Element:
    """What is done to the device: an event of our own, as the profile allows."""
    if record.action in _SECURITY_COMMANDS:
        return _alert(record, subject, source)
    made = ElementTree.Element("AuditMessage")
    _event(made, record, (record.event, _OWN, "Operation on the device"), "E", (record.action, _OWN, record.action))
    _person(made, record)
    _device(made, source)
    _end(made, source)
    if subject is not None:
        return _about(made, subject, source)
    if record.target:
        _object(made, "2", "4", ("12", _RFC3881, "URI"), f"scanside:{record.target}", record.target)
    return made


_SECURITY_COMMANDS = {
    "add_account", "set_role", "set_password", "disable_account", "enable_account", "unlock_account", "add_token",
    "revoke_token", "new_enrolment_code", "invite_account", "withdraw_invitation",
}  # fmt: skip
_MAKERS = {
    "start": _activity, "stop": _activity, "login": _authentication, "logout": _authentication,
    "lock_out": _authentication, "view": _accessed, "act": _accessed, "transfer_begin": _transferred,
    "transfer_end": _transferred, "download": _downloaded, "upload": _uploaded, "used": _used, "account": _alert,
    "refused": _alert, "gap": _alert,
}  # fmt: skip


# --- parts of a message, in the order of the schema (A.5.1) ------------------------------------------------------


def _begin(record: Record, event: str, action: str, kind: str = "", own: str = "") -> ElementTree.Element:
    made = ElementTree.Element("AuditMessage")
    detail = _dcm(kind) if kind else (own, _OWN, own) if own else None
    _event(made, record, _dcm(event), action, detail)
    return made


def _event(
    made: ElementTree.Element,
    record: Record,
    code: tuple[str, str, str],
    action: str,
    kind: tuple[str, str, str] | None,
) -> None:
    outcome = _SERIOUS if record.event == "lock_out" else _MINOR if record.failed else _SUCCESS
    event = ElementTree.SubElement(
        made,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=outcome,
    )
    _code(event, "EventID", code)
    if kind is not None:
        _code(event, "EventTypeCode", kind)
    if record.detail:
        ElementTree.SubElement(event, "EventOutcomeDescription").text = _legal(record.detail)


def _active(
    made: ElementTree.Element, user: str, requestor: bool, role: str, address: str = "", name: str = "", other: str = ""
) -> ElementTree.Element:
    attributes = {"UserID": _legal(user), "UserIsRequestor": str(requestor).lower()}
    if other:
        attributes["AlternativeUserID"] = _legal(other)
    if name:
        attributes["UserName"] = _legal(name)
    if address:
        attributes |= {"NetworkAccessPointID": _legal(address), "NetworkAccessPointTypeCode": "2"}
    found = ElementTree.SubElement(made, "ActiveParticipant", attributes)
    if role:
        _code(found, "RoleIDCode", _dcm(role))
    return found


def _person(made: ElementTree.Element, record: Record, role: str = "") -> None:
    user = record.person or record.address or _UNKNOWN
    found = _active(made, user, True, role, record.address, record.person, record.how and f"by {record.how}")
    if record.role:
        _code(found, "RoleIDCode", (record.role, _OWN, record.role))


def _device(made: ElementTree.Element, source: Source, role: str = "110150") -> None:
    _active(made, source.name, False, role, name="Scanside")


def _media(made: ElementTree.Element, record: Record, role: str) -> None:
    """A browser, as the medium that files go to or come from."""
    found = _active(made, record.address or _UNKNOWN, False, role, record.address)
    _code(ElementTree.SubElement(found, "MediaIdentifier"), "MediaType", _dcm("110037"))


def _end(made: ElementTree.Element, source: Source) -> ElementTree.Element:
    attributes = {"AuditSourceID": _legal(source.name)}
    if source.site:
        attributes["AuditEnterpriseSiteID"] = _legal(source.site)
    found = ElementTree.SubElement(made, "AuditSourceIdentification", attributes)
    ElementTree.SubElement(found, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server
    return made


def _about(made: ElementTree.Element, subject: Subject, source: Source) -> ElementTree.Element:
    for uid, classes in subject.studies.items():
        study = _object(made, "2", "3", _dcm("110180"), uid or _UNKNOWN, "Study")
        description = ElementTree.SubElement(study, "ParticipantObjectDescription") if classes else None
        for sop_class_uid, count in classes.items():
            assert description is not None
            ElementTree.SubElement(
                description, "SOPClass", UID=_legal(sop_class_uid or _UNKNOWN), NumberOfInstances=str(count)
            )
    # The name is not sent: the ID tells who it is, to whoever may know.
    _object(made, "1", "1", ("2", _RFC3881, "Patient Number"), source.patient_id(subject.patient_id), "Patient")
    return made


def _object(
    made: ElementTree.Element,
    kind: str,
    role: str,
    code: tuple[str, str, str],
    identifier: str,
    name: str = "",
    query: str = "",
) -> ElementTree.Element:
    found = ElementTree.SubElement(
        made,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_legal(identifier),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(found, "ParticipantObjectIDTypeCode", code)
    if query:
        ElementTree.SubElement(found, "ParticipantObjectQuery").text = base64.b64encode(query.encode()).decode()
    else:
        ElementTree.SubElement(found, "ParticipantObjectName").text = _legal(name)
    return found


def _detail(found: ElementTree.Element, kind: str, value: str) -> None:
    encoded = base64.b64encode(value.encode()).decode()
    ElementTree.SubElement(found, "ParticipantObjectDetail", type=kind, value=encoded)


def _code(parent: ElementTree.Element, name: str, code: tuple[str, str, str]) -> None:
    value, system, meaning = code
    attributes = {"csd-code": _legal(value), "codeSystemName": system, "originalText": _legal(meaning)}
    ElementTree.SubElement(parent, name, attributes)


def _dcm(value: str) -> tuple[str, str, str]:
    return value, "DCM", _MEANINGS[value]


def _legal(text: str) -> str:
    return _ILLEGAL.sub("�", text)

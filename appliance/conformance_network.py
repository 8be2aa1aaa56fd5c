"""The parts of the conformance statement about services, network and security: `appliance.conformance` has the rest."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from appliance import implementation, specimen
from appliance.config import Config
from appliance.document import Document
from appliance.ingest import storage_scp

_YES = "Yes"
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_C_STORE_STATUS = (
    ("Success", "0000", "The data set is on disk (fsync) and its row in the ledger is committed."),
    ("Refused: out of resources", "A700",
     f"The disk is full, or the data set is larger than {storage_scp.LARGEST_BYTES // 2**30} GiB. Nothing is kept."),
    ("Error: cannot understand", "C000", "The SOP Class UID or SOP Instance UID is not valid. Nothing is kept."),
    ("Processing failure", "0110", "The file or its row could not be written. Nothing is kept."),
)  # fmt: skip
_COMMITMENT_FAILURES = (
    ("0112", "No such object instance: it is not in the ledger, or its file is not whole."),
    ("0119", "Class-instance conflict: it was received under another SOP class."),
)
_PROTOCOLS = {
    "dicom": "C-STORE",
    "stow": "STOW-RS",
    "mllp": "HL7 over MLLP",
    "fhir": "FHIR over HTTP",
    "folder": "files in a folder",
}


def services(made: Document, config: Config) -> None:
    made.heading(2, "4 Services")
    made.heading(3, "4.1 STORAGE-SCP: Storage, Verification, Storage Commitment, Modality Performed Procedure Step")
    settings = config.storage_scp
    if not settings.enabled:
        made.paragraph("Disabled in this configuration.")
    made.table(
        ("abstract syntax", "UID", "transfer syntaxes", "role", "extended negotiation"),
        _scp_contexts(config),
    )
    made.paragraph("Where a peer leaves the choice, transfer syntaxes are preferred in this order:")
    made.table(
        ("transfer syntax", "UID", "can be read"),
        [[UID(syntax).name, f"`{syntax}`", _YES] for syntax in storage_scp.PREFERRED],
    )
    if settings.undecodable == "store":
        made.paragraph("Other transfer syntaxes are accepted, too; such objects are kept and set aside.")
    made.table(("service status", "status code (hex)", "meaning"), _C_STORE_STATUS)
    made.paragraph(
        "The same data set sent again is answered with Success; it changes nothing, unless it was rejected or had"
        " failed: then it is read again. Another data set under the same SOP Instance UID is"
        " answered with Success, kept, and set aside with its reason. No attribute is coerced."
    )
    if settings.storage_commitment:
        made.paragraph(
            "Storage Commitment is answered from the ledger and the disk. The N-EVENT-REPORT goes to the modality's"
            " configured port, on an association of its own; without a port, on the association that asked, or on the"
            f" modality's next one that asks for something. It is tried for {settings.storage_commitment_hours:g} h."
            " Failure Reasons:"
        )
        made.table(("Failure Reason (hex)", "meaning"), _COMMITMENT_FAILURES)
        made.paragraph("This device is no archive: it commits what is in its spool, and retention may be configured.")
    if settings.performed_procedure_step:
        made.paragraph(
            "Of a Modality Performed Procedure Step (N-CREATE, N-SET) its status and the images that it names are kept:"
            " which images a series is to have, and that no more come."
        )
    made.heading(3, "4.2 DELIVERY: Storage, Storage Commitment, STOW-RS")
    sent = dict.fromkeys(str(dataset.SOPClassUID) for _, dataset in specimen.objects())
    both, implicit = (", ".join(syntax.name for syntax in given) for given in (_SYNTAXES, _SYNTAXES[1:]))
    made.table(
        ("abstract syntax", "UID", "transfer syntaxes", "role", "extended negotiation"),
        [
            *([UID(uid).name, f"`{uid}`", both, "SCU", "none"] for uid in sent),
            [_name(StorageCommitmentPushModel), f"`{StorageCommitmentPushModel}`", both, "SCU", "none"],
            [_name(Verification), f"`{Verification}`", implicit, "SCU", "none"],
        ],
    )
    made.paragraph(
        "Objects are stored and sent in Explicit VR Little Endian; in Implicit VR Little Endian only where a peer"
        " takes nothing else. Success and warning statuses (B000, B006, B007) count as taken, and so does 0111"
        " (duplicate SOP instance: the peer has it); all else is tried again,"
        f" for {config.delivery.undelivered_hours:g} h, then raises an alarm and can be sent again by hand."
    )
    made.paragraph(
        "A destination with `storage_commitment = true` is asked by N-ACTION to commit what it took; only what it"
        " commits counts as delivered. Its N-EVENT-REPORT is taken by STORAGE-SCP, or on the association that asked."
    )
    made.paragraph(
        'A destination with `protocol = "stow"` gets `multipart/related; type=application/dicom`, one object in a'
        " request. Basic and Bearer authentication."
    )
    made.heading(3, "4.3 STOW-RS as origin server")
    made.table(
        ("resource", "media types", "answers"),
        [
            ["`POST /dicom-web/studies`, `POST /dicom-web/studies/{StudyInstanceUID}`",
             "`multipart/related; type=application/dicom`", "200, 202, 400, 401, 406, 409, 413, 415, 503"],
        ],
    )  # fmt: skip


def _scp_contexts(config: Config) -> Iterator[list[str]]:
    settings = config.storage_scp
    syntaxes = ", ".join(syntax.name for syntax in storage_scp.SERVICE_SYNTAXES)
    for uid in storage_scp.services(settings):
        yield [_name(uid), f"`{uid}`", syntaxes, "SCP", "none"]
    if any(each.storage_commitment for each in config.destinations):
        name, uid = _name(StorageCommitmentPushModel), StorageCommitmentPushModel
        yield [f"{name}, reports of destinations", f"`{uid}`", syntaxes, "SCU", "SCP/SCU Role Selection"]
    if settings.undecodable == "refuse":
        yield ["all standard image storage classes", "`1.2.840.10008.5.1.4.1.1.*`", "those below", "SCP", "none"]
    else:
        yield ["all storage classes, private ones too", "", "any", "SCP", "none"]


def _name(sop_class_uid: str) -> str:
    return UID(sop_class_uid).name.removesuffix(" SOP Class")


def network(made: Document, config: Config) -> None:
    scp, mllp = config.storage_scp, config.diagnoses
    made.heading(2, "5 Network")
    made.paragraph("TCP/IP, over whatever interface the system has. No DHCP or LDAP of its own.")
    made.table(
        ("what", "value", "configured by"),
        [
            ["AE title of STORAGE-SCP", f"`{scp.ae_title}`", "`storage_scp.ae_title`"],
            ["called AE titles that are answered", ", ".join(scp.called_ae_titles) or "any",
             "`storage_scp.called_ae_titles`"],
            ["calling AE titles that are let in", "the listed ones" if scp.only_modalities else "any",
             "`storage_scp.only_modalities`, `storage_scp.modalities`"],
            ["address and port of STORAGE-SCP", f"`{scp.host}`, {scp.port}", "`storage_scp.host`, `storage_scp.port`"],
            ["calling AE title of DELIVERY", f"`{config.delivery.calling_ae_title}`", "`delivery.calling_ae_title`"],
            ["address and port of the page and of STOW-RS", f"`{config.web.host}`, {config.web.port}",
             "`web.host`, `web.port`"],
            ["address and port of the HL7 listener for diagnoses (MLLP)",
             f"`{mllp.host}`, {mllp.port}{'' if mllp.enabled else ', switched off'}",
             "`diagnoses.enabled`, `diagnoses.host`, `diagnoses.port`"],
            ["associations at once, as acceptor", str(scp.max_associations), "`storage_scp.max_associations`"],
            ["of these from one address that is no known modality", str(scp.max_associations_per_address),
             "`storage_scp.max_associations_per_address`"],
            ["associations at once, as requestor", "one for each destination", "`destinations`"],
            ["largest PDU that is received", f"{storage_scp.PDU_BYTES} bytes", ""],
            ["asynchronous operations window", "not supported (one operation at a time)", ""],
            ["time for an association request", f"{scp.request_seconds:g} s", "`storage_scp.request_seconds`"],
            ["time for a PDU", f"{scp.pdu_seconds:g} s", "`storage_scp.pdu_seconds`"],
            ["time without a PDU", f"{scp.idle_seconds:g} s", "`storage_scp.idle_seconds`"],
            ["time for an answer of a destination", f"{config.delivery.timeout_seconds:g} s",
             "`delivery.timeout_seconds`"],
            ["Implementation Class UID", f"`{implementation.IMPLEMENTATION_CLASS_UID}`", ""],
            ["Implementation Version Name", f"`{implementation.IMPLEMENTATION_VERSION_NAME}`", ""],
        ],
    )  # fmt: skip
    made.heading(3, "5.1 Destinations")
    if not config.destinations:
        made.paragraph("None in this configuration.")
        return
    made.table(
        ("name", "protocol", "AE title", "address", "TLS", "sends"),
        [
            [
                each.name,
                _PROTOCOLS[each.protocol],
                each.ae_title,
                each.address,
                "yes" if each.tls is not None or each.url.startswith("https:") else "no",
                ", ".join(kind for kind in each.send if kind in config.kinds_made),
            ]
            for each in config.destinations
        ],
    )


def security(made: Document, config: Config) -> None:
    made.heading(2, "6 Security")
    made.bullets(
        [
            "DICOM in: "
            + (
                "TLS 1.2 or 1.3 by BCP 195 (PS3.15 annexes B.9 and B.12), with a certificate from both sides."
                if config.storage_scp.tls
                else "plain, as configured; `[storage_scp.tls]` has TLS 1.2 or 1.3 by BCP 195 (PS3.15 annexes B.9 and"
                " B.12) instead, with a certificate from both sides."
            ),
            "Results out: TLS 1.2 or 1.3 where a destination is configured for it (`[destinations.tls]`, or `https:`),"
            " with a certificate of this device where one is given.",
            "Diagnoses in: "
            + (
                "TLS 1.2 or 1.3 as above, with a certificate from both sides."
                if config.diagnoses.enabled and config.diagnoses.tls
                else "plain MLLP from the addresses of `diagnoses.addresses` only; `[diagnoses.tls]` has TLS instead."
                if config.diagnoses.enabled
                else "no listener, as configured."
            ),
            "The page and STOW-RS: "
            + ("HTTPS on " if config.web.over_tls else "plain HTTP on ")
            + (f"`{config.web.host}`" if config.web.enabled else "no address")
            + (
                ", with accounts or tokens."
                if config.web.over_tls
                else ", with accounts or tokens as soon as there is an account; on another address than this machine's"
                " own always, and over TLS."
            ),
            "Audit trail: DICOM audit messages (PS3.15 annex A.5) of application activity, user authentication,"
            " instances accessed and transferred, queries, exports, imports, security alerts and use of the trail, "
            + (
                f"sent to `{config.audit.syslog.host}:{config.audit.syslog.port}` by syslog over TLS (annex A.6)."
                if config.audit.syslog
                else "as a file (`scanside audit export`) or, where `[audit.syslog]` is configured, by syslog over TLS"
                " (annex A.6)."
            ),
            "No attribute is de-identified or encrypted. Logs hold no patient data.",
        ]
    )

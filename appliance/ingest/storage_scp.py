"""The mini Storage SCP: C-ECHO, C-STORE, Storage Commitment and Performed Procedure Steps (PS3.4 annexes A, B, J, F).

Success is answered only after fsync and commit (see `appliance.landing`). Data sets go to the disk as they come, so
that one of any size takes no more memory than a PDU.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydicom.uid import RE_VALID_UID, UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel, Verification

from appliance import config, listening, schedule, tls_client
from appliance.acceptor import tls
from appliance.acceptor.access import Access
from appliance.acceptor.association import AcceptedAssociation, Ending, Patience
from appliance.acceptor.command import StoreRequest
from appliance.acceptor.pdu import ProtocolError
from appliance.acceptor.server import Acceptor
from appliance.audit import Record, Trail
from appliance.commitment_store import CommitmentStore
from appliance.decode import DECODERS
from appliance.errors import ApplianceError, DiskFullError, SpoolError
from appliance.file_head import Heads
from appliance.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.ingest import Intake
from appliance.performed_step import PerformedStep
from appliance.spool import Incoming
from appliance.step_store import StepStore
from appliance.storage_commitment import CommitmentReport, StorageCommitment, answer_report

log = logging.getLogger("scanside.storage_scp")

PDU_BYTES = 131072  # dcmtk's most
LARGEST_BYTES = 2 * 1024**3
_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND, _PROCESSING_FAILURE = 0x0000, 0xA700, 0xC000, 0x0110
# Where a peer leaves the choice: no loss, and value representations kept.
PREFERRED = (ExplicitVRLittleEndian, *(syntax for syntax in DECODERS if syntax != ExplicitVRLittleEndian))
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_STANDARD = "1.2.840.10008."
_SERVICES = (Verification, StorageCommitmentPushModel, ModalityPerformedProcedureStep)
SERVICE_SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]  # deflated ones have no size before they are read
_LONGEST_UID = 64
_MOST_UNKNOWN = 100  # transfer syntaxes of one SOP class


def services(settings: config.StorageScp) -> list[str]:
    """UIDs of the SOP classes that are offered besides storage."""
    offered = {Verification: True, StorageCommitmentPushModel: settings.storage_commitment,
               ModalityPerformedProcedureStep: settings.performed_procedure_step}  # fmt: skip
    return [str(uid) for uid in _SERVICES if offered[uid]]


@dataclass
class _Stored:
    """What an open association has brought."""

    sender: str
    transfer_id: str
    heads: Heads
    count: int = 0
    begun_at: float = 0.0  # when the first instance came


class StorageScp:
    """A Storage, Storage Commitment, Performed Procedure Step and Verification SCP on its own threads.

    Any called AE title is answered unless some are listed, since a wrong one costs a field engineer an hour and
    protects nothing. All storage SOP classes and transfer syntaxes are taken: what can't be read is kept and turned
    away with its reason, which the page shows, where a refused presentation context would show only in the scanner's
    log.

    Parameters
    ----------
    folder
        To which relative paths of keys and certificates are relative.
    on_report
        Given what a destination says of results that were sent to it, on an association of its own; returns whether it
        was asked. None where none is asked.
    trail
        Has a record of each association that brings instances, at its begin and its end.
    """

    def __init__(
        self,
        settings: config.StorageScp,
        intake: Intake,
        folder: Path = Path(),
        on_report: Callable[[CommitmentReport], bool] | None = None,
        trail: Trail | None = None,
    ) -> None:
        self._settings, self._intake, self._folder = settings, intake, folder
        self._on_report, self._trail = on_report, trail
        self._access = Access(settings)
        self._acceptor: Acceptor | None = None
        self._commitment: StorageCommitment | None = None
        self._performed = PerformedStep(StepStore(intake.ledger), intake.look_again)
        self._open: dict[AcceptedAssociation, _Stored] = {}
        self._offered = services(settings)

    def start(self) -> int:
        """Listen; the port (the one that was found free where the settings say 0).

        Raises
        ------
        ConfigError
            The TLS files don't serve.
        ApplianceError
            The port is in use, or the address isn't this machine's.
        """
        _config.LOG_HANDLER_LEVEL = "none"
        settings = self._settings
        served = calling = None
        if settings.tls is not None:
            key, certificate, ca = (
                self._folder / name for name in (settings.tls.key, settings.tls.certificate, settings.tls.ca)
            )
            served = tls.ServerFiles(key, certificate, ca, "storage_scp.tls")
            # A modality is called by the address that it came from.
            calling = tls_client.TlsFiles(ca, certificate, key, any_name=True)
        entity = AE(ae_title=settings.ae_title)
        entity.maximum_pdu_size = PDU_BYTES
        entity.maximum_associations = settings.max_associations + 1  # they are counted before pynetdicom sees them
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._commitment = StorageCommitment(
            CommitmentStore(self._intake.ledger),
            self._port_of,
            self._intake.kept,
            entity,
            settings.storage_commitment_hours,
            calling,
        )
        patience = Patience(settings.idle_seconds, settings.pdu_seconds)
        acceptor = Acceptor(entity, self, self._access, patience, settings.request_seconds, served, self._prepare)
        try:
            port = acceptor.start(settings.host, settings.port)
        except OSError as error:
            raise ApplianceError(
                f"the Storage SCP can't listen on {settings.host}:{settings.port}: {error.strerror}",
                hint=listening.hint(
                    error,
                    settings.port,
                    "stop what uses that port, or set storage_scp.port in the configuration (0 takes a free one)",
                ),
            ) from error
        self._acceptor = acceptor
        self._commitment.start()
        return port

    def stop(self) -> None:
        """Take no more associations, and abort those that are open: what was not answered is sent again."""
        if self._acceptor is not None:
            self._acceptor.stop()
            self._acceptor = None
        if self._commitment is not None:
            self._commitment.stop()
        self._intake.settle()

    # --- appliance.acceptor.association.Service -------------------------------------------------------------------

    def contexts(self, requested: list[PresentationContext]) -> list[PresentationContext]:
        offered: dict[str, set[UID]] = {}
        for context in requested:
            offered.setdefault(str(context.abstract_syntax), set()).update(context.transfer_syntax)
        supported = []
        for name, syntaxes in offered.items():
            if name in _SERVICES:
                reports = name == StorageCommitmentPushModel and self._on_report is not None
                if name == StorageCommitmentPushModel and (reports or name in self._offered):
                    supported.append(self._commitment_context())
                elif name in self._offered:
                    supported.append(build_context(name, SERVICE_SYNTAXES))
            elif self._is_stored(name):
                supported.append(build_context(name, self._in_order(syntaxes)))
        return supported

    def _commitment_context(self) -> PresentationContext:
        """With the roles that the peer may have: SCU to ask, SCP to report (PS3.4 section J.3.3.1)."""
        context = build_context(StorageCommitmentPushModel, SERVICE_SYNTAXES)
        context.scu_role, context.scp_role = self._settings.storage_commitment, self._on_report is not None
        return context

    def _is_stored(self, sop_class_uid: str) -> bool:
        if self._settings.undecodable == "refuse":
            return sop_class_uid.startswith(_STORAGE) and "Image Storage" in UID(sop_class_uid).name
        return sop_class_uid.startswith(_STORAGE) or not sop_class_uid.startswith(_STANDARD)

    def _in_order(self, syntaxes: set[UID]) -> list[UID]:
        decodable = [UID(syntax) for syntax in PREFERRED if syntax in syntaxes]
        if self._settings.undecodable == "refuse":
            return decodable
        return [*decodable, *sorted(syntaxes.difference(decodable))[:_MOST_UNKNOWN]]

    def accepted(self, association: AcceptedAssociation) -> None:
        requestor, called = association.requestor, association.requestor.primitive.called_ae_title
        sender, transfer_id = f"{requestor.ae_title} at {requestor.address}", uuid.uuid4().hex
        heads = Heads("storage_scp", sender, requestor.ae_title, transfer_id)
        self._open[association] = _Stored(sender, transfer_id, heads)
        log.info("association from %s at %s", requestor.ae_title, requestor.address)
        if called != self._settings.ae_title:
            log.warning("%s calls this device %r, not %r", requestor.ae_title, called, self._settings.ae_title)

    def ended(self, association: AcceptedAssociation, ending: Ending) -> None:
        stored = self._open.pop(association)
        log.info("association from %s %s: %d instances", stored.sender, ending, stored.count)
        if stored.count:
            self._intake.end_transfer(stored.transfer_id, ending)
        if stored.begun_at:
            self._record(association, stored, "transfer_end", ending)
            if self._trail is not None:
                self._trail.close()
        self._intake.leave()

    def _record(
        self,
        association: AcceptedAssociation,
        stored: _Stored,
        event: Literal["transfer_begin", "transfer_end"],
        ending: str = "",
    ) -> None:
        """Tell the audit trail; one that can't be written stops no scanner."""
        if self._trail is None:
            return
        requestor = association.requestor
        record = Record(
            at=time.time(),
            event=event,
            action="C-STORE",
            failed=ending == "aborted",
            person=requestor.ae_title,
            how="dicom",
            address=requestor.address,
            target=f"transfer {stored.transfer_id}",
            detail=f"{stored.count} instances, {ending}" if ending else "",
            since=stored.begun_at,
        )
        self._trail.append(record, flushed=False)

    def begin_store(self, association: AcceptedAssociation, request: StoreRequest) -> _Storing | _Refused:
        if request.abstract_syntax_uid in _SERVICES:
            raise ProtocolError("a C-STORE-RQ in a presentation context of another service")
        stored = self._open[association]
        if not _is_uid(request.sop_instance_uid) or not _is_uid(request.sop_class_uid):
            return _told(_CANNOT_UNDERSTAND, "The SOP Class or SOP Instance UID is not valid", stored.sender)
        if not stored.begun_at:
            stored.begun_at = time.time()
            self._record(association, stored, "transfer_begin")
        priority = schedule.of_c_store(request.priority)
        head = stored.heads.make(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid, priority)
        try:
            file = self._intake.land(head)
        except SpoolError as error:
            return _refused(error)
        return _Storing(file, self._intake, request, priority, stored, association.requestor.ae_title)

    # --- other services -------------------------------------------------------------------------------------------

    def storage_commitment(self) -> dict[str, Any]:
        """How it is, for the page; raises `SpoolError`."""
        return self._commitment.say() if self._commitment is not None else {"state": "ready", "peers": []}

    def _prepare(self, association: AcceptedAssociation) -> None:
        association.bind(evt.EVT_N_ACTION, self._on_n_action)
        association.bind(evt.EVT_N_CREATE, self._performed.on_n_create)
        association.bind(evt.EVT_N_SET, self._performed.on_n_set)
        if self._on_report is not None:
            association.bind(evt.EVT_N_EVENT_REPORT, self._on_n_event_report)

    def _on_n_action(self, event: evt.Event) -> Any:
        assert self._commitment is not None
        return self._commitment.on_n_action(event)

    def _port_of(self, address: str, ae_title: str) -> int | None:
        modality = self._access.modality(address, ae_title)
        return modality.port if modality is not None else None

    def _on_n_event_report(self, event: evt.Event) -> tuple[int, None]:
        assert self._on_report is not None
        return answer_report(event, self._on_report), None


class _Storing:
    """A C-STORE request whose data set goes to the disk as it comes."""

    def __init__(
        self,
        file: Incoming,
        intake: Intake,
        request: StoreRequest,
        priority: config.Priority,
        stored: _Stored,
        ae_title: str,
    ) -> None:
        self._file, self._intake, self._request, self._stored = file, intake, request, stored
        self._priority, self._ae_title = priority, ae_title
        self._size = 0
        self._failure: _Refused | None = None

    def write(self, fragment: memoryview) -> None:
        if self._failure is not None:
            return  # the peer sends it all before it reads the answer
        self._size += len(fragment)
        if self._size > LARGEST_BYTES:
            self._file.discard()
            self._failure = _told(_OUT_OF_RESOURCES, f"More than {LARGEST_BYTES // 2**30} GiB", self._stored.sender)
            return
        try:
            self._file.write(fragment)
        except SpoolError as error:
            self._failure = _refused(error)

    def finish(self) -> tuple[int, str]:
        if self._failure is not None:
            return self._failure.finish()
        request = self._request
        try:
            admission = self._intake.admit(
                self._file.keep(),
                sop_instance_uid=request.sop_instance_uid,
                sop_class_uid=request.sop_class_uid,
                source="storage_scp",
                sender=self._stored.sender,
                ae_title=self._ae_title,
                priority=self._priority,
                transfer_id=self._stored.transfer_id,
            )
        except SpoolError as error:
            return _refused(error).finish()
        # One in conflict is kept too, and its final state says why; sending it again would change nothing.
        log.info("instance %d: %s", admission.instance_id, admission.outcome)
        self._stored.count += 1
        return _SUCCESS, ""

    def discard(self) -> None:
        self._file.discard()


@dataclass(frozen=True)
class _Refused:
    """A C-STORE request that is answered with a failure once its data set has passed by."""

    status: int
    comment: str

    def write(self, fragment: memoryview) -> None:
        pass

    def finish(self) -> tuple[int, str]:
        return self.status, self.comment

    def discard(self) -> None:
        pass


def _is_uid(text: str) -> bool:
    return len(text) <= _LONGEST_UID and re.fullmatch(RE_VALID_UID, text) is not None


def _told(status: int, comment: str, sender: str) -> _Refused:
    """What is wrong with it is told here, too: many scanners show only that something was."""
    log.error("an image from %s is refused with 0x%04X: %s", sender, status, comment)
    return _Refused(status, comment)


def _refused(error: SpoolError) -> _Refused:
    full = isinstance(error, DiskFullError)
    status = _OUT_OF_RESOURCES if full else _PROCESSING_FAILURE
    log.error("refused with 0x%04X: %s", status, error)
    return _Refused(status, "The disk is full" if full else "The instance could not be stored")

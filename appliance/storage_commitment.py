"""Storage Commitment Push Model as SCP (PS3.4 annex J): which of a scanner's instances are kept here.

A request is in the ledger before it is answered, and its report is owed from then on: a restart or a scanner that is
switched off delays it only. What the report says comes from ledger and disk when it is sent: an instance is committed
where both have it. It goes to the modality's configured port, on an association of its own, or else on one that the
modality opens: the one that asked, or its next one that asks for something.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from appliance import budget
from appliance.acceptor.association import AcceptedAssociation
from appliance.commitment_store import CommitmentStore, Owed
from appliance.errors import ConfigError, QuarantineError, SpoolError
from appliance.requestor import keep_answers
from appliance.tls_client import TlsFiles, client_context

log = logging.getLogger("scanside.storage_commitment")

_REQUEST = 1  # Action Type ID (PS3.4 table J.3-1)
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2  # Event Type IDs (PS3.4 table J.3-2)
_SUCCESS, _PROCESSING_FAILURE, _NO_SUCH_INSTANCE, _INVALID_ARGUMENT = 0x0000, 0x0110, 0x0112, 0x0115
_CLASS_INSTANCE_CONFLICT, _NO_SUCH_ACTION, _RESOURCE_LIMITATION = 0x0119, 0x0123, 0x0213
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0  # seconds until the next attempt; it doubles each time
_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 60.0
# Until then the association that asked has been told; later another one of the same peer may bring the report.
_OWN_ASSOCIATION_SECONDS = 60.0

# Failure Reason (0008,1197), PS3.3 section C.14.1.1
_FAILURE_WORDS = {
    0x0110: "processing failure",
    0x0112: "it does not have the object",
    0x0119: "it has it as another SOP class",
    0x0122: "it does not support the SOP class",
    0x0131: "it was asked under this Transaction UID before",
    0x0213: "it has no room",
}


@dataclass(frozen=True)
class CommitmentReport:
    """What a peer said of instances that it was asked about, by SOP Instance UID; of those that failed, why."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, information: Dataset) -> CommitmentReport:
        """Read the Event Information of an N-EVENT-REPORT (PS3.4 table J.3-2).

        Raises
        ------
        ValueError
            It can't be read.
        """
        try:
            stored, lacking = information.get("ReferencedSOPSequence"), information.get("FailedSOPSequence")
            committed = tuple(str(item.ReferencedSOPInstanceUID) for item in stored or ())
            failed = []
            for item in lacking or ():
                code = int(item.get("FailureReason") or 0)
                words = _FAILURE_WORDS.get(code, "it says no more")
                failed.append((str(item.ReferencedSOPInstanceUID), f"not committed (0x{code:04X}): {words}"))
            return cls(str(information.TransactionUID), committed, tuple(failed))
        except Exception as error:  # whatever a hostile data set makes pydicom raise
            raise ValueError(str(error)) from error


class StorageCommitment:
    """Answers N-ACTION requests with N-EVENT-REPORTs.

    Parameters
    ----------
    port_of
        Tells, of an address and an AE title, the port on which this modality takes reports; None where it is to be told
        on an association that it opens.
    kept
        Tells of SOP Instance UIDs under which SOP classes each of them is kept here.
    entity
        That reports.
    hours
        After so long a report that nobody takes is given up, and the page says so.
    files
        To speak TLS with modalities, read for each association; None for plain DICOM.
    """

    def __init__(
        self,
        store: CommitmentStore,
        port_of: Callable[[str, str], int | None],
        kept: Callable[[list[str]], dict[str, set[str]]],
        entity: AE,
        hours: float,
        files: TlsFiles | None = None,
    ) -> None:
        self._store, self._port_of, self._kept, self._entity = store, port_of, kept, entity
        self._seconds, self._files = hours * 3600, files
        self._stopping, self._wake = False, threading.Event()
        self._threads: dict[tuple[str, str], threading.Thread] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="storage-commitment")

    def start(self) -> None:
        """Go on with what an earlier run still owed."""
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def say(self) -> dict[str, Any]:
        """How it is, for the page: ``state``, and ``peers`` as of `appliance.commitment_store.CommitmentStore.peers`.

        Raises
        ------
        SpoolError
            The ledger can't be read.
        """
        peers = self._store.peers()
        return {"state": "unheard" if any(each["given_up"] for each in peers) else "ready", "peers": peers}

    # --- the request ------------------------------------------------------------------------------------------------

    def on_n_action(self, event: evt.Event) -> tuple[int, None]:
        """Handle EVT_N_ACTION; the request's status."""
        if event.action_type != _REQUEST:
            return _NO_SUCH_ACTION, None
        association: AcceptedAssociation = event.assoc
        try:
            transaction_uid, wanted = _read(event)
        except QuarantineError as error:
            log.warning("a storage commitment request is refused: %s", error)
            return _INVALID_ARGUMENT, None
        except Exception as error:  # noqa: BLE001 (whatever a hostile data set makes pydicom raise)
            log.warning("a storage commitment request can't be read: %s", type(error).__name__)
            return _INVALID_ARGUMENT, None
        peer = association.requestor
        has_port = self._port_of(peer.address, peer.ae_title) is not None
        at = time.time() + (0.0 if has_port else _OWN_ASSOCIATION_SECONDS)
        try:
            owed = self._store.owe(peer.ae_title, peer.address, transaction_uid, wanted, at)
        except SpoolError as error:
            log.error("a storage commitment request is refused with 0x0110: %s", error)
            return _PROCESSING_FAILURE, None
        if owed is None:
            log.error("%s is owed as many storage commitment reports as may wait", peer.ae_title)
            return _RESOURCE_LIMITATION, None
        if has_port:
            self._wake.set()
        else:
            association.after_response(lambda: self._report_on(association, owed))
        return _SUCCESS, None

    # --- the report -------------------------------------------------------------------------------------------------

    def _report(self, owed: Owed) -> tuple[int, Dataset]:
        """Event Type ID and Event Information; raises `SpoolError`."""
        kept = self._kept([sop_instance_uid for _, sop_instance_uid in owed.wanted])
        committed, failed = [], []
        for sop_class_uid, sop_instance_uid in owed.wanted:
            item = Dataset()
            item.ReferencedSOPClassUID = sop_class_uid
            item.ReferencedSOPInstanceUID = sop_instance_uid
            classes = kept.get(sop_instance_uid, set())
            if sop_class_uid in classes:
                committed.append(item)
            else:  # PS3.3 section C.14.1.1
                item.FailureReason = _CLASS_INSTANCE_CONFLICT if classes else _NO_SUCH_INSTANCE
                failed.append(item)
        information = Dataset()
        information.TransactionUID = UID(owed.transaction_uid)
        if committed:
            information.ReferencedSOPSequence = committed
        if failed:
            information.FailedSOPSequence = failed
        return _FAILURES_EXIST if failed else _ALL_COMMITTED, information

    def _tell(self, association: Association, owed: Owed) -> str:
        """Report on an association; why the peer did not take it, '' where it did. Raises `SpoolError`."""
        event_type, information = self._report(owed)
        try:
            status, _ = association.send_n_event_report(
                information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except ValueError:
            return "it does not accept Storage Commitment with this side as its SCP"
        except RuntimeError:
            return "the association has ended"
        code = status.get("Status")
        if code == _SUCCESS:
            self._store.told(owed)
            log.info("%s was told of %d instances", owed.ae_title, len(owed.wanted))
            return ""
        return "it gave no answer" if code is None else f"it answered with 0x{code:04X}"

    def _report_on(self, association: AcceptedAssociation, owed: Owed) -> None:
        """On the association that asked, and what it was not told of earlier ones."""
        try:
            for each in (owed, *self._store.due(owed.ae_title, owed.host)):
                error = self._tell(association, each)
                if error:
                    self._store.postpone([each], error, time.time() + _OWN_ASSOCIATION_SECONDS)
                    log.warning(
                        "%s took no storage commitment report on its association (%s); where it awaits another one, "
                        "give its port in [[storage_scp.modalities]]",
                        owed.ae_title,
                        error,
                    )
                    return
        except SpoolError as error:
            log.error("a storage commitment report is delayed: %s", error)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause = _LOOK_SECONDS
            try:
                for row in self._store.give_up(self._seconds):
                    log.error("%s takes no storage commitment report, which is given up", row["ae_title"])
                self._store.bring_forward(_LONGEST_PAUSE)
                pause = self._begin_telling()
            except SpoolError as error:
                log.error("storage commitment reports are delayed: %s", error)
            self._wake.wait(pause)

    def _begin_telling(self) -> float:
        """One thread for each peer, so that one that hangs delays no other; seconds until another one is due."""
        pause = _LOOK_SECONDS
        for row in self._store.peers():
            peer, now = (row["ae_title"], row["host"]), time.time()
            port = self._port_of(row["host"], row["ae_title"])
            if port is None or row["next_attempt_at"] is None or peer in self._threads:
                continue
            if row["next_attempt_at"] > now:
                pause = min(pause, row["next_attempt_at"] - now)
                continue
            self._threads[peer] = threading.Thread(
                target=self._tell_all, args=(*peer, port), daemon=True, name="storage-commitment-report"
            )
            self._threads[peer].start()
        return pause

    def _tell_all(self, ae_title: str, host: str, port: int) -> None:
        """Report to one peer on an association on which this side is the SCP (PS3.4 section J.3.3.1)."""
        association: Association | None = None
        try:
            try:
                association = self._associate(ae_title, host, port)
                error = "" if association.is_established else f"no association with {ae_title} on port {port}"
            except ConfigError as problem:
                error = problem.message
            left = self._store.due(ae_title, host)
            while association is not None and left and not error and not self._stopping:
                error = self._tell(association, left[0])
                if not error:
                    left.pop(0)
            if left and error:
                most = max(each.attempts for each in left)
                pause = min(_FIRST_PAUSE * 2.0 ** min(most, 30), _LONGEST_PAUSE)
                self._store.postpone(left, error, time.time() + pause)
                log.warning("%s takes no storage commitment report: %s", ae_title, error)
        except Exception as problem:  # noqa: BLE001 (the ledger's, or what a hostile AE title makes pynetdicom raise)
            log.error("storage commitment reports are delayed: %s", type(problem).__name__)
            time.sleep(_FIRST_PAUSE)  # or it would be a loop without a rest
        finally:
            if association is not None and association.is_established:
                association.release()
            self._store.close()
            self._threads.pop((ae_title, host), None)
            self._wake.set()

    def _associate(self, ae_title: str, host: str, port: int) -> Association:
        entity = AE(self._entity.ae_title)
        entity.implementation_class_uid = self._entity.implementation_class_uid
        entity.implementation_version_name = self._entity.implementation_version_name
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = _ANSWER_SECONDS
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        tls = (client_context(self._files), None) if self._files is not None else None
        association = entity.associate(host, port, ae_title=ae_title, ext_neg=[role], tls_args=tls)
        keep_answers(association)
        return association


def answer_report(event: evt.Event, on_report: Callable[[CommitmentReport], bool]) -> int:
    """Handle EVT_N_EVENT_REPORT, where this side has asked; the response's status.

    Parameters
    ----------
    on_report
        Records it; returns whether it was asked for.
    """
    peer = event.assoc.remote["ae_title"]
    try:
        report = CommitmentReport.of(event.event_information)
    except Exception as error:  # noqa: BLE001 (decoding a hostile data set may raise anything)
        log.warning("a storage commitment report of %s can't be read: %s", peer, type(error).__name__)
        return _INVALID_ARGUMENT
    try:
        known = on_report(report)
    except SpoolError as error:
        log.error("a storage commitment report of %s is refused with 0x0110: %s", peer, error)
        return _PROCESSING_FAILURE
    if not known:
        log.warning("%s reports of a storage commitment that it was not asked for", peer)
        return _NO_SUCH_INSTANCE
    return _SUCCESS


def _read(event: evt.Event) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID, and what is asked for; raises anything."""
    content: BytesIO = event.request.ActionInformation
    budget.check_data_set(content, little_endian=True)
    content.seek(0)
    request = event.action_information
    wanted = [
        (_uid(item.ReferencedSOPClassUID), _uid(item.ReferencedSOPInstanceUID))
        for item in request.ReferencedSOPSequence
    ]
    return _uid(request.TransactionUID), wanted


def _uid(value: Any) -> str:
    found = str(value)
    if not re.fullmatch(r"[0-9.]{1,64}", found):
        raise ValueError("no UID")
    return found

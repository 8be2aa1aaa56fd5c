"""The mini Storage SCP: C-ECHO and C-STORE (PS3.4 annexes A and B), Success only after fsync and commit."""

from __future__ import annotations

import io
import logging
import socket
from typing import Any
from weakref import WeakKeyDictionary

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from appliance import config, schedule
from appliance.errors import ApplianceError, DiskFullError, SpoolError
from appliance.ingest import Intake
from appliance.writer import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = logging.getLogger("scanside.storage_scp")

_PDU_BYTES = 131072  # dcmtk's most; halves the CPU of pynetdicom's default
_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND, _PROCESSING_FAILURE = 0x0000, 0xA700, 0xC000, 0x0110


class StorageScp:
    """A Storage and Verification SCP on its own threads.

    Any called AE title is answered, since a wrong one costs a field engineer an hour and protects nothing. All storage
    SOP classes and transfer syntaxes are taken: what can't be read is kept and turned away with its reason, which the
    page shows, where a refused presentation context would show only in the scanner's log.
    """

    def __init__(self, settings: config.StorageScp, intake: Intake) -> None:
        self._settings = settings
        self._intake = intake
        self._server: Any = None
        self._stored: WeakKeyDictionary[Association, int] = WeakKeyDictionary()  # how many each association brought

    def start(self) -> int:
        """Listen; the port (the one that was found free where the settings say 0).

        Raises
        ------
        ApplianceError
            The port is in use, or the address isn't this machine's.
        """
        _config.LOG_HANDLER_LEVEL = "none"
        entity = AE(ae_title=self._settings.ae_title)
        entity.maximum_pdu_size = _PDU_BYTES
        entity.maximum_associations = self._settings.max_associations
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        handlers = [
            (evt.EVT_CONN_OPEN, _set_nodelay),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_CONN_CLOSE, self._on_connection_closed),
            (evt.EVT_C_ECHO, lambda _: _SUCCESS),
            (evt.EVT_C_STORE, self._on_c_store),
        ]
        host, port = self._settings.host, self._settings.port
        try:
            self._server = entity.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ApplianceError(
                f"the Storage SCP can't listen on {host}:{port}: {error.strerror}",
                hint="stop what uses that port, or set storage_scp.port in the configuration (0 takes a free one)",
            ) from error
        return int(self._server.socket.getsockname()[1])

    def stop(self) -> None:
        """Take no more associations, and abort those that are open: what was not answered is sent again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.ae.shutdown()
            self._server = None

    def _on_accepted(self, event: evt.Event) -> None:
        self._stored[event.assoc] = 0
        requestor, called = event.assoc.requestor, event.assoc.requestor.primitive.called_ae_title
        log.info("association from %s at %s", requestor.ae_title, requestor.address)
        if called != self._settings.ae_title:
            log.warning("%s calls this device %r, not %r", requestor.ae_title, called, self._settings.ae_title)

    def _on_connection_closed(self, event: evt.Event) -> None:
        if event.assoc in self._stored:
            requestor, count = event.assoc.requestor, self._stored[event.assoc]
            log.info("association from %s at %s ended: %d instances", requestor.ae_title, requestor.address, count)

    def _on_c_store(self, event: evt.Event) -> Any:
        request, requestor = event.request, event.assoc.requestor
        sop_class_uid, sop_instance_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        if not UID(sop_instance_uid).is_valid or not UID(sop_class_uid).is_valid:
            return _failure(_CANNOT_UNDERSTAND, "The SOP Class or SOP Instance UID is not valid")
        try:
            admission = self._intake.take(
                _file_head(event, sop_class_uid, sop_instance_uid),
                request.DataSet.getvalue(),
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                source="storage_scp",
                sender=f"{requestor.ae_title} at {requestor.address}",
                ae_title=requestor.ae_title,
                priority=schedule.of_c_store(request.Priority),
            )
        except DiskFullError as error:
            log.error("refused with 0xA700: %s", error)
            return _failure(_OUT_OF_RESOURCES, "The disk is full")
        except SpoolError as error:
            log.error("refused with 0x0110: %s", error)
            return _failure(_PROCESSING_FAILURE, "The instance could not be stored")
        # One in conflict is kept too, and its final state says why; sending it again would change nothing.
        log.info("instance %d: %s", admission.instance_id, admission.outcome)
        self._stored[event.assoc] += 1
        return _SUCCESS


def _set_nodelay(event: evt.Event) -> None:
    """Answer at once: with Nagle's algorithm each instance waits 40 ms for the peer's acknowledgment."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _file_head(event: evt.Event, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Preamble and file meta information (PS3.10 section 7.1) for the data set as it came over the wire."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = event.context.transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = event.assoc.requestor.ae_title
    buffer = io.BytesIO()
    write_file_meta_info(buffer, meta)
    return b"\0" * 128 + b"DICM" + buffer.getvalue()


def _failure(status: int, comment: str) -> Dataset:
    """A C-STORE response's status elements (PS3.7 C.5); Error Comment holds 64 characters."""
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]
    return answer

"""C-STORE and C-ECHO as SCU (PS3.4 annexes A and B)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread, read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from pynetdicom.status import code_to_category

from appliance.errors import DeliveryError
from appliance.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.requestor import keep_answers

_VERIFICATION = (Verification, ImplicitVRLittleEndian)
Tls = tuple[ssl.SSLContext, str]
_MOST_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd numbers up to 255
DUPLICATE = 0x0111  # PS3.7 annex C: the peer has that instance, and takes no second one
_NOTICE_SECONDS = 1.0
_LEAST_BYTES_PER_SECOND = 128 * 1024  # that a slow peer is given time for


@dataclass(frozen=True)
class Outcome:
    """What a peer said to one file.

    ``status`` is the C-STORE response's, None where there was none; ``answered_at`` its time (seconds since 1970),
    ``seconds`` how long it took; ``error`` is empty where the peer has the object.
    """

    path: Path
    sop_instance_uid: str
    status: int | None
    error: str
    seconds: float
    answered_at: float

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(frozen=True)
class Peer:
    """Whom to call, and how.

    ``timeout``: seconds for an answer, and for any progress; ``tls``: None for plain DICOM, else a context, and the
    name that must be in the peer's certificate.
    """

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    timeout: float
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


def echo(peer: Peer) -> None:
    """C-ECHO; raises `DeliveryError` where the peer does not answer with success."""
    with associated(peer, [_VERIFICATION]) as association:
        status = association.send_c_echo()
        if status.get("Status") != 0x0000:
            raise DeliveryError(f"{peer} does not answer C-ECHO with success")


@dataclass(frozen=True)
class File:
    """A file and what its file meta information says of it."""

    path: Path
    sop_class_uid: UID
    transfer_syntax_uid: UID
    sop_instance_uid: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Read its file meta information; raises `DeliveryError` where it is no DICOM file."""
        try:
            meta = read_file_meta_info(path)
            return cls(
                path, UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID), meta.MediaStorageSOPInstanceUID
            )
        except (OSError, InvalidDicomError, AttributeError, EOFError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            if isinstance(error, InvalidDicomError):
                reason = "it does not begin as one does (PS3.10)"
            raise DeliveryError(f"{path} is not a DICOM file that can be sent: {reason}") from error

    @property
    def contexts(self) -> list[tuple[UID, UID]]:
        """What has to be proposed for it: abstract and transfer syntax, in order of preference."""
        syntaxes = [self.transfer_syntax_uid]
        if self.transfer_syntax_uid == ExplicitVRLittleEndian:
            syntaxes.append(ImplicitVRLittleEndian)
        return [(self.sop_class_uid, syntax) for syntax in syntaxes]


def groups(files: Sequence[File]) -> Iterator[list[File]]:
    """Runs of files that need no more than 128 presentation contexts."""
    group: list[File] = []
    contexts: set[tuple[UID, UID]] = set()
    for file in files:
        if len(contexts.union(file.contexts)) > _MOST_CONTEXTS:
            yield group
            group, contexts = [], set()
        group.append(file)
        contexts.update(file.contexts)
    if group:
        yield group


class Stored(NamedTuple):
    """What came of a C-STORE request.

    ``status`` is the response's, None where there was none; ``error`` is empty where the peer has the object;
    ``ended``: the association is of no more use, even where it does not know that yet.
    """

    status: int | None
    error: str
    ended: bool


def store(association: Association, file: File, priority: int) -> Stored:
    """C-STORE one file."""
    accepted = [
        (context.abstract_syntax, context.transfer_syntax[0])
        for context in association.accepted_contexts
        if (context.abstract_syntax, context.transfer_syntax[0]) in file.contexts
    ]
    if not accepted:
        error = f"the peer does not accept {file.sop_class_uid.name} in {file.transfer_syntax_uid.name}"
        return Stored(None, error, ended=False)
    try:
        as_it_is = file.contexts[0] in accepted
        timeout = association.ae.dimse_timeout  # counts from when the first byte is sent
        association.dimse_timeout = timeout + file.path.stat().st_size / _LEAST_BYTES_PER_SECOND
        answer = association.send_c_store(file.path if as_it_is else dcmread(file.path), priority=priority)
    except (ValueError, AttributeError, InvalidDicomError, OSError) as error:
        return Stored(None, f"{file.path} can't be sent: {error}", ended=False)
    except RuntimeError as error:  # there is no association any more
        return Stored(None, str(error), ended=True)
    status = answer.get("Status")
    if status is None:
        _wait_for_the_end(association)
        return Stored(None, "the peer did not answer in time, or ended the association", ended=True)
    category = code_to_category(status)
    if category in ("Success", "Warning") or status == DUPLICATE:
        return Stored(status, "", ended=False)
    comment = answer.get("ErrorComment")
    said = f"the peer answered {category} 0x{status:04X}{f': {comment}' if comment else ''}"
    return Stored(status, said, ended=False)


def _wait_for_the_end(association: Association) -> None:
    """Until the association knows by itself that it is over: a release now would wait for an answer in vain."""
    deadline = time.monotonic() + _NOTICE_SECONDS
    while association.is_established and time.monotonic() < deadline:
        time.sleep(0.005)


@contextmanager
def associated(
    peer: Peer,
    contexts: Sequence[tuple[UID, UID]],
    on_sent: Callable[[evt.Event], None] = lambda _: None,
    handlers: Sequence[tuple[Any, Callable[[evt.Event], Any]]] = (),
) -> Iterator[Association]:
    """An association that is released at the end; raises `DeliveryError` in words where there is none.

    Parameters
    ----------
    on_sent
        Called after each PDU, in the association's own thread.
    handlers
        More of pynetdicom's events, and what is called for them.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True  # a file's own bytes, neither decoded nor encoded again
    _config.LOG_HANDLER_LEVEL = "none"
    entity = AE(ae_title=peer.calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = peer.timeout
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    for abstract_syntax, transfer_syntax in contexts:
        entity.add_requested_context(abstract_syntax, transfer_syntax)
    connected = threading.Event()

    def on_open(event: evt.Event) -> None:
        connected.set()
        connection = event.assoc.dul.socket.socket
        connection.settimeout(peer.timeout)  # or a peer that stops reading would hold this thread for ever
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def after_sent(event: evt.Event) -> None:
        # Peers whose socket waits for this side's acknowledgment before it sends the rest of an answer (dcmtk, Orthanc)
        # would wait 40 ms for each object.
        with contextlib.suppress(OSError, AttributeError):
            event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        on_sent(event)

    bound = [(evt.EVT_CONN_OPEN, on_open), (evt.EVT_PDU_SENT, after_sent), *handlers]
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=bound, tls_args=peer.tls)
    keep_answers(association)
    if not association.is_established:
        raise _refusal(association, str(peer), connected.is_set(), peer.tls is not None)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _refusal(association: Association, peer: str, connected: bool, over_tls: bool) -> DeliveryError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = answer.reason_str if answer is not None else "no reason given"
        hint = "enter this device's AE title and address at the peer, and check the peer's AE title here"
        return DeliveryError(f"{peer} refused the association: {reason}", hint=hint)
    if association.acceptor.primitive is not None:
        return NothingAcceptedError(f"{peer} accepts none of the objects' SOP classes and transfer syntaxes")
    if connected:
        return DeliveryError(f"{peer} does not answer as a DICOM peer", hint="check that this is its DICOM port")
    if over_tls:
        hint = "`scanside test-connection` tells which"
        return DeliveryError(f"{peer} can't be reached, or not over TLS", hint=hint)
    return DeliveryError(f"{peer} can't be reached", hint="check that it runs, its address, its port and the firewall")


class NothingAcceptedError(DeliveryError):
    """The peer is there, but takes nothing of what is to be sent."""

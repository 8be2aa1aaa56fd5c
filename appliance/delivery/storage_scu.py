"""C-STORE and C-ECHO as SCU (PS3.4 annexes A and B)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread, read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from pynetdicom.status import code_to_category

from appliance.errors import DeliveryError
from appliance.schedule import C_STORE
from appliance.writer import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_VERIFICATION = (Verification, ImplicitVRLittleEndian)
_MOST_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd numbers up to 255


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


def echo(host: str, port: int, ae_title: str, calling_ae_title: str, timeout: float) -> None:
    """C-ECHO; raises `DeliveryError` where the peer does not answer with success."""
    with _associated(host, port, ae_title, calling_ae_title, timeout, [_VERIFICATION]) as association:
        status = association.send_c_echo()
        if status.get("Status") != 0x0000:
            raise DeliveryError(f"{ae_title}@{host}:{port} does not answer C-ECHO with success")


def send(
    host: str,
    port: int,
    ae_title: str,
    calling_ae_title: str,
    paths: Sequence[Path],
    timeout: float,
    priority: int = C_STORE["routine"],
) -> Iterator[Outcome]:
    """Send files as they are, on as few associations as their SOP classes and transfer syntaxes allow.

    Only where a peer refuses Explicit VR Little Endian is a data set encoded anew, as Implicit VR Little Endian, which
    every peer must take (PS3.5 section 10.1) and which changes no value.

    Parameters
    ----------
    priority
        The C-STORE requests' (PS3.7 section 9.3.1.1); pynetdicom itself would say LOW.

    Yields
    ------
    One `Outcome` per file, those that are no DICOM files first. A peer that can't be reached gives one with an error
    for every file.
    """
    readable = []
    for path in paths:
        try:
            meta = read_file_meta_info(path)
            file = _File(
                path, UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID), meta.MediaStorageSOPInstanceUID
            )
        except (OSError, InvalidDicomError, AttributeError, EOFError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            yield Outcome(path, "", None, f"{path} is not a DICOM file that can be sent: {reason}", 0.0, time.time())
        else:
            readable.append(file)
    for group in _groups(readable):
        yield from _send_group(host, port, ae_title, calling_ae_title, group, timeout, priority)


@dataclass(frozen=True)
class _File:
    """A file and what its file meta information says of it."""

    path: Path
    sop_class_uid: UID
    transfer_syntax_uid: UID
    sop_instance_uid: str

    @property
    def contexts(self) -> list[tuple[UID, UID]]:
        """What has to be proposed for it: abstract and transfer syntax, in order of preference."""
        syntaxes = [self.transfer_syntax_uid]
        if self.transfer_syntax_uid == ExplicitVRLittleEndian:
            syntaxes.append(ImplicitVRLittleEndian)
        return [(self.sop_class_uid, syntax) for syntax in syntaxes]


def _groups(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Runs of files that need no more than 128 presentation contexts."""
    group: list[_File] = []
    contexts: set[tuple[UID, UID]] = set()
    for file in files:
        if len(contexts.union(file.contexts)) > _MOST_CONTEXTS:
            yield group
            group, contexts = [], set()
        group.append(file)
        contexts.update(file.contexts)
    if group:
        yield group


def _send_group(
    host: str, port: int, ae_title: str, calling_ae_title: str, files: Sequence[_File], timeout: float, priority: int
) -> Iterator[Outcome]:
    contexts = list(dict.fromkeys(context for file in files for context in file.contexts))
    done = 0
    try:
        with _associated(host, port, ae_title, calling_ae_title, timeout, contexts) as association:
            for file in files:
                begin = time.monotonic()
                status, error = _store(association, file, priority)
                yield Outcome(file.path, file.sop_instance_uid, status, error, time.monotonic() - begin, time.time())
                done += 1
                if done < len(files) and not association.is_established:
                    raise DeliveryError(f"{ae_title}@{host}:{port} ended the association")
    except DeliveryError as error:
        for file in files[done:]:
            yield Outcome(file.path, file.sop_instance_uid, None, str(error), 0.0, time.time())


def _store(association: Association, file: _File, priority: int) -> tuple[int | None, str]:
    accepted = [
        (context.abstract_syntax, context.transfer_syntax[0])
        for context in association.accepted_contexts
        if (context.abstract_syntax, context.transfer_syntax[0]) in file.contexts
    ]
    if not accepted:
        return None, f"the peer does not accept {file.sop_class_uid.name} in {file.transfer_syntax_uid.name}"
    try:
        as_it_is = file.contexts[0] in accepted
        answer = association.send_c_store(file.path if as_it_is else dcmread(file.path), priority=priority)
    except (ValueError, AttributeError, InvalidDicomError) as error:
        return None, f"{file.path} can't be sent: {error}"
    except (RuntimeError, OSError) as error:
        return None, str(error)
    status = answer.get("Status")
    if status is None:
        return None, "the peer did not answer in time, or ended the association"
    category = code_to_category(status)
    if category in ("Success", "Warning"):
        return status, ""
    comment = answer.get("ErrorComment")
    return status, f"the peer answered {category} 0x{status:04X}{f': {comment}' if comment else ''}"


@contextmanager
def _associated(
    host: str, port: int, ae_title: str, calling_ae_title: str, timeout: float, contexts: Sequence[tuple[UID, UID]]
) -> Iterator[Association]:
    """An association that is released at the end; raises `DeliveryError` in words where there is none."""
    _config.STORE_SEND_CHUNKED_DATASET = True  # a file's own bytes, neither decoded nor encoded again
    _config.LOG_HANDLER_LEVEL = "none"
    entity = AE(ae_title=calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    for abstract_syntax, transfer_syntax in contexts:
        entity.add_requested_context(abstract_syntax, transfer_syntax)
    connected = threading.Event()
    handlers = [(evt.EVT_CONN_OPEN, lambda _: connected.set())]
    association = entity.associate(host, port, ae_title=ae_title, evt_handlers=handlers)
    if not association.is_established:
        raise _refusal(association, f"{ae_title}@{host}:{port}", connected.is_set())
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _refusal(association: Association, peer: str, connected: bool) -> DeliveryError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = answer.reason_str if answer is not None else "no reason given"
        hint = "enter this device's AE title and address at the peer, and check the peer's AE title here"
        return DeliveryError(f"{peer} refused the association: {reason}", hint=hint)
    if association.acceptor.primitive is not None:
        return DeliveryError(f"{peer} accepts none of the objects' SOP classes and transfer syntaxes")
    if connected:
        return DeliveryError(f"{peer} does not answer as a DICOM peer", hint="check that this is its DICOM port")
    return DeliveryError(f"{peer} can't be reached", hint="check that it runs, its address, its port and the firewall")

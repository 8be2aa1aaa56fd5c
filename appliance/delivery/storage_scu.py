"""C-STORE and C-ECHO as SCU (PS3.4 annexes A and B)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from pynetdicom.status import code_to_category

from appliance.errors import DeliveryError
from appliance.writer import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

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
    with _associated(host, port, ae_title, calling_ae_title, timeout, [(Verification, None)]) as association:
        status = association.send_c_echo()
        if status.get("Status") != 0x0000:
            raise DeliveryError(f"{ae_title}@{host}:{port} does not answer C-ECHO with success")


def send(
    host: str, port: int, ae_title: str, calling_ae_title: str, paths: Sequence[Path], timeout: float
) -> Iterator[Outcome]:
    """Send files as they are, on as few associations as their SOP classes and transfer syntaxes allow.

    Yields
    ------
    One `Outcome` per file, in order. A peer that can't be reached gives one with an error for every file.
    """
    readable: list[tuple[Path, tuple[UID, UID], str]] = []
    for path in paths:
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            kind = (UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID))
            readable.append((path, kind, str(meta.MediaStorageSOPInstanceUID)))
        except (OSError, InvalidDicomError, AttributeError, EOFError) as error:
            yield Outcome(path, "", None, f"{path} is not a DICOM file that can be sent: {error}", 0.0, time.time())
    for group in _groups(readable):
        yield from _send_group(host, port, ae_title, calling_ae_title, group, timeout)


def _groups(
    files: Sequence[tuple[Path, tuple[UID, UID], str]],
) -> Iterator[list[tuple[Path, tuple[UID, UID], str]]]:
    """Runs of files that need no more than 128 presentation contexts."""
    group: list[tuple[Path, tuple[UID, UID], str]] = []
    kinds: set[tuple[UID, UID]] = set()
    for file in files:
        if file[1] not in kinds and len(kinds) == _MOST_CONTEXTS:
            yield group
            group, kinds = [], set()
        group.append(file)
        kinds.add(file[1])
    if group:
        yield group


def _send_group(
    host: str,
    port: int,
    ae_title: str,
    calling_ae_title: str,
    files: Sequence[tuple[Path, tuple[UID, UID], str]],
    timeout: float,
) -> Iterator[Outcome]:
    kinds = list(dict.fromkeys(kind for _, kind, _ in files))
    done = 0
    try:
        with _associated(host, port, ae_title, calling_ae_title, timeout, kinds) as association:
            for path, kind, sop_instance_uid in files:
                begin = time.monotonic()
                status, error = _store(association, path, kind)
                yield Outcome(path, sop_instance_uid, status, error, time.monotonic() - begin, time.time())
                done += 1
                if not association.is_established:
                    raise DeliveryError(f"{ae_title}@{host}:{port} ended the association")
    except DeliveryError as error:
        for path, _, sop_instance_uid in files[done:]:
            yield Outcome(path, sop_instance_uid, None, str(error), 0.0, time.time())


def _store(association: Association, path: Path, kind: tuple[UID, UID]) -> tuple[int | None, str]:
    try:
        answer = association.send_c_store(path)
    except ValueError as error:  # no accepted presentation context, or the data set can't be encoded
        accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts}
        if kind not in accepted:
            return None, f"the peer does not accept {kind[0].name} in {kind[1].name}"
        return None, f"{path} can't be sent: {error}"
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
    host: str, port: int, ae_title: str, calling_ae_title: str, timeout: float, kinds: Sequence[tuple[Any, Any]]
) -> Iterator[Association]:
    """An association that is released at the end; raises `DeliveryError` in words where there is none."""
    entity = AE(ae_title=calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    for abstract_syntax, transfer_syntax in kinds:
        if transfer_syntax is None:
            entity.add_requested_context(abstract_syntax)
        else:
            entity.add_requested_context(abstract_syntax, transfer_syntax)
    association = entity.associate(host, port, ae_title=ae_title)
    if not association.is_established:
        raise _refusal(association, f"{ae_title}@{host}:{port}")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _refusal(association: Association, peer: str) -> DeliveryError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = answer.reason_str if answer is not None else "no reason given"
        hint = "enter this device's AE title and address at the peer, and check the peer's AE title here"
        return DeliveryError(f"{peer} refused the association: {reason}", hint=hint)
    if association.acceptor.primitive is not None:
        return DeliveryError(f"{peer} accepts none of the objects' SOP classes and transfer syntaxes")
    return DeliveryError(f"{peer} can't be reached", hint="check that it runs, its address, its port and the firewall")

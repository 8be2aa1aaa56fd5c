"""Storage Commitment Push Model as SCU (PS3.4 annex J): has a PACS committed what it was sent?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from appliance.delivery.storage_scu import Peer, associated
from appliance.errors import DeliveryError
from appliance.storage_commitment import CommitmentReport, answer_report

_REQUEST = 1  # Action Type ID (PS3.4 table J.3-1)
_SAME_ASSOCIATION_SECONDS = 1.0
_CONTEXTS = [(StorageCommitmentPushModel, syntax) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]


class NotAskedError(DeliveryError):
    """The peer is there, but did not take the request; that says nothing of whether it takes objects."""


def ask(
    peer: Peer,
    transaction_uid: str,
    instances: Sequence[tuple[str, str]],
    on_report: Callable[[CommitmentReport], bool],
    reported: threading.Event,
) -> None:
    """Ask for the commitment of instances, given as SOP Class and SOP Instance UIDs.

    The report comes later, to the Storage SCP. For peers that report on the association that asked, it is kept open a
    moment longer, unless ``reported`` is set first.

    Raises
    ------
    DeliveryError
        `NothingAcceptedError` where the peer offers no storage commitment, `NotAskedError` where it took no request.
    """
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        request.ReferencedSOPSequence.append(item)

    def on_event(event: evt.Event) -> tuple[int, None]:
        status = answer_report(event, on_report)
        reported.set()
        return status, None

    with associated(peer, _CONTEXTS, handlers=[(evt.EVT_N_EVENT_REPORT, on_event)]) as association:
        try:
            answer, _ = association.send_n_action(
                request, _REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except (RuntimeError, ValueError) as error:
            raise NotAskedError(f"{peer} can't be asked for storage commitment: {error}") from error
        status = answer.get("Status")
        if status is None:
            raise NotAskedError(f"{peer} did not answer a storage commitment request")
        if status != 0x0000:
            raise NotAskedError(f"{peer} refused a storage commitment request with 0x{status:04X}")
        reported.wait(_SAME_ASSOCIATION_SECONDS)

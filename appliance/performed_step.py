"""Modality Performed Procedure Step as SCP (PS3.4 annex F.7): evidence of what a series is to have.

Kept is what tells that: the step's status, and which images of which series it names. Everything else of it is a
department's business, not this device's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from io import BytesIO

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_CREATE

from appliance import budget
from appliance.errors import QuarantineError, SpoolError
from appliance.step_store import StepStore

log = logging.getLogger("scanside.performed_step")

_SUCCESS, _INVALID_VALUE, _PROCESSING_FAILURE, _RESOURCE_LIMITATION = 0x0000, 0x0106, 0x0110, 0x0213
_DUPLICATE, _NO_SUCH_INSTANCE, _INVALID_OBJECT = 0x0111, 0x0112, 0x0117
_STATUSES = ("IN PROGRESS", "COMPLETED", "DISCONTINUED")
_ANSWERS = {
    "": _SUCCESS,
    "duplicate": _DUPLICATE,
    "full": _RESOURCE_LIMITATION,
    "unknown": _NO_SUCH_INSTANCE,
    "ended": _PROCESSING_FAILURE,  # PS3.4 section F.7.2.2.4: the step may no longer be updated
}


class PerformedStep:
    """Answers N-CREATE and N-SET requests.

    Parameters
    ----------
    on_change
        Called when a series may be complete by what a step says; must not block.
    """

    def __init__(self, store: StepStore, on_change: Callable[[], None]) -> None:
        self._store, self._on_change = store, on_change

    def on_n_create(self, event: evt.Event) -> tuple[int, None]:
        """Handle EVT_N_CREATE; the request's status."""
        uid = event.request.AffectedSOPInstanceUID
        if uid is None:  # PS3.4 section F.7.2.1.2: the modality gives it
            return _INVALID_OBJECT, None
        ae_title = event.assoc.requestor.ae_title
        return self._record(event, uid, lambda status, images: self._create(uid, ae_title, status, images))

    def on_n_set(self, event: evt.Event) -> tuple[int, None]:
        """Handle EVT_N_SET; the request's status."""
        uid = event.request.RequestedSOPInstanceUID
        return self._record(event, uid, lambda status, images: self._store.update(uid, status, images))

    def _create(self, uid: str, ae_title: str, status: str, images: dict[str, list[str]] | None) -> str:
        if status != "IN PROGRESS":
            raise ValueError(f"a step is created IN PROGRESS, not {status!r}")
        return self._store.create(uid, ae_title, images or {})

    def _record(
        self, event: evt.Event, uid: str, record: Callable[[str, dict[str, list[str]] | None], str]
    ) -> tuple[int, None]:
        modality = event.assoc.requestor.ae_title
        try:
            status, images = _read(event)
            outcome = record(status, images)
        except SpoolError as error:
            log.error("a performed procedure step of %s is refused with 0x0110: %s", modality, error)
            return _PROCESSING_FAILURE, None
        except QuarantineError as error:
            log.warning("a performed procedure step of %s is refused: %s", modality, error)
            return _INVALID_VALUE, None
        except Exception as error:  # noqa: BLE001 (whatever a hostile data set makes pydicom raise)
            log.warning("a performed procedure step of %s can't be read: %s", modality, type(error).__name__)
            return _INVALID_VALUE, None
        if outcome:
            log.warning("a performed procedure step of %s is refused, it is %s: %s", modality, outcome, uid)
        else:
            log.info("performed procedure step %s of %s: %s", uid, modality, status or "changed")
            self._on_change()
        return _ANSWERS[outcome], None


def _read(event: evt.Event) -> tuple[str, dict[str, list[str]] | None]:
    """Status, '' where it says none; and Series Instance UID -> SOP Instance UIDs, None where it says nothing of them.

    Raises anything.
    """
    creates = isinstance(event.request, N_CREATE)
    content: BytesIO | None = event.request.AttributeList if creates else event.request.ModificationList
    if content is None:
        return "", None
    budget.check_data_set(content, little_endian=True)
    content.seek(0)
    said: Dataset = event.attribute_list if creates else event.modification_list
    status = str(said.get("PerformedProcedureStepStatus", ""))
    if status not in ("", *_STATUSES):
        raise ValueError("no status of a performed procedure step")
    if "PerformedSeriesSequence" not in said:
        return status, None
    images: dict[str, list[str]] = {}
    for series in said.PerformedSeriesSequence:
        named = images.setdefault(_uid(series.SeriesInstanceUID), [])
        for image in series.get("ReferencedImageSequence") or ():
            named.append(_uid(image.ReferencedSOPInstanceUID))
    return status, images


def _uid(value: object) -> str:
    found = str(value)
    if not re.fullmatch(r"[0-9.]{1,64}", found):
        raise ValueError("no UID")
    return found

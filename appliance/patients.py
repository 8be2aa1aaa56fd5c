"""Test patients for the scanner simulator: by number, or as a modality worklist has them (PS3.4 annex K)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import ModalityWorklistInformationFind

from appliance.delivery.storage_scu import Peer, associated
from appliance.errors import DeliveryError
from appliance.writer import derived_uid

_PENDING = (0xFF00, 0xFF01)
_ASKED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID",
    "ReferringPhysicianName", "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedurePriority",
)  # fmt: skip
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_SEXES = ("F", "M", "O")


@dataclass(frozen=True)
class TestPatient:
    """Who is examined: DICOM keyword -> value, as every object of the examination has it."""

    attributes: dict[str, str]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def examine(self, path: Path) -> Dataset:
        """A file's object as of this patient, under UIDs of its own; what was one series stays one.

        Raises
        ------
        DeliveryError
            The file is no DICOM file.
        """
        try:
            dataset = pydicom.dcmread(path)
            old = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        except Exception as error:  # pydicom raises whatever a broken file provokes
            raise DeliveryError(f"{path} is not a DICOM file that can be sent: {error}") from error
        for keyword, value in self.attributes.items():
            setattr(dataset, keyword, value)
        dataset.StudyInstanceUID = self.attributes.get("StudyInstanceUID") or derived_uid("study", self.token, old[0])
        dataset.SeriesInstanceUID = derived_uid("series", self.token, old[1])
        dataset.SOPInstanceUID = derived_uid("instance", self.token, old[2])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return dataset


def by_number(count: int) -> Iterator[TestPatient]:
    """So many, who are called by their number; their ages and sexes differ."""
    for number in range(1, count + 1):
        yield TestPatient(
            {
                "PatientName": f"TEST^NUMBER {number:04d}",
                "PatientID": f"TEST-{number:04d}",
                "PatientBirthDate": f"{1930 + (number * 7) % 90}0101",
                "PatientSex": _SEXES[number % len(_SEXES)],
                "AccessionNumber": f"T{number:06d}",
            }
        )


def from_worklist(peer: Peer) -> list[TestPatient]:
    """Everyone whom a worklist has scheduled; raises `DeliveryError`."""
    query = Dataset()
    for keyword in _ASKED:
        setattr(query, keyword, "")
    step = Dataset()
    step.Modality = step.ScheduledStationAETitle = step.ScheduledProcedureStepStartDate = ""
    query.ScheduledProcedureStepSequence = [step]
    found = []
    contexts = [(ModalityWorklistInformationFind, syntax) for syntax in _SYNTAXES]
    with associated(peer, contexts) as association:
        for status, entry in association.send_c_find(query, ModalityWorklistInformationFind):
            code = status.get("Status")
            if code in _PENDING and entry is not None:
                found.append(TestPatient({key: str(entry.get(key) or "") for key in _ASKED if entry.get(key)}))
            elif code != 0x0000:
                said = "not at all" if code is None else f"with 0x{code:04X}"
                raise DeliveryError(f"the worklist {peer} answers {said}")
    return found

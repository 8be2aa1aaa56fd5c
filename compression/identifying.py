"""What in a DICOM data set still identifies a person: a check before training, not a proof of the contrary.

It looks at what PS3.15 Table E.1-1 has removed or replaced and that names a person, a place or a day by itself, at
free text, at private elements, and at what the data set says of itself. Pixels are not looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from pydicom import DataElement, Dataset

from appliance.burned_in import burned_in
from appliance.image import text
from compression.problems import DataError

__all__ = ["FREE_TEXT", "HARMLESS_TEXT", "burned_in", "identifying", "refuse"]

_IDENTIFIERS = frozenset(
    (
        "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientIDsSequence", "PatientAddress", "PatientTelephoneNumbers",
        "PatientTelecomInformation", "PatientBirthDate", "PatientBirthTime", "PatientInsurancePlanCodeSequence",
        "MilitaryRank", "BranchOfService", "MedicalRecordLocator", "RegionOfResidence", "CountryOfResidence",
        "PatientReligiousPreference", "Occupation", "AccessionNumber", "AdmissionID", "ServiceEpisodeID",
        "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber",
        "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "PersonAddress", "PersonTelephoneNumbers",
        "ReferencedPatientPhotoSequence", "OriginalAttributesSequence", "ResponsibleOrganization",
        "EncapsulatedDocument", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
    )
)  # fmt: skip
_DATES = ("DA", "DT")
FREE_TEXT = ("LT", "ST", "UT")
# Free text that describes a technique or a code, not a person.
HARMLESS_TEXT = frozenset(("CodingSchemeName", "LongCodeValue", "DerivationDescription", "CodingSchemeExternalID"))
# What is put in place of a name, an identifier or a comment.
_DUMMIES = frozenset(
    ("", "ANONYMIZED", "ANONYMOUS", "ANON", "REMOVED", "UNKNOWN", "00010101", "19000101", "19000101000000")
)


def identifying(dataset: Dataset) -> list[str]:
    """What still identifies, as names of attributes without their values, sorted; empty where nothing was found.

    Parameters
    ----------
    dataset
        Of any kind, with or without pixel data; nested items are looked at, too.
    """
    found = set()
    if text(dataset, "PatientIdentityRemoved") != "YES":
        found.add("PatientIdentityRemoved is not YES")
    if reason := burned_in(dataset):
        found.add(reason)
    # Days count where the data set does not say that they were moved or removed.
    dates_count = text(dataset, "LongitudinalTemporalInformationModified") not in ("MODIFIED", "REMOVED")
    pseudonym = text(dataset, "PatientID")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the rules count like others
        for element in _all(dataset):
            if element.tag.is_private:
                found.add(f"private group {element.tag.group:04X}")
            elif _identifies(element, pseudonym, dates_count):
                found.add(element.keyword or f"({element.tag.group:04X},{element.tag.element:04X})")
    return sorted(found)


def refuse(path: Path, header: Dataset, agreement: str) -> None:
    """Raises `DataError` naming a file that still identifies and its attributes, unless there is an agreement."""
    found = [] if agreement else identifying(header)
    if found:
        raise DataError(
            f"{path} still identifies a person: {', '.join(found)}; run python -m compression deidentify first, or "
            "import it by agreement, which is recorded: --identified-by-agreement REASON"
        )


def _all(dataset: Dataset) -> Iterator[DataElement]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _all(item)


def _identifies(element: DataElement, pseudonym: str, dates_count: bool) -> bool:
    if element.VR == "SQ":
        return element.keyword in _IDENTIFIERS and bool(element.value)
    raw = element.value if element.value is not None else ""
    value = (raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)).strip("\0 ^")
    if value.upper() in _DUMMIES:
        return False
    if element.VR == "PN":
        return value != pseudonym
    if element.VR in _DATES and dates_count:
        return True
    return element.keyword in _IDENTIFIERS or (element.VR in FREE_TEXT and element.keyword not in HARMLESS_TEXT)

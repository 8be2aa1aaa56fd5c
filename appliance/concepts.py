"""The coded terms of the result objects, in one place: the standard's where it has one, else private ones that say so.

Writers of messages share them, so that the same statement has the same code in every form that a result goes out in.
"""

from __future__ import annotations

from collections.abc import Iterable

from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance import result

SCHEME = "99SCANSIDE"  # 99 marks a private coding scheme (PS3.16 section 8.2); a Code Value has 16 letters at most
_SCHEME_NAME = "Scanside private codes"

# CAD's term for "the likelihood that the finding detected is in fact the type of finding identified", in percent
# (PS3.16 annex D). "Probability" (DCM 122157) belongs to no context group and does not say of what;
# "Probability of cancer" (DCM 111047) is of one disease.
CERTAINTY = codes.DCM.CertaintyOfFinding
OPERATING_POINT = codes.DCM.CADOperatingPointDescription
REPORTED_AS = {
    "present": codes.SCT.Present,
    "absent": codes.SCT.Absent,
    "indeterminate": codes.SCT.Indeterminate,
}
NO_ANSWER = CodedConcept("260413007", "SCT", "None")

# Of CID 100, which TID 1500 takes the procedure from; the last is true of any modality and in every edition of it.
_PROCEDURES = {
    "MR": CodedConcept("25056-3", "LN", "MRI unspecified body region"),
    "CT": CodedConcept("25045-6", "LN", "CT unspecified body region"),
}
_ANY_PROCEDURE = codes.SCT.ImagingProcedure

PERCENT = codes.UCUM.Percent
MILLILITER = CodedConcept("mL", "UCUM", "milliliter")
NO_UNITS = CodedConcept("1", "UCUM", "no units")

THRESHOLD = CodedConcept("threshold", SCHEME, "Probability from which it is present")
LOWEST_HEAD = CodedConcept("lowest-head", SCHEME, "Lowest probability among the heads of the ensemble")
HIGHEST_HEAD = CodedConcept("highest-head", SCHEME, "Highest probability among the heads of the ensemble")
PREDICTION_SET = CodedConcept("prediction-set", SCHEME, "Prediction set")
COVERAGE = CodedConcept("set-coverage", SCHEME, "Coverage of the prediction set")
AREA_SHARE = CodedConcept("area-share", SCHEME, "Share of the area of the image")
MEAN_PROBABILITY = CodedConcept("mean-probability", SCHEME, "Mean probability inside the segment")
UNCERTAIN_SHARE = CodedConcept("uncertain-share", SCHEME, "Share of the segment that is uncertain")
VALIDATED_USE = CodedConcept("validated-use", SCHEME, "Validated use of the algorithm")
OUTSIDE = CodedConcept("outside", SCHEME, "Outside validated use")
NOT_CERTAIN = CodedConcept("not-certain", SCHEME, "Not known to be within validated use")
REVIEW_STATUS = CodedConcept("review-status", SCHEME, "Review of the result by a person")
REVIEW_REQUIRED = CodedConcept("review-required", SCHEME, "Review required before use")
# How a warning begins, and what it is as codes: concept and value.
FLAGS = {
    result.OUTSIDE_VALIDATED_USE: (VALIDATED_USE, OUTSIDE),
    result.AGE_NOT_STATED: (VALIDATED_USE, NOT_CERTAIN),
    result.VIEW_NOT_STATED: (VALIDATED_USE, NOT_CERTAIN),
    result.NOT_UPRIGHT: (VALIDATED_USE, NOT_CERTAIN),
    result.REVIEW_REQUIRED: (REVIEW_STATUS, REVIEW_REQUIRED),
}


def flags(warnings: Iterable[str]) -> list[tuple[CodedConcept, CodedConcept]]:
    """What the warnings of a result are as codes, for programs."""
    said = tuple(warnings)
    found = [pair for begin, pair in FLAGS.items() if any(each.startswith(begin) for each in said)]
    if (VALIDATED_USE, OUTSIDE) in found:
        found = [pair for pair in found if pair[1] is not NOT_CERTAIN]
    return [pair for place, pair in enumerate(found) if pair not in found[:place]]


def procedure(modality: str) -> CodedConcept:
    """What was done, by the modality of its images; CID 100 has no code for a radiograph."""
    return _PROCEDURES.get(modality, CodedConcept.from_code(_ANY_PROCEDURE))


def scheme_identification() -> list[Dataset]:
    """Of the private scheme, for the SOP Common Module (PS3.3 section C.12.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = _SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = "Scanside"
    return [item]

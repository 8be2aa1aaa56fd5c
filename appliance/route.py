"""Which package takes which instance, and why not.

An instance is turned away where its header contradicts what every package accepts, or where it doesn't say what was
imaged. What is merely unstated, or outside the validated ages, is taken with a warning that goes wherever the
result goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydicom import Dataset
from pydicom.uid import UID

from appliance import described, orientation
from appliance.errors import NO_BODY_PART, NO_PACKAGE, RAW_IMAGE, THIS_DEVICE_READS, NotAcceptedError
from appliance.image import age_contradiction, age_years, text
from appliance.package import Package
from appliance.preprocess import Spacing, moves
from appliance.result import AGE_NOT_STATED, NOT_UPRIGHT, OUTSIDE_VALIDATED_USE, VIEW_NOT_STATED
from appliance.volume import MAX_VOXELS

_FOR_PROCESSING = {
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray
    "1.2.840.10008.5.1.4.1.1.1.2.1",  # Digital Mammography X-Ray
    "1.2.840.10008.5.1.4.1.1.1.3.1",  # Digital Intra-Oral X-Ray
}
_MODALITY_WORDS = {
    "CR": "computed radiography", "DX": "digital radiography", "CT": "CT", "MR": "MR", "US": "ultrasound",
    "MG": "mammography", "NM": "nuclear medicine", "PT": "PET", "XA": "angiography", "RF": "fluoroscopy",
    "SC": "secondary capture", "OT": "other", "SR": "structured report",
}  # fmt: skip
_LATERAL_VIEWS = {"LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT", "LAO", "RAO", "LPO", "RPO", "ML", "LM"}


def route(header: Dataset, packages: Sequence[Package]) -> tuple[Package, tuple[str, ...]]:
    """The first package that takes an instance, one that looks for findings before one that draws; and the warnings
    that its result must carry.

    Raises
    ------
    NotAcceptedError
        With the reason of the package that came closest.
    """
    ordered = sorted(packages, key=lambda package: package.segments)
    closest: tuple[int, str] | None = None
    for package in ordered:
        refusal = _refusal(header, package)
        if refusal is None:
            return package, _warnings(header, package)
        if closest is None or refusal[0] > closest[0]:
            closest = refusal
    if closest is None:
        raise NotAcceptedError(f"{NO_PACKAGE}.")
    wanted = list(dict.fromkeys(_wanted(package) for package in ordered))
    raise NotAcceptedError(closest[1], hint=f"{THIS_DEVICE_READS} {' and '.join(wanted)}")


def companion(header: Dataset, packages: Sequence[Package], chosen: Package) -> tuple[Package, tuple[str, ...]] | None:
    """The first package that draws segments on an image which ``chosen`` looks for findings in, and its warnings."""
    if chosen.segments:
        return None
    for package in packages:
        if package.segments and not package.takes_volumes and _refusal(header, package) is None:
            return package, _warnings(header, package)
    return None


def check_spacing(package: Package, shape: tuple[int, ...], spacing: Spacing | None) -> None:
    """Turn away what is sampled otherwise than what a package is for; a network would answer all the same.

    Parameters
    ----------
    shape, spacing
        Of the source's pixels, and the millimeters between neighbors along each axis, where known.

    Raises
    ------
    NotAcceptedError
        The spacing is outside of what the package accepts, or so large that it is no patient's.
    """
    if spacing is None:
        return
    said = f"{' x '.join(f'{each:.4g}' for each in spacing)} mm"
    limits = package.manifest.accepts.millimeters
    if limits is not None and not all(limits[0] <= each <= limits[1] for each in spacing):
        raise NotAcceptedError(
            f"The voxels are of {said}; {package} reads {limits[0]:g} to {limits[1]:g} mm along each axis.",
            hint="send the series whose slices are thinnest",
        )
    if any(math.prod(move.after) > MAX_VOXELS for move in moves(package.manifest.input.steps, shape, spacing)):
        raise NotAcceptedError(
            f"The voxels are of {said}, which makes a volume larger than any patient.",
            hint="look at Pixel Spacing and Image Position (Patient), and send the series again from the modality",
        )


def _refusal(header: Dataset, package: Package) -> tuple[int, str] | None:
    """Which check a package turns an instance away by, the later the closer, and why; None where it takes it."""
    for number, check in enumerate(_CHECKS):
        reason = check(header, package)
        if reason is not None:
            return number, reason
    return None


def _wanted(package: Package) -> str:
    """What a package takes, in words: "frontal chest images (CR, DX)"."""
    accepts = package.manifest.accepts
    view = f"{_views_in_words(package)} " if accepts.views else ""
    kind = "series" if package.takes_volumes else "images"
    return f"{view}{accepts.body_parts[0].lower()} {kind} ({', '.join(accepts.modalities)})"


def _views_in_words(package: Package) -> str:
    views = package.manifest.accepts.views
    return "frontal" if {"AP", "PA"} & set(views) and not _LATERAL_VIEWS & set(views) else "/".join(views)


def _kind(header: Dataset, package: Package) -> str | None:
    accepts = package.manifest.accepts
    sop_class, modality = text(header, "SOPClassUID"), text(header, "Modality").upper()
    raw = text(header, "PresentationIntentType").upper() == "FOR PROCESSING"
    if raw or sop_class in _FOR_PROCESSING:
        return f"{RAW_IMAGE}, which is not made to be looked at."
    if sop_class not in accepts.sop_classes:
        name = UID(sop_class).name if sop_class else "no SOP class"
        return f"It is {_modality_in_words(modality)}: {name}."
    if any("SUBTRACT" in each for each in text(header, "ImageType").upper().split("\\")[2:]):
        return "It was subtracted from another image (Image Type)."
    if modality not in accepts.modalities:
        return f"Its modality is {_modality_in_words(modality)}."
    return None


def _modality_in_words(modality: str) -> str:
    word = _MODALITY_WORDS.get(modality)
    return f"{modality} ({word})" if word and word != modality else modality or "not stated"


def _pixels(header: Dataset, package: Package) -> str | None:
    if "Rows" not in header:
        return "The object has no pixels, or the file is cut off within its header (Rows is missing)."
    frames = text(header, "NumberOfFrames") or "1"
    if frames != "1":
        return f"The image has {frames} frames; only single-frame images are read."
    interpretation = text(header, "PhotometricInterpretation")
    if interpretation not in package.manifest.accepts.photometric_interpretations:
        return f"The image is not grayscale (Photometric Interpretation {interpretation or 'missing'})."
    return None


def _body_part(header: Dataset, package: Package) -> str | None:
    accepts = package.manifest.accepts
    wanted = {part.upper() for part in accepts.body_parts}
    stated = text(header, "BodyPartExamined").upper()
    if stated and stated not in wanted:
        return f"Its body part is {stated}."
    named, other = described.body_part(header, wanted, stated=bool(stated), projection=bool(accepts.views))
    if other:
        return f"Its header speaks of another body part, too: {other}."
    if named:
        return None
    if not any(text(header, keyword) for keyword in described.KEYWORDS) and "AnatomicRegionSequence" not in header:
        return f"{NO_BODY_PART} (Body Part Examined is empty)."
    return f"{NO_BODY_PART}: Body Part Examined is empty and no description names it."


def _view(header: Dataset, package: Package) -> str | None:
    if not package.manifest.accepts.views:  # any
        return None
    stated = described.view(header)
    views = {view.upper() for view in package.manifest.accepts.views}
    frontal = not _LATERAL_VIEWS & views
    if stated and stated not in views:
        other = stated in _LATERAL_VIEWS or any(word in stated for word in ("LATERAL", "OBLIQUE", "DECUBITUS"))
        return f"Its view position is {stated}, {'a lateral or oblique view' if other else 'another view'}."
    if not stated and frontal and described.described_otherwise(header):
        return "Its description says that it is a lateral view."
    if frontal and {"A", "P"} & set(_leads(header)):
        return "Its Patient Orientation says that it is a lateral view."
    return None


def _leads(header: Dataset) -> tuple[str, ...]:
    """Where rows and columns lead to, the main direction of each (Patient Orientation, PS3.3 C.7.6.1.1.1); empty where
    that is not stated, or is none."""
    leads = orientation.stated(header)
    return tuple(each[0] for each in leads) if leads is not None else ()


_CHECKS = (_kind, _pixels, _body_part, _view)


def _warnings(header: Dataset, package: Package) -> tuple[str, ...]:
    warnings = []
    if package.manifest.accepts.views and not described.view(header):
        warnings.append(f"{VIEW_NOT_STATED}; the model is validated on {_views_in_words(package)} views only.")
    if package.manifest.accepts.views and _leads(header) not in ((), ("L", "F"), ("R", "F")):
        stated = text(header, "PatientOrientation")
        warnings.append(f"{NOT_UPRIGHT} by its Patient Orientation ({stated}); the model reads upright ones.")
    validated = package.manifest.intended_use.age_years
    if validated is not None:
        low, high = validated
        age = age_years(header)
        if contradiction := age_contradiction(header):
            told, born = contradiction
            warnings.append(
                f"{AGE_NOT_STATED} for certain: {_age_in_words(told)} by Patient's Age, {_age_in_words(born)} by the "
                f"birth date; the model is validated for ages {low:g} to {high:g} years only."
            )
        elif age is None:
            warnings.append(f"{AGE_NOT_STATED}; the model is validated for ages {low:g} to {high:g} years only.")
        elif not low <= age < high + 1:
            warnings.append(
                f"{OUTSIDE_VALIDATED_USE}: the patient is {_age_in_words(age)}, "
                f"the model is validated for ages {low:g} to {high:g} years only."
            )
    return tuple(warnings)


def _age_in_words(age: float) -> str:
    return f"{int(age)} years old" if age >= 1 else "younger than one year"

"""``scanside test-connection``: what fails between here and a DICOM peer, in plain words, and what to do next.

The questions are asked in the order of the layers, a file for each; the first that fails ends the test, since the
others need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    ParametricMapStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from appliance.checks import Check
from appliance.config import Config, Destination, DocumentKind, ResultKind
from appliance.connection import dicom, network, own, secure
from appliance.connection.question import Question
from appliance.delivery.storage_scu import File

__all__ = ["IMAGES", "Question", "examine", "needed_for", "results"]

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_RESULTS: dict[ResultKind | DocumentKind, UID] = {
    "structured_report": Comprehensive3DSRStorage,
    "secondary_capture": SecondaryCaptureImageStorage,
    "segmentation": SegmentationStorage,
    "fractional_segmentation": SegmentationStorage,
    "presentation_state": GrayscaleSoftcopyPresentationStateStorage,
    "parametric_map": ParametricMapStorage,
    "assessment": Comprehensive3DSRStorage,
}
IMAGES: dict[UID, tuple[UID, ...]] = {
    UID(each): (*_NATIVE, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless)
    for each in (
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        CTImageStorage,
        MRImageStorage,
    )
}

# Words of hints that ask for an option: this device has no options for itself, it has its configuration.
_OPTIONS = ("--tls", "--ca", "--cert")
_RESTART = "restart the appliance: it runs with another configuration than this one"


def results(config: Config, destination: Destination | None = None) -> dict[UID, tuple[UID, ...]]:
    """What a peer must take of the results that are made; of a destination, of those that it is sent."""
    made: list[ResultKind | DocumentKind] = [*config.results.kinds]
    if destination is None:
        kinds = made
    else:
        kinds = [kind for kind in (*made, *get_args(DocumentKind)) if kind in destination.send]
    return {_RESULTS[kind]: _NATIVE for kind in kinds}


def needed_for(paths: Sequence[Path]) -> dict[UID, tuple[UID, ...]]:
    """What a peer must take so that these files can be sent; raises `DeliveryError` where one is no DICOM file."""
    wanted: dict[UID, list[UID]] = {}
    for path in paths:
        file = File.of(path)
        syntaxes = wanted.setdefault(file.sop_class_uid, [])
        if file.transfer_syntax_uid not in syntaxes:
            syntaxes.append(file.transfer_syntax_uid)
    return {sop_class: tuple(syntaxes) for sop_class, syntaxes in wanted.items()}


def examine(question: Question) -> Iterator[Check]:
    """The answers, as they come; after one that is ``fail`` there are no more."""
    checks = [network.name, network.port]
    if question.tls is not None and question.own:
        checks = [own.files, secure.clock, *checks, own.certificate, secure.handshake]
    elif question.tls is not None:
        checks += [secure.clock, secure.own_certificate, secure.handshake]
    for ask in (*checks, dicom.association):
        for check in ask(question):
            if question.own and check.what in ("TLS", "association") and any(each in check.hint for each in _OPTIONS):
                check = replace(check, hint=_RESTART)
            yield check
            if check.outcome == "fail" or (ask is own.certificate and check.outcome == "warning"):
                return

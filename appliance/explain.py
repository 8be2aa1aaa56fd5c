"""``scanside explain``: what one file's answer hangs on, by covering parts of the image on the device's own backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import occlusion, signature, writer
from appliance.config import Config
from appliance.errors import NotAcceptedError
from appliance.image import read_header
from appliance.in_service import try_out
from appliance.orientation import side_at_left
from appliance.pipeline import Pipeline, Stopwatch

CAUTION = (
    "This says what the model reacts to, not where a disease is; the gray cover is brighter than a lung, so a fall "
    "tells more than a rise. For research use only: not for diagnosis."
)


def explain(config: Config, path: Path) -> dict[str, Any]:
    """The file's findings, each with a sentence and its figures.

    It is routed, decoded and preprocessed as an image that came in is, and the same process answers.

    Raises
    ------
    InputError
        With the reason why this file is turned away.
    PackageError, BackendError
    """
    device_uid = writer.derived_uid(signature.key_id(Ed25519PrivateKey.generate().public_key()))
    opened = Pipeline.open(config, try_out(config), device_uid)
    try:
        return _explain(opened, path)
    finally:
        opened.close()


def _explain(opened: Pipeline, path: Path) -> dict[str, Any]:
    header = read_header(path)
    prepared = opened.prepare([path], [header], Stopwatch())
    engine = prepared.engine
    ((name, tensor),) = prepared.inputs.items()
    at_left, stated = side_at_left(header)
    if engine.package.segments:
        raise NotAcceptedError(f"{engine.package} draws segments: what its outline shows needs no such explanation.")
    first = engine.predict(engine.server.run(prepared.inputs), prepared.source)
    explained = []
    for index, finding in enumerate(first.findings):

        def probability(covered: np.ndarray, index: int = index) -> float:
            return engine.predict(engine.server.run({name: covered}), prepared.source).findings[index].probability

        found = occlusion.occlude(tensor, probability)
        explained.append(
            {
                "finding": finding.label,
                "positive": finding.positive,
                "threshold": finding.threshold,
                "sentence": occlusion.sentence(found, finding.label, finding.threshold, at_left),
                **occlusion.to_dict(found, at_left),
            }
        )
    return {
        "file": str(path),
        "sop_instance_uid": str(header.SOPInstanceUID),
        "package": str(engine.package),
        "backend": engine.server.receipt.backend,
        "patient_side_at_image_left": at_left,
        "side_is_stated": stated,
        "findings": explained,
        "warnings": [*prepared.warnings, *first.warnings],
    }

"""From a DICOM file to a prediction, and from a prediction to objects: the straight line that everything shares.

`appliance.worker` runs it for the ledger, ``scanside infer`` for single files; it knows neither.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset

from appliance import __version__, backends, package, proof, render, signature, writer
from appliance.backend import Backend, BackendModule
from appliance.config import Config
from appliance.errors import NotAcceptedError, PackageError
from appliance.image import Image, load, read_header
from appliance.package import Conformal, OperatingPoint, Package, Target
from appliance.preprocess import preprocess
from appliance.proof import Trial
from appliance.receipt import Receipt, calibrated
from appliance.result import Finding, Prediction, Provenance
from appliance.route import route
from appliance.writers import WRITERS

log = logging.getLogger("scanside.pipeline")

PREVIEW_LONGEST = 1024


@dataclass(frozen=True)
class Engine:
    """A package, opened on a backend that has proved itself."""

    package: Package
    backend: Backend
    receipt: Receipt
    operating_point: OperatingPoint
    trials: tuple[Trial, ...]

    def predict(self, tensor: np.ndarray, warnings: tuple[str, ...]) -> Prediction:
        """The prediction for one preprocessed image, float32 ``(1, 1, rows, columns)``."""
        manifest, target = self.package.manifest, self.package.target(self.receipt.target)
        outputs = self.backend.run({manifest.input.name: tensor})
        probabilities = calibrated(outputs[manifest.outputs.logits][0], target.temperature, target.bias)
        if not np.isfinite(probabilities).all():
            raise ArithmeticError(f"{self.package} gave a probability that is not a number")
        evidence = np.clip(outputs[manifest.outputs.activation_map][0] / target.activation_map_scale, 0.0, 1.0)
        threshold = self.operating_point.threshold
        findings, doubts = [], []
        for spec, probability in zip(manifest.findings, probabilities, strict=True):
            positive = bool(probability >= threshold)
            doubt = _doubt(target.conformal, float(probability), positive) if target.conformal else None
            if doubt:
                doubts.append(f"The model is unsure about {spec.label.lower()} on this image: {doubt}")
            words = f"Unsure about {spec.label.lower()}." if doubt else spec.words_negative
            findings.append(
                Finding(
                    label=spec.label,
                    code=spec.code,
                    probability=float(probability),
                    threshold=threshold,
                    operating_point=self.operating_point.name,
                    positive=positive,
                    urgent=spec.urgent,
                    words=spec.words_positive if positive else words,
                    unsure=doubt is not None,
                )
            )
        return Prediction(
            findings=tuple(findings),
            activation_maps={spec.label: evidence[index] for index, spec in enumerate(manifest.findings)},
            embedding=outputs[manifest.outputs.embedding][0],
            warnings=(*warnings, *doubts),
        )


def _doubt(conformal: Conformal, probability: float, positive: bool) -> str | None:
    """Why the prediction set is not just the decision, in words; None where it is.

    The set holds what the probability is usual for: in all but a share of ``1 - coverage`` of each class.
    """
    present, absent = 1.0 - probability <= conformal.present, probability <= conformal.absent
    said = f"a probability of {probability:.1%} is"
    if present == absent:
        return f"{said} {'usual both with and' if present else 'unusual both with and'} without it."
    if present != positive:
        return (
            f"{said} usual {'with' if present else 'without'} it, but {'below' if present else 'above'} the threshold."
        )
    return None


@dataclass
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Reading:
    """What became of one image."""

    image: Image
    prediction: Prediction
    provenance: Provenance


class Pipeline:
    """Every installed package on its backend.

    Parameters
    ----------
    engines
        One for each package.
    device_uid
        Identifies this device in the objects that it writes.
    """

    def __init__(self, engines: Sequence[Engine], device_uid: str) -> None:
        self.engines = tuple(engines)
        self._device_uid = device_uid

    @classmethod
    def open(
        cls, config: Config, device_uid: str, known: Sequence[Receipt] = (), serving: str | None = None
    ) -> Pipeline:
        """Read and verify the packages, and open each on the configured backend, or on the fastest that proves itself.

        Parameters
        ----------
        known
            Receipts of earlier, which count as long as they are valid.
        serving
            The backend that has served so far.

        Raises
        ------
        PackageError, BackendError
        """
        engines = []
        for opened in packages(config):
            threads = config.inference.threads
            tried = tuple(proof.trials(config.inference.backend, opened, threads, known))
            receipt = proof.fastest(tried, serving)
            module, target = backends.module(receipt.backend), opened.target(receipt.target)
            backend = module.open(opened.artifact(receipt.target), threads=threads)
            point = target.operating_point(config.models.operating_point)
            engines.append(Engine(opened, backend, receipt, point, tried))
            _warn_of_other_runtime(opened, target, module)
            log.info("%s on %s (%s), receipt %s", opened, backend.name, backend.device, receipt.identifier)
        return cls(engines, device_uid)

    @property
    def proved_at(self) -> datetime:
        """When the oldest of the receipts was made."""
        return min(datetime.fromisoformat(engine.receipt.made_at) for engine in self.engines)

    def read(self, path: Path, header: Dataset | None, stopwatch: Stopwatch) -> Reading:
        """Decode, preprocess and infer one file.

        Raises
        ------
        InputError
            With the reason why this file is turned away.
        """
        with stopwatch("decode"):
            header = read_header(path) if header is None else header
            chosen, warnings = route(header, [engine.package for engine in self.engines])
            if missing := writer.missing(header):
                raise NotAcceptedError(
                    f"The image lacks {', '.join(missing)}, so no result could be filed with its study.",
                    hint="send it again from the modality with these attributes",
                )
            image = load(path, header)
        engine = next(engine for engine in self.engines if engine.package is chosen)
        with stopwatch("preprocess"):
            tensor = preprocess(image.pixels, chosen.manifest.input.steps)
        with stopwatch("infer"):
            prediction = engine.predict(tensor, warnings)
        return Reading(image, prediction, self._provenance(engine))

    def _provenance(self, engine: Engine) -> Provenance:
        manifest, receipt = engine.package.manifest, engine.receipt
        return Provenance(
            package=manifest.id,
            version=manifest.version,
            package_sha256=engine.package.sha256,
            artifact_sha256=receipt.artifact_sha256,
            target=receipt.target,
            backend=receipt.backend,
            device=f"{receipt.device} ({receipt.cpu})",
            receipt=receipt.identifier,
            software_version=__version__,
            made_at=datetime.now().astimezone().isoformat(timespec="seconds"),
            intended_use=manifest.intended_use.statement,
            not_for=manifest.intended_use.not_for,
            device_uid=self._device_uid,
            finding_site=manifest.finding_site,
        )


def packages(config: Config) -> Iterator[Package]:
    """The configured packages, or the bundled ones, read and verified; raises `PackageError`."""
    trusted = signature.load_trusted_keys(
        (signature.TRUSTED_KEYS, *(config.data / folder for folder in config.models.trusted_keys))
    )
    paths = tuple(config.data / path for path in config.models.packages) or package.bundled()
    if not paths:
        raise PackageError("no model package is installed", hint="set models.packages in the configuration")
    for path in paths:
        yield package.read(path, trusted)


def _warn_of_other_runtime(opened: Package, target: Target, module: BackendModule) -> None:
    """The thresholds belong to the runtime that they were chosen on; the golden vectors have held on this one, too."""
    here = ", ".join(f"{name} {version}" for name, version in module.versions().items())
    if here not in target.calibrated_with:
        log.warning("%s was calibrated with %s, this is %s", opened, target.calibrated_with, here)


def write_objects(reading: Reading, kinds: Sequence[str]) -> list[tuple[str, Dataset]]:
    """The result objects of a reading: ``(kind, data set)``, of those kinds that apply to it."""
    written: list[tuple[str, Dataset]] = []
    for kind in kinds:
        one = WRITERS[kind]
        if one.accepts(reading.prediction):
            datasets = one.write([reading.image], reading.prediction, reading.provenance)
            written.extend((kind, dataset) for dataset in datasets)
    return written


def previews(reading: Reading) -> dict[str, bytes]:
    """PNG files for the page: the image, and an overlay of the same size for each finding's heat map."""
    picture = render.display(reading.image, PREVIEW_LONGEST)
    files = {"image.png": render.png(picture)}
    for index, finding in enumerate(reading.prediction.findings):
        overlay = render.heat(reading.prediction.activation_maps[finding.label], picture.shape)
        files[f"heat-{index}.png"] = render.png(overlay)
    return files

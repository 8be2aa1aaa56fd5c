"""From a DICOM file to a prediction, and from a prediction to objects: the straight line that everything shares.

`appliance.worker` runs it for the ledger, ``scanside infer`` for single files; it knows neither.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset

from appliance import __version__, backends, package, proof, render, signature, writer
from appliance.config import Config
from appliance.errors import BackendError, NotAcceptedError, PackageError
from appliance.image import Image, load, read_header
from appliance.package import Conformal, Package
from appliance.preprocess import preprocess
from appliance.proof import Trial
from appliance.receipt import Receipt, calibrated
from appliance.result import Finding, Prediction, Provenance
from appliance.route import route
from appliance.serving import Answer, Server
from appliance.store import MOST_CRASHES
from appliance.writers import WRITERS

log = logging.getLogger("scanside.pipeline")

PREVIEW_LONGEST = 1024
_REMEMBERED = 256  # answers; each takes a few KB

Tried = tuple[Package, tuple[Trial, ...]]
_Key = tuple[bytes, str, str]  # pixels, package, backend


@dataclass(frozen=True)
class Engine:
    """A package in service."""

    server: Server
    operating_point: str | None
    trials: tuple[Trial, ...]

    @property
    def package(self) -> Package:
        return self.server.package

    def predict(self, answer: Answer, warnings: tuple[str, ...]) -> Prediction:
        """What an answer means, by the calibration of the very artifact that gave it."""
        manifest, target = self.package.manifest, self.package.target(answer.receipt.target)
        point = target.operating_point(self.operating_point)
        outputs, threshold = answer.outputs, point.threshold
        probabilities = calibrated(outputs[manifest.outputs.logits], target.temperature, target.bias)
        evidence = np.clip(outputs[manifest.outputs.activation_map] / target.activation_map_scale, 0.0, 1.0)
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
                    operating_point=point.name,
                    positive=positive,
                    urgent=spec.urgent,
                    words=spec.words_positive if positive else words,
                    unsure=doubt is not None,
                )
            )
        return Prediction(
            findings=tuple(findings),
            activation_maps={spec.label: evidence[index] for index, spec in enumerate(manifest.findings)},
            embedding=outputs[manifest.outputs.embedding],
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
class Prepared:
    """A decoded image on its way into a network; ``key`` is the SHA-256 of its pixels."""

    image: Image
    engine: Engine
    inputs: dict[str, np.ndarray] = field(repr=False)
    warnings: tuple[str, ...]
    key: bytes


@dataclass(frozen=True)
class Reading:
    """What became of one image; ``reused``: the same pixels were read before, and that answer was taken."""

    image: Image
    prediction: Prediction
    provenance: Provenance
    reused: bool


class Pipeline:
    """Every installed package in service.

    Parameters
    ----------
    engines
        One for each package.
    device_uid
        Identifies this device in the objects that it writes.
    """

    def __init__(self, engines: Sequence[Engine], device_uid: str) -> None:
        self.engines = tuple(engines)
        self.reused = 0  # answers that were taken from earlier ones
        self._device_uid = device_uid
        self._answers: OrderedDict[_Key, Answer] = OrderedDict()
        self._ahead: dict[_Key, Answer] = {}

    @classmethod
    def open(
        cls, config: Config, tried: Sequence[Tried], device_uid: str, serving: Mapping[str, str | None] | None = None
    ) -> Pipeline:
        """Put each package in service on the best of its backends.

        Parameters
        ----------
        tried
            As from `try_out`.
        serving
            The package's SHA-256 -> the backend that has served it so far.

        Raises
        ------
        PackageError, BackendError
        """
        engines: list[Engine] = []
        try:
            for opened, trials in tried:
                receipts = proof.ranked(trials, (serving or {}).get(opened.sha256))
                for receipt in receipts:
                    opened.target(receipt.target).operating_point(config.models.operating_point)
                server = Server(opened, receipts, proof.options(config), config.inference.deadline_seconds)
                engines.append(Engine(server, config.models.operating_point, trials))
                server.keep_alive()
                _warn_of_other_runtime(opened, server.receipt)
        except BaseException:
            cls(engines, device_uid).close()
            raise
        return cls(engines, device_uid)

    def close(self) -> None:
        for engine in self.engines:
            engine.server.close()

    def prepare(self, path: Path, header: Dataset | None, stopwatch: Stopwatch) -> Prepared:
        """Route, decode and preprocess one file.

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
            spec = chosen.manifest.input
            return Prepared(
                image, engine, {spec.name: preprocess(image.pixels, spec.steps)}, warnings, _digest(image.pixels)
            )

    def infer(
        self,
        prepared: Prepared,
        stopwatch: Stopwatch,
        until: float = math.inf,
        tries: int = MOST_CRASHES,
        on_stop: Callable[[str], object] = log.debug,
    ) -> Reading:
        """Run the network, unless it has seen these very pixels; parameters and errors as of `Server.run`."""
        engine = prepared.engine
        with stopwatch("infer"):
            key = _key(prepared, engine.server.receipt)
            answer = self._answers.get(key)
            reused = answer is not None
            if answer is None:
                answer = self._ahead.pop(key, None) or engine.server.run(prepared.inputs, until, tries, on_stop)
            self._remember(_key(prepared, answer.receipt), answer)
            prediction = engine.predict(answer, prepared.warnings)
        self.reused += reused
        return Reading(prepared.image, prediction, self._provenance(engine, answer.receipt), reused)

    def infer_ahead(self, group: Sequence[Prepared]) -> bool:
        """Run several images of one package at once, for `infer` to take; False where it failed: read each alone."""
        self._ahead.clear()
        try:
            answers = group[0].engine.server.run_together([each.inputs for each in group])
        except BackendError as error:
            log.warning("a group of %d failed, so each is read alone: %s", len(group), error)
            return False
        for each, answer in zip(group, answers, strict=True):
            self._ahead[_key(each, answer.receipt)] = answer
        return True

    def _remember(self, key: _Key, answer: Answer) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def _provenance(self, engine: Engine, receipt: Receipt) -> Provenance:
        manifest = engine.package.manifest
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


def try_out(config: Config, known: Sequence[Receipt] = (), since: datetime | None = None) -> list[Tried]:
    """Each configured package, with what became of the backends that it may be served on.

    Parameters as of `appliance.proof.trials`. Raises `PackageError`, `BackendError`.
    """
    options = proof.options(config)
    return [
        (opened, tuple(proof.trials(config.inference.backend, opened, options, known, since)))
        for opened in packages(config)
    ]


def _key(prepared: Prepared, receipt: Receipt) -> _Key:
    return prepared.key, receipt.package_sha256, receipt.backend


def _digest(pixels: np.ndarray) -> bytes:
    """SHA-256 of an image's type, shape and values."""
    digest = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _warn_of_other_runtime(opened: Package, receipt: Receipt) -> None:
    """The thresholds belong to the runtime that they were chosen on; the golden vectors have held on this one, too."""
    calibrated_with = opened.target(receipt.target).calibrated_with
    module = backends.module(receipt.backend)
    here = ", ".join(f"{name} {version}" for name, version in module.versions(module.DEVICES[0]).items())
    if here not in calibrated_with:
        log.warning("%s was calibrated with %s, this is %s", opened, calibrated_with, here)


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

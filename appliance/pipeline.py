"""From DICOM files to a prediction, and from a prediction to objects: the straight line that everything shares.

`appliance.worker` runs it for the ledger, ``scanside infer`` for files and folders; it knows neither.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset

from appliance import (
    __version__,
    answers,
    companion,
    image,
    in_service,
    pictures,
    route,
    writer,
)
from appliance.config import Config
from appliance.errors import ApplianceError, BackendError, NotAcceptedError, UnservedError
from appliance.image import Image, Reader
from appliance.in_service import Engine, Tried, Unserved
from appliance.interpret import Source
from appliance.package import Package
from appliance.preprocess import preprocess
from appliance.receipt import Receipt
from appliance.result import Outlines, Prediction, Provenance
from appliance.serving import Answer
from appliance.store import MOST_CRASHES
from appliance.volume import Volume, load_volume
from appliance.writers import WRITERS, message_writers

log = logging.getLogger("scanside.pipeline")

_FEWEST_PIXELS, _LONGEST_SIDES = 32, 8  # of the shorter side; times that the longer one may have
_LOOK_AT_IT = "look at it at the modality"


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
    """A decoded image or volume on its way into a network.

    ``key`` is the SHA-256 of what decides the answer. ``companion``: the same image for a package that draws segments
    beside the findings of this one.
    """

    source: Source = field(repr=False)
    engine: Engine
    inputs: dict[str, np.ndarray] = field(repr=False)
    warnings: tuple[str, ...]
    key: bytes
    companion: Prepared | None = None


@dataclass(frozen=True)
class Reading:
    """What became of one image or series; ``reused``: the same pixels were read before, and that answer was taken."""

    source: Source
    prediction: Prediction
    provenance: Provenance
    reused: bool

    @property
    def images(self) -> tuple[Image, ...]:
        """The source images; of a volume in geometric order."""
        return self.source.images if isinstance(self.source, Volume) else (self.source,)

    @property
    def outlines(self) -> Outlines | None:
        """The segments for the ledger; None where nothing draws any."""
        said = self.prediction
        if said.mask is None:
            return None
        slices = len(self.source.pixels) if isinstance(self.source, Volume) else 1
        return Outlines(said.segments, said.segmented_by or self.provenance, slices)


class Pipeline:
    """Every package in force, each in service unless it can't be: one that is not keeps back its own images only.

    Parameters
    ----------
    places
        One for each package, in the order in which they are asked whether they take an image.
    device_uid
        Identifies this device in the objects that it writes.
    least_map_share
        An activation map of which less lies inside the segments that accompany it is withheld.
    """

    def __init__(self, places: Sequence[Engine | Unserved], device_uid: str, least_map_share: float) -> None:
        self.places = tuple(places)
        self.reused = 0  # answers that were taken from earlier ones
        self._device_uid = device_uid
        self._least_map_share = least_map_share
        self._answers = answers.Answers()
        self._ahead: dict[answers.Key, Answer] = {}

    @classmethod
    def open(
        cls,
        config: Config,
        tried: Sequence[Tried | Unserved],
        device_uid: str,
        serving: Mapping[str, str | None] | None = None,
    ) -> Pipeline:
        """Put each package in service on the best of its backends.

        Parameters
        ----------
        tried
            As from `in_service.try_out`; what is known to be out of service stays so.
        serving
            The package's SHA-256 -> the backend that has served it so far.

        Raises
        ------
        PackageError, BackendError
            None of them can be served.
        """
        found = cls((), device_uid, config.results.least_map_share)
        try:
            for each in tried:
                if isinstance(each, Unserved):
                    found.places += (each,)
                else:
                    found.places += (in_service.place(config, *each, (serving or {}).get(each[0].sha256)),)
            if found.unserved and not found.engines:
                raise found.unserved[0].error
        except BaseException:
            found.close()
            raise
        return found

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Of the packages in service."""
        return tuple(each for each in self.places if isinstance(each, Engine))

    @property
    def unserved(self) -> tuple[Unserved, ...]:
        """The packages in force that can't be served."""
        return tuple(each for each in self.places if isinstance(each, Unserved))

    @property
    def packages(self) -> list[Package]:
        """All of them: who takes an image does not hang on who is in service."""
        return [each.package for each in self.places]

    def close(self) -> None:
        for engine in self.engines:
            engine.server.close()

    def exchange(self, places: Sequence[Engine | Unserved]) -> None:
        """Go on with these, between two images; engines that are not among them end."""
        former = self.engines
        self.places = tuple(places)
        self._ahead.clear()
        for each in former:
            if each not in self.engines:
                each.server.close()

    def reads_series(self, header: Dataset) -> bool:
        """Whether an instance is but a slice of what is read as one volume, with all of its series."""
        try:
            chosen, _ = route.route(header, self.packages)
        except NotAcceptedError:
            return False
        return chosen.takes_volumes

    def prepare(
        self,
        paths: Sequence[Path],
        headers: Sequence[Dataset] | None,
        stopwatch: Stopwatch,
        reader: Reader = image,
        known: Sequence[str] = (),
    ) -> Prepared:
        """Route, decode and preprocess the one file of an image, or all files of a series that is read as a volume.

        Parameters
        ----------
        headers
            Of the files, in the same order; None reads them.
        reader
            What decodes them: files from elsewhere are for an `appliance.sandbox.Sandbox`.
        known
            Sentences that the result must carry, besides those for what the files say.

        Raises
        ------
        InputError
            With the reason why this is turned away.
        UnservedError
            The package that takes it can't be served.
        """
        with stopwatch("decode"):
            headers = [reader.read_header(path) for path in paths] if headers is None else headers
            chosen, warnings = route.route(headers[0], self.packages)
            if missing := sorted({keyword for header in headers for keyword in writer.missing(header)}):
                raise NotAcceptedError(
                    f"The image has no valid {', '.join(missing)}, so no result could be filed with its study.",
                    hint="send it again from the modality with these attributes",
                )
            engine = self._engine(chosen)
            if chosen.takes_volumes:
                source: Source = load_volume(paths, headers, reader)
            elif len(paths) > 1:
                raise NotAcceptedError(
                    f"{chosen} reads single images, not {len(paths)} at once.", hint="send each alone"
                )
            else:
                source = reader.load(paths[0], headers[0])
                _check_picture(source)
        with stopwatch("preprocess"):
            prepared = self._prepared(engine, source, (*warnings, *known))
            if (beside := route.companion(headers[0], self.packages, chosen)) is None:
                return prepared
            try:
                return replace(prepared, companion=self._prepared(self._engine(beside[0]), source, beside[1]))
            except ApplianceError as error:
                if not isinstance(error, UnservedError):  # the log has it, from when it went out of service
                    log.error("%s can't accompany %s: %s", beside[0], chosen, error)
                return replace(prepared, warnings=(*prepared.warnings, companion.missing(beside[0])))

    def _engine(self, chosen: Package) -> Engine:
        """Of a package; raises `UnservedError` where it has none."""
        found = next(each for each in self.places if each.package is chosen)
        if isinstance(found, Unserved):
            raise found.refuse()
        return found

    def _prepared(self, engine: Engine, source: Source, warnings: tuple[str, ...]) -> Prepared:
        spec = engine.package.manifest.input
        resampled = any(step.name == "resample" for step in spec.steps)
        if resampled and source.spacing is None:
            raise NotAcceptedError("The image does not state its Pixel Spacing, without which it can't be read here.")
        spacing = source.spacing if resampled else None
        route.check_spacing(engine.package, source.pixels.shape, source.spacing)
        if isinstance(source, Volume):
            warnings = (*warnings, *source.warnings)
        tensor = preprocess(source.pixels, spec.steps, spacing)
        return Prepared(source, engine, {spec.name: tensor}, warnings, answers.digest(source.pixels, spacing))

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
            answer, reused = self._answer(prepared, until, tries, on_stop)
            self.reused += reused
            prediction = engine.predict(answer, prepared.source)
            prediction = replace(prediction, warnings=(*prepared.warnings, *prediction.warnings))
            if prepared.companion is not None:
                prediction = self._accompanied(prediction, prepared.companion, until)
        return Reading(prepared.source, prediction, self._provenance(engine, answer.receipt), reused)

    def _answer(
        self, prepared: Prepared, until: float, tries: int, on_stop: Callable[[str], object]
    ) -> tuple[Answer, bool]:
        """And whether it is one of earlier."""
        server = prepared.engine.server
        key = answers.key(prepared.key, server.receipt)
        known = self._answers.get(key)
        answer = known or self._ahead.pop(key, None) or server.run(prepared.inputs, until, tries, on_stop)
        self._answers.put(answers.key(prepared.key, answer.receipt), answer)
        return answer, known is not None

    def _accompanied(self, prediction: Prediction, beside: Prepared, until: float) -> Prediction:
        """With the segments of the companion, or the reason why there are none; it costs nobody the findings."""
        engine = beside.engine
        try:
            # It is tried once: an image that stopped the process of a companion is not to blame for more.
            answer, _ = self._answer(beside, until, 1, log.debug)
            drawn = engine.predict(answer, beside.source)
            drawn = replace(drawn, warnings=(*beside.warnings, *drawn.warnings))
        except Exception as error:
            log.error("%s draws nothing: %s", engine.package, error, exc_info=not isinstance(error, ApplianceError))
            return replace(prediction, warnings=(*prediction.warnings, companion.missing(engine.package)))
        made_by = self._provenance(engine, answer.receipt)
        return companion.join(prediction, drawn, made_by, self._least_map_share)

    def infer_ahead(self, group: Sequence[Prepared]) -> bool:
        """Run several images of one package at once, for `infer` to take; False where it failed: read each alone."""
        self._ahead.clear()
        try:
            together = group[0].engine.server.run_together([each.inputs for each in group])
        except BackendError as error:
            log.warning("a group of %d failed, so each is read alone: %s", len(group), error)
            return False
        for each, answer in zip(group, together, strict=True):
            self._ahead[answers.key(each.key, answer.receipt)] = answer
        return True

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


def _check_picture(image: Image) -> None:
    """Turn away what shows nothing; a network would answer all the same, and be sure of it."""
    rows, columns = image.pixels.shape
    shorter, longer = sorted((rows, columns))
    if shorter < _FEWEST_PIXELS or longer > _LONGEST_SIDES * shorter:
        raise NotAcceptedError(f"The image has {rows} x {columns} pixels, which no radiograph has.", hint=_LOOK_AT_IT)
    step = max(shorter // 256, 1)  # enough of them
    low, high = np.percentile(image.pixels[::step, ::step], (2, 98))
    if low == high:
        raise NotAcceptedError("The image shows nothing: nearly all of its pixels have one value.", hint=_LOOK_AT_IT)


def write_objects(
    reading: Reading, kinds: Sequence[str], label: str = writer.RESEARCH_USE
) -> list[tuple[str, Dataset]]:
    """The result objects of a reading: ``(kind, data set)``, of those kinds that apply to it.

    ``label``: the words on every picture and below every statement.
    """
    settings = writer.Settings(tuple(kinds), label)
    written: list[tuple[str, Dataset]] = []
    for kind in kinds:
        one = WRITERS[kind]
        if one.accepts(reading.prediction):
            datasets = one.write(reading.images, reading.prediction, reading.provenance, settings)
            written.extend((kind, dataset) for dataset in datasets)
    return written


@dataclass(frozen=True)
class ResultFile:
    """One result as a file: a DICOM object, or a message.

    ``uid`` is the SOP Instance UID, or of a message what identifies it in the same way; a message has no
    ``sop_class_uid``.
    """

    kind: str
    sop_class_uid: str
    uid: str
    suffix: str
    content: bytes = field(repr=False)


def unmade(reading: Reading, config: Config) -> list[str]:
    """A sentence for each configured message that can't be made of a reading."""
    return [
        f"No message of the kind {kind} was made of this result: {reason}."
        for kind, one in message_writers(config).items()
        if kind in config.results.messages
        and one.accepts(reading.prediction)
        and (reason := one.obstacle(reading.images))
    ]


def warned(reading: Reading, reasons: Sequence[str]) -> Reading:
    """With a warning more for each reason."""
    said = reading.prediction
    return replace(reading, prediction=replace(said, warnings=(*said.warnings, *reasons))) if reasons else reading


def write_results(reading: Reading, config: Config) -> list[ResultFile]:
    """The results of a reading, of those configured kinds that apply to it: DICOM objects, then messages.

    Messages that can't be made are left out: `unmade` says so.
    """
    images, said, provenance = reading.images, reading.prediction, reading.provenance
    written = [
        ResultFile(kind, dataset.SOPClassUID, dataset.SOPInstanceUID, "dcm", writer.to_bytes(dataset))
        for kind, dataset in write_objects(reading, config.results.kinds, config.results.label)
    ]
    messages = message_writers(config)
    for kind in config.results.messages:
        if messages[kind].accepts(said) and not messages[kind].obstacle(images):
            content = messages[kind].write(images, said, provenance)
            uid = writer.instance_uid(images, provenance, kind)
            written.append(ResultFile(kind, "", uid, messages[kind].suffix, content))
    return written


def previews(reading: Reading) -> dict[str, bytes]:
    """PNG files for the page, by name."""
    return pictures.previews(reading.source, reading.prediction)

"""The model package: one signed file, the contract between the training side and the device.

A package is a zip that holds ``manifest.json``, ``manifest.sig`` (Ed25519 over the manifest's bytes) and the
files that the manifest lists with their SHA-256: a network per target, ``golden.npz`` and ``card.md``. The zip
is deterministic (fixed dates, sorted names), and nothing in it is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance import signature
from appliance.errors import PackageError
from appliance.preprocess import Step
from appliance.probability import Heads
from appliance.result import Code

FORMAT = "scanside-package/1"
SUFFIX = ".scanside"
TASKS = ("classification", "segmentation")
MAX_BYTES = 512 * 1024 * 1024  # of a package, and of all files in it together, unpacked
_MANIFEST, _SIGNATURE = "manifest.json", "manifest.sig"
_MAX_SIGNED_BYTES = 4 * 1024 * 1024  # of each of these two, which are read before it is known who made them
# What zipfile raises of an archive that is none, cut or damaged.
_BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class IntendedUse(_Strict, frozen=True):
    """What the model is for and is not for, in sentences for the page, and the validated ages in years."""

    statement: str
    not_for: tuple[str, ...]
    population: str
    age_years: tuple[float, float] | None = None


class Accepts(_Strict, frozen=True):
    """The inputs that the model takes, in DICOM's terms.

    ``sop_classes`` are UIDs; ``body_parts`` are values of Body Part Examined (or words that occur in the
    descriptions where that is empty); ``views`` are values of View Position, none where any is taken;
    ``millimeters``: the least and the largest distance of neighbors along each axis, none where any is taken.
    """

    sop_classes: tuple[str, ...]
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    views: tuple[str, ...]
    photometric_interpretations: tuple[str, ...] = ("MONOCHROME1", "MONOCHROME2")
    millimeters: tuple[float, float] | None = None


class InputSpec(_Strict, frozen=True):
    """The network's input: its name, shape, and the steps that make it.

    ``shape``: ``(batch, channels, rows, columns)`` of an image, or ``(batch, channels, slices, rows, columns)`` of a
    volume, which is a whole series.
    """

    name: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...]


class OutputSpec(_Strict, frozen=True):
    """Names of the network's outputs.

    Of a classification: ``logits`` ``(batch, findings)``, ``activation_map`` ``(batch, findings, rows, columns)`` in
    units of the logit, ``embedding`` ``(batch, features)``. Of a segmentation: ``logits`` ``(batch, 1 + segments,
    ...)``, of the background and then of each segment, on the input's grid; there is no ``activation_map`` ("").
    """

    logits: str
    activation_map: str
    embedding: str


class FindingSpec(_Strict, frozen=True):
    """A finding: its code, its words when positive and when not, and whether a positive one is urgent."""

    label: str
    code: Code
    words_positive: str
    words_negative: str
    urgent: bool


class SegmentSpec(_Strict, frozen=True):
    """A segment that the model draws, in the terms of the Segmentation IOD (PS3.3 section C.8.20.4).

    ``category`` and ``type``: what it is, from CID 7150 and the context group for its kind; ``modifier`` narrows the
    type ("anterior"). ``color``: RGB for the page and for viewers.
    """

    label: str
    category: Code
    type: Code
    color: tuple[int, int, int]
    modifier: Code | None = None


class OperatingPoint(_Strict, frozen=True):
    """A threshold on the calibrated probability, and what it gave on the data that chose it."""

    name: str
    threshold: float
    sensitivity: float
    specificity: float
    chosen_on: str


class Conformal(_Strict, frozen=True):
    """Split conformal prediction: quantiles of one minus the probability of the true label, for each class.

    "Absent" belongs to the prediction set of an image where its probability is at most ``absent``, "present" where
    one minus its probability is at most ``present``; a set holds the truth in ``coverage`` of the images of a class.
    """

    coverage: float
    absent: float
    present: float


class Ensemble(_Strict, frozen=True):
    """Heads on a target's embedding, each of another sample of the training patients: where they disagree, so might
    other training sets have.

    ``file`` is an npz with the arrays of `appliance.probability.Heads`, ``<target>/weights`` and ``<target>/bias``. An
    image whose spread lies above ``limit`` is one that the model is unsure of; a share ``answered`` of the augmented
    validation images lies at or below it.
    """

    file: str
    limit: float
    answered: float


class Target(_Strict, frozen=True):
    """One network file, for one kind of runtime, with the calibration that belongs to this very file.

    The calibrated probability of finding k is ``sigmoid(logits[k] / temperature + bias)``. ``calibrated_with`` is the
    runtime, with its version, that gave the outputs which temperature, bias, thresholds and quantiles were fitted on.
    ``why`` says why this precision was chosen.
    ``activation_map_scale``: the activation (in logits) that is drawn as full strength.
    ``measured`` holds figures with their intervals and data set, for the card, the page and the report.
    A segmentation has no operating points, and its temperature is 1.
    """

    artifact: str
    precision: str
    producer: str
    calibrated_with: str
    temperature: float
    activation_map_scale: float
    operating_points: tuple[OperatingPoint, ...]
    default_operating_point: str
    measured: dict[str, Any]
    bias: float = 0.0
    conformal: Conformal | None = None
    ensemble: Ensemble | None = None
    why: str = ""

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        wanted = name or self.default_operating_point
        for point in self.operating_points:
            if point.name == wanted:
                return point
        known = ", ".join(point.name for point in self.operating_points)
        raise PackageError(f"operating point {wanted!r} is not in the package (it has: {known})")


class GoldenSpec(_Strict, frozen=True):
    """Generated images and the outputs that each target must give for them.

    ``file`` is an npz with ``images`` uint8 ``(count, rows, columns)``, before preprocessing, and for each
    target ``<target>/logits`` ``(count, findings)`` and ``<target>/activation_map``, float32; of one with an ensemble
    also ``<target>/heads`` ``(count, heads, findings)``, the probabilities of its heads.
    ``probability_tolerance`` is the largest accepted difference of a calibrated probability.

    Of a segmentation, ``images`` are float32 or uint8 ``(count, ...)``, volumes at the spacing that the steps resample
    to, and for each target there is ``<target>/labels``, uint8, the number of the most probable segment (0 is
    background) on the input's grid; ``smallest_dice`` is the least accepted Dice coefficient with it, of any segment.
    """

    file: str
    count: int
    probability_tolerance: float
    smallest_dice: float = 0.0


class Promotion(_Strict, frozen=True):
    """What a package must show in shadow, beside the one that reads, before it may take over (`appliance.shadow`).

    Attributes
    ----------
    least_pairs
        Results of both on the same images; of a finding, ``least_present`` and ``least_absent`` patients with an image
        on which readers have said so.
    least_agreement
        The lower end of the 95 % interval of how often both say the same.
    largest_auc_loss, largest_rate_loss
        Margins of non-inferiority: how much lower the area under the ROC curve, and sensitivity and specificity at the
        operating point, may be at the worse end of their 95 % intervals.
    largest_failure_share
        Of images that the package gave no answer for.
    """

    least_pairs: int = 200
    least_present: int = 25
    least_absent: int = 25
    least_agreement: float = 0.85
    largest_auc_loss: float = 0.05
    largest_rate_loss: float = 0.1
    largest_failure_share: float = 0.01


class DriftSpec(_Strict, frozen=True):
    """What was usual when the model was validated, for a device to compare with; see `appliance.drift.reference`.

    ``file`` is an npz with counts of ``studies`` studies of the ``population``, and where the training images lie among
    the embeddings, for each target; ``streams`` is the version of the streams' bins.
    """

    file: str
    streams: int
    studies: int
    population: str


class Manifest(_Strict, frozen=True):
    """All that a device must know to run a model and to say what it is.

    ``task`` is ``classification``, with ``findings``, or ``segmentation``, with ``segments``.
    """

    format: str
    id: str
    version: str
    title: str
    task: str
    intended_use: IntendedUse
    accepts: Accepts
    input: InputSpec
    outputs: OutputSpec
    findings: tuple[FindingSpec, ...]
    finding_site: Code
    targets: dict[str, Target]
    golden: GoldenSpec
    training: dict[str, Any]
    card: str
    files: dict[str, str]
    segments: tuple[SegmentSpec, ...] = ()
    drift: DriftSpec | None = None
    promotion: Promotion | None = None


class Package:
    """A verified package: its manifest and the bytes of its files.

    Attributes
    ----------
    path, sha256
        The package file and its SHA-256 in hex.
    signed_by
        Id of the trusted key that signed it, or None where it was read without verification.
    """

    def __init__(
        self, path: Path, sha256: str, manifest: Manifest, files: Mapping[str, bytes], signed_by: str | None
    ) -> None:
        self.path = path
        self.sha256 = sha256
        self.manifest = manifest
        self.signed_by = signed_by
        self._files = files
        self._heads: dict[str, Heads | None] = {}

    def __str__(self) -> str:
        return f"{self.manifest.id} {self.manifest.version}"

    @property
    def segments(self) -> bool:
        """Whether it draws segments, instead of looking for findings."""
        return self.manifest.task == "segmentation"

    @property
    def takes_volumes(self) -> bool:
        """Whether it reads a whole series as one volume, instead of single images."""
        return len(self.manifest.input.shape) == 5

    def file(self, name: str) -> bytes:
        return self._files[name]

    def target(self, name: str) -> Target:
        try:
            return self.manifest.targets[name]
        except KeyError:
            known = ", ".join(sorted(self.manifest.targets))
            raise PackageError(f"{self} has no artifact for target {name!r} (it has: {known})") from None

    def artifact(self, target: str) -> bytes:
        return self._files[self.target(target).artifact]

    def artifact_sha256(self, target: str) -> str:
        return self.manifest.files[self.target(target).artifact]

    def golden(self) -> dict[str, np.ndarray]:
        """The arrays of `GoldenSpec`."""
        return self._arrays(self.manifest.golden.file)

    def drift(self) -> dict[str, np.ndarray]:
        """The arrays of `DriftSpec`; none where the package has no reference."""
        spec = self.manifest.drift
        return {} if spec is None else self._arrays(spec.file)

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        try:
            with np.load(io.BytesIO(self._files[name]), allow_pickle=False) as arrays:
                return {each: arrays[each] for each in arrays.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise PackageError(f"{self.path}: {name} can't be read: {error}") from error

    def heads(self, target: str) -> Heads | None:
        """The ensemble of a target, None where it has none."""
        if target not in self._heads:
            self._heads[target] = self._read_heads(target)
        return self._heads[target]

    def _read_heads(self, target: str) -> Heads | None:
        spec = self.target(target).ensemble
        if spec is None:
            return None
        arrays = self._arrays(spec.file)
        try:
            return Heads(arrays[f"{target}/weights"], arrays[f"{target}/bias"])
        except KeyError as error:
            raise PackageError(f"{self.path}: {spec.file} has no array {error}") from error

    @property
    def card(self) -> str:
        return self._files[self.manifest.card].decode()


def read(path: Path, trusted: dict[str, Ed25519PublicKey] | None) -> Package:
    """Read and check a package.

    Parameters
    ----------
    trusted
        Keys by id, as from `appliance.signature.load_trusted_keys`; None reads without checking who signed it
        (for showing only).

    Raises
    ------
    PackageError, SignatureError
    """
    try:
        with path.open("rb") as file:
            sha256 = _digest(path, file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(path, members)
                manifest_bytes, signed_by = _signed_manifest(path, archive, trusted)
                files = [info for info in members if info.filename not in (_MANIFEST, _SIGNATURE)]
                contents = {info.filename: _unpacked(archive, info) for info in files}
    except OSError as error:
        raise PackageError(f"{path} can't be read: {error.strerror}") from error
    except _BROKEN_ARCHIVE as error:
        raise PackageError(f"{path} is not a model package or is damaged: {error}", hint="copy it again") from error
    try:
        manifest = msgspec.json.decode(manifest_bytes, type=Manifest)
    except msgspec.DecodeError as error:
        raise PackageError(f"{path}: the manifest is not valid: {error}") from error
    _check(path, manifest, contents)
    return Package(path, sha256, manifest, contents, signed_by)


def damaged(path: Path, trusted: dict[str, Ed25519PublicKey], sha256: str | None = None) -> Package | None:
    """What a package that can't be read would take and draw, by its signed manifest; it has no files.

    None where the manifest is damaged, too, or nobody signed it who is trusted. ``sha256``: what the file should have.
    """
    try:
        with path.open("rb") as file:
            digest = _digest(path, file)
            with zipfile.ZipFile(file) as archive:
                manifest_bytes, signed_by = _signed_manifest(path, archive, trusted)
        return Package(path, sha256 or digest, msgspec.json.decode(manifest_bytes, type=Manifest), {}, signed_by)
    except (*_BROKEN_ARCHIVE, OSError, msgspec.DecodeError, PackageError):
        return None


def _digest(path: Path, file: io.BufferedReader) -> str:
    """The SHA-256 in hex of a file that may be a package, which takes no memory."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_BYTES:
        raise PackageError(
            f"{path} has {size:,} bytes, and a model package has {MAX_BYTES:,} at most", hint="is it another file?"
        )
    return hashlib.file_digest(file, "sha256").hexdigest()


def _signed_manifest(
    path: Path, archive: zipfile.ZipFile, trusted: dict[str, Ed25519PublicKey] | None
) -> tuple[bytes, str | None]:
    """The manifest, and whose key has signed it; so no more is read of a package that nobody has signed who is trusted.

    Raises
    ------
    PackageError, SignatureError
    """
    found = []
    for name in (_MANIFEST, _SIGNATURE):
        if name not in archive.namelist():
            raise PackageError(f"{path} is not a model package: it has no {name}")
        info = archive.getinfo(name)
        if info.file_size > _MAX_SIGNED_BYTES:
            raise PackageError(f"{path}: its {name} has {info.file_size:,} bytes, more than {_MAX_SIGNED_BYTES:,}")
        found.append(_unpacked(archive, info))
    manifest_bytes, signed = found
    if trusted is None:
        return manifest_bytes, None
    return manifest_bytes, signature.verify(signed.decode("ascii", "replace"), manifest_bytes, trusted, str(path))


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, of no more bytes than it says that it has: `ZipFile.read` would unpack all that is there."""
    with archive.open(info) as member:
        return member.read(info.file_size)


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse what is too large unpacked, a name that occurs twice, and one that points out of the package."""
    unpacked = sum(info.file_size for info in members)
    if unpacked > MAX_BYTES:
        raise PackageError(f"{path} would unpack to {unpacked:,} bytes, more than {MAX_BYTES:,}")
    names = [info.filename for info in members]
    for name in names:
        if names.count(name) > 1:
            raise PackageError(f"{path} holds {name} twice")
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise PackageError(f"{path}: the name {name!r} points out of the package")


def _check(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    if manifest.format != FORMAT:
        raise PackageError(
            f"{path} has format {manifest.format!r}, this version reads {FORMAT!r}", hint="update the appliance"
        )
    if set(contents) != set(manifest.files):
        difference = ", ".join(sorted(set(contents) ^ set(manifest.files)))
        raise PackageError(f"{path}: its contents and its manifest differ in {difference}")
    for name, expected in manifest.files.items():
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise PackageError(f"{path}: {name} is damaged (its SHA-256 differs)", hint="copy it again")
    targets = manifest.targets.values()
    ensembles = {target.ensemble.file for target in targets if target.ensemble}
    named = {manifest.golden.file, manifest.card, *(target.artifact for target in targets), *ensembles}
    if manifest.drift is not None:
        named.add(manifest.drift.file)
    for name in named - set(contents):
        raise PackageError(f"{path}: the manifest names {name}, which is not in it")
    if manifest.task not in TASKS:
        raise PackageError(f"{path}: its task {manifest.task!r} is not known here", hint="update the appliance")
    classifies = manifest.task == "classification"
    if not (manifest.findings if classifies else manifest.segments) or not manifest.targets:
        raise PackageError(f"{path}: the manifest has no {'findings' if classifies else 'segments'} or no targets")
    dimensions = len(manifest.input.shape)
    if dimensions not in (4, 5) or (dimensions == 5 and classifies):
        raise PackageError(
            f"{path}: its input of {dimensions} axes can't be read here for a {manifest.task}",
            hint="update the appliance",
        )
    for name, target in manifest.targets.items():
        if classifies:
            target.operating_point()
        if not target.temperature > 0 or not target.activation_map_scale > 0:
            raise PackageError(f"{path}: target {name}: temperature and activation_map_scale must be above 0")


def write(path: Path, manifest: Manifest, files: Mapping[str, bytes], key: Ed25519PrivateKey) -> None:
    """Sign and write a package; the same contents and key give the same bytes.

    ``manifest.files`` is filled in from ``files``.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    manifest_bytes = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)
    contents = {
        _MANIFEST: manifest_bytes,
        _SIGNATURE: signature.sign(key, manifest_bytes).encode("ascii"),
        **dict(sorted(files.items())),
    }
    _check(path, manifest, files)
    temporary = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    temporary.replace(path)


def bundled(identifier: str = "*") -> tuple[Path, ...]:
    """The packages that come along, or those of one id: in the wheel, or in ``models/`` of a checkout."""
    here, name = Path(__file__).resolve().parent, f"{identifier}-[0-9]*{SUFFIX}"
    found = sorted((here / "bundled").glob(name))
    return tuple(found or sorted((here.parent / "models").glob(f"*/{name}")))

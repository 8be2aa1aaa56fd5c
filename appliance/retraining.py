"""A bundle of this site's own cases for training: de-identified, labeled, balanced, and with its lineage.

Nothing is taken out of DICOM: only what is listed here goes in. An image becomes a 16-bit PNG of its pixels, and the
list has its label, who gave it (a final diagnosis before a reader), a pseudonym of the patient, and age (89 at most),
sex and view. So there is no header in which something could have been left. The bundle is a data set as ``python -m
compression import folder`` takes it, and its version is the content hash that goes on into recipes and packages.
"""

from __future__ import annotations

import csv
import hashlib
import io
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image as Picture
from pydicom import Dataset

from appliance import __version__, content, installed, labels, signature
from appliance.burned_in import burned_in
from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.image import age_years, text
from appliance.labels import Label
from appliance.package import Package
from appliance.pseudonyms import BYTES, Pseudonyms
from appliance.replay import sources
from appliance.sandbox import Sandbox
from appliance.spool import write_durably
from appliance.store import Store
from appliance.truth import Source

FORMAT = "scanside-retraining/1"
MANIFEST, LINEAGE, SIGNATURE = "manifest.csv", "lineage.json", "lineage.sig"
_OLDEST = 89  # an age above this is rare enough to tell who it is; as in PS3.15
_COLUMNS = ("file", "label", "labeled_by", "patient_id", "view", "age", "sex", "site")
_AGES = (18, 40, 65)
_SEXES = ("F", "M", "O")
_FRONTAL = ("PA", "AP", "LL", "RL", "LATERAL")


@dataclass(frozen=True)
class Wanted:
    """What a user may say of an export.

    Attributes
    ----------
    model
        Whose results: the id of a package that is in force.
    present, absent
        The labels of images with the finding and without it.
    everything
        As many as there are of each label, instead of equally many.
    """

    model: str
    present: str = ""
    absent: str = ""
    everything: bool = False


@dataclass(frozen=True)
class Bundle:
    """What was written: ``labels`` -> cases; ``labeled_by``: diagnosis | reader -> cases; ``left_out``: why -> cases.

    ``contradicted``: cases where a reader and the final diagnosis, which counts, differ.
    """

    folder: Path
    version: str
    labels: dict[str, int]
    labeled_by: dict[str, int]
    patients: int
    left_out: dict[str, int]
    contradicted: int


@dataclass(frozen=True)
class _Candidate:
    instance_id: int
    label: str
    source: Source
    stratum: tuple[str, ...]
    order: str


def export(config: Config, folder: Path, wanted: Wanted) -> Bundle:
    """Write a bundle into a new folder; it appears when it is whole.

    Raises
    ------
    ApplianceError
        The folder is there already, the model looks for no single finding, or no case can be used.
    DiskFullError, SpoolError
    """
    if folder.exists():
        raise ApplianceError(f"{folder} is there already", hint="name a new folder")
    opened = _package(config, wanted.model)
    finding = opened.manifest.findings[0].label
    present, absent = wanted.present or finding.lower(), wanted.absent or f"no {finding.lower()}"
    ledger, pseudonyms = Store(config.ledger_path, read_only=True), Pseudonyms(_key(config))
    known = labels.of(config.ledger_path, opened.manifest.id, finding)
    left_out = known.left_out
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    sandbox = Sandbox(config.sandbox)
    try:
        labeled = _candidates(ledger, known.known, present, absent)
        # Before they are balanced, or what is left out would tip the balance.
        usable = [each for each in labeled if _has_image(config, ledger, sandbox, each, left_out)]
        chosen = usable if wanted.everything else _balanced(usable, (present, absent))
        left_out["more of one label than of the other"] += len(usable) - len(chosen)
        if not chosen:
            raise ApplianceError(
                f"no case of {wanted.model} can be used: {_in_words(left_out) or 'no result was assessed'}",
                hint="have readers assess results on the study page, or import final diagnoses, of both kinds, or "
                "export --all",
            )
        rows = [_case(config, ledger, sandbox, pseudonyms, each, unfinished) for each in chosen]
        contradicted = len(known.contradicted & {each.instance_id for each in chosen})
        version = _finish(config, unfinished, opened, rows, pseudonyms, left_out, contradicted)
        unfinished.rename(folder)
    finally:
        sandbox.close()
        shutil.rmtree(unfinished, ignore_errors=True)
    return Bundle(
        folder,
        version,
        _counted(rows, "label"),
        _counted(rows, "labeled_by"),
        len({row["patient_id"] for row in rows}),
        dict(+left_out),
        contradicted,
    )


def _package(config: Config, model: str) -> Package:
    opened = next((each for each in installed.packages(config) if each.manifest.id == model), None)
    if opened is None:
        raise ApplianceError(f"no package reads {model} here", hint="scanside models list")
    if len(opened.manifest.findings) != 1 or opened.takes_volumes:
        raise ApplianceError(
            f"{opened} does not look for one finding on single images, and only such cases are exported so far"
        )
    return opened


def _key(config: Config) -> bytes:
    """Of pseudonyms, the same for every export of this device, so that a patient is one person in all of them."""
    path = config.pseudonyms_path
    if not path.exists():
        write_durably(path, secrets.token_bytes(BYTES))
    return path.read_bytes()


def _candidates(ledger: Store, known: Sequence[Label], present: str, absent: str) -> Iterator[_Candidate]:
    """In an order that chance alone has made."""
    for each in known:
        row = ledger.instance(each.instance_id)
        assert row is not None
        order = hashlib.sha256(f"{row['digest']}".encode()).hexdigest()
        stratum = (_age_group(row["patient_age"]), row["patient_sex"], row["view"])
        yield _Candidate(each.instance_id, present if each.present else absent, each.source, stratum, order)


def _age_group(age: str) -> str:
    if not age[:3].isdigit():
        return ""
    years = int(age[:3]) if age.endswith("Y") else 0
    return str(sum(years >= limit for limit in _AGES))


def _balanced(known: Sequence[_Candidate], labels: Sequence[str]) -> list[_Candidate]:
    """Equally many of each label; of the more frequent one as evenly as can be from ages, sexes and views."""
    by_label = {label: [each for each in known if each.label == label] for label in labels}
    count = min(len(each) for each in by_label.values())
    chosen: list[_Candidate] = []
    for candidates in by_label.values():
        strata: dict[tuple[str, ...], list[_Candidate]] = {}
        for each in sorted(candidates, key=lambda each: each.order):
            strata.setdefault(each.stratum, []).append(each)
        turns = [
            each for turn in range(len(candidates)) for each in (group[turn : turn + 1] for group in strata.values())
        ]
        chosen += [each for turn in turns for each in turn][:count]
    return sorted(chosen, key=lambda each: each.order)


def _has_image(config: Config, ledger: Store, sandbox: Sandbox, candidate: _Candidate, left_out: Counter[str]) -> bool:
    """Whether its image is still here, and its header denies that the pixels show a name."""
    try:
        header, _ = _opened(config, ledger, sandbox, candidate)
    except ApplianceError:
        left_out["its image is gone or can't be read"] += 1
        return False
    if burned_in(header):
        left_out["its pixels may show a name"] += 1
        return False
    return True


def _opened(config: Config, ledger: Store, sandbox: Sandbox, candidate: _Candidate) -> tuple[Dataset, Path]:
    row = ledger.instance(candidate.instance_id)
    assert row is not None
    (path,) = sources(config, [row])
    return sandbox.read_header(path), path


def _case(
    config: Config, ledger: Store, sandbox: Sandbox, pseudonyms: Pseudonyms, chosen: _Candidate, folder: Path
) -> dict[str, str]:
    """Write the image of a case; its row in the list."""
    header, path = _opened(config, ledger, sandbox, chosen)
    image = sandbox.load(path, header)
    uid = pseudonyms.uid(text(header, "SOPInstanceUID"))
    name = f"images/{uid.rpartition('.')[2]}.png"
    write_durably(folder / name, _png(image.pixels), mode=0o644)
    years, sex, view = age_years(header), text(header, "PatientSex").upper(), text(header, "ViewPosition").upper()
    return {
        "file": name,
        "label": chosen.label,
        "labeled_by": chosen.source,
        "patient_id": pseudonyms.patient(text(header, "PatientID") or text(header, "StudyInstanceUID")),
        "view": view if view in _FRONTAL else "",
        "age": "" if years is None else str(min(int(years), _OLDEST)),
        "sex": sex if sex in _SEXES else "",
        "site": pseudonyms.key_id,
    }


def _png(pixels: np.ndarray) -> bytes:
    """16 bits, gray; integers that fit keep their values, others are stretched to the whole range."""
    low, high = float(pixels.min()), float(pixels.max())
    if np.issubdtype(pixels.dtype, np.integer) and high - low <= 65535:
        values = pixels.astype(np.int64) - min(int(low), 0) if high <= 65535 else pixels.astype(np.int64) - int(low)
    else:
        values = np.round((pixels.astype(np.float64) - low) * (65535 / max(high - low, 1e-12)))
    file = io.BytesIO()
    Picture.fromarray(values.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


def _finish(
    config: Config,
    folder: Path,
    opened: Package,
    rows: Sequence[dict[str, str]],
    pseudonyms: Pseudonyms,
    left_out: Counter[str],
    contradicted: int,
) -> str:
    """The list, and the signed lineage: from the package that read, by this bundle, to what is trained on it."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["file"]))
    write_durably(folder / MANIFEST, file.getvalue().encode(), mode=0o644)
    version = content.version(folder, [MANIFEST, *sorted(row["file"] for row in rows)])
    key, _ = signature.load_or_create_private_key(config.key_path)
    lineage: dict[str, Any] = {
        "format": FORMAT,
        "content": version,
        "device": signature.key_id(key.public_key()),
        "software": __version__,
        "made_on": datetime.now(UTC).date().isoformat(),
        "cases": len(rows),
        "patients": len({row["patient_id"] for row in rows}),
        "labels": _counted(rows, "label"),
        "labeled_by": _counted(rows, "labeled_by"),
        "contradicted": contradicted,
        "left_out": dict(sorted((+left_out).items())),
        "package": {
            "id": opened.manifest.id,
            "version": opened.manifest.version,
            "sha256": opened.sha256,
            "trained_on": {
                name: opened.manifest.training.get(name) for name in ("data_manifest_sha256", "recipe_sha256")
            },
        },
        "deidentified": "pixels without any header; pseudonyms by HMAC-SHA256, age 89 at most, sex, view",
        "pseudonyms": pseudonyms.key_id,
    }
    signed = msgspec.json.format(msgspec.json.encode(lineage), indent=1) + b"\n"
    write_durably(folder / LINEAGE, signed, mode=0o644)
    write_durably(folder / SIGNATURE, signature.sign(key, signed).encode(), mode=0o644)
    return version


def _counted(rows: Sequence[dict[str, str]], column: str) -> dict[str, int]:
    return dict(sorted(Counter(row[column] for row in rows).items()))


def _in_words(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} ({why})" for why, count in (+left_out).items())

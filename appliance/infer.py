"""``scanside infer``: the pipeline on files and folders, without ledger, spool or network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import completeness, signature, writer
from appliance.config import Config
from appliance.errors import InputError, QuarantineError, SpoolError, UnservedError
from appliance.image import place_in_series, text
from appliance.in_service import try_out
from appliance.pipeline import Pipeline, Stopwatch, unmade, warned, write_results
from appliance.sandbox import Sandbox
from appliance.spool import write_durably

_STAGES = ("decode", "preprocess", "infer", "total")


def override(config: Config, backend: str | None, package: Path | None) -> Config:
    """The configuration with what the command line says instead."""
    if backend is not None:
        config = msgspec.structs.replace(config, inference=msgspec.structs.replace(config.inference, backend=backend))
    if package is not None:
        packages = (str(package.absolute()),)
        models = msgspec.structs.replace(config.models, packages=packages, switches=False)
        config = msgspec.structs.replace(config, models=models)
    return config


def infer_files(config: Config, files: Sequence[Path], out: Path | None) -> Iterator[dict[str, Any]]:
    """One answer per file, in their order; one per series that is a volume.

    Raises
    ------
    PackageError, BackendError
        Before the first answer: a package is damaged, or none can be served.
    """
    if config.key_path.exists():
        key, _ = signature.load_or_create_private_key(config.key_path)
    else:
        key = Ed25519PrivateKey.generate()
    opened = Pipeline.open(config, try_out(config), writer.derived_uid(signature.key_id(key.public_key())))
    sandbox = Sandbox(config.sandbox)
    with click.progressbar(length=len(files), label="reading", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for group in _grouped(opened, sandbox, files):
            yield _infer(opened, sandbox, config, group, out)
            bar.update(len(group))
    sandbox.close()
    opened.close()


def _grouped(opened: Pipeline, sandbox: Sandbox, files: Sequence[Path]) -> list[list[Path]]:
    """Each file alone, but for those of a series, of one patient and study, that is read as one volume."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for file in files:
        key: tuple[str, ...] = (str(file),)
        try:
            header = sandbox.read_header(file)
            if opened.reads_series(header):
                key = tuple(text(header, each) for each in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
        except (InputError, SpoolError):
            pass  # it will be said where the file is read
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def _infer(
    opened: Pipeline, sandbox: Sandbox, config: Config, files: Sequence[Path], out: Path | None
) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "file": str(files[0]), "files": len(files), "sop_instance_uid": None, "series_instance_uid": None,
        "status": "resulted", "reason": "", "package": None, "version": None, "backend": None, "device": None,
        "findings": [], "segments": [], "warnings": [], "seconds": {},
    }  # fmt: skip
    stopwatch = Stopwatch()
    try:
        with stopwatch("total"):
            headers = [sandbox.read_header(file) for file in files]
            answer["sop_instance_uid"] = text(headers[0], "SOPInstanceUID")
            answer["series_instance_uid"] = text(headers[0], "SeriesInstanceUID")
            missing = completeness.lacking([place_in_series(header) for header in headers]) if len(files) > 1 else ""
            known = completeness.warnings(missing, 0, 0)
            reading = opened.infer(opened.prepare(files, headers, stopwatch, sandbox, known), stopwatch)
        if out is not None:
            reading = warned(reading, unmade(reading, config))
        provenance = reading.provenance
        answer.update(
            package=provenance.package,
            version=provenance.version,
            backend=provenance.backend,
            device=provenance.device,
            findings=msgspec.to_builtins(reading.prediction.findings),
            segments=msgspec.to_builtins(reading.prediction.segments),
            warnings=list(reading.prediction.warnings),
        )
        if out is not None:
            for file in write_results(reading, config):
                write_durably(out / f"{file.uid}.{file.kind}.{file.suffix}", file.content)
    except QuarantineError as error:
        answer.update(status="quarantined", reason=str(error))
    except InputError as error:
        answer.update(status="rejected", reason=str(error))
    except (UnservedError, SpoolError) as error:
        answer.update(status="failed", reason=str(error))
    except Exception as error:  # noqa: BLE001  one file's surprise must not keep the others from being read
        answer.update(status="failed", reason=f"{type(error).__name__}: {error}")
    answer["seconds"] = {stage: stopwatch.seconds.get(stage) for stage in _STAGES}
    return answer

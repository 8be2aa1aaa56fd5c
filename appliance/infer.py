"""``scanside infer``: the pipeline on single files, without ledger, spool or network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import signature, writer
from appliance.config import Config
from appliance.errors import InputError
from appliance.image import describe, read_header
from appliance.pipeline import Pipeline, Stopwatch, try_out, write_objects
from appliance.spool import write_durably

_STAGES = ("decode", "preprocess", "infer", "total")


def override(config: Config, backend: str | None, package: Path | None) -> Config:
    """The configuration with what the command line says instead."""
    if backend is not None:
        config = msgspec.structs.replace(config, inference=msgspec.structs.replace(config.inference, backend=backend))
    if package is not None:
        packages = (str(package.absolute()),)
        config = msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, packages=packages))
    return config


def infer_files(config: Config, paths: Sequence[Path], out: Path | None) -> Iterator[dict[str, Any]]:
    """One answer per file, folders searched to the bottom, in order of the names.

    Raises
    ------
    PackageError, BackendError
        Before the first answer.
    """
    if config.key_path.exists():
        key, _ = signature.load_or_create_private_key(config.key_path)
    else:
        key = Ed25519PrivateKey.generate()
    opened = Pipeline.open(config, try_out(config), writer.derived_uid(signature.key_id(key.public_key())))
    files = [
        file
        for path in paths
        for file in (sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path])
    ]
    with click.progressbar(length=len(files), label="reading", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for file in files:
            yield _infer(opened, config, file, out)
            bar.update(1)
    opened.close()


def _infer(opened: Pipeline, config: Config, file: Path, out: Path | None) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "file": str(file), "sop_instance_uid": None, "status": "resulted", "reason": "", "package": None,
        "version": None, "backend": None, "device": None, "findings": [], "warnings": [], "seconds": {},
    }  # fmt: skip
    stopwatch = Stopwatch()
    try:
        with stopwatch("total"):
            header = read_header(file)
            answer["sop_instance_uid"] = describe(header)["sop_instance_uid"]
            reading = opened.infer(opened.prepare(file, header, stopwatch), stopwatch)
        provenance = reading.provenance
        answer.update(
            package=provenance.package,
            version=provenance.version,
            backend=provenance.backend,
            device=provenance.device,
            findings=msgspec.to_builtins(reading.prediction.findings),
            warnings=list(reading.prediction.warnings),
        )
        if out is not None:
            for kind, dataset in write_objects(reading, config.results.kinds):
                write_durably(out / f"{dataset.SOPInstanceUID}.{kind}.dcm", writer.to_bytes(dataset))
    except InputError as error:
        answer.update(status="rejected", reason=str(error))
    except Exception as error:  # noqa: BLE001  one file's surprise must not keep the others from being read
        answer.update(status="failed", reason=f"{type(error).__name__}: {error}")
    answer["seconds"] = {stage: stopwatch.seconds.get(stage) for stage in _STAGES}
    return answer

"""The certificates and keys that the configuration names: until when they are valid, how old they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509

from appliance.config import Config


@dataclass(frozen=True)
class Credential:
    """A certificate or a key in a file.

    Attributes
    ----------
    what
        What it is for, in words.
    expires_at, begins_at
        Seconds since 1970, of a certificate; of several in a file, the first to expire.
    made_at
        When a key's file was written last.
    problem
        Why it can't be read; '' where it can.
    """

    what: str
    path: Path
    begins_at: float | None = None
    expires_at: float | None = None
    made_at: float | None = None
    problem: str = ""


def found(config: Config) -> list[Credential]:
    """All of them, certificates first."""
    return [*_certificates(config), *_keys(config)]


def _certificates(config: Config) -> Iterator[Credential]:
    scp = config.storage_scp.tls
    if config.storage_scp.enabled and scp is not None:
        yield _certificate("Storage SCP, shown to scanners", config.data / scp.certificate)
        yield _certificate("Storage SCP, who may sign scanners' certificates", config.data / scp.ca)
    mllp = config.diagnoses.tls
    if config.diagnoses.enabled and mllp is not None:
        yield _certificate("Diagnoses, shown to who sends them", config.data / mllp.certificate)
        yield _certificate("Diagnoses, who may sign senders' certificates", config.data / mllp.ca)
    if config.web.enabled and config.web.over_tls:
        yield _certificate(f"Page{', made by this device' if config.web.tls is None else ''}", _of_page(config)[0])
    for destination in config.destinations:
        tls = destination.tls
        if tls is not None and tls.ca is not None:
            yield _certificate(f"{destination.name}, who may sign its certificate", config.data / tls.ca)
        if tls is not None and tls.certificate is not None:
            yield _certificate(f"{destination.name}, shown to it", config.data / tls.certificate)


def _keys(config: Config) -> Iterator[Credential]:
    yield _key("Signs receipts", config.key_path)
    scp = config.storage_scp.tls
    if config.storage_scp.enabled and scp is not None:
        yield _key("Storage SCP", config.data / scp.key)
    if config.diagnoses.enabled and config.diagnoses.tls is not None:
        yield _key("Diagnoses", config.data / config.diagnoses.tls.key)
    if config.web.enabled and config.web.over_tls:
        yield _key("Page", _of_page(config)[1])
    for destination in config.destinations:
        if destination.tls is not None and destination.tls.key is not None:
            yield _key(f"Shown to {destination.name}", config.data / destination.tls.key)


def _of_page(config: Config) -> tuple[Path, Path]:
    """Certificate and key: those that are given, or those that `appliance.page_certificate` makes."""
    given = config.web.tls
    if given is None:
        return config.key_path.with_name("page.pem"), config.key_path.with_name("page.key")
    return config.data / given.certificate, config.data / given.key


def _certificate(what: str, path: Path) -> Credential:
    try:
        begins, expires = _dates(path, path.stat().st_mtime_ns)
    except OSError as error:
        return Credential(what, path, problem=f"it can't be read: {error.strerror}")
    except ValueError:
        return Credential(what, path, problem="it holds no certificate in PEM form")
    return Credential(what, path, begins, expires)


@lru_cache(maxsize=64)
def _dates(path: Path, _changed_at: int) -> tuple[float, float]:
    """From when and until when all certificates of a file are valid; read once for each of its versions."""
    every = x509.load_pem_x509_certificates(path.read_bytes())
    begins = max(each.not_valid_before_utc.timestamp() for each in every)
    return begins, min(each.not_valid_after_utc.timestamp() for each in every)


def _key(what: str, path: Path) -> Credential:
    try:
        return Credential(what, path, made_at=path.stat().st_mtime)
    except OSError as error:
        return Credential(what, path, problem=f"it can't be read: {error.strerror}")

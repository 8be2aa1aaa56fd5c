"""The certificates and keys that the configuration names: whether they serve, until when, how old they are."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509

from appliance import tls_client
from appliance.checks import Check
from appliance.config import Config
from appliance.errors import ConfigError


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
        Why it can't be used, whatever the day; '' where it can.
    made_here
        The appliance makes it where there is none.
    """

    what: str
    path: Path
    begins_at: float | None = None
    expires_at: float | None = None
    made_at: float | None = None
    problem: str = ""
    made_here: bool = False

    @property
    def until(self) -> str:
        """The day until which a certificate counts; '' of a key."""
        return "" if self.expires_at is None else _day(self.expires_at)

    def to_dict(self) -> dict[str, Any]:
        """As JSON would have it, with its ``trouble``."""
        return {**asdict(self), "path": str(self.path), "trouble": self.trouble}

    @property
    def trouble(self) -> str:
        """Why it does not serve now; '' where it does, or will once the appliance has made it."""
        now = time.time()
        if self.made_here and not self.path.exists():
            return ""
        if self.expires_at is not None and self.expires_at < now:
            return f"it has expired on {_day(self.expires_at)}"
        if self.begins_at is not None and self.begins_at > now:
            return f"it is not valid before {_day(self.begins_at)}"
        return self.problem


def found(config: Config) -> list[Credential]:
    """All of them, certificates first."""
    return [*_certificates(config), *_keys(config)]


def examine(config: Config) -> Iterator[Check]:
    """A check for each that does not serve, and one for all others."""
    every = found(config)
    troubled = [each for each in every if each.trouble]
    for each in troubled:
        hint = f"put it right at {each.path}; that counts without a restart"
        if not each.problem:
            hint = f"have it renewed, and {hint}; if the date is wrong, set this device's clock"
        yield Check(f"certificate or key ({each.what})", "fail", each.trouble, hint)
    if not troubled:
        yield Check("certificates and keys", "ok", f"{len(every)} are in order")


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
        own = config.web.tls is None
        made = _certificate(f"Page{', made by this device' if own else ''}", _of_page(config)[0])
        yield replace(made, made_here=own)
    for destination in config.destinations:
        tls = destination.tls
        if tls is not None and tls.ca is not None:
            yield _certificate(f"{destination.name}, who may sign its certificate", config.data / tls.ca)
        if tls is not None and tls.certificate is not None:
            yield _certificate(f"{destination.name}, shown to it", config.data / tls.certificate)
    syslog = config.audit.syslog
    if syslog is not None and syslog.ca is not None:
        yield _certificate("Collector of the audit trail, who may sign its certificate", config.data / syslog.ca)
    if syslog is not None and syslog.certificate is not None:
        yield _certificate("Collector of the audit trail, shown to it", config.data / syslog.certificate)


def _keys(config: Config) -> Iterator[Credential]:
    yield replace(_key("Signs receipts", config.key_path), made_here=True)
    scp = config.storage_scp.tls
    if config.storage_scp.enabled and scp is not None:
        yield _key("Storage SCP", config.data / scp.key, config.data / scp.certificate)
    mllp = config.diagnoses.tls
    if config.diagnoses.enabled and mllp is not None:
        yield _key("Diagnoses", config.data / mllp.key, config.data / mllp.certificate)
    if config.web.enabled and config.web.over_tls:
        certificate, key = _of_page(config)
        yield replace(_key("Page", key, certificate), made_here=config.web.tls is None)
    for destination in config.destinations:
        tls = destination.tls
        if tls is not None and tls.key is not None and tls.certificate is not None:
            yield _key(f"Shown to {destination.name}", config.data / tls.key, config.data / tls.certificate)
    syslog = config.audit.syslog
    if syslog is not None and syslog.key is not None and syslog.certificate is not None:
        yield _key("Shown to the collector of the audit trail", config.data / syslog.key,
                   config.data / syslog.certificate)  # fmt: skip


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


def _key(what: str, path: Path, certificate: Path | None = None) -> Credential:
    """With ``certificate``: one that must belong to it, where that can be read."""
    try:
        made_at = path.stat().st_mtime
    except OSError as error:
        return Credential(what, path, problem=f"it can't be read: {error.strerror}")
    if certificate is not None and not _certificate(what, certificate).problem:
        try:
            tls_client.load_own(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, path)
        except ConfigError as error:
            return Credential(what, path, made_at=made_at, problem=error.message)
    return Credential(what, path, made_at=made_at)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))

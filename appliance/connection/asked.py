"""Which peers are asked: this device's own Storage SCP, its destinations, or any other."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import UID

from appliance.config import Config
from appliance.connection import IMAGES, results
from appliance.connection.question import Question
from appliance.database import existing_ledger
from appliance.delivery.way import tls_files
from appliance.errors import ApplianceError
from appliance.send import Destination, parse_destination
from appliance.store import Store
from appliance.tls_client import TlsFiles

_USUAL_PORT = 11112


def questions(
    config: Config,
    peer: str | None = None,
    wanted: dict[UID, tuple[UID, ...]] | None = None,
    calling_ae_title: str | None = None,
    timeout: float = 5.0,
    tls: TlsFiles | None = None,
) -> Iterator[tuple[str, Question]]:
    """What to ask, with a title: of a peer (a destination's name, or AE@host:port); without one, of all that are known.

    Parameters
    ----------
    wanted
        SOP class -> the transfer syntaxes that it should take; None for what is usual.
    tls
        Instead of what the configuration says.

    Raises
    ------
    ApplianceError
        There is nobody to ask.
    """
    calling = calling_ae_title or config.delivery.calling_ae_title
    named = {each.name: each for each in config.destinations}
    if peer is None:
        yield _own(config, calling_ae_title, timeout, tls)
    elif peer not in named:
        to = parse_destination(peer)
        yield str(to), Question(to, calling, wanted or {**IMAGES, **results(config)}, tls, timeout)
        return
    if peer and named[peer].protocol != "dicom":
        raise ApplianceError(f"{peer!r} is no DICOM peer", hint="`scanside doctor` asks whether it answers")
    for name in [peer] if peer else [each.name for each in config.destinations if each.protocol == "dicom"]:
        each = named[name]
        to = Destination(each.ae_title, each.host, each.port)
        configured = tls_files(each.tls, config) if each.tls else None
        asked = wanted or results(config, each)
        yield f"destination {name} {to}", Question(to, calling, asked, tls or configured, timeout)


def _own(config: Config, calling_ae_title: str | None, timeout: float, tls: TlsFiles | None) -> tuple[str, Question]:
    scp = config.storage_scp
    if not scp.enabled:
        raise ApplianceError("the Storage SCP is switched off", hint="name a peer, or set storage_scp.enabled")
    own = Destination(scp.ae_title, "127.0.0.1" if scp.host == "0.0.0.0" else scp.host, _own_port(config))  # noqa: S104
    is_own, files_of_own = tls is None and scp.tls is not None, tls
    if is_own and scp.tls is not None:
        ca, certificate, key = (config.data / each for each in (scp.tls.ca, scp.tls.certificate, scp.tls.key))
        files_of_own = TlsFiles(ca, certificate, key, any_name=True)
    title = f"own Storage SCP {own}{' over TLS' if files_of_own else ''}"
    is_listed = not scp.only_modalities and (not scp.called_ae_titles or scp.ae_title in scp.called_ae_titles)
    wanted = IMAGES if is_listed else {}  # otherwise this device itself is let in for C-ECHO alone
    return title, Question(own, calling_ae_title or scp.ae_title, wanted, files_of_own, timeout, own=is_own)


def _own_port(config: Config) -> int:
    """The configured port; where that is 0, the one that the running appliance has taken."""
    port: int = config.storage_scp.port
    if port:
        return port
    store = Store(existing_ledger(config), read_only=True)
    try:
        return int(store.components().get("storage_scp", {}).get("port", 0)) or _USUAL_PORT
    finally:
        store.close()

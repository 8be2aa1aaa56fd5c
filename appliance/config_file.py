"""Reading the configuration: one TOML file, unknown keys refused, and what a key alone does not show checked."""

from __future__ import annotations

import ipaddress
import itertools
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from appliance.config import (
    ALL_KINDS,
    LOOPBACK,
    MESSAGE_OF,
    Config,
    Destination,
    Diagnoses,
    Protocol,
    SchedulingRule,
    StorageScp,
    Syslog,
    Web,
)
from appliance.errors import ConfigError

# What a destination must have by its protocol, and what it may have besides.
_PROTOCOLS: dict[Protocol, tuple[set[str], set[str]]] = {
    "dicom": ({"ae_title", "host", "port"}, {"tls", "storage_commitment"}),
    "stow": ({"url"}, {"tls", "login"}),
    "mllp": ({"host", "port"}, {"tls"}),
    "fhir": ({"url"}, {"tls", "login"}),
    "folder": ({"path"}, set()),
}
_ROOM_SECONDS = 10.0
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (what a configuration may say)


def load(path: Path | None, data_dir: Path | None = None) -> Config:
    """The configuration of a TOML file, or the defaults.

    Parameters
    ----------
    data_dir
        Overrides the file's ``data_dir``. A relative ``data_dir`` in the file is relative to the file.

    Raises
    ------
    ConfigError
        Naming the file, the key and what is allowed there.
    """
    config = Config()
    if path is not None:
        try:
            config = msgspec.toml.decode(path.read_bytes(), type=Config)
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if "`login` - at `$.web`" in str(error):
                raise ConfigError(
                    f"{path}: [web.login] is no longer: accounts are kept in the ledger",
                    hint="remove that table, and make an account: scanside accounts add NAME --role administrator",
                ) from error
            raise ConfigError(f"{path}: {error}", hint="scanside.toml in the sources lists every key") from error
    base = path.resolve().parent if path is not None else Path.cwd()
    folder = (data_dir or base / config.data_dir).expanduser().absolute()
    config = msgspec.structs.replace(
        config, data_dir=str(folder), destinations=tuple(map(_with_its_kinds, config.destinations))
    )
    _check(config, path)
    return config


def _with_its_kinds(destination: Destination) -> Destination:
    """Where ``send`` is left out, a protocol for one kind of message gets that."""
    kind = MESSAGE_OF.get(destination.protocol)
    if kind is None or destination.send != ALL_KINDS:
        return destination
    return msgspec.structs.replace(destination, send=(kind,))


def _check(config: Config, path: Path | None) -> None:
    where = path or "the configuration"
    # The serving backend's two tries, another's one, and room to start their processes and to write the result.
    least = 3 * config.inference.deadline_seconds + _ROOM_SECONDS
    if config.inference.lease_seconds < least:
        raise ConfigError(
            f"{where}: inference.lease_seconds = {config.inference.lease_seconds:g} leaves no time for three tries of "
            f"inference.deadline_seconds = {config.inference.deadline_seconds:g}",
            hint=f"make the lease {least:g} s or longer, or the deadline shorter",
        )
    names = [destination.name for destination in config.destinations]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two destinations are named {name!r}", hint="each needs a name of its own")
    for destination in config.destinations:
        _check_destination(config, destination, f"{where}: destination {destination.name!r}")
        missing = set(destination.send) - config.kinds_made
        if missing and destination.send != ALL_KINDS:
            raise ConfigError(
                f"{where}: destination {destination.name!r} is to be sent {', '.join(sorted(missing))}, "
                "which results.kinds and results.messages do not make"
            )
    _check_ports(config, where)
    _check_modalities(config.storage_scp, f"{where}: storage_scp")
    _check_diagnoses(config.diagnoses, f"{where}: diagnoses")
    if config.audit.syslog is not None:
        _check_audit(config.audit.syslog, f"{where}: audit.syslog")
    for number, rule in enumerate(config.scheduling.rules, 1):
        _check_rule(rule, f"{where}: scheduling.rules, rule {number}")


def _check_ports(config: Config, where: Path | str) -> None:
    """No two listeners are at one port of one address; port 0 takes a free one."""
    tables: dict[str, StorageScp | Web | Diagnoses] = {
        "storage_scp": config.storage_scp, "web": config.web, "diagnoses": config.diagnoses
    }  # fmt: skip
    listening = [(name, table.host, table.port) for name, table in tables.items() if table.enabled and table.port]
    for (one, host, port), (other, another, its) in itertools.combinations(listening, 2):
        if port == its and (host == another or {host, another} & set(_EVERY_ADDRESS)):
            raise ConfigError(
                f"{where}: {one}.port and {other}.port are both {port}, and only one of them could listen there",
                hint="give each a port of its own",
            )


def _check_destination(config: Config, destination: Destination, where: str) -> None:
    needed, allowed = _PROTOCOLS[destination.protocol]
    protocol = f"protocol = {destination.protocol!r}"
    for key in sorted(set().union(*(set.union(*keys) for keys in _PROTOCOLS.values()))):
        given = bool(getattr(destination, key))
        if key in needed and not given:
            raise ConfigError(f"{where} has no {key}", hint=f"{protocol} needs {', '.join(sorted(needed))}")
        if given and key not in needed | allowed:
            raise ConfigError(f"{where}: {key} is not for {protocol}", hint=f"leave {key} out, or change the protocol")
    if destination.url:
        url = urlsplit(destination.url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or "@" in url.netloc:
            raise ConfigError(
                f"{where}: url = {destination.url!r} is no address of a service",
                hint="write it as in url = 'https://pacs.example/dicom-web'; who logs in stands in login",
            )
        if url.scheme == "http" and destination.tls is not None:
            raise ConfigError(f"{where}: tls is given, but url begins with http:", hint="write https:")
        if url.scheme == "http" and destination.login is not None and url.hostname not in LOOPBACK:
            raise ConfigError(f"{where}: its login would go over the network in the clear", hint="write https:")
    _check_credentials(destination, where)
    carried = MESSAGE_OF.get(destination.protocol)
    messages = set(destination.send) & set(MESSAGE_OF.values())
    if carried is not None and destination.send != (carried,):
        raise ConfigError(f"{where}: {protocol} carries {carried} only", hint=f"write send = ['{carried}']")
    if messages and carried is None and destination.protocol != "folder":
        raise ConfigError(
            f"{where}: {protocol} carries no {', '.join(sorted(messages))}", hint="mllp, fhir and folder do"
        )
    if destination.storage_commitment and not config.storage_scp.enabled:
        raise ConfigError(
            f"{where}: storage_commitment needs the Storage SCP, to which the peer reports",
            hint="set storage_scp.enabled = true, or storage_commitment = false",
        )
    called = config.storage_scp.called_ae_titles
    if destination.storage_commitment and called and config.delivery.calling_ae_title not in called:
        raise ConfigError(
            f"{where} reports storage commitment to {config.delivery.calling_ae_title!r}, which "
            "storage_scp.called_ae_titles does not list",
            hint="add delivery.calling_ae_title there",
        )


def _check_audit(syslog: Syslog, where: str) -> None:
    if (syslog.key is None) != (syslog.certificate is None):
        raise ConfigError(f"{where} has only one of key and certificate", hint="one needs the other")


def _check_credentials(destination: Destination, where: str) -> None:
    tls, login = destination.tls, destination.login
    if tls is not None and (tls.key is None) != (tls.certificate is None):
        raise ConfigError(f"{where}: tls has only one of key and certificate", hint="one needs the other")
    if login is not None:
        basic = login.username is not None and login.password_file is not None
        half = (login.username is None) != (login.password_file is None)
        if half or basic == (login.token_file is not None):
            raise ConfigError(
                f"{where}: login can't be used", hint="give it username and password_file, or token_file alone"
            )


def _check_modalities(settings: StorageScp, where: str) -> None:
    for number, modality in enumerate(settings.modalities, 1):
        if modality.ae_title is None and modality.address is None:
            raise ConfigError(f"{where}.modalities, modality {number} names nobody", hint="give it ae_title or address")
        if modality.address is not None:
            _check_network(modality.address, f"{where}.modalities, modality {number}")
    if settings.only_modalities and not settings.modalities:
        raise ConfigError(
            f"{where}.only_modalities = true, but no modality is listed, so that nobody could send",
            hint="add a table [[storage_scp.modalities]] for each modality",
        )


def _check_diagnoses(settings: Diagnoses, where: str) -> None:
    for address in settings.addresses:
        _check_network(address, f"{where}.addresses")
    if settings.enabled and not settings.addresses and settings.tls is None and settings.host not in LOOPBACK:
        raise ConfigError(
            f"{where} would take anybody's word for what a finding was",
            hint="list who may send in diagnoses.addresses, or have them show a certificate: [diagnoses.tls]",
        )


def _check_network(address: str, where: str) -> None:
    try:
        ipaddress.ip_network(address)
    except ValueError as error:
        raise ConfigError(
            f"{where}: {error}", hint="write an IP address or a network, as in '192.0.2.0/24'; names are not looked up"
        ) from error


def _check_rule(rule: SchedulingRule, where: str) -> None:
    if rule.sender is None and rule.attribute is None and rule.matches is None:
        raise ConfigError(f"{where} has no condition", hint="give it sender, or attribute and matches")
    if (rule.attribute is None) != (rule.matches is None):
        raise ConfigError(f"{where} has only one of attribute and matches", hint="one needs the other")
    if rule.attribute is None:
        return
    from pydicom.datadict import dictionary_VR, tag_for_keyword  # slow to load, and most devices have no such rule

    tag = tag_for_keyword(rule.attribute)
    if tag is None or dictionary_VR(tag) == "SQ":
        raise ConfigError(
            f"{where}: attribute = {rule.attribute!r} is not the DICOM keyword of an attribute with a value",
            hint="write it as in attribute = 'RequestedProcedureDescription'",
        )

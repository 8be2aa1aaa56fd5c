"""The configuration: one TOML file, every key with a default, unknown keys refused.

Loaded once by the command line and passed down. `scanside.toml` in the repository lists every key with comments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.errors import ConfigError

AETitle = Annotated[str, Meta(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Priority = Literal["stat", "routine", "low"]
ResultKind = Literal["structured_report", "secondary_capture"]
_ROOM_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class StorageScp(_Table, frozen=True):
    enabled: bool = True
    ae_title: AETitle = "SCANSIDE"
    host: str = "0.0.0.0"  # noqa: S104 (scanners are other machines)
    port: Port = 11112
    max_associations: Count = 20


class DropFolder(_Table, frozen=True):
    enabled: bool = True
    path: str = "drop"
    settle_seconds: Seconds = 2.0
    incomplete_seconds: Seconds = 10.0
    after: Literal["move", "leave"] = "move"


class Models(_Table, frozen=True):
    packages: tuple[str, ...] = ()
    trusted_keys: tuple[str, ...] = ()
    operating_point: str | None = None


class Inference(_Table, frozen=True):
    backend: str = "auto"
    threads: Annotated[int, Meta(ge=0)] = 0
    deadline_seconds: Seconds = 5.0
    lease_seconds: Seconds = 30.0
    gathering_seconds: Annotated[float, Meta(ge=0)] = 1.0
    receipts_at: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "03:00"


class SchedulingRule(_Table, frozen=True):
    priority: Priority
    sender: Annotated[str, Meta(min_length=1)] | None = None
    attribute: str | None = None
    matches: Annotated[str, Meta(min_length=1)] | None = None


class Scheduling(_Table, frozen=True):
    ageing_seconds: Seconds = 300.0
    rules: tuple[SchedulingRule, ...] = ()


class Results(_Table, frozen=True):
    path: str = "results"
    kinds: tuple[ResultKind, ...] = ("structured_report", "secondary_capture")


class Destination(_Table, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    ae_title: AETitle
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    send: tuple[ResultKind, ...] = ("structured_report", "secondary_capture")


class Delivery(_Table, frozen=True):
    calling_ae_title: AETitle = "SCANSIDE"
    first_retry_seconds: Seconds = 5.0
    longest_retry_seconds: Seconds = 300.0
    timeout_seconds: Seconds = 30.0


class Login(_Table, frozen=True):
    username: Annotated[str, Meta(min_length=1)]
    password_hash: Annotated[str, Meta(pattern=r"^(scrypt|pbkdf2):")]


class Web(_Table, frozen=True):
    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080
    show_patient: bool = False
    login: Login | None = None


class Log(_Table, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Table, frozen=True):
    """All settings. Relative folders are resolved against ``data_dir``; read them with the properties."""

    data_dir: str = "scanside-data"
    storage_scp: StorageScp = StorageScp()
    drop_folder: DropFolder = DropFolder()
    models: Models = Models()
    inference: Inference = Inference()
    scheduling: Scheduling = Scheduling()
    results: Results = Results()
    destinations: tuple[Destination, ...] = ()
    delivery: Delivery = Delivery()
    web: Web = Web()
    log: Log = Log()

    @property
    def data(self) -> Path:
        return Path(self.data_dir)

    @property
    def ledger_path(self) -> Path:
        return self.data / "ledger.sqlite3"

    @property
    def spool_path(self) -> Path:
        return self.data / "spool"

    @property
    def results_path(self) -> Path:
        return self.data / self.results.path

    @property
    def drop_path(self) -> Path:
        return self.data / self.drop_folder.path

    @property
    def previews_path(self) -> Path:
        return self.data / "previews"

    @property
    def engines_path(self) -> Path:
        return self.data / "engines"

    @property
    def receipt_request_path(self) -> Path:
        """Where this file is, a running appliance has its backends prove themselves anew."""
        return self.data / "receipt.request"

    @property
    def key_path(self) -> Path:
        return self.data / "keys" / "device.pem"


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
            raise ConfigError(f"{path}: {error}", hint="scanside.toml in the sources lists every key") from error
    base = path.resolve().parent if path is not None else Path.cwd()
    folder = (data_dir or base / config.data_dir).expanduser().absolute()
    config = msgspec.structs.replace(config, data_dir=str(folder))
    _check(config, path)
    return config


def _check(config: Config, path: Path | None) -> None:
    where = path or "the configuration"
    if config.web.enabled and config.web.host not in LOOPBACK and config.web.login is None:
        raise ConfigError(
            f"{where}: web.host = {config.web.host!r} opens the page to the network without a login",
            hint="set [web.login] (make the hash with `scanside hash-password`), or web.host = '127.0.0.1'",
        )
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
        missing = set(destination.send) - set(config.results.kinds)
        if missing:
            raise ConfigError(
                f"{where}: destination {destination.name!r} is to be sent {', '.join(sorted(missing))}, "
                "which results.kinds does not make"
            )
    for number, rule in enumerate(config.scheduling.rules, 1):
        _check_rule(rule, f"{where}: scheduling.rules, rule {number}")


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

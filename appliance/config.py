"""The configuration: all keys, what each may be, and its default.

Read once by the command line (`appliance.config_file`) and passed down. `scanside.toml` in the repository lists every
key with comments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

AETitle = Annotated[str, Meta(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$")]
AETitleOrNone = Annotated[str, Meta(max_length=16, pattern=r"^([ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*)?$")]
ColorOrNone = Annotated[str, Meta(pattern=r"^(#[0-9a-fA-F]{6})?$")]
Origin = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
Hours = Annotated[float, Meta(gt=0)]
Clock = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_WORKING_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri")
Count = Annotated[int, Meta(ge=1)]
Priority = Literal["stat", "routine", "low"]
Level = Literal["none", "banner", "review", "withheld"]
ResultKind = Literal[
    "structured_report", "secondary_capture", "segmentation", "fractional_segmentation", "presentation_state",
    "parametric_map",
]  # fmt: skip
ALL_KINDS: tuple[ResultKind, ...] = get_args(ResultKind)
MessageKind = Literal["hl7_oru", "fhir_bundle"]
DocumentKind = Literal["assessment"]
Protocol = Literal["dicom", "stow", "mllp", "fhir", "folder"]
# Protocols that carry messages only, and which.
MESSAGE_OF: dict[Protocol, MessageKind] = {"mllp": "hl7_oru", "fhir": "fhir_bundle"}
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Modality(_Table, frozen=True):
    ae_title: AETitle | None = None
    address: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None


class Tls(_Table, frozen=True):
    key: str
    certificate: str
    ca: str


class StorageScp(_Table, frozen=True):
    enabled: bool = True
    ae_title: AETitle = "SCANSIDE"
    host: str = "0.0.0.0"  # noqa: S104 (scanners are other machines)
    port: Port = 11112
    max_associations: Count = 20
    max_associations_per_address: Count = 10
    reserved_associations: Annotated[int, Meta(ge=0)] = 5
    modalities: tuple[Modality, ...] = ()
    only_modalities: bool = False
    called_ae_titles: tuple[AETitle, ...] = ()
    undecodable: Literal["store", "refuse"] = "store"
    storage_commitment: bool = True
    storage_commitment_hours: Hours = 24.0
    performed_procedure_step: bool = True
    request_seconds: Seconds = 10.0
    pdu_seconds: Seconds = 30.0
    idle_seconds: Seconds = 120.0
    tls: Tls | None = None


class DropFolder(_Table, frozen=True):
    enabled: bool = True
    path: str = "drop"
    settle_seconds: Seconds = 2.0
    incomplete_seconds: Seconds = 10.0
    after: Literal["move", "leave"] = "move"


class Models(_Table, frozen=True):
    packages: tuple[str, ...] = ()
    trusted_keys: tuple[str, ...] = ()
    switches: bool = True
    operating_point: str | None = None


class Inference(_Table, frozen=True):
    backend: str = "auto"
    threads: Annotated[int, Meta(ge=0)] = 0
    deadline_seconds: Seconds = 5.0
    lease_seconds: Seconds = 30.0
    gathering_seconds: Annotated[float, Meta(ge=0)] = 1.0
    receipts_at: Clock = "03:00"


class SchedulingRule(_Table, frozen=True):
    priority: Priority
    sender: Annotated[str, Meta(min_length=1)] | None = None
    attribute: str | None = None
    matches: Annotated[str, Meta(min_length=1)] | None = None


class Retention(_Table, frozen=True):
    images_days: Annotated[float, Meta(ge=0)] = 0.0
    results_days: Annotated[float, Meta(ge=0)] = 0.0
    disk_percent: Annotated[float, Meta(ge=0, le=99)] = 0.0
    at: Clock = "02:00"


class Sandbox(_Table, frozen=True):
    memory_mib: Annotated[int, Meta(ge=768)] = 2048
    seconds: Annotated[float, Meta(ge=3, le=9)] = 9.0


class Scheduling(_Table, frozen=True):
    ageing_seconds: Seconds = 300.0
    rules: tuple[SchedulingRule, ...] = ()


class Series(_Table, frozen=True):
    quiet_seconds: Annotated[float, Meta(gt=0, le=20)] = 10.0


class Results(_Table, frozen=True):
    path: str = "results"
    # What any viewer shows, and no more: a PACS is not to be flooded.
    kinds: tuple[ResultKind, ...] = ("structured_report", "secondary_capture", "segmentation")
    messages: tuple[MessageKind, ...] = ()
    # ASCII, which every Specific Character Set can carry.
    label: Annotated[str, Meta(max_length=64, pattern=r"^[ -~]*[!-~][ -~]*$")] = (
        "AI RESULT - RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
    )
    least_map_share: Annotated[float, Meta(ge=0, le=1)] = 0.35


class Hl7(_Table, frozen=True):
    sending_application: str = "SCANSIDE"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    assigning_authority: str = ""
    character_set: Literal["UNICODE UTF-8", "8859/1", "8859/2", "8859/5", "8859/15", "ASCII"] = "UNICODE UTF-8"


class Fhir(_Table, frozen=True):
    patient_system: str = ""
    accession_system: str = ""


class DestinationTls(_Table, frozen=True):
    ca: str | None = None
    key: str | None = None
    certificate: str | None = None
    name: str | None = None


class DestinationLogin(_Table, frozen=True):
    username: str | None = None
    password_file: str | None = None
    token_file: str | None = None


class Destination(_Table, frozen=True):
    """Where results go, and how; `protocol` says which of the other keys it needs (see `appliance.config_file`)."""

    name: Annotated[str, Meta(min_length=1)]
    protocol: Protocol = "dicom"
    ae_title: AETitleOrNone = ""
    host: str = ""
    port: Port = 0
    url: str = ""
    path: str = ""
    send: tuple[ResultKind | MessageKind | DocumentKind, ...] = (
        ALL_KINDS  # those of them that are made; `appliance.config_file` knows those for messages
    )
    when: Literal["all", "positive", "urgent"] = "all"
    storage_commitment: bool = False
    tls: DestinationTls | None = None
    login: DestinationLogin | None = None

    @property
    def address(self) -> str:
        """Where it is: a URL, a folder, or host:port."""
        return self.url or self.path or f"{self.host}:{self.port}"

    @property
    def peer(self) -> str:
        """The same, with the AE title where it has one: AET@host:port."""
        return f"{self.ae_title}@{self.address}" if self.ae_title else self.address

    def wants(self, kind: str, positive: bool, urgent: bool) -> bool:
        """Whether it is sent this kind of what came of a result with, or without, a positive or an urgent finding."""
        return kind in self.send and {"all": True, "positive": positive, "urgent": urgent}[self.when]

    def carries(self, kind: str) -> bool:
        """Whether its protocol can: DICOM objects, messages of one kind, or both."""
        message = MESSAGE_OF.get(self.protocol)
        return kind == message if message else self.protocol == "folder" or kind not in MESSAGE_OF.values()


class Delivery(_Table, frozen=True):
    calling_ae_title: AETitle = "SCANSIDE"
    first_retry_seconds: Seconds = 5.0
    longest_retry_seconds: Seconds = 300.0
    longest_probe_seconds: Seconds = 60.0
    undelivered_hours: Annotated[float, Meta(gt=0)] = 72.0
    commitment_seconds: Seconds = 300.0
    timeout_seconds: Seconds = 30.0


class Worklist(_Table, frozen=True):
    """Priority that a result of each tier gives to its image in the worklist of those who read."""

    high_confidence: Priority = "stat"
    medium_confidence: Priority = "routine"
    low_confidence: Priority = "low"


class WebTls(_Table, frozen=True):
    key: str
    certificate: str


class Brand(_Table, frozen=True):
    """A vendor's name and look on the page; see `appliance.brand` for what is refused."""

    name: Annotated[str, Meta(min_length=1, max_length=40)] = "Scanside"
    logo: str = ""
    accent_dark: ColorOrNone = ""
    accent_light: ColorOrNone = ""


class Web(_Table, frozen=True):
    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080
    show_patient: bool = False
    brand: Brand = Brand()
    embed_origins: tuple[Origin, ...] = ()
    idle_minutes: Annotated[float, Meta(gt=0, le=1440)] = 30.0
    session_hours: Annotated[float, Meta(gt=0, le=168)] = 12.0
    language: Literal["browser", "en", "de"] = "browser"
    kiosk: Literal["off", "login", "open"] = "login"
    tls: WebTls | None = None

    @property
    def over_tls(self) -> bool:
        """Whether the page is served over TLS: with the certificate that is given, or, on an address that others
        reach, with one that the device has made itself."""
        return self.tls is not None or self.host not in LOOPBACK


class Uploads(_Table, frozen=True):
    enabled: bool = True
    largest_file_mb: Count = 4_000
    largest_request_mb: Count = 32_000


class Box(_Table, frozen=True):
    """Of a machine that was flashed with `firmware/`; see `appliance.web.box`."""

    report: str = ""


class ExpectedHours(_Table, frozen=True):
    ae_title: AETitle
    days: tuple[Day, ...] = _WORKING_DAYS
    begin: Clock = "08:00"
    end: Clock = "17:00"
    minutes: Count = 60


class Silence(_Table, frozen=True):
    enabled: bool = True
    weeks: Annotated[int, Meta(ge=2, le=26)] = 8
    least_weeks: Annotated[int, Meta(ge=2, le=26)] = 3
    expected: tuple[ExpectedHours, ...] = ()


class Syslog(_Table, frozen=True):
    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 6514
    ca: str | None = None
    key: str | None = None
    certificate: str | None = None
    name: str | None = None


class Audit(_Table, frozen=True):
    source: str = ""
    site: str = ""
    patient_ids: bool = True
    keep_days: Annotated[float, Meta(ge=0)] = 0.0
    syslog: Syslog | None = None


class Drift(_Table, frozen=True):
    enabled: bool = True
    baseline_studies: Annotated[int, Meta(ge=100, le=10_000)] = 1000
    alpha: Annotated[float, Meta(gt=0, le=0.1)] = 0.01
    run_length: Annotated[int, Meta(ge=1_000, le=10_000_000)] = 20_000
    studies_days: Annotated[float, Meta(ge=7)] = 90.0


class SafeMode(_Table, frozen=True):
    """What each alarm does to results. Not even ``none`` hides an alarm, and no key makes what is in force silent."""

    drift_validated: Level = "review"
    drift_site: Level = "banner"
    confidence: Level = "banner"
    early_warning: Level = "none"
    performance: Level = "review"
    outside_validated_use: Literal["banner", "review", "withheld"] = "banner"
    leave: Literal["acknowledged", "by_hand"] = "acknowledged"


class Performance(_Table, frozen=True):
    sensitivity_floor: Annotated[float, Meta(gt=0, lt=1)] = 0.92
    specificity_floor: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    alpha: Annotated[float, Meta(gt=0, le=0.1)] = 0.01
    run_length: Annotated[int, Meta(ge=500, le=1_000_000)] = 5_000
    evidence_days: Annotated[float, Meta(gt=0)] = 30.0
    codes: dict[str, tuple[str, ...]] = {}


class Diagnoses(_Table, frozen=True):
    """HL7 v2 over MLLP in; see `appliance.diagnosis_listener`."""

    enabled: bool = False
    host: str = "0.0.0.0"  # noqa: S104 (information systems are other machines)
    port: Port = 2575
    addresses: tuple[str, ...] = ()
    tls: Tls | None = None


class Shadow(_Table, frozen=True):
    enabled: bool = True
    approvers: str = "approvers"


class Telemetry(_Table, frozen=True):
    least_patients: Annotated[int, Meta(ge=2, le=1000)] = 5


class Log(_Table, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Table, frozen=True):
    """All settings. Relative folders are resolved against ``data_dir``; read them with the properties."""

    data_dir: str = "scanside-data"
    storage_scp: StorageScp = StorageScp()
    drop_folder: DropFolder = DropFolder()
    models: Models = Models()
    inference: Inference = Inference()
    sandbox: Sandbox = Sandbox()
    retention: Retention = Retention()
    scheduling: Scheduling = Scheduling()
    series: Series = Series()
    results: Results = Results()
    hl7: Hl7 = Hl7()
    fhir: Fhir = Fhir()
    destinations: tuple[Destination, ...] = ()
    delivery: Delivery = Delivery()
    worklist: Worklist = Worklist()
    web: Web = Web()
    uploads: Uploads = Uploads()
    box: Box = Box()
    silence: Silence = Silence()
    audit: Audit = Audit()
    drift: Drift = Drift()
    safe_mode: SafeMode = SafeMode()
    performance: Performance = Performance()
    diagnoses: Diagnoses = Diagnoses()
    shadow: Shadow = Shadow()
    telemetry: Telemetry = Telemetry()
    log: Log = Log()

    @property
    def data(self) -> Path:
        return Path(self.data_dir)

    @property
    def kinds_made(self) -> set[str]:
        """What destinations may be sent."""
        return {*self.results.kinds, *self.results.messages, *get_args(DocumentKind)}

    @property
    def sends_assessments(self) -> bool:
        return any("assessment" in each.send for each in self.destinations)

    @property
    def ledger_path(self) -> Path:
        return self.data / "ledger.sqlite3"

    @property
    def audit_path(self) -> Path:
        return self.data / "audit.sqlite3"

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
    def pixels_path(self) -> Path:
        """A cache of what the page's viewer shows."""
        return self.data / "pixels"

    @property
    def reader_studies_path(self) -> Path:
        """Pictures of blinded reader studies."""
        return self.data / "reader-studies"

    @property
    def engines_path(self) -> Path:
        return self.data / "engines"

    @property
    def receipt_request_path(self) -> Path:
        """Where this file is, a running appliance has its backends prove themselves anew."""
        return self.data / "receipt.request"

    @property
    def log_path(self) -> Path:
        """The latest log lines."""
        return self.data / "log"

    @property
    def support_path(self) -> Path:
        """The latest support bundle that the page made."""
        return self.data / "support"

    @property
    def packages_path(self) -> Path:
        """Installed packages; see `appliance.installed`."""
        return self.data / "packages"

    @property
    def approvers_path(self) -> Path:
        """``NAME.pub`` of whoever may approve that another package takes over."""
        return self.data / self.shadow.approvers

    @property
    def evidence_path(self) -> Path:
        """Evidence bundles of promotions."""
        return self.data / "evidence"

    @property
    def pseudonyms_path(self) -> Path:
        """The key of pseudonyms in retraining bundles: it stays here."""
        return self.data / "keys" / "pseudonyms"

    @property
    def key_path(self) -> Path:
        return self.data / "keys" / "device.pem"

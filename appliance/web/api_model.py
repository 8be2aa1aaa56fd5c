"""What the JSON API answers and takes. The OpenAPI document is made of these types, and answers are encoded by them.

Times are seconds since 1970 (UTC), sizes bytes. Free text may quote a peer or a header.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from appliance.result import Finding, Segment

Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]
State = Literal["received", "claimed", "written", "delivered", "rejected", "failed", "quarantined", "withheld"]
Uid = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[0-9.]+$")]


class Answer(Struct, frozen=True, kw_only=True):
    pass


class Ask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Problem(Answer, frozen=True):
    """An error, as RFC 9457 has it; ``detail`` says what and what to do next."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


# --- studies ------------------------------------------------------------------------------------------------------


class Patient(Answer, frozen=True):
    """``name`` is a pseudonym that is the same for the same patient on this device, unless ``web.show_patient``."""

    name: str
    id: str | None
    sex: str
    age: str


class Result(Answer, frozen=True):
    """What came of an image: ``package`` read it on ``backend``, proved by the receipt of this number."""

    findings: list[Finding]
    segments: list[Segment]
    warnings: list[str]
    urgent: bool
    made_at: float
    seconds: float
    package: str
    version: str
    backend: str
    device: str
    receipt: str
    intended_use: str
    not_for: list[str]


class Study(Answer, frozen=True):
    """A row of the worklist: an image, or a series of ``images`` that are read as one.

    ``reason`` says why it waits, was turned away or failed. UIDs and the sender are None unless ``web.show_patient``,
    since they lead back to the patient.
    """

    number: Number
    state: State
    reason: str
    priority: Literal["stat", "routine", "low"]
    patient: Patient
    modality: str
    body_part: str
    view: str
    received_at: float
    finished_at: float | None
    reviewed_at: float | None
    images: int
    superseded_by: Number | None
    undelivered: bool
    sop_instance_uid: str | None
    study_instance_uid: str | None
    sender: str | None
    result: Result | None


class StudyPage(Answer, frozen=True):
    """``next``: ask for the page of what came before with ``before`` set to it; None on the last page."""

    studies: list[Study]
    next: Number | None


class Event(Answer, frozen=True):
    at: float
    what: str


class ResultObject(Answer, frozen=True):
    """``digest``: SHA-256 of the file; ``sop_instance_uid`` is None unless ``web.show_patient``."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str | None
    digest: str


class Delivery(Answer, frozen=True):
    """An object on its way to a destination; ``last_error`` may quote that."""

    number: Number
    study: Number
    kind: str
    destination: str
    state: Literal["waiting", "sent", "committed", "undelivered"]
    attempts: int
    next_attempt_at: float | None
    sent_at: float | None
    committed_at: float | None
    last_error: str


class StudyDetail(Answer, frozen=True):
    """``earlier``: numbers of results of the same series that this one took the place of."""

    study: Study
    events: list[Event]
    objects: list[ResultObject]
    deliveries: list[Delivery]
    earlier: list[Number]


# --- the device ----------------------------------------------------------------------------------------------------


class Trouble(Answer, frozen=True):
    """Something that is wrong, and what to do next."""

    name: str
    severity: Literal["alarm", "caution"]
    what: str
    mend: str
    detail: str


class Destination(Answer, frozen=True):
    """``failing_since``: it takes nothing, None while it works; ``to_commit``: sent, and not committed yet."""

    name: str
    waiting: int
    sent: int
    committed: int
    to_commit: int
    undelivered: int
    failing_since: float | None
    failures: int
    next_attempt_at: float | None
    last_error: str


class Backend(Answer, frozen=True):
    """One backend with one package; ``receipt`` is None where it could not prove itself, and ``reason`` says why."""

    package: str
    backend: str
    serves: bool
    receipt: str | None
    seconds: float | None
    reason: str


class Proof(Answer, frozen=True):
    """The latest recount of the ledger; ``faults`` are the first of ``fault_count``."""

    kind: Literal["quick", "full"]
    at: float
    files: int
    fault_count: int
    counts: dict[str, int]


class Gathering(Answer, frozen=True):
    """A series that waits to be complete: its first image's ``number``, how many ``images`` are here, and why."""

    number: Number
    modality: str
    body_part: str
    images: int
    waits_for: str
    seconds: float


class Space(Answer, frozen=True):
    total: int
    free: int


class Status(Answer, frozen=True):
    """How the device is. An empty list of ``problems`` means that all is well."""

    version: str
    running: bool
    uptime_seconds: float | None
    problems: list[Trouble]
    counts: dict[State, int]
    gathering: list[Gathering]
    backends: list[Backend]
    destinations: list[Destination]
    proof: Proof | None
    cpu_percent: float
    memory: Space
    disk: Space
    disk_days_left: float | None
    temperature_celsius: float | None
    throttling: bool | None
    clock_synchronized: bool | None


class ReceiptEntry(Answer, frozen=True):
    """The proof that a backend gives a package's answers on this device; ``signature`` is Ed25519 over ``content``."""

    id: str
    made_at: float
    content: dict[str, Any]
    signature: str


class Receipts(Answer, frozen=True):
    receipts: list[ReceiptEntry]


class Percentiles(Answer, frozen=True):
    """Seconds; of ``count`` results."""

    count: int
    p50: float
    p95: float
    p99: float


class ModelTimes(Answer, frozen=True):
    """``reading``: from the first byte decoded to the results on disk; ``turnaround``: since the image came."""

    package: str
    reading: Percentiles | None
    turnaround: Percentiles | None


class HistoryEntry(Answer, frozen=True):
    """``at``: when the period began; ``minutes``: of how many it has samples. Gauges are means."""

    at: int
    minutes: int
    models: list[ModelTimes]
    received: int
    results: int
    rejected: int
    failed: int
    quarantined: int
    withheld: int
    sent: dict[str, int]
    queue: float
    waiting: float
    cpu_percent: float
    memory_bytes: float
    appliance_bytes: float
    disk_free: int
    celsius: float | None
    throttled: float


class History(Answer, frozen=True):
    seconds: int
    periods: list[HistoryEntry]


class Deliveries(Answer, frozen=True):
    """The destinations, and what is undelivered: the oldest first, ``limit`` of it at most."""

    destinations: list[Destination]
    undelivered: list[Delivery]


class Quarantine(Answer, frozen=True):
    studies: list[Study]


# --- acts ----------------------------------------------------------------------------------------------------------


class StudyQuery(Ask, frozen=True):
    """``before``: the ``next`` of another page. A UID finds what came under it; a state, what is in it."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    before: Number = 2**63 - 1
    state: State | UnsetType = UNSET
    sop_instance_uid: Uid | UnsetType = UNSET
    study_instance_uid: Uid | UnsetType = UNSET


class HistoryQuery(Ask, frozen=True):
    """``seconds``: how long the periods are; ``since``: only those that ended later."""

    seconds: Literal["60", "3600", "86400"] = "3600"
    since: Annotated[float, Meta(ge=0)] = 0.0


class ListQuery(Ask, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class SendAgain(Ask, frozen=True):
    """Which undelivered objects wait again: those with these ``numbers``, or all of a ``destination``, or all."""

    numbers: Annotated[list[Number], Meta(max_length=1000)] | None = None
    destination: Annotated[str, Meta(min_length=1)] | None = None


class ReviewRejected(Ask, frozen=True):
    """Which rejected images count as reviewed: those received until then, in seconds since 1970; or all."""

    until: Annotated[float, Meta(ge=0)] | None = None


class Done(Answer, frozen=True):
    """How many things were changed."""

    count: int


class EmbedRequest(Ask, frozen=True):
    """Which ``study``: its number, or a SOP or Study Instance UID, of which the latest result counts.

    The link works for so many ``seconds``.
    """

    study: Number | Uid
    seconds: Annotated[int, Meta(ge=10, le=86400)] = 300


class EmbedLink(Answer, frozen=True):
    """``path`` below this page's address, for the ``src`` of an iframe; who has it sees this study until then."""

    path: str
    expires_at: float
    number: Number

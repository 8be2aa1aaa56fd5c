"""What the JSON API answers and takes of trust in results; otherwise as `appliance.web.api_model`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from appliance.assessment_store import Subject, Verdict
from appliance.config import Level
from appliance.safe_mode_store import Strength
from appliance.web.api_model import Answer, Ask, Number


class SafeModeEntry(Answer, frozen=True):
    """Why results are marked or withheld, and who has ended that.

    ``source``: number of the drift alarm or retraining ticket that it was entered for, None by hand. ``package_sha256``
    is None where it is for all packages, ``entered_by`` where the device itself entered it, ``left_at`` while it is in
    force.
    """

    number: Number
    level: Strength
    kind: str
    source: int | None
    package_sha256: str | None
    why: str
    entered_at: float
    entered_by: str | None
    left_at: float | None
    left_by: str | None
    left_why: str | None


class SafeMode(Answer, frozen=True):
    """``in_force``: the strongest first; ``latest``: whether in force or not; ``policy``: which alarm leads to which
    level; ``withheld``: images whose result is."""

    in_force: list[SafeModeEntry]
    latest: list[SafeModeEntry]
    withheld: int
    policy: dict[str, Level]


class Estimate(Answer, frozen=True):
    """A value with its 95 % interval, and of how many."""

    value: float
    low: float
    high: float
    n: int


class Figures(Answer, frozen=True):
    """Of ``n`` cases, the finding is ``present`` in so many. None where there are no cases of that kind."""

    n: int
    present: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    auc: Estimate | None


class MonthFigures(Answer, frozen=True):
    month: str
    figures: Figures


class CalibrationBin(Answer, frozen=True):
    """Cases with a probability from ``low`` to ``high``: its mean (``said``), and how many had the finding."""

    low: float
    high: float
    said: float
    seen: Estimate


class Calibration(Answer, frozen=True):
    """``ece``: mean distance of said and seen; ``in_the_large``: how much more often the finding is there than said."""

    bins: list[CalibrationBin]
    ece: float
    in_the_large: Estimate


class Trend(Answer, frozen=True):
    """Of sensitivity: ``change`` of the log odds in 30 days, the line today and ``days`` ahead, if it goes on."""

    change: Estimate
    now: Estimate
    ahead: Estimate
    days: float


class Coverage(Answer, frozen=True):
    """Of answers of the last 90 days, how many have a known truth; ``one_sided``: negative ones much more seldom."""

    positive: int
    negative: int
    known_positive: int
    known_negative: int
    one_sided: bool


class FloorTest(Answer, frozen=True):
    """Whether a rate is still at its floor: both statistics are natural logarithms, ``below`` once one has reached its
    limit; ``detector`` is None before the first case."""

    floor: float
    cases: int
    right: int
    wealth: float
    wealth_limit: float
    detector: float | None
    detector_limit: float
    below: bool


class ModelPerformance(Answer, frozen=True):
    """One finding of one package, by cases of the last year; ``groups``: by age, sex, scanner and view."""

    package: str
    package_sha256: str
    finding: str
    figures: Figures
    calibration: Calibration | None
    months: list[MonthFigures]
    groups: dict[str, dict[str, Figures]]
    floors: dict[Literal["sensitivity", "specificity"], FloorTest]
    trend: Trend | None
    coverage: Coverage
    corrected_sensitivity: Estimate | None
    latest: float


class Ticket(Answer, frozen=True):
    """A retraining ticket; ``closed_at`` is None while it is open."""

    number: Number
    package: str
    package_sha256: str
    finding: str
    measure: Literal["sensitivity", "specificity"]
    opened_at: float
    closed_at: float | None
    closed_by: str | None
    why: str | None


class Performance(Answer, frozen=True):
    """``cases`` with a known truth, the ``latest`` of which is ``old`` or not; ``left_out``: what counts for nothing,
    by kind; ``without_truth``: answers of the last 90 days."""

    cases: int
    without_truth: int
    left_out: dict[str, int]
    latest: float | None
    old: bool
    models: list[ModelPerformance]
    tickets: list[Ticket]


class Assessment(Answer, frozen=True):
    """What a reader says of a finding or a segment of a ``study``, of which the result ``said`` something;
    ``superseded_by`` is None of those that count."""

    number: Number
    study: Number
    subject: Subject
    label: str
    said: str
    verdict: Verdict
    reason: str
    comment: str
    person: str | None
    made_at: float
    package: str
    superseded_by: Number | None


class AssessmentPage(Answer, frozen=True):
    """``next``: ask for the page of what came before with ``before`` set to it; None on the last page."""

    assessments: list[Assessment]
    next: Number | None


# --- acts ----------------------------------------------------------------------------------------------------------


class AssessmentQuery(Ask, frozen=True):
    """``before``: the ``next`` of another page; ``study``: only of this one."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 200
    before: Number = 2**63 - 1
    study: Number | UnsetType = UNSET


class Assess(Ask, frozen=True):
    """``reason``: why it is not agreed to, a code of those that the study page offers; none with ``agree``."""

    subject: Subject
    label: Annotated[str, Meta(min_length=1, max_length=200)]
    verdict: Verdict
    reason: Annotated[str, Meta(max_length=32)] = ""
    comment: Annotated[str, Meta(max_length=1000)] = ""


class EnterSafeMode(Ask, frozen=True):
    """``why`` is kept for good. ``by`` names a person where no login is asked for; else the account or token counts."""

    level: Strength
    why: Annotated[str, Meta(min_length=1, max_length=1000)]
    by: Annotated[str, Meta(max_length=64)] = ""


class LeaveSafeMode(Ask, frozen=True):
    """As of `EnterSafeMode`."""

    why: Annotated[str, Meta(min_length=1, max_length=1000)]
    by: Annotated[str, Meta(max_length=64)] = ""

"""Safe mode: what an alarm does to the results that follow, until a person has looked at it.

Three levels, each with what the one before does: ``banner`` is a warning with each result and on each page; ``review``
flags each result as one that nobody may use before a person has seen it; ``withheld`` lets no new result leave the
device; what was made before is sent on.
The configuration says which alarm leads to which (`appliance.config.SafeMode`). It is entered by the device and left by
a person: by acknowledging the alarm, or by name and reason. Each change is a row of the ledger, a record of the audit
trail, a line of the log, a metric and a problem on the device page, whatever the configuration says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from appliance.audit import Record, Trail
from appliance.config import Config, Level
from appliance.config import SafeMode as Policy
from appliance.drift.cause import Cause
from appliance.drift.store import DriftStore
from appliance.errors import SafeModeError
from appliance.result import OUTSIDE_VALIDATED_USE, REVIEW_REQUIRED, Prediction, Provenance
from appliance.safe_mode_store import STRENGTHS, Entry, SafeModeStore, Strength
from appliance.truth_store import TruthStore

log = logging.getLogger("scanside.safe_mode")

BY_HAND = "by_hand"
KINDS = {
    "drift_validated": "drift away from what the model was validated on",
    "drift_site": "drift away from what was usual here",
    "confidence": "the model is less sure than it was",
    "early_warning": "an early warning of drift",
    "performance": "performance below its floor",
    BY_HAND: "entered by hand",
}
LEVEL_WORDS: dict[Strength, str] = {
    "banner": "Results carry a warning",
    "review": "Results must be reviewed by a person before use",
    "withheld": "Results are withheld",
}


@dataclass(frozen=True)
class Alarm:
    """An open alarm or ticket: what safe mode is entered for."""

    kind: str
    source: int
    package: str
    why: str


@dataclass(frozen=True)
class Mode:
    """What is in force for one image: the ``level``, and what the result has to say of it."""

    level: Level
    warnings: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why the result of an image is withheld."""
        why = " ".join(each.removeprefix("Safe mode: ") for each in self.warnings)
        return f"Withheld (safe mode): {why} No finding has left the device; a person may release it."

    def marked(self, said: Prediction, made: Provenance) -> tuple[Prediction, Provenance]:
        """A prediction that carries its warnings before all others, and a provenance with its level."""
        if self.level == "withheld":
            raise ValueError("a result that is withheld is not written")
        return replace(said, warnings=(*self.warnings, *said.warnings)), msgspec.structs.replace(
            made, safe_mode=self.level
        )


class SafeMode:
    """Safe mode on one ledger, for any process; only one of them enters it for an alarm."""

    def __init__(self, config: Config, trail: Trail, read_only: bool = False) -> None:
        self._policy, self._trail = config.safe_mode, trail
        self.store = SafeModeStore(config.ledger_path, read_only)
        self._drift = DriftStore(config.ledger_path, read_only)
        self._truth = TruthStore(config.ledger_path, read_only)

    def close(self) -> None:
        for store in (self.store, self._drift, self._truth):
            store.close()

    def look(self) -> None:
        """Enter it for alarms that are new; leave it for those that were acknowledged, where the policy says so."""
        alarms, force = list(self._alarms()), self.store.in_force()
        known = self.store.known()
        for alarm in alarms:
            level: Level = getattr(self._policy, alarm.kind)
            if level != "none" and (alarm.kind, alarm.source) not in known:
                self._enter(self.store.enter(level, alarm.kind, alarm.why, "", alarm.package, alarm.source))
        if self._policy.leave == "acknowledged":
            still = {(alarm.kind, alarm.source) for alarm in alarms}
            for entry in force:
                if entry.source is not None and (entry.kind, entry.source) not in still:
                    self._leave_acknowledged(entry)

    def enter(self, level: Strength, by: str, why: str, package: str = "") -> Entry:
        """By hand; raises `SafeModeError` where nobody is named or no reason is given."""
        require(by, why)
        entry = self.store.enter(level, BY_HAND, why.strip(), by.strip(), package)
        assert entry is not None
        self._enter(entry)
        return entry

    def leave(self, number: int, by: str, why: str) -> Entry:
        """By hand; raises `SafeModeError`, as `SafeModeStore.leave` does."""
        entry = self.store.leave(number, by, why)
        log.warning("safe mode %d (%s) is left by %s", entry.id, entry.level, by)
        self._record("safe mode left", entry, entry.left_by, entry.left_why)
        return entry

    def of(self, instance: int, packages: Sequence[str], said: Prediction) -> Mode:
        """What is in force for a result, by the packages (SHA-256) that have a part in it.

        Of an image that a person has released, nothing is withheld: its result asks for review.
        """
        entries = [each for each in self.store.in_force() if each.package in ("", *packages)]
        levels: list[Strength] = [each.level for each in entries]
        warnings = [f"{each.why[:1].upper()}{each.why[1:]}".rstrip(".") + "." for each in entries]
        if any(each.startswith(OUTSIDE_VALIDATED_USE) for each in said.warnings):
            levels.append(self._policy.outside_validated_use)
        level: Level = max(levels, key=STRENGTHS.index, default="none")
        if (release := self.store.released(instance)) is not None:
            level = "review"  # whatever is in force by now: a person lets it pass, not the device
            warnings.append(f"It was withheld, and released by {release['by']}: {release['why'].rstrip('.')}.")
        if level == "none":
            return Mode("none")
        if level == "withheld":
            warnings += [each for each in said.warnings if each.startswith(OUTSIDE_VALIDATED_USE)]
            return Mode(level, tuple(f"Safe mode: {each}" for each in warnings))
        lead = f"{REVIEW_REQUIRED}: do not use this result before a person has reviewed it."
        marks = [lead] if level == "review" else []
        return Mode(level, (*marks, *(f"Safe mode: {each}" for each in warnings)))

    def _alarms(self) -> Iterator[Alarm]:
        for row in self._drift.alarms(only_open=True):
            kind = {"warning": "early_warning", "confidence": "confidence"}.get(row["kind"], f"drift_{row['against']}")
            words = msgspec.json.decode(row["cause"], type=Cause).words
            what = f"drift alarm {row['id']} of {row['name']}, {KINDS[kind]}: {words}"
            yield Alarm(kind, row["id"], row["package"], what)
        for ticket in self._truth.tickets(only_open=True):
            yield Alarm("performance", ticket["id"], ticket["package"], ticket_words(ticket))

    def _enter(self, entry: Entry | None) -> None:
        if entry is None:
            return  # another process was first
        log.warning("safe mode %d is entered (%s, %s)", entry.id, entry.level, entry.kind)
        self._record("safe mode entered", entry, entry.entered_by, entry.why)

    def _leave_acknowledged(self, entry: Entry) -> None:
        by, why = self._acknowledged(entry)
        if by is not None:
            self.leave(entry.id, by or "a person", why or "the alarm was acknowledged")

    def _acknowledged(self, entry: Entry) -> tuple[str | None, str]:
        """Who has acknowledged what it was entered for, and why; None where nobody has."""
        number = entry.source or 0
        if entry.kind == "performance":
            ticket = self._truth.ticket(number)
            return (ticket["closed_by"], ticket["why"]) if ticket and ticket["closed_at"] is not None else (None, "")
        alarm = self._drift.alarm(number)
        return (alarm["acknowledged_by"], alarm["why"]) if alarm and alarm["acknowledged_at"] else (None, "")

    def _record(self, action: str, entry: Entry, by: str, why: str) -> None:
        target = f"safe mode {entry.id}"
        self._trail.append(
            Record(time.time(), "act", action, person=by, how="" if by else "device", target=target,
                   detail=f"{entry.level}: {why}")
        )  # fmt: skip


def ticket_words(ticket: dict[str, object]) -> str:
    """A retraining ticket, in a few words."""
    return (
        f"retraining ticket {ticket['id']}: the {ticket['measure']} of {ticket['name']} for "
        f"{str(ticket['finding']).lower()} is measured to be below its floor"
    )


def require(by: str, why: str) -> None:
    """Raise `appliance.errors.SafeModeError` where nobody is named, or no reason is given."""
    if not by.strip() or not why.strip():
        raise SafeModeError("say who enters safe mode, and why", hint="both are kept for good")


def policy_in_words(policy: Policy) -> list[tuple[str, Level]]:
    """What leads to which level."""
    return [(KINDS[kind], getattr(policy, kind)) for kind in KINDS if kind != BY_HAND] + [
        ("an image outside validated use", policy.outside_validated_use)
    ]

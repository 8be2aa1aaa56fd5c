"""Which image goes first: STAT before routine before low, and nobody waits without end.

Pure: it sees texts of a header, never the header. An image's place in the queue is the time when it is due, which is
when it was received plus the patience of its priority; the one that is due first goes first. So a routine image that
has waited for longer than its patience goes before every STAT image that came after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from appliance.config import Priority, SchedulingRule

REQUESTED = "RequestedProcedurePriority"

# What a C-STORE request says in Priority (0000,0700), PS3.7 section 9.3.1.1.
C_STORE: dict[Priority, int] = {"routine": 0x0000, "stat": 0x0001, "low": 0x0002}  # MEDIUM, HIGH, LOW

# The defined terms of Requested Procedure Priority (0040,1003), PS3.3 section C.4.11.
_TERMS: dict[str, Priority] = {
    "STAT": "stat",
    "HIGH": "stat",
    "ROUTINE": "routine",
    "MEDIUM": "routine",
    "LOW": "low",
}
_MOST_URGENT_FIRST: tuple[Priority, ...] = ("stat", "routine", "low")


def of_c_store(value: int) -> Priority:
    """What a C-STORE request's Priority asks for; routine where it is none of the three values."""
    return next((priority for priority, number in C_STORE.items() if number == value), "routine")


def of_request(texts: Iterable[str]) -> Priority | None:
    """The most urgent of several Requested Procedure Priorities; None where none of them is a defined term."""
    found = {_TERMS.get(value.strip().upper()) for text in texts for value in text.split("\\")}
    return next((priority for priority in _MOST_URGENT_FIRST if priority in found), None)


def decide(
    rules: Sequence[SchedulingRule], ae_title: str, sent: Priority | None, texts_of: Callable[[str], Sequence[str]]
) -> Priority:
    """The priority of an image: the first rule's that matches, else the most urgent that was asked for, else routine.

    Parameters
    ----------
    ae_title
        Who sent it by C-STORE; empty for a file.
    sent
        What the C-STORE request asked for; None for a file.
    texts_of
        DICOM keyword -> the values that the header has under it, as text.
    """
    for rule in rules:
        if _matches(rule, ae_title, texts_of):
            return rule.priority
    asked = (sent, of_request(texts_of(REQUESTED)))
    return next((priority for priority in _MOST_URGENT_FIRST if priority in asked), "routine")


def _matches(rule: SchedulingRule, ae_title: str, texts_of: Callable[[str], Sequence[str]]) -> bool:
    if rule.sender is not None and not (ae_title and fnmatchcase(ae_title, rule.sender)):
        return False
    if rule.attribute is None or rule.matches is None:
        return True
    pattern = rule.matches.casefold()
    return any(fnmatchcase(text.casefold(), pattern) for text in texts_of(rule.attribute))


def patience(priority: Priority, ageing_seconds: float) -> float:
    """Seconds after it was received that an image is due."""
    return ageing_seconds * _MOST_URGENT_FIRST.index(priority)

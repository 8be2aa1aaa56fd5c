"""Who is read first: the order of the worklist for those who read, never whether an image is read.

Pure. A result puts its image into a tier by how sure the model is of an urgent finding, and a tier may raise the
image's priority. Nothing lowers a priority that was asked for or set by a rule. There is no priority, no tier and no
setting for "need not be read": an image leaves the top of the list only when somebody says that they have seen it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from appliance.config import Priority, Worklist
from appliance.result import Finding

Tier = Literal["high", "medium", "low"]
PRIORITIES: tuple[Priority, ...] = ("stat", "routine", "low")  # the most urgent first
TIERS: tuple[Tier, ...] = get_args(Tier)


def tier(findings: Iterable[Finding]) -> Tier:
    """How confident the model is that the image shows something urgent.

    ``high``: an urgent finding is present. ``medium``: the model is unsure about one, present or not. ``low``: all
    else, so a segmentation too.
    """
    urgent = [finding for finding in findings if finding.urgent]
    if any(finding.positive and not finding.unsure for finding in urgent):
        return "high"
    return "medium" if any(finding.positive or finding.unsure for finding in urgent) else "low"


def raised_to(found: Tier, settings: Worklist) -> Priority:
    """The priority that a tier asks for; it counts only where it is higher than the image's own."""
    priorities: dict[Tier, Priority] = {
        "high": settings.high_confidence,
        "medium": settings.medium_confidence,
        "low": settings.low_confidence,
    }
    return priorities[found]


def most_urgent(priorities: Iterable[Priority]) -> Priority:
    return min(priorities, key=PRIORITIES.index)


def rank(priority: Priority, found: Tier = "low") -> int:
    """A place in the order, the smallest first: by priority, and among equals by tier. Without a result, ``low``."""
    return len(TIERS) * PRIORITIES.index(priority) + TIERS.index(found)


def raised(before: int, found: Tier, to: Priority) -> int:
    """The rank of an image that has a result, from the one that it had without; never a larger one."""
    priority, _ = of_rank(before)
    return min(before, rank(most_urgent((priority, to)), found))


def of_rank(number: int) -> tuple[Priority, Tier]:
    priority, found = divmod(number, len(TIERS))
    return PRIORITIES[priority], TIERS[found]

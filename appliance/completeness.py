"""Whether a series is complete, by evidence: counts, geometry, the end of the associations that brought it, and what
its modality says that it has performed.

Pure: it sees what headers and associations said, never a header, a clock or the ledger. Nothing proves that a series is
complete, but much proves that it is not yet: a count that is not reached, a gap between slices, an association that is
still open or broke off. Where nothing of that holds, the series is read at once. Where something does, it waits, until
nothing of it has come for a while; then it is read as it is, and what was missing is said.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import msgspec

# A sender that begins another association for the same series does so at once.
NEXT_ASSOCIATION_SECONDS = 0.5
ARRIVING = "its images are still arriving"
_SAME_MILLIMETERS = 0.01  # positions are decimal strings of at most 16 characters (PS3.5 section 6.2)
_SAME_DIRECTION = 1e-3
_NAMED = 3  # so many missing ones are named
_NOUNS = {
    "storage_scp": "the association", "drop_folder": "the batch of files", "stow": "the request",
    "upload": "the upload",
}  # fmt: skip


class Slice(msgspec.Struct, frozen=True):
    """What one image of a series says of its place in it; None where it doesn't say.

    Attributes
    ----------
    instance_number, acquisition_number
        (0020,0013) and (0020,0012).
    position
        Millimeters along the normal of the slice: Image Position (Patient) on the cross product of the rows' and the
        columns' direction (PS3.3 section C.7.6.2.1.1).
    normal
        The direction of that normal, of length 1.
    spacing_between_slices
        Millimeters, (0018,0088).
    images_in_acquisition, number_of_series_related_instances
        How many images it says there are: (0020,1002) of its acquisition, (0020,1209) of the series.
    """

    instance_number: int | None = None
    acquisition_number: int | None = None
    position: float | None = None
    normal: tuple[float, float, float] | None = None
    spacing_between_slices: float | None = None
    images_in_acquisition: int | None = None
    number_of_series_related_instances: int | None = None


@dataclass(frozen=True)
class Transfer:
    """An association, a request, or a batch of files in the drop folder, that brought ``images`` of a series.

    ``ended_at`` is None while it is open. ``ending``: ``released``, or ``aborted`` where it broke off.
    """

    source: str
    opened_at: float
    ended_at: float | None
    ending: str
    images: int


@dataclass(frozen=True)
class Performed:
    """What the modality's Performed Procedure Step says of a series (PS3.4 annex F.7).

    Attributes
    ----------
    status
        Performed Procedure Step Status (0040,0252): IN PROGRESS, COMPLETED or DISCONTINUED.
    images, missing
        How many images it names, and how many of them have not come.
    """

    status: str
    images: int
    missing: int

    @property
    def proves(self) -> bool:
        """Whether all is here that the modality has made and will make, be it all that was wanted or not."""
        return self.status != "IN PROGRESS" and self.images > 0 and self.missing == 0


@dataclass(frozen=True)
class Ready:
    """It is to be read; the reason is for the page.

    ``missing``: evidence that there are more images than these, which its result must say; empty where there is none.
    """

    reason: str
    missing: str = ""


@dataclass(frozen=True)
class Waiting:
    """It waits for what the reason says; ``look_again_at`` (seconds since 1970) it is judged again, at the latest."""

    reason: str
    look_again_at: float


def judge(
    slices: Sequence[Slice],
    transfers: Sequence[Transfer],
    last_arrival: float,
    now: float,
    quiet_seconds: float,
    performed: Performed | None = None,
) -> Ready | Waiting:
    """Whether a series is to be read now.

    Parameters
    ----------
    slices
        One for each image that is here.
    transfers
        Those that brought them.
    last_arrival, now
        Seconds since 1970.
    quiet_seconds
        After so long without a new image it is read, whatever is missing.
    performed
        None where the modality has said nothing.
    """
    quiet_at = last_arrival + quiet_seconds
    missing = lacking(slices)
    if performed is not None and performed.proves:  # nothing else is to come; something may be missed
        named = f"all {performed.images} images are here that its performed procedure step names"
        reason = f"{named}, which is {performed.status}{f' ({missing})' if missing else ''}"
        return Ready(reason, missing or _discontinued(performed))
    missing = _not_performed(performed) or missing
    counted = _states_counts(slices)
    still_open, broken_off = _still_open(transfers), "" if counted else _broken_off(transfers)
    obstacle = missing or still_open or broken_off or ("" if counted else _untold(slices, transfers))
    until = quiet_at
    if not obstacle and not counted:
        # Without a count, a sender that is only between two associations looks the same as one that has finished.
        ends = [each.ended_at or 0.0 for each in transfers if each.source in ("storage_scp", "stow")]
        until = min(max(ends, default=0.0) + NEXT_ASSOCIATION_SECONDS, quiet_at)
        obstacle = "its sender may go on" if now < until else ""
    if not obstacle:
        return Ready(f"{_described(slices)}, {_ended(transfers)}")
    if now >= quiet_at:
        may_lack = missing or ("" if counted else still_open) or broken_off
        return Ready(f"quiet for {now - last_arrival:.0f} s: {obstacle}", may_lack)
    return Waiting(f"{obstacle}: waiting until {datetime.fromtimestamp(until):%H:%M:%S}", until)


# --- evidence that something is missing: each a sentence, empty where there is none ---------------------------------


def lacking(slices: Sequence[Slice]) -> str:
    """What the images themselves say."""
    return _too_few(slices) or _gaps(slices) or _numbers(slices)


def _states_counts(slices: Sequence[Slice]) -> bool:
    """Whether every image states how many there are, so that a series that has as many is complete."""
    return all(
        each.number_of_series_related_instances is not None or each.images_in_acquisition is not None for each in slices
    )


def _too_few(slices: Sequence[Slice]) -> str:
    here, expected = len(slices), _largest(each.number_of_series_related_instances for each in slices)
    if expected is None:
        acquisitions: defaultdict[int | None, list[Slice]] = defaultdict(list)
        for each in slices:
            acquisitions[each.acquisition_number].append(each)
        expected = sum(
            max(_largest(each.images_in_acquisition for each in group) or 0, len(group))
            for group in acquisitions.values()
        )
    if here >= expected:
        return ""
    where = _gaps(slices)
    return f"says {expected} images, {here} {'is' if here == 1 else 'are'} here{f', {where}' if where else ''}"


def _not_performed(performed: Performed | None) -> str:
    if performed is not None and performed.missing:
        count = performed.missing
        have = "has" if count == 1 else "have"
        return f"its performed procedure step names {performed.images} images, {count} of them {have} not come"
    if performed is not None and performed.status == "IN PROGRESS":
        return "its performed procedure step is in progress"
    return ""


def _discontinued(performed: Performed) -> str:
    return "its performed procedure step was discontinued" if performed.status == "DISCONTINUED" else ""


def _gaps(slices: Sequence[Slice]) -> str:
    """Positions without an image, in each stack of parallel slices."""
    missing: list[str] = []
    for stack in _stacks(slices):
        places = _places(stack)
        spacing = _spacing(places, stack)
        if spacing is None:
            continue
        for (low, _), (high, _) in pairwise(places):
            steps = round((high - low) / spacing)
            missing += [f"{low + step * spacing:.1f}" for step in range(1, min(steps, 10_000))]
        if not missing and len({count for _, count in places}) > 1:
            most = max(count for _, count in places)
            place, count = next((place, count) for place, count in places if count < most)
            return f"{count} instead of {most} images at position {place:.1f} mm"
    if not missing:
        return ""
    named = f"position{'s' if len(missing) > 1 else ''} {', '.join(missing[:_NAMED])} mm"
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f"{named}{more} missing"


def _numbers(slices: Sequence[Slice]) -> str:
    """Instance numbers count from 1 in most series; one where they don't waits in vain, but not for long."""
    numbers = [each.instance_number for each in slices if each.instance_number is not None]
    if len(numbers) < len(slices) or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        return ""
    if min(numbers) > 1:
        return f"its lowest instance number is {min(numbers)}"
    lowest, have = min(numbers), set(numbers)
    absent = next((number for number in range(lowest, max(numbers)) if number not in have), None)
    if absent is None:
        return ""
    count = max(numbers) - lowest + 1 - len(numbers)
    return f"instance number {absent}{f' and {count - 1} more' if count > 1 else ''} missing"


def _still_open(transfers: Sequence[Transfer]) -> str:
    return next((f"{_noun(each)} is still open" for each in transfers if each.ended_at is None), "")


def _broken_off(transfers: Sequence[Transfer]) -> str:
    for each in transfers:
        # A sender that came back after the break has sent the rest.
        later = (other for other in transfers if other is not each and other.opened_at >= (each.ended_at or 0.0))
        if each.ended_at is not None and each.ending != "released" and not any(later):
            return f"{_noun(each)} broke off"
    return ""


def _untold(slices: Sequence[Slice], transfers: Sequence[Transfer]) -> str:
    """Without a count: an end after every single image tells nothing, and neither do slices without a position."""
    if len(transfers) > 1 and all(each.images == 1 for each in transfers):
        return "each image came on an association of its own, and it states no count"
    if len(slices) > 1 and any(each.position is None for each in slices):
        return "it states neither a count nor the position of each image"
    return ""


# --- geometry ---------------------------------------------------------------------------------------------------------


def _stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices with a position, by their direction."""
    stacks: list[list[Slice]] = []
    for each in slices:
        if each.position is None or each.normal is None:
            continue
        for stack in stacks:
            if math.dist(stack[0].normal or (), each.normal) < _SAME_DIRECTION:
                stack.append(each)
                break
        else:
            stacks.append([each])
    return stacks


def _places(stack: Sequence[Slice]) -> list[tuple[float, int]]:
    """Positions in ascending order, and how many images are at each."""
    places: list[tuple[float, int]] = []
    for position in sorted(each.position for each in stack if each.position is not None):
        if places and position - places[-1][0] < _SAME_MILLIMETERS:
            places[-1] = places[-1][0], places[-1][1] + 1
        else:
            places.append((position, 1))
    return places


def _spacing(places: Sequence[tuple[float, int]], stack: Sequence[Slice]) -> float | None:
    """Millimeters between neighbors: the least distance found, or the stated one where that is a whole part of it."""
    distances = [high - low for (low, _), (high, _) in pairwise(places)]
    if not distances:
        return None
    least = min(distances)
    stated = Counter(each.spacing_between_slices for each in stack if each.spacing_between_slices).most_common(1)
    if stated:
        parts = least / stated[0][0]
        if round(parts) >= 1 and abs(parts - round(parts)) < 0.02 * round(parts):
            return stated[0][0]
    return least


# --- what its result must say -----------------------------------------------------------------------------------------


def warnings(missing: str, apart: int, unread: int, earlier: int | None = None) -> tuple[str, ...]:
    """Sentences of a result for what may be missing in it, and for what it takes the place of.

    Parameters
    ----------
    missing
        As of `Ready`.
    apart
        How many images say that they are of the series, and were not read with it.
    unread
        How many of what came with the series could not be read at all, so that nothing says where they belong.
    earlier
        Of how many images an earlier result of the series was read: it is where this one goes, and can't be changed.
    """
    said = [f"Images of the series may be missing: {missing}."] if missing else []
    if apart:
        said.append(f"Images that say they are of the series were not read with it: {apart}.")
    if unread:
        said.append(f"Images that came with the series and may be of it could not be read: {unread}.")
    if earlier is not None:
        said.append(f"This takes the place of an earlier result of the series, which was read from {earlier} images.")
    return tuple(said)


# --- words ------------------------------------------------------------------------------------------------------------


def _described(slices: Sequence[Slice]) -> str:
    count = len(slices)
    stacks = _stacks(slices)
    known = sum(len(stack) for stack in stacks) == count
    words = f"{count} slice{'s' if count > 1 else ''}" if known else f"{count} image{'s' if count > 1 else ''}"
    if known and count > 1:
        words += " without a gap" if len(stacks) == 1 else f" in {len(stacks)} directions without a gap"
    return words + (", as many as it says" if _states_counts(slices) else "")


def _ended(transfers: Sequence[Transfer]) -> str:
    if not transfers:
        return "nothing more of it is on its way"
    last = max(transfers, key=lambda each: each.ended_at or 0.0)
    if last.source == "drop_folder":
        return "the drop folder is quiet"
    if last.ending != "released":
        return f"though {_noun(last)} broke off"
    return "association released" if last.source == "storage_scp" else f"{_noun(last)} has ended"


def _noun(transfer: Transfer) -> str:
    return _NOUNS[transfer.source]


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)

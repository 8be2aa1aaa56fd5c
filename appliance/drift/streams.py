"""What is watched: the streams, one value per study in each, and the bins that values are kept in.

A value is kept as the number of its bin. Bins are the same on every device and never depend on the data, so that ranks
among them, ties broken by chance, are as valid as ranks of the values themselves (`appliance.drift.martingale`).
What is missing is a value, too: the lowest bin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

VERSION = 1  # of the bins: references of another one can't be compared
MISSING = 0
MOST_CATEGORIES = 64  # of a stream; what is new beyond that is counted as one
OTHER = MOST_CATEGORIES + 1
OTHER_NAME = "other"
LONGEST_NAME = 64

Group = Literal["patient", "acquisition", "image", "embedding", "output", "operation"]
GROUPS: dict[Group, str] = {
    "patient": "Patients",
    "acquisition": "Acquisition",
    "image": "Image",
    "embedding": "What the network sees",
    "output": "What the network says",
    "operation": "Operation",
}
Value = float | str | None


@dataclass(frozen=True)
class Stream:
    """One thing that is watched.

    Attributes
    ----------
    title, unit
        For people: "Age", "years".
    edges
        Of a number: the inner edges between its bins, ascending. None of a category.
    quiet
        Why it never raises an alarm; '' where it may.
    """

    name: str
    group: Group
    title: str
    unit: str = ""
    edges: np.ndarray | None = field(default=None, repr=False)
    quiet: str = ""

    @property
    def numeric(self) -> bool:
        return self.edges is not None

    @property
    def bins(self) -> int:
        """How many bins there are, that of what is missing included."""
        return OTHER + 1 if self.edges is None else len(self.edges) + 2

    def bin(self, value: float | None) -> int:
        """The bin of a number; what is no finite number is missing."""
        if self.edges is None or value is None or not math.isfinite(value):
            return MISSING
        return 1 + int(np.searchsorted(self.edges, value, side="right"))

    def low(self, number: int) -> float:
        """The lower edge of a bin of numbers; minus infinity of the first."""
        assert self.edges is not None
        return -math.inf if number <= 1 else float(self.edges[number - 2])

    def middle(self, number: int) -> float:
        """A value that stands for a bin of numbers; NaN for what is missing."""
        assert self.edges is not None
        if number == MISSING:
            return math.nan
        low = self.edges[max(number - 2, 0)]
        high = self.edges[min(number - 1, len(self.edges) - 1)]
        return float((low + high) / 2)


def _even(low: float, high: float, count: int) -> np.ndarray:
    return np.linspace(low, high, count + 1)


def _geometric(low: float, high: float, count: int) -> np.ndarray:
    return np.geomspace(low, high, count + 1)


_BY_THE_CLOCK = "studies that follow each other come at about the same time of day"
_BY_THE_DEVICE = "how fast this device is says nothing about the images"
# Ages: months for infants, half years for children, years from then on.
_AGES = np.concatenate([np.arange(1, 24) / 12, np.arange(2, 18, 0.5), np.arange(18, 111)])

STREAMS: tuple[Stream, ...] = (
    Stream("age", "patient", "Age", "years", _AGES),
    Stream("sex", "patient", "Sex"),
    Stream("manufacturer", "acquisition", "Manufacturer"),
    Stream("model", "acquisition", "Scanner model"),
    Stream("detector", "acquisition", "Detector"),
    Stream("scanner", "acquisition", "Scanner", quiet="its parts are watched one by one"),
    Stream("kvp", "acquisition", "Tube voltage", "kV", _even(20, 160, 70)),
    Stream("exposure", "acquisition", "Exposure", "mAs", _geometric(0.05, 1000, 80)),
    Stream("pixel_spacing", "acquisition", "Pixel spacing", "mm", _geometric(0.03, 10, 120)),
    Stream("view", "acquisition", "View"),
    Stream("body_part", "acquisition", "Body part"),
    Stream("hour", "acquisition", "Time of day", "h", _even(0, 24, 24), quiet=_BY_THE_CLOCK),
    Stream("dark_quarter", "image", "Lower quartile of the levels", "of the range", _even(0, 1, 100)),
    Stream("median_level", "image", "Median level", "of the range", _even(0, 1, 100)),
    Stream("bright_quarter", "image", "Upper quartile of the levels", "of the range", _even(0, 1, 100)),
    Stream("levels", "image", "Gray levels used", "levels", _geometric(4, 65536, 112)),
    Stream("contrast", "image", "Contrast", "of the range", _even(0, 0.5, 100)),
    Stream("sharpness", "image", "Sharpness", "of the range per pixel", _geometric(1e-4, 0.5, 120)),
    Stream("noise", "image", "Noise", "of the range", _geometric(1e-5, 0.3, 120)),
    Stream("clipped_dark", "image", "Pixels at the lowest level", "of the image", _geometric(1e-5, 1, 60)),
    Stream("clipped_bright", "image", "Pixels at the highest level", "of the image", _geometric(1e-5, 1, 60)),
    Stream("collimation", "image", "Flat border", "of the image", _even(0, 1, 50)),
    Stream("aspect", "image", "Height by width", "", _geometric(0.2, 5, 100)),
    Stream("distance", "embedding", "Distance from the training images", "", _geometric(0.1, 50, 120)),
    Stream("novelty", "embedding", "Novelty to the network", "", _geometric(0.1, 50, 120)),
    Stream("score", "output", "Probability", "", _even(0, 1, 100)),
    Stream("entropy", "output", "Entropy of the answer", "bit", _even(0, 1, 100)),
    Stream("prediction_set", "output", "Answers in the prediction set"),
    Stream("unsure", "output", "The model is unsure"),
    Stream("positive", "output", "Positive"),
    Stream("outlined", "output", "Outlined", "of the image", _even(0, 1, 100)),
    Stream("outline_doubt", "output", "Uncertain part of the outline", "", _even(0, 1, 100)),
    Stream("seconds", "operation", "Time to the result", "s", _geometric(0.01, 600, 80), quiet=_BY_THE_DEVICE),
)
BY_NAME = {stream.name: stream for stream in STREAMS}
INDEX = {stream.name: number for number, stream in enumerate(STREAMS)}
MOST_BINS = max(stream.bins for stream in STREAMS)
NUMERIC = np.array([stream.numeric for stream in STREAMS])


def _weights() -> np.ndarray:
    """Each group that may raise an alarm has as much of the stake, each stream of it as much of that."""
    betting = [stream for stream in STREAMS if not stream.quiet]
    groups = {stream.group for stream in betting}
    return np.array(
        [
            0.0 if stream.quiet else 1 / len(groups) / sum(other.group == stream.group for other in betting)
            for stream in STREAMS
        ]
    )


# Fixed before any data are seen: a mean of martingales with such weights is one itself.
WEIGHTS = _weights()


def category(text: str) -> str | None:
    """A header's words as the name of a category, None where there are none."""
    name = " ".join(text.split())[:LONGEST_NAME]
    return name or None


class Categories:
    """The names of the categories that were seen, by stream; their numbers never change.

    Parameters
    ----------
    known
        stream -> name -> number from 1 on.
    """

    def __init__(self, known: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._known = {stream: dict(names) for stream, names in (known or {}).items()}

    def number(self, stream: str, name: str | None) -> tuple[int, bool]:
        """Of a category, and whether it was seen for the first time; `OTHER` where a stream has too many."""
        if name is None:
            return MISSING, False
        names = self._known.setdefault(stream, {})
        if name in names:
            return names[name], False
        if len(names) >= MOST_CATEGORIES:
            return OTHER, False
        names[name] = len(names) + 1
        return names[name], True

    def name(self, stream: str, number: int) -> str:
        """For people."""
        if number == MISSING:
            return "not stated"
        found = (name for name, each in self._known.get(stream, {}).items() if each == number)
        return next(found, OTHER_NAME)

    def names(self, stream: str) -> dict[str, int]:
        return dict(self._known.get(stream, {}))

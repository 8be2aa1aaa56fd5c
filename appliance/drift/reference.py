"""What is usual: how often each value of each stream occurred, in a package's calibration or while a site was learned.

In a package it is an npz: for each target ``<target>/<stream>``, the counts of its bins, of a category that of what is
missing first and then those of ``<target>/<stream>/names``; and `appliance.drift.measure.Space` as ``<target>/mean``,
``<target>/axes`` and ``<target>/rest``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from appliance.drift.streams import BY_NAME, INDEX, MOST_BINS, STREAMS, Categories, Value

Counts = dict[str, "np.ndarray | dict[str, int]"]


@dataclass(frozen=True)
class Reference:
    """Counts by stream: of a number ``(bins,)``, of a category by name, '' being what is missing.

    Streams of which nothing is known are not there.
    """

    counts: Counts = field(repr=False)

    @property
    def studies(self) -> int:
        return max((_total(each) for each in self.counts.values()), default=0)

    def matrix(self, categories: Categories) -> np.ndarray:
        """int64 ``(streams, MOST_BINS)``, categories by their numbers, which new names are given."""
        found = np.zeros((len(STREAMS), MOST_BINS), np.int64)
        for name, counts in self.counts.items():
            row = found[INDEX[name]]
            if isinstance(counts, dict):
                for each, count in sorted(counts.items()):
                    number, _ = categories.number(name, each or None)
                    row[number] += count
            else:
                row[: len(counts)] = counts
        return found

    def streams(self) -> np.ndarray:
        """bool ``(streams,)``: of which something is known."""
        return np.array([stream.name in self.counts for stream in STREAMS])

    def arrays(self, target: str) -> dict[str, np.ndarray]:
        """For a package."""
        found: dict[str, np.ndarray] = {}
        for name, counts in self.counts.items():
            if isinstance(counts, dict):
                names = sorted(set(counts) - {""})
                found[f"{target}/{name}"] = np.array([counts.get("", 0), *map(counts.__getitem__, names)], np.int32)
                found[f"{target}/{name}/names"] = np.array(names, "U64")
            else:
                found[f"{target}/{name}"] = counts.astype(np.int32)
        return found


def _total(counts: np.ndarray | dict[str, int]) -> int:
    return sum(counts.values()) if isinstance(counts, dict) else int(counts.sum())


def gather(studies: Iterable[Mapping[str, Value]], streams: Iterable[str]) -> Reference:
    """From the values of many studies."""
    counts: Counts = {name: np.zeros(BY_NAME[name].bins, np.int64) if BY_NAME[name].numeric else {} for name in streams}
    for values in studies:
        for name, row in counts.items():
            value = values.get(name)
            if isinstance(row, dict):
                key = str(value) if value is not None else ""
                row[key] = row.get(key, 0) + 1
            else:
                row[BY_NAME[name].bin(value if not isinstance(value, str) else None)] += 1
    return Reference(counts)


def from_arrays(arrays: Mapping[str, np.ndarray], target: str) -> Reference | None:
    """Of a package's file; None where it has none for the target. Streams that are not known here are left out."""
    found: Counts = {}
    for stream in STREAMS:
        counts = arrays.get(f"{target}/{stream.name}")
        if counts is None:
            continue
        if stream.numeric:
            if counts.shape == (stream.bins,):
                found[stream.name] = counts.astype(np.int64)
            continue
        names = arrays[f"{target}/{stream.name}/names"]
        found[stream.name] = {
            str(name): int(count) for name, count in zip(["", *names.tolist()], counts.tolist(), strict=True) if count
        }
    return Reference(found) if found else None

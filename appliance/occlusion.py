"""Which part of an image the model's answer hangs on: parts are covered in gray, and the model is asked again.

Occlusion sensitivity (Zeiler & Fergus, ECCV 2014). It says what this model reacts to, not where a disease is; a covered
image is one that no training showed. The only copy: training imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from appliance.result import rounded_percent

GRID = 6  # patches a side of the fine map
NEGLIGIBLE = 0.05  # a change of the probability below this is called little
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Occlusion:
    """Calibrated probabilities of one finding.

    Attributes
    ----------
    whole
        Of the image as it is.
    thirds
        ``(3, 3)``: with that ninth of the image covered, rows from the top, columns from the image's left.
    patches
        ``(GRID, GRID)``: the same of small patches.
    """

    whole: float
    thirds: np.ndarray
    patches: np.ndarray


def occlude(tensor: np.ndarray, probability: Callable[[np.ndarray], float]) -> Occlusion:
    """Cover a preprocessed image part by part: 1 + 9 + 36 runs.

    Parameters
    ----------
    tensor
        float32 ``(1, channels, rows, columns)``, the network's input. What is covered gets this image's mean.
    probability
        Runs the network on such a tensor.
    """
    return Occlusion(probability(tensor), _covered(tensor, 3, probability), _covered(tensor, GRID, probability))


def _covered(tensor: np.ndarray, parts: int, probability: Callable[[np.ndarray], float]) -> np.ndarray:
    rows, columns = (np.linspace(0, size, parts + 1).round().astype(int) for size in tensor.shape[2:])
    found = np.empty((parts, parts))
    gray = tensor.mean()
    for row in range(parts):
        for column in range(parts):
            covered = tensor.copy()
            covered[:, :, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = gray
            found[row, column] = probability(covered)
    return found


def region(row: int, column: int) -> str:
    """A ninth of the image in words, as a person sees it on the screen."""
    return "center" if (row, column) == (1, 1) else f"{_ROWS[row]} {_COLUMNS[column]}"


def patient_side(column: int, at_left: Literal["R", "L"]) -> str:
    """The same column in the patient's own terms, where ``at_left`` is the side that lies at the image's left."""
    sides = ("right", "middle", "left") if at_left == "R" else ("left", "middle", "right")
    return sides[column]


def sentence(found: Occlusion, finding: str, threshold: float, at_left: Literal["R", "L"] | None) -> str:
    """What covering did, in plain words.

    Parameters
    ----------
    at_left
        The patient's side at the image's left, None where there is none or it is not known: then only the image's own
        left and right are named.
    """
    change = found.thirds - found.whole
    order = np.argsort(-np.abs(change), axis=None)
    largest = float(np.abs(change).max())
    about = f"the probability of {finding.lower()}"
    if largest < NEGLIGIBLE:
        return (
            f"Covering any ninth of the image changes {about}, {rounded_percent(found.whole)}, by {_points(largest)} "
            "at most: it hangs on no single region."
        )
    telling = [
        divmod(int(at), 3) for at in order if abs(change.flat[at]) >= max(largest / 2, NEGLIGIBLE)
    ]  # the strongest first
    named = telling[:_MOST_NAMED]
    said = [_effect(found, place, threshold, at_left) for place in named]
    (where, side, verb, to), *rest = said
    first = f"Covering the {where} of the image{side} {verb} {about} from {rounded_percent(found.whole)} to {to}"
    others = [f"covering the {where}{side} {verb} it to {to}" for where, side, verb, to in rest]
    elsewhere = max(abs(float(change[place])) for place in np.ndindex(3, 3) if place not in named)
    others.append(f"covering elsewhere changes it by {_points(elsewhere)} at most")
    return f"{first}; {', '.join(others[:-1])}{', and ' if len(others) > 1 else ''}{others[-1]}."


def _effect(
    found: Occlusion, place: tuple[int, int], threshold: float, at_left: Literal["R", "L"] | None
) -> tuple[str, str, str, str]:
    """Where in the image, in the patient's terms, what it does, and to which probability."""
    after = float(found.thirds[place])
    side = f" (the patient's {patient_side(place[1], at_left)})" if at_left and place[1] != 1 else ""
    crossed = (after >= threshold) != (found.whole >= threshold)
    limit = (
        f", {'above' if after >= threshold else 'below'} the threshold of {rounded_percent(threshold)}"
        if crossed
        else ""
    )
    return region(*place), side, "raises" if after > found.whole else "lowers", f"{rounded_percent(after)}{limit}"


def to_dict(found: Occlusion, at_left: Literal["R", "L"] | None) -> dict[str, Any]:
    """Figures for a program: the probability of the whole image, and of each region covered, the strongest first."""
    change = found.thirds - found.whole
    regions = [
        {
            "region": region(row, column),
            "patient_side": patient_side(column, at_left) if at_left else None,
            "probability": round(float(found.thirds[row, column]), 4),
            "change": round(float(change[row, column]), 4),
        }
        for row, column in (divmod(int(at), 3) for at in np.argsort(-np.abs(change), axis=None))
    ]
    return {
        "probability": round(found.whole, 4), "regions": regions, "patches": np.round(found.patches, 4).tolist()
    }  # fmt: skip


def _points(change: float) -> str:
    points = round(change * 100)
    return "less than one point" if change < 0.005 else f"{points} point{'' if points == 1 else 's'}"

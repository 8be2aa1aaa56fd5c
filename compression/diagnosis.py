"""What a training's log says, in plain words: too little learned, too much, a class ignored, a loss that jumped.

Rules of thumb, each with its limit beside it; they tell where to look, and prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

Log = Sequence[dict[str, Any]]

_BARELY_FELL = 0.9  # of the first epoch's loss
_POOR_SCORE = 0.8  # of at most 1: an area under the curve, a Dice coefficient
_ROSE = 1.1  # times the least validation loss
_SCORE_LOST = 0.02  # from the best epoch, where there is no validation loss
_IGNORED, _FOUND = 0.3, 0.7  # recall of one class, or Dice coefficient of one segment, while another's is
_GAIN, _FLAT = 0.005, 0.002  # of the score, in the last third; in the last half
_WOBBLE = 1.2  # times the loss of the epoch before
# What a task says of a class that it finds too little of (`compression.task.Task`).
CLASS_IGNORED = (
    "Class {name} is ignored: {value:.0%} of it is found, of others up to {best:.0%}. Try "
    'sampling = "balanced", loss = "focal", a higher missed_cost if it is the finding, or more images of it.'
)
SEGMENT_IGNORED = (
    "Segment {name} is hardly drawn: its Dice coefficient is {value:.2f}, that of others up to {best:.2f}. See "
    "whether its masks are right; try more cases that show it, or a finer grid (input.shape) where it is small."
)


def sentences(log: Log, epochs: int, measure: str, ignored: str) -> list[str]:
    """What happened, then what looks wrong and what to try.

    Parameters
    ----------
    log
        As `compression.loop.fit` returns it.
    epochs
        How many were planned.
    measure, ignored
        The words of the task, see `compression.task.Task`.
    """
    log = [entry for entry in log if entry["loss"] is not None]
    if not log:
        return ["Not one step was learned from."]
    best = max(log, key=lambda entry: entry["score"])
    early = f"; it ended {epochs - log[-1]['epoch']} epochs early" if log[-1]["epoch"] < epochs else ""
    said = [
        f"The loss went from {log[0]['loss']:.3g} to {log[-1]['loss']:.3g} in {log[-1]['epoch']} epochs; {measure} is "
        f"{best['score']:.4f} at best, in epoch {best['epoch']}{early}."
    ]
    found = [
        *_underfit(log, best, measure),
        *_overfit(log, best, measure),
        *_ignored(best, log[-1], ignored),
        *_too_fast(log),
    ]
    found += _at_the_end(log, best, epochs, measure) if not found else []
    return [*said, *found, *_faults(log)]


def _underfit(log: Log, best: dict[str, Any], measure: str) -> list[str]:
    if len(log) < 2 or min(entry["loss"] for entry in log) < _BARELY_FELL * log[0]["loss"]:
        return []
    if best["score"] >= _POOR_SCORE:
        return []
    return [
        f"Underfit: it hardly learns its own training data, and {measure} stays at {best['score']:.2f}. Try a higher "
        "learning rate, more epochs, a larger network or milder augmentation; see whether the labels fit the images."
    ]


def _overfit(log: Log, best: dict[str, Any], measure: str) -> list[str]:
    losses: list[float] = [entry["validation_loss"] for entry in log if "validation_loss" in entry]
    if len(losses) == len(log):
        least = min(range(len(log)), key=lambda at: losses[at])
        worse = losses[-1] > _ROSE * losses[least]
        how = f"the validation loss rose from {losses[least]:.3g} to {losses[-1]:.3g}"
    else:
        least = list(log).index(best)
        worse = log[-1]["score"] < best["score"] - _SCORE_LOST
        how = f"{measure} fell from {best['score']:.3f} to {log[-1]['score']:.3f}"
    if not worse or len(log) - 1 - least < 2 or log[-1]["loss"] >= log[least]["loss"]:
        return []
    return [
        f"Overfit since epoch {log[least]['epoch'] + 1}: the training loss went on falling while {how}. Try more data, "
        'stronger augmentation, more dropout or weight decay, or fewer epochs; keep = "best" takes the best epoch.'
    ]


def _ignored(best: dict[str, Any], last: dict[str, Any], words: str) -> list[str]:
    """Of the best and of the last epoch, since either may go on."""
    recall = {name: max(value, last["recall"][name]) for name, value in best.get("recall", {}).items()}
    most = max(recall.values(), default=0.0)
    if most < _FOUND:
        return []
    return [words.format(name=name, value=value, best=most) for name, value in recall.items() if value < _IGNORED]


def _too_fast(log: Log) -> list[str]:
    rises = sum(b["loss"] > _WOBBLE * a["loss"] for a, b in pairwise(log))
    back = any("went back" in event["done"] for event in _events(log))
    if not back and (rises < 2 or rises < (len(log) - 1) / 3):
        return []
    why = "it had to be halved" if back else f"the training loss rose sharply after {rises} of {len(log) - 1} epochs"
    return [f"The learning rate looks too high: {why}. Try a third of it, or clip = 1.0."]


def _at_the_end(log: Log, best: dict[str, Any], epochs: int, measure: str) -> list[str]:
    if len(log) < 2:
        return []
    third, half = max(len(log) // 3, 1), len(log) // 2
    gained = best["score"] - max(entry["score"] for entry in log[:-third])
    if best is log[-1] and gained > _GAIN and log[-1]["epoch"] == epochs:
        return [f"Still improving at the end: {measure} gained {gained:.3f} in the last third. More epochs may help."]
    if len(log) >= 5 and best["score"] - max(entry["score"] for entry in log[:-half]) <= _FLAT:
        within = next(entry for entry in log if entry["score"] >= best["score"] - _FLAT)
        return [f"Plateau since epoch {within['epoch']}: {measure} gained no more. Fewer epochs would do as well."]
    return []


def _events(log: Log) -> list[dict[str, Any]]:
    return [event for entry in log for event in entry.get("events", [])]


def _faults(log: Log) -> list[str]:
    events = _events(log)
    skipped = [event for event in events if event["done"] == "step skipped"]
    said = []
    if skipped:
        first = skipped[0]
        said.append(
            f"{len(skipped)} {'step was' if len(skipped) == 1 else 'steps were'} skipped and not learned from; the "
            f"first in epoch {first['epoch']}, step {first['step']}: {first['fault']}."
        )
    said += [
        f"In epoch {event['epoch']}, {event['fault']}: it {event['done']}." for event in events if event not in skipped
    ]
    return said


def of_pruning(name: str, before: nn.Module, after: nn.Module, round_to: int) -> list[str]:
    """What to say before a pruned network is fine-tuned: that it is none, where no channel was taken out."""
    sizes = [sum(each.numel() for each in network.parameters()) for network in (before, after)]
    if sizes[0] != sizes[1]:
        return []
    return [
        f"warning: {name} has lost no channel, and is fine-tuned all the same: its ratio is less than {round_to} "
        "channels of each layer; lower prune.round_to, or raise the ratio"
    ]

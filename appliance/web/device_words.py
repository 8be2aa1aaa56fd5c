"""Words of the device page."""

from __future__ import annotations

from typing import Any

_PROCESSORS = ("cpu",)


def answer_on_acceleration(health: dict[str, Any]) -> list[str]:
    """Is it using the accelerator? A sentence for each package that is read with, and why others don't serve."""
    worker = health["components"].get("worker", {})
    told = []
    for each in [worker, *worker.get("beside", ())]:
        if not each.get("package"):
            continue
        receipt = each["receipt"]
        on_processor = str(each["device"]).lower().startswith(_PROCESSORS)
        agreed = (
            f"smallest Dice coefficient {receipt['min_dice']:.4f}"
            if isinstance(receipt.get("min_dice"), float)
            else f"largest difference of a probability {receipt['max_abs_dp']:.1g}"
        )
        made_at = receipt["made_at"].replace("T", " ")[:16]
        told.append(
            f"{'No GPU or NPU: ' if on_processor else 'Yes: '}{each['package']['id']} {each['package']['version']} "
            f"runs on {receipt['cpu'] if on_processor else each['device']} by {each['backend']}, proved {made_at} "
            f"against {receipt['count']} golden vectors, {agreed}."
        )
    return told

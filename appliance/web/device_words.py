"""Words of the device page."""

from __future__ import annotations

from typing import Any

from appliance.web.formats import number, proved, significant
from appliance.web.language import gettext as _

_PROCESSORS = ("cpu",)


def trials(health: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each backend on each package; why one is not used is said once, for all ``packages`` of which it is so."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for place, each in enumerate(health["components"].get("worker", {}).get("trials") or ()):
        unused = each["seconds"] is None and each["progress"] is None
        key = (each["backend"], each["reason"]) if unused else (each["backend"], str(place))
        found.setdefault(key, {**each, "packages": []})["packages"].append(each["package"])
    return sorted(found.values(), key=lambda each: each["seconds"] is None and each["progress"] is None)


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
            _("smallest Dice coefficient %(value)s", value=number(receipt["min_dice"], 4))
            if isinstance(receipt.get("min_dice"), float)
            else _("largest difference of a probability %(value)s", value=significant(receipt["max_abs_dp"], 1))
        )
        runs = _(
            "%(package)s runs on %(device)s by %(backend)s, proved %(at)s against %(count)s golden vectors, "
            "%(agreed)s.",
            package=f"{each['package']['id']} {each['package']['version']}",
            device=receipt["cpu"] if on_processor else each["device"],
            backend=each["backend"],
            at=proved(receipt["made_at"]),
            count=receipt["count"],
            agreed=agreed,
        )
        told.append((_("No GPU or NPU:") if on_processor else _("Yes:")) + " " + runs)
    return told

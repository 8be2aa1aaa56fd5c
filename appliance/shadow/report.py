"""What a shadow has shown, as text, JSON, and one HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from appliance import pages
from appliance.config import Config
from appliance.errors import ApplianceError, PackageError
from appliance.installed import with_sha256
from appliance.package import Promotion
from appliance.shadow.comparison import Compared, Criterion, compare, criteria
from appliance.shadow.store import ShadowStore


class Report(msgspec.Struct, frozen=True):
    """One shadow: what it is, what was counted, and which criteria it meets.

    ``named`` says whether the criteria are the package's own, and not those that hold where it names none.
    """

    shadow: dict[str, Any]
    compared: Compared
    criteria: list[Criterion]
    named: bool

    @property
    def met(self) -> bool:
        return all(each.met for each in self.criteria)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(self), "met": self.met}), indent=1)


def make(config: Config, store: ShadowStore, number: int | None = None) -> Report:
    """Of the latest shadow, or of one by its number; raises `ApplianceError` where there is none."""
    shadows = store.shadows()
    found = next((each for each in shadows if number in (None, each["id"])), None)
    if found is None:
        raise ApplianceError("no package has read in shadow here", hint="scanside shadow start FILE --why ...")
    try:
        manifest = with_sha256(config, found["sha256"], f"{found['model']} {found['version']}").manifest
        named = manifest.promotion
    except PackageError:  # its file is gone; what it has shown stays
        named = None
    compared = compare(store, found["id"])
    return Report(found, compared, criteria(compared, named or Promotion()), named is not None)


def text(report: Report) -> Iterator[str]:
    """For the command line."""
    shadow, compared = report.shadow, report.compared
    state = f"ended: {shadow['outcome']}" if shadow["ended_at"] else "reads"
    yield f"{shadow['model']} {shadow['version']} in shadow since {moment(shadow['began_at'])}, {state}"
    yield f"{compared.images} images, {compared.failures} of them without an answer, or still being read"
    for label, one in compared.findings.items():
        yield f"{label}"
        yield f"  agreement    {_interval(one.agreement)}, kappa {one.kappa:.2f}"
        alone = f"only the former {one.only_former}, only the shadow {one.only_shadow}"
        yield f"  positive     {alone}; {p_value(one.p_positive)} (McNemar)"
        mean, deviation, largest = one.score_difference
        yield f"  probability  {mean:+.3f} on average, SD {deviation:.3f}, at most {largest:.3f} apart"
        present, absent = f"of {one.present_patients} patients", f"of {one.absent_patients}"
        yield f"  truth        readers say present on {one.present} images {present}, absent on {one.absent} {absent}"
        for name, rate in (("sensitivity", one.sensitivity), ("specificity", one.specificity)):
            if rate is not None:
                yield f"  {name}  {rate[0]:.1%} -> {rate[1]:.1%}, {_signed(rate[2])}"
        if one.auc is not None:
            former, new, gap = one.auc
            interval = f"{gap[0]:+.3f} ({gap[1]:+.3f} to {gap[2]:+.3f})"
            yield f"  AUC          {former:.3f} -> {new:.3f}, {interval}, {p_value(gap[3])} (DeLong)"
    for label, segment in compared.segments.items():
        yield f"{label}: the same size within 10 % on {_interval(segment.agreement)}, median ratio {segment.ratio:.3f}"
    if compared.images:
        middle, slow, new_middle, new_slow = (1000 * each for each in compared.seconds)
        yield f"network: median {middle:.0f} -> {new_middle:.0f} ms, 95 % below {slow:.0f} -> {new_slow:.0f} ms"
    yield "criteria of the package" if report.named else "criteria (the package names none; these hold then)"
    for each in report.criteria:
        yield f"  {'met    ' if each.met else 'NOT MET'}  {each.what}: {each.found} ({each.needed})"


def html(report: Report) -> str:
    """One page without anything from elsewhere."""
    return pages.render("shadow.html", report=report, moment=moment, p_value=p_value)


def moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else ""


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _interval(given: tuple[float, float, float]) -> str:
    return f"{given[0]:.1%} ({given[1]:.1%} to {given[2]:.1%})"


def _signed(given: tuple[float, float, float]) -> str:
    return f"{given[0]:+.1%} ({given[1]:+.1%} to {given[2]:+.1%})"

"""Cases that no later package may lose: results of this site that are replayed before another package reads.

What is expected of a case is what readers said of it, and otherwise what its result said when it was added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from appliance.assessment_store import Assessments
from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.in_service import Tried
from appliance.package_store import PackageStore
from appliance.pipeline import Pipeline, Stopwatch
from appliance.replay import sources
from appliance.result import SAME_SIZE, Finding, Outlines, Prediction
from appliance.sandbox import Sandbox
from appliance.store import Store
from appliance.truth import word_of_reader


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``findings``: label -> present | absent; ``segments``: label -> voxels of the source."""

    findings: dict[str, str] = {}
    segments: dict[str, int] = {}

    def lost(self, said: Prediction) -> Iterator[str]:
        """What a prediction does not say as it should, in words."""
        now = {finding.label: finding.reported_as for finding in said.findings}
        for label, wanted in self.findings.items():
            if now.get(label) != wanted:
                yield f"{label} is {now.get(label, 'not looked for')}, not {wanted}"
        drawn = {segment.label: segment.voxels for segment in said.segments}
        for label, voxels in self.segments.items():
            change = abs(drawn.get(label, 0) - voxels) / max(voxels, 1)
            if change > SAME_SIZE:
                yield f"{label} has {drawn.get(label, 0):,} voxels, not {voxels:,}"


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image that regressed, or could not be replayed, and how."""

    instance_id: int
    how: str


class Replayed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many ``cases`` were to be replayed on a package; what regressed or could not be replayed is ``lost``."""

    cases: int
    lost: tuple[Case, ...] = ()

    def in_words(self) -> str:
        if not self.cases:
            return "no case is kept that must not regress"
        return f"{self.cases - len(self.lost)} of {self.cases} cases that must not regress are as they were"


def add(config: Config, store: PackageStore, instance_id: int, by: str, why: str) -> list[str]:
    """Keep a result as a case, for the models that made it; which ones. Retention leaves its images alone from then on.

    Raises
    ------
    ApplianceError
        There is no such result, its images are gone, or nothing clear is said in it.
    """
    ledger = Store(config.ledger_path, read_only=True)
    row = ledger.instance(instance_id)
    if row is None or row["provenance"] is None:
        raise ApplianceError(f"image {instance_id} has no result", hint="name the image that stands for its series")
    list(sources(config, ledger.members(instance_id) or [row]))
    found = {row["provenance"]["package"]: Expected(findings=_findings(config, row))}
    outlines = msgspec.convert(row["outlines"], Outlines | None)
    if outlines is not None:
        model, sizes = outlines.provenance.package, {each.label: each.voxels for each in outlines.segments}
        found[model] = Expected(found.get(model, Expected()).findings, sizes)
    found = {model: each for model, each in found.items() if each.findings or each.segments}
    if not found:
        raise ApplianceError(f"the result of image {instance_id} says nothing for sure", hint="assess it first")
    for model, expected in found.items():
        store.add_case(model, instance_id, expected, by, why)
    return sorted(found)


def _findings(config: Config, row: dict[str, object]) -> dict[str, str]:
    said: dict[str, str] = {
        each.label: each.reported_as for each in msgspec.convert(row["findings"], tuple[Finding, ...])
    }
    for each in Assessments(config.ledger_path, read_only=True).of_instance(int(str(row["id"]))):
        if each["superseded_by"] is None and each["subject"] == "finding":
            said[each["label"]] = word_of_reader(each) or "indeterminate"
    return {label: word for label, word in said.items() if word != "indeterminate"}


def replay(config: Config, tried: Tried, cases: Sequence[dict[str, object]]) -> Replayed:
    """Read the images of cases once more, by a package that has its receipts.

    A case whose images can't be read any more counts as lost: nobody knows what becomes of it.
    """
    if not cases:
        return Replayed(0)
    opened = Pipeline.open(config, [tried], "")
    sandbox, ledger = Sandbox(config.sandbox), Store(config.ledger_path, read_only=True)
    lost = []
    try:
        for case in cases:
            number = int(str(case["instance_id"]))
            try:
                row = ledger.instance(number)
                paths = list(sources(config, ledger.members(number) or [row] if row else []))
                watch = Stopwatch()
                headers = [sandbox.read_header(path) for path in paths]
                said = opened.infer(opened.prepare(paths, headers, watch, sandbox), watch).prediction
            except ApplianceError as error:
                lost.append(Case(number, f"It can't be replayed: {error.message}"))
                continue
            expected = msgspec.convert(case["expected"], Expected)
            if words := "; ".join(expected.lost(said)):
                lost.append(Case(number, words))
    finally:
        sandbox.close()
        opened.close()
    return Replayed(len(cases), tuple(lost))

"""Judges of result objects: dicom3tools, dcmtk, PixelMed, and the rows of AI Results that none of them looks for."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydicom import Dataset

from tests.peers import needs

# The wrapper of Debian's package fails on Java 17, which by default allows no expressions as long as PixelMed's.
_PIXELMED = [
    "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xss16m", "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0", "-Djdk.xml.xpathExprGrpLimit=0", "-cp", "/usr/share/java/pixelmed.jar",
    "com.pixelmed.validate.DicomSRValidator",
]  # fmt: skip


def dciodvfy(path: Path) -> list[str]:
    """The errors it finds. It may find one and still return 0."""
    verdict = subprocess.run([needs("dciodvfy"), "-new", path], capture_output=True, text=True, errors="replace")
    errors = re.findall("^Error.*", verdict.stderr, re.MULTILINE)
    return errors or ([verdict.stderr] if verdict.returncode else [])


def dsrdump(path: Path) -> list[str]:
    """What it says besides dumping; not of character sets and names, since it knows few, and they are the source's."""
    verdict = subprocess.run([needs("dsrdump"), path], capture_output=True, text=True, errors="replace")
    said = [
        line for line in verdict.stderr.splitlines() if not re.search("VR checker|SpecificCharacterSet|Type PN", line)
    ]
    return said or ([f"returned {verdict.returncode}"] if verdict.returncode else [])


def dcmpschk(path: Path) -> list[str]:
    """Its complaints; not of names, which are the source's: it knows no UTF-8, and takes no name for an error."""
    said = subprocess.run([needs("dcmpschk"), path], capture_output=True, text=True, errors="replace").stderr
    assert "Test passed" in said or "Test failed" in said, said
    faults = [line for line in said.splitlines() if re.search("Affected attribute|absent|missing", line)]
    return [line for line in faults if not re.search("atientName|Type PN", line)]


def pixelmed(paths: Sequence[Path]) -> list[list[str]]:
    """The errors that PixelMed finds in structured reports, of each; it takes seconds of one core for each."""
    needs("DicomSRValidator")
    java = needs("java")

    def judge(path: Path) -> list[str]:
        verdict = subprocess.run([java, *_PIXELMED, str(path)], capture_output=True, text=True, errors="replace")
        said = verdict.stdout + verdict.stderr
        assert "IOD validation complete" in said, said
        return re.findall("^Error.*", said, re.MULTILINE)

    with ThreadPoolExecutor(2) as two:
        return list(two.map(judge, paths))


def air(report: Dataset) -> list[str]:
    """What IHE's AI Results demands of a TID 1500 report and is not there."""
    faults = []
    if report.SOPClassUID != "1.2.840.10008.5.1.4.1.1.88.34":
        faults.append("no Comprehensive 3D SR")
    root = _children(report)
    for code, what in (("121049", "language"), ("121005", "observer type"), ("121012", "device observer UID"),
                       ("121058", "procedure reported"), ("126010", "imaging measurements")):  # fmt: skip
        if code not in root:
            faults.append(f"no {what}")
    known = {
        (series.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    uids = []
    groups = root.get("126010", [Dataset()])[0].get("ContentSequence", [])
    for number, group in enumerate(groups, 1):
        rows = _children(group)
        for code, what in (("112039", "tracking identifier"), ("112040", "tracking UID"), ("121071", "finding"),
                           ("111001", "algorithm name"), ("111003", "algorithm version")):  # fmt: skip
            if len(rows.get(code, [])) != 1:
                faults.append(f"group {number}: {len(rows.get(code, []))} of {what}")
        uids += [item.UID for item in rows.get("112040", [])]
        images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
        if not images:
            faults.append(f"group {number}: refers to no image")
        for image in images:
            uid = image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            if uid not in {each for _, each in known}:
                faults.append(f"group {number}: {uid} is no evidence")
    if not groups:
        faults.append("no measurement group")
    if len(set(uids)) != len(uids):
        faults.append("one tracking UID for two groups")
    return faults


def _children(item: Dataset) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = {}
    for child in item.get("ContentSequence", []):
        found.setdefault(child.ConceptNameCodeSequence[0].CodeValue, []).append(child)
    return found


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item."""
    yield item
    for child in item.get("ContentSequence", []):
        yield from walk(child)

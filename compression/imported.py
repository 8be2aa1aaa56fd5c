"""What ``check-data`` says of a data set that ``import`` made: whether it is still the same, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path

from compression.problems import DataError, Problem, add

REPORT = "import.json"


def check(folder: Path, name: str, version: str, problems: list[Problem]) -> None:
    """Hold a data set against its ``import.json``, where it has one.

    Parameters
    ----------
    name
        What the set is called in the problems.
    version
        Its `compression.content.content_version` now.

    Raises
    ------
    DataError
        The report can't be read.
    """
    path = folder / REPORT
    if not path.is_file():
        return
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        content, skipped, agreement = (report[key] for key in ("content", "skipped", "identified_by_agreement"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read as the report of an import; import the data again") from error
    if content != version:
        hint = "if that was meant, remove import.json, which no longer tells what is there; else import it again"
        add(problems, "warning", name, "files that changed since they were imported", [], hint, count=1)
    for kind, each in skipped.items():
        add(problems, "note", name, f"left out by the import: {kind}", each, "is what is left a fair sample?")
    if agreement:
        hint = "keep it apart, and say so to whoever gets it"
        add(problems, "warning", name, "identifying DICOM, imported by agreement", [str(agreement)], hint)

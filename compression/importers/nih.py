"""The layout of NIH's ChestX-ray14: ``Data_Entry_2017.csv`` and PNG files in ``images*/`` folders.

Its Finding Labels hold several findings joined by ``|``; they were text-mined from reports (Wang et al., CVPR 2017).
"""

from __future__ import annotations

import re
from pathlib import Path

from compression import tables
from compression.importing import Case, Faults, Options
from compression.problems import DataError

_LISTS = "Data_Entry_2017*.csv"  # and the corrected _v2020
_NO_FINDING = "No Finding"
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
# The official split: one file name a line.
_SPLIT_FILES = {"train": "train_val_list*.txt", "test": "test_list*.txt"}
_RENAMED = {
    "Patient Gender": "sex",
    "Patient Sex": "sex",
    "View Position": "view",
    "OriginalImage[Width": "original_width",
    "Height]": "original_height",
    "Follow-up #": "follow_up",
}


class NihImporter:
    """The wanted finding becomes the label; images without it are called ``No Finding``, others as the options say."""

    layout = "nih"
    about = "NIH ChestX-ray14: Data_Entry_2017.csv and images*/; needs --finding"

    def find(self, source: Path, options: Options, faults: Faults) -> list[Case]:
        lists = sorted(source.glob(_LISTS))
        if len(lists) != 1:
            raise DataError(f"{source} has {len(lists)} files {_LISTS}; one is needed")
        rows = tables.read(lists[0], _COLUMNS)
        _check_finding(options.finding, rows, lists[0])
        images = {path.name: path for folder in sorted(source.glob("images*")) for path in sorted(folder.rglob("*.*"))}
        splits = _splits(source)
        cases = []
        for line, row in enumerate(rows, start=2):
            file, findings = row["Image Index"], row["Finding Labels"].split("|")
            if options.others == "leave-out" and not {options.finding, _NO_FINDING} & set(findings):
                faults.leave_out("other findings only", file)
                continue
            if file not in images:
                faults.add("corrupt image", f"{lists[0]}, line {line}: {file} is not in images*/")
                continue
            known = {ours: row.get(theirs, "") for theirs, ours in _RENAMED.items() if row.get(theirs)}
            known |= {
                "label": options.finding if options.finding in findings else _NO_FINDING,
                "patient_id": row["Patient ID"],
                "age": _age(row.get("Patient Age", "")),
                "findings": row["Finding Labels"],
            }
            if splits:
                known["split"] = _split(splits, file, source)
            cases.append(Case(Path(file).stem, (images[file],), known))
        return cases


def _check_finding(finding: str, rows: list[dict[str, str]], path: Path) -> None:
    known = sorted({each for row in rows for each in row["Finding Labels"].split("|")} - {_NO_FINDING})
    if finding not in known:
        raise DataError(f"--finding {finding or '(not given)'}: {path} knows {', '.join(known)}")


def _splits(source: Path) -> dict[str, set[str]]:
    """The splits in whose lists each image is."""
    found: dict[str, set[str]] = {}
    for split, pattern in _SPLIT_FILES.items():
        for path in sorted(source.glob(pattern)):
            for line in filter(None, map(str.strip, path.read_text().splitlines())):
                found.setdefault(line, set()).add(split)
    return found


def _split(splits: dict[str, set[str]], file: str, source: Path) -> str:
    """The one split of an image; raises `DataError` where the lists name it in both or in none."""
    found = splits.get(file, set())
    if len(found) != 1:
        lists = " and ".join(_SPLIT_FILES.values())
        where = "both" if found else "none"
        raise DataError(f"{source}: {file} is in {where} of {lists}; mend the lists, or take them away to split anew")
    return next(iter(found))


def _age(text: str) -> str:
    """Years; the first release writes ``058Y``, ``006M`` or ``012D``, the later one numbers."""
    found = re.fullmatch(r"0*(\d+)([YMWD]?)", text)
    if not found:
        return ""
    return found.group(1) if found.group(2) in ("", "Y") else "0"

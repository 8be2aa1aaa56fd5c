"""CSV files that people write: read as rows of text, with the columns that must be there."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from compression.problems import DataError


def read(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file, without spaces around values.

    Raises
    ------
    DataError
        It can't be read, or lacks a column or any row. A row has more or fewer values than there are columns, or two
        columns share a name: what stands where is not known then, and a label or a patient would come from elsewhere.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            lines = csv.reader(file, strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = [_row(path, lines.line_num, names, values) for values in lines if values]
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has several columns called {', '.join(twice)}; keep one of each")
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise DataError(f"{path} needs rows with the columns {', '.join(needed)}; it lacks {', '.join(missing)}")
    return rows


def left_out(row: dict[str, str]) -> bool:
    """Whether a data set's list says of a row that another one shows the same, so that nothing learns from it."""
    return bool(row.get("exact_duplicate_of"))


def _row(path: Path, line: int, names: list[str], values: list[str]) -> dict[str, str]:
    if len(values) != len(names):
        raise DataError(
            f"{path}, line {line}: {len(values)} values for {len(names)} columns; put a value with a comma in quotes"
        )
    return {name: value.strip() for name, value in zip(names, values, strict=True) if name}

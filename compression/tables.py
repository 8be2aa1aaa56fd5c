"""CSV files that people write: read as rows of text, with the columns that must be there."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from compression.problems import DataError


def read(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file, without spaces around values; missing values are empty.

    Raises
    ------
    DataError
        It can't be read, or lacks a column or any row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            rows = [
                {name.strip(): (value or "").strip() for name, value in row.items() if name}
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, csv.Error, AttributeError) as error:  # AttributeError: more values than columns
        raise DataError(f"{path} can't be read: {error}") from error
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise DataError(f"{path} needs rows with the columns {', '.join(needed)}; it lacks {', '.join(missing)}")
    return rows

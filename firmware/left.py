"""What lies on a stick that no box takes, and its right name: Windows hides endings and adds to names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

_TAKEN = ("site.toml", "site.toml.sig", "certificate.pem", "service.token", "recovery-key.txt")
_ENDINGS = (".scanside", ".raucb")
_ADDED = re.compile(r" ?\(\d+\)| - (copy|kopie)|\s")
_SYSTEMS_OWN = re.compile(r"\.|\$|scanside-|lost\+found$|system volume information$", re.IGNORECASE)
_MOST = 10  # names in one sentence


def passed_over(folder: Path, of_folders: tuple[str, ...] = ()) -> list[str]:
    """A sentence for each thing whose name is nearly right or that lies too deep, and one for all others.

    Parameters
    ----------
    of_folders
        Names of folders at the top that are looked into by whoever takes the stick.
    """
    said, others = [], []
    for path in _listed(folder):
        if path.is_dir():
            if path.name in of_folders:
                continue
            deep = [each.name for each in _listed(path) if _right_name(each.name)]
            said += [f"{path.name}/{name}: not taken: it must lie at the stick's top" for name in deep[:_MOST]]
            continue
        right = _right_name(path.name)
        if right == path.name or (right in _TAKEN and _is_same(folder / right, path)):
            continue
        if right:
            said.append(f"{path.name}: not taken: its name must be {right}")
        else:
            others.append(path.name)
    if others:
        more = f" and {len(others) - _MOST} more" if len(others) > _MOST else ""
        said.append(
            f"not taken: {', '.join(others[:_MOST])}{more}: a box takes {', '.join(_TAKEN)}, "
            f"{' and '.join(f'*{ending}' for ending in _ENDINGS)}"
        )
    return said


def _listed(folder: Path) -> Iterator[Path]:
    """Without what systems leave, and what a box has written."""
    try:
        found = sorted(folder.iterdir())
    except OSError:  # a worn stick; what can be read of it is taken
        return
    yield from (path for path in found if not _SYSTEMS_OWN.match(path.name))


def _right_name(name: str) -> str:
    """The name by which a box would take it; empty where it is nothing like one."""
    if name in _TAKEN or name.endswith(_ENDINGS):
        return name
    plain = _ADDED.sub("", name.lower())
    for candidate in (plain, plain.removesuffix(".txt")):
        if candidate in _TAKEN or candidate.endswith(_ENDINGS):
            return candidate
    return next(iter(difflib.get_close_matches(plain, _TAKEN, 1, 0.8)), "")


def _is_same(one: Path, other: Path) -> bool:
    """FAT finds a name however it is written; those that are known by their ending are listed, and must be as it is."""
    return one.exists() and one.samefile(other)

"""Files in the drop folder under temporary names: a writer that died never gives them their final one."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.unchanged import Signature
from appliance.whole import examine

_TEMPORARY = re.compile(r"^\.|~$|\.(tmp|temp|part|partial|filepart|crdownload|writing)$", re.IGNORECASE)
_BIN = re.compile(r"^\.(trash|recycle)", re.IGNORECASE)  # what people have deleted over a network share


def is_temporary(name: str) -> bool:
    """Whether a file or folder has a name that its writer will change once it is done."""
    return _TEMPORARY.search(name) is not None


@dataclass
class _Seen:
    """A file as it was when it was last looked at; ``since``, when it became like that.

    ``is_left``: whether there is something in it that should have been taken; None until it has been looked into.
    """

    signature: Signature
    since: float
    is_left: bool | None = None


class LeftBehind:
    """Tells of those that nobody writes to any more.

    Parameters
    ----------
    left_out
        A folder in it that is not looked at.
    seconds
        Without change, after which nothing more is expected of a file.
    """

    def __init__(self, folder: Path, left_out: str, seconds: float) -> None:
        self._folder, self._left_out, self._seconds = folder, left_out, seconds
        self._seen: dict[Path, _Seen] = {}

    def look(self) -> list[Path]:
        """Those that hold DICOM or an archive, or the beginning of one. None of them is ever taken."""
        before, self._seen = self._seen, {}
        for path in self._files():
            with contextlib.suppress(OSError):  # it has just been renamed or removed
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    self._look_at(path, before.get(path), Signature.of(found))
        return [path for path, seen in self._seen.items() if seen.is_left]

    def _look_at(self, path: Path, seen: _Seen | None, signature: Signature) -> None:
        now = time.monotonic()
        if seen is None or seen.signature != signature:
            seen = _Seen(signature, now)
        elif seen.is_left is None and now - seen.since >= self._seconds:
            seen.is_left = signature.size > 0 and examine(path).kind != "foreign"
        self._seen[path] = seen

    def _files(self) -> Iterator[Path]:
        """Every file with such a name, or below a folder with one."""
        for root, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if name != self._left_out and not _BIN.search(name)]
            below = any(map(is_temporary, Path(root).relative_to(self._folder).parts))
            yield from (Path(root) / name for name in names if below or is_temporary(name))

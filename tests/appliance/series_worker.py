"""The worker with a stand-in for the pipeline: it reads series of MR images, and says of which files it made a result.

``python -m tests.appliance.series_worker DATA [SECONDS]`` runs it on a data folder until it is killed; each reading
takes so many seconds.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from pydicom import Dataset

from appliance import image
from appliance.config import Config, Series
from appliance.errors import ImageError
from appliance.spool import write_durably
from appliance.store import WrittenObject
from appliance.worker import Worker
from tests.shared_sandbox import sandbox

QUIET = 1.5  # seconds


class Pipeline:
    """Takes whole MR series, refuses a gap and OT, and reads for so many seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def reads_series(self, header: Dataset) -> bool:
        return image.text(header, "Modality") == "MR"

    def prepare(self, paths: Sequence[Path], headers: Sequence[Dataset] | None, *others: Any) -> Any:
        assert headers is not None
        assert [image.read_header(path).SOPInstanceUID for path in paths] == [each.SOPInstanceUID for each in headers]
        if image.text(headers[0], "Modality") == "OT":
            raise ImageError("Its modality is OT.")
        positions = sorted(image.place_in_series(header).position or 0.0 for header in headers)
        for low, high in pairwise(positions):
            if high - low > 1.5:
                raise ImageError(f"The series has a gap: nothing lies at {low + 1:.1f} mm.")
        server = SimpleNamespace(group=lambda seconds: 1)
        return SimpleNamespace(
            engine=SimpleNamespace(server=server, package=None),
            uids=[str(header.SOPInstanceUID) for header in headers],
            warnings=others[2],
        )

    def infer(self, prepared: Any, *_: Any, **__: Any) -> Any:
        Path(f"/proc/{os.getpid()}/comm").write_text("reading")  # for the test to see
        time.sleep(self._seconds)
        return SimpleNamespace(
            source=None,
            prediction=SimpleNamespace(
                findings=(), warnings=prepared.warnings, positive=False, urgent=False, segmented_by=None
            ),
            provenance=SimpleNamespace(to_dict=lambda: {"read": prepared.uids}, package_sha256="", target=""),
            outlines=None,
            reused=False,
        )


class Reader(Worker):
    """Without packages, backends and DICOM writers."""

    def __init__(self, data: Path, seconds: float = 0.0) -> None:
        self.ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        super().__init__(Config(data_dir=str(data), series=Series(quiet_seconds=QUIET)), theirs)
        self._opened: Any = Pipeline(seconds)
        self._sandbox = sandbox()
        readiness: Any = SimpleNamespace(look_after=lambda: self._opened, processes=list, close=lambda: None)
        self._readiness = readiness

    def _write(self, identifier: int, reading: Any) -> list[WrittenObject]:
        name = f"{identifier:08d}/structured_report.dcm"
        write_durably(self._config.results_path / name, msgspec.json.encode(reading.provenance.to_dict()))
        return [WrittenObject("structured_report", "1.2", f"2.{identifier}", name)]

    def _observe(self, *_: Any) -> None:
        """No package, nothing to watch."""

    def work(self, seconds: float = 0.0) -> None:
        """Until there is nothing to do and nothing to wait for, or for so many seconds."""
        end = time.monotonic() + seconds
        while True:
            pause = self._start_series()
            claim = self._claim()
            if claim is not None:
                self._process(self._opened, claim)
            elif time.monotonic() >= end and (seconds or not self._store.gathered()):
                return
            else:
                time.sleep(min(pause, 0.02))


if __name__ == "__main__":
    Reader(Path(sys.argv[1]), *map(float, sys.argv[2:])).run()

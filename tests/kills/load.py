"""Scanners and people who never give up: dcmtk's senders and the drop folder, and what each was told of each file."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from pydicom.uid import CTImageStorage, generate_uid

from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.peers import needs

_RESPONSE = re.compile(r"Received (?:C-STORE|Store) Response \((.*)\)")
_SENT = re.compile(r"Sending file: (.+)|Sending C-STORE Request")
_NOBODY_SECONDS = 0.05

Word = Literal["new", "again", "end"]


def radiographs(folder: Path, rows: int, columns: int) -> Iterator[list[Path]]:
    number = 0
    while True:
        yield [
            make_radiograph(
                folder / f"{number + n}.dcm", rows=rows, columns=columns, seed=number + n, StationName=folder.name
            )
            for n in range(4)
        ]
        number += 4


def slices(folder: Path) -> Iterator[list[Path]]:
    """In turns a series of CT, which no package takes, and one of MR, which is read as a volume."""
    number = 0
    while True:
        series, study = generate_uid(), generate_uid()
        yield [
            make_radiograph(
                folder / f"ct-{number}" / f"{n}.dcm", rows=128, columns=128, seed=n, SOPClassUID=CTImageStorage,
                Modality="CT", StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n + 1,
            )
            for n in range(5)
        ]  # fmt: skip
        yield make_series(folder / f"mr-{number}", hippocampus_pixels(6, 24, 20, seed=number), seed=number)
        number += 1


class Senders:
    """Associations and a person at the drop folder, that bring new files as they are allowed to.

    Attributes
    ----------
    acknowledged
        Path -> how often the peer has answered Success.
    dropped
        Names in the drop folder of files that lie there whole, under their final names -> path.
    refused
        Answers other than Success, in dcmtk's words.
    brought
        All files that there are so far.
    """

    def __init__(self, folder: Path, port: int, drop: Path, seed: int, radiograph: tuple[int, int]) -> None:
        self.acknowledged: Counter[Path] = Counter()
        self.dropped: dict[str, Path] = {}
        self.refused: Counter[str] = Counter()
        self.brought: list[Path] = []
        self._port, self._drop, self._log = str(port), drop, folder / "sent.log"
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._allowed: list[SimpleQueue[Word]] = []
        self._threads: list[threading.Thread] = []
        ways: list[tuple[Iterator[list[Path]], Callable[[list[Path]], set[Path]]]] = [
            (radiographs(folder / "first", *radiograph), self._storescu),
            (radiographs(folder / "second", *radiograph), self._storescu),
            (slices(folder / "slices"), self._dcmsend),
            (radiographs(folder / "dropped", *radiograph), self._copy),
        ]
        for number, (files, send) in enumerate(ways):
            allowed: SimpleQueue[Word] = SimpleQueue()
            chance = random.Random(f"{seed} {number}")
            self._allowed.append(allowed)
            self._threads.append(threading.Thread(target=self._go, args=(allowed, files, send, chance), daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def allow(self, batches: int, word: Word = "new") -> None:
        """Each sender may bring so many batches of a few files, ``new`` ones, or some that it has brought before."""
        for each in self._allowed * batches:
            each.put(word)

    def finish(self, seconds: float) -> None:
        """Wait until all that was allowed has been taken; raises where a sender failed or was not heard in time."""
        for each in self._allowed:
            each.put("end")
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
            if self._failure is not None:
                raise self._failure
            assert not thread.is_alive(), f"{thread.name} is not done within {seconds:.0f} s: {dict(self.refused)}"

    def _go(
        self,
        allowed: SimpleQueue[Word],
        files: Iterator[list[Path]],
        send: Callable[[list[Path]], set[Path]],
        chance: random.Random,
    ) -> None:
        try:
            before: list[list[Path]] = []
            while (word := allowed.get()) != "end":
                if word == "new" or not before:
                    before.append(next(files))
                    with self._lock:
                        self.brought += before[-1]
                    waiting = before[-1]
                else:
                    waiting = chance.choice(before)
                while waiting:
                    taken = send(waiting)
                    waiting = [path for path in waiting if path not in taken]
                    if waiting:
                        time.sleep(_NOBODY_SECONDS)
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self._failure = error

    def _storescu(self, files: list[Path]) -> set[Path]:
        return self._by_dcmtk([needs("storescu"), "-v"], files)

    def _dcmsend(self, files: list[Path]) -> set[Path]:
        return self._by_dcmtk([needs("dcmsend"), "-v"], files)

    def _by_dcmtk(self, command: list[str], files: list[Path]) -> set[Path]:
        """Those that were answered with Success."""
        sent = subprocess.run(
            [*command, "127.0.0.1", self._port, *map(str, files)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        taken, left = set(), iter(files)
        current: Path | None = None
        for line in sent.stderr.splitlines():
            if found := _SENT.search(line):
                current = Path(found.group(1)) if found.group(1) else next(left)  # dcmsend goes by the order
            elif found := _RESPONSE.search(line):
                assert current is not None
                if found.group(1) == "Success":
                    taken.add(current)
                else:
                    with self._lock:
                        self.refused[found.group(1)] += 1
                current = None
        with self._lock:
            self.acknowledged.update(taken)
        return taken

    def _copy(self, files: list[Path]) -> set[Path]:
        """By a rename, or slowly under the final name, as people and programs do."""
        taken = set()
        for path in files:
            name = f"{path.stem}.dcm"
            target = self._drop / name
            try:
                if int(path.stem) % 2:
                    shutil.copyfile(path, target.with_suffix(".part"))
                    target.with_suffix(".part").rename(target)
                else:
                    content = path.read_bytes()
                    with target.open("wb") as file:
                        for at in range(0, len(content), 1 << 16):
                            file.write(content[at : at + (1 << 16)])
                            file.flush()
                            time.sleep(0.005)
            except OSError:  # the disk is full: it is copied again
                target.with_suffix(".part").unlink(missing_ok=True)
                target.unlink(missing_ok=True)
                continue
            taken.add(path)
            with self._lock:
                self.dropped[name] = path
        return taken

"""Files that belong together: DICOM files, whole media, zip archives of them. Each gets an outcome."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from appliance import media
from appliance.archive import Archive
from appliance.errors import InputError, SpoolError
from appliance.ingest import Intake
from appliance.part10 import Identity
from appliance.whole import ZIP_STARTS

log = logging.getLogger("scanside.ingest")

_NAMED = 20  # so many missing files of a medium are named


@dataclass(frozen=True)
class Outcome:
    """What became of a file: ``taken``, ``again`` (it was here before), ``conflict``, ``ignored``, ``refused``."""

    name: str
    state: Literal["taken", "again", "conflict", "ignored", "refused"]
    detail: str = ""
    instance_id: int | None = None


_STATES: dict[str, Literal["taken", "again", "conflict"]] = {
    "new": "taken", "duplicate": "again", "conflict": "conflict",
}  # fmt: skip
_DETAILS = {"conflict": "The same UID was here before with other content: it is kept, and not read."}


class _OtherKindError(Exception):
    """It is no instance."""


class Bundle:
    """One transfer; whoever makes it says when it ends (`Intake.end_transfer`).

    Parameters
    ----------
    brought_by
        Who brings the files, besides their names, for the technician; '' where names say enough.

    Attributes
    ----------
    outcomes
        In the order in which the files came.
    trouble
        The last reason why a file could not be kept that is not the file's fault: it should be brought again.
    """

    def __init__(self, intake: Intake, source: str, brought_by: str, transfer_id: str) -> None:
        self._intake, self._source, self.transfer_id = intake, source, transfer_id
        self._from = f" from {brought_by}" if brought_by else ""
        self._directories: list[tuple[str, list[media.Reference]]] = []
        self.outcomes: list[Outcome] = []
        self.trouble = ""

    def take(self, name: str, pieces: Iterator[bytes]) -> None:
        """Take a file, or what is in an archive; an error that ``pieces`` raises is passed on."""
        first = next(pieces, b"")
        pieces = itertools.chain((first,), pieces)
        if not first.startswith(ZIP_STARTS):
            self._one(name, pieces)
            return
        try:
            with self._intake.set_aside(pieces) as file:
                self.unpack(name, Archive(file))
        except InputError as error:
            self._say(name, "refused", str(error))
        except SpoolError as error:
            self._not_kept(name, error)

    def unpack(self, name: str, archive: Archive) -> None:
        """Take what is in an archive."""
        for number, member in enumerate(archive.members):
            self._one(f"{name}/{member.name}", archive.read(number))

    def finish(self) -> list[Outcome]:
        """Hold what came against the DICOMDIR that came with it; every outcome."""
        for name, references in self._directories:
            known = self._intake.kept([each.sop_instance_uid for each in references])
            missing = media.missing(references, known)
            if missing:
                said = f"It names {len(references)} files, and {len(missing)} of them did not come."
                self._say(name, "refused", said)
                folder = name.rpartition("/")[0]
                for each in missing[:_NAMED]:
                    self._say(f"{folder}/{each}".lstrip("/"), "refused", "The DICOMDIR names it, but it did not come.")
            else:
                self._say(name, "ignored", f"It names {len(references)} files, and all of them are here.")
        return self.outcomes

    def _one(self, name: str, pieces: Iterator[bytes]) -> None:
        try:
            if media.is_directory_name(name):
                self._directory(name, pieces)
                return
            _, admission = self._intake.take_stream(
                pieces,
                source=self._source,
                sender=f"{name}{self._from}",
                transfer_id=self.transfer_id,
                accept=_accept,
            )
        except _OtherKindError:
            self._say(name, "ignored", "It is no DICOM file.")
        except InputError as error:
            self._say(name, "refused", str(error))
        except SpoolError as error:
            self._not_kept(name, error)
        else:
            log.info("instance %d: %s", admission.instance_id, admission.outcome)
            state = _STATES[admission.outcome]
            self.outcomes.append(Outcome(name, state, _DETAILS.get(state, ""), admission.instance_id))

    def _directory(self, name: str, pieces: Iterator[bytes]) -> None:
        content = bytearray()
        for piece in pieces:
            content += piece
            if len(content) > media.LARGEST_BYTES:
                raise InputError(f"The DICOMDIR is larger than {media.LARGEST_BYTES >> 20} MiB.")
        self._directories.append((name, media.read_directory(bytes(content))))

    def _not_kept(self, name: str, error: SpoolError) -> None:
        log.error("a file could not be kept: %s", error)
        self.trouble = str(error)
        self._say(name, "refused", f"It could not be kept: {error}. Bring it again.")

    def _say(self, name: str, state: Literal["ignored", "refused"], detail: str) -> None:
        self.outcomes.append(Outcome(name, state, detail))


def _accept(identity: Identity) -> None:
    if not identity.is_dicom:
        raise _OtherKindError

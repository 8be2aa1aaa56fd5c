"""What the outbox wants of a way out. A new way is a new module here, and a line in `appliance.delivery`."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from appliance.config import Config, Destination, DestinationTls, Priority
from appliance.errors import ConfigError
from appliance.storage_commitment import CommitmentReport
from appliance.tls_client import TlsFiles


@dataclass(frozen=True)
class Item:
    """One result, as a file, that waits for a destination.

    ``id`` is of its row in the outbox; ``sop_class_uid`` is empty where it is no DICOM object; ``priority`` is the one
    with which it should be read.
    """

    id: int
    path: Path
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    instance_id: int
    priority: Priority


Blame = Literal["nobody", "item", "destination", "both"]


@dataclass(frozen=True)
class Answer:
    """What came of sending an item; ``error`` is empty where the destination has it.

    ``blame`` says what a failure tells of. One of the ``item`` (it is refused, its file is gone) keeps no other item
    back. One of the ``destination`` (it can't be reached, it is full) does, until it takes something again. One of
    ``both`` (it broke off within this item) may be of either.
    """

    item: Item
    error: str = ""
    blame: Blame = "nobody"


class Way(Protocol):
    """One way out, to one destination; used by one thread.

    Its maker is called with the `appliance.config.Destination` and the `appliance.config.Config`.
    """

    def check(self) -> None:
        """Ask the destination whether it is there, sending nothing; raises `DeliveryError`."""
        ...

    def send(self, items: Sequence[Item]) -> Iterator[Answer]:
        """Send items in their order, and give the answer to each as soon as it is known.

        It may stop after one whose blame is ``destination`` or ``both``: those that got no answer stay due. Sending an
        item again that the destination already has must leave it with one: ``sop_instance_uid`` identifies it, for
        ever. What goes wrong is an `Answer`, never an exception. Nothing takes longer than
        ``delivery.timeout_seconds`` without any progress.
        """
        ...

    def close(self) -> None:
        """Give back what it keeps open; it may be used again."""
        ...


class Committer(Protocol):
    """Asks a destination whether it has committed what it was sent (PS3.4 annex J)."""

    def ask(
        self,
        transaction_uid: str,
        items: Sequence[Item],
        on_report: Callable[[CommitmentReport], bool],
        reported: threading.Event,
    ) -> None:
        """Ask; the answer comes to ``on_report``, now or later.

        Parameters
        ----------
        on_report
            Records an answer that comes at once; returns whether it was asked for.
        reported
            Set once the answer has come in any way.

        Raises
        ------
        DeliveryError
        """
        ...


def tls_files(tls: DestinationTls | None, config: Config) -> TlsFiles:
    """The files of a destination's TLS; relative ones are in the data folder."""
    if tls is None:
        return TlsFiles()
    ca, certificate, key = (config.data / name if name else None for name in (tls.ca, tls.certificate, tls.key))
    return TlsFiles(ca, certificate, key, tls.name)


def authorization(destination: Destination, config: Config) -> dict[str, str]:
    """The header of a destination's login over HTTP, none where it has none.

    Its file is read anew for each request, since tokens are renewed. Raises `ConfigError`.
    """
    login = destination.login
    if login is None:
        return {}
    name = login.token_file or login.password_file
    assert name is not None
    try:
        secret = (config.data / name).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"destination {destination.name!r}: {name} can't be read: {error}",
            hint="write the path of a text file, relative to data_dir, that this user may read",
        ) from error
    if login.token_file:
        return {"Authorization": f"Bearer {secret}"}
    return {"Authorization": f"Basic {b64encode(f'{login.username}:{secret}'.encode()).decode()}"}

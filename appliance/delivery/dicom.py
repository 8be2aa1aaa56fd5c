"""C-STORE as a way out: results to a PACS, over TLS where it is configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from appliance.config import Config, Destination
from appliance.delivery import commitment_scu, storage_scu
from appliance.delivery.storage_scu import File, NothingAcceptedError, Peer
from appliance.delivery.way import Answer, Item, tls_files
from appliance.errors import ApplianceError, DeliveryError
from appliance.schedule import C_STORE
from appliance.storage_commitment import CommitmentReport
from appliance.tls_client import client_context

_OUT_OF_RESOURCES = range(0xA700, 0xA800)  # PS3.4 table B.2-1


def _peer(destination: Destination, config: Config) -> Peer:
    """Whom to call, and how; the TLS files are read anew, since certificates are renewed.

    Raises
    ------
    ConfigError
        The TLS files don't serve.
    """
    tls = None
    if destination.tls is not None:
        files = tls_files(destination.tls, config)
        tls = client_context(files), files.name or destination.host
    settings = config.delivery
    return Peer(
        destination.host,
        destination.port,
        destination.ae_title,
        settings.calling_ae_title,
        settings.timeout_seconds,
        tls,
    )


class DicomWay:
    """`appliance.delivery.way.Way` by C-STORE, on one association for each call; and `Committer`."""

    def __init__(self, destination: Destination, config: Config) -> None:
        self._destination, self._config = destination, config

    def check(self) -> None:
        storage_scu.echo(_peer(self._destination, self._config))

    def close(self) -> None:
        """No association is kept."""

    def send(self, items: Sequence[Item]) -> Iterator[Answer]:
        readable: list[tuple[Item, File]] = []
        for item in items:
            try:
                readable.append((item, File.of(item.path)))
            except DeliveryError as error:
                yield Answer(item, str(error), "item")
        by_path = {file.path: item for item, file in readable}
        for group in storage_scu.groups([file for _, file in readable]):
            for answer in self._send_group([(by_path[file.path], file) for file in group]):
                yield answer
                if answer.blame in ("destination", "both"):
                    return

    def _send_group(self, group: Sequence[tuple[Item, File]]) -> Iterator[Answer]:
        contexts = list(dict.fromkeys(context for _, file in group for context in file.contexts))
        done = 0
        try:
            with storage_scu.associated(_peer(self._destination, self._config), contexts) as association:
                for item, file in group:
                    if not association.is_established:  # since the one before, so this one is not to blame
                        raise DeliveryError(f"{self._destination.name} ended the association")
                    status, error, ended = storage_scu.store(association, file, C_STORE[item.priority])
                    done += 1
                    if not error:
                        yield Answer(item)
                    elif ended:
                        yield Answer(item, error, "both")
                        return
                    else:
                        yield Answer(item, error, "destination" if status in _OUT_OF_RESOURCES else "item")
        except NothingAcceptedError as error:
            for item, _ in group:
                yield Answer(item, str(error), "item")
        except ApplianceError as error:
            if done < len(group):
                yield Answer(group[done][0], str(error), "destination")

    def ask(
        self,
        transaction_uid: str,
        items: Sequence[Item],
        on_report: Callable[[CommitmentReport], bool],
        reported: threading.Event,
    ) -> None:
        instances = [(item.sop_class_uid, item.sop_instance_uid) for item in items]
        to = _peer(self._destination, self._config)
        commitment_scu.ask(to, transaction_uid, instances, on_report, reported)

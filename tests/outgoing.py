"""Results that wait to be delivered, and peers with faults."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, AllStoragePresentationContexts, evt

from appliance.config import Config, Delivery, Destination
from appliance.delivery import way_to
from appliance.delivery.outbox import Outbox
from appliance.delivery.way import Answer, Item
from appliance.store import Arrival, Store, WrittenObject
from tests.dicom_files import make_radiograph
from tests.peers import free_port

FAST = Delivery(first_retry_seconds=0.3, longest_retry_seconds=1.0, longest_probe_seconds=1.0, timeout_seconds=5.0)
RESULT = {"findings": [], "warnings": [], "provenance": {}, "seconds": {}, "urgent": False}


class Results:
    """A ledger and a results folder with some instances that wait to be delivered."""

    def __init__(
        self,
        folder: Path,
        destinations: tuple[Destination, ...],
        count: int,
        side: int = 64,
        **delivery: float,
    ) -> None:
        self.folder, self.side = folder / "results", side
        settings = msgspec.structs.replace(FAST, **delivery)
        self.config = Config(data_dir=str(folder), destinations=destinations, delivery=settings)
        self.store = Store(folder / "ledger.sqlite3")
        self.uids: set[str] = set()
        for number in range(count):
            self.add(number, destinations)

    def add(self, number: int, destinations: tuple[Destination, ...], **finish: Any) -> None:
        path = make_radiograph(self.folder / f"{number}.dcm", rows=self.side, columns=self.side, seed=number)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        self.uids.add(header.SOPInstanceUID)
        digest = f"{number:064d}"
        self.store.receive(Arrival(f"1.2.{number}", "1.2", digest, f"{digest}.dcm", 1, "storage_scp", "TEST"))
        claim = self.store.claim("test", 30)
        assert claim is not None
        written = WrittenObject("structured_report", header.SOPClassUID, header.SOPInstanceUID, path.name)
        outbox = [("structured_report", destination.name) for destination in destinations]
        self.store.finish(claim["id"], "test", RESULT, [written], outbox, **finish)

    @contextmanager
    def delivering(self) -> Iterator[Outbox]:
        outbox = Outbox(self.config, self.store, self.folder)
        outbox.start()
        yield outbox
        outbox.stop()

    def states(self) -> set[str]:
        return {row["state"] for row in self.store.worklist(limit=10_000)}

    def destination(self, name: str) -> dict[str, Any]:
        """How it stands with it."""
        return {row["destination"]: row for row in self.store.destinations()}[name]


def received(folder: Path) -> set[str]:
    """SOP Instance UIDs that storescp has written, but for what it is writing."""
    found = set()
    for path in folder.iterdir():
        with contextlib.suppress(InvalidDicomError, AttributeError, EOFError):
            found.add(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
    return found


def local(name: str, port: int, ae_title: str = "PEER", **more: Any) -> Destination:
    return Destination(**{"name": name, "ae_title": ae_title, "host": "127.0.0.1", "port": port, **more})


def send(destination: Destination, *paths: Path, data: Path = Path()) -> list[Answer]:
    items = []
    for number, path in enumerate(paths):
        meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
        uids = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        items.append(Item(number, path, "structured_report", *uids, number, "routine"))
    way = way_to(destination, Config(data_dir=str(data), delivery=FAST))
    answers = list(way.send(items))
    way.close()
    return answers


@contextmanager
def faulty(on_store: Callable[[evt.Event], int | None]) -> Iterator[int]:
    """A Storage SCP that answers with the status that it is told, and aborts where that is None; its port."""

    def handle(event: evt.Event) -> int:
        status = on_store(event)
        if status is None:
            event.assoc.abort()
            return 0xC000
        return status

    entity = AE("PEER")
    entity.supported_contexts = AllStoragePresentationContexts
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    assert server is not None
    try:
        yield port
    finally:
        server.shutdown()


@contextmanager
def stuck_before(port: int, after_bytes: int) -> Iterator[int]:
    """A way to another port on which so many bytes go to the peer and then no more, though nothing is closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    opened: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket, most: int) -> None:
        try:
            while most > 0 and (data := source.recv(min(65536, most))):
                sink.sendall(data)
                most -= len(data)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            opened.extend((near, far))
            threading.Thread(target=pump, args=(near, far, after_bytes), daemon=True).start()
            threading.Thread(target=pump, args=(far, near, 1 << 40), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for each in opened:
            each.close()

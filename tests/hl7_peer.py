"""A real HL7 receiver for tests: the MLLP server of the library `hl7`, on a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server

Answer = Callable[[hl7.Message], hl7.Message | bytes | None]


def accept(message: hl7.Message) -> hl7.Message:
    return message.create_ack("AA")


@dataclass
class Hl7Receiver:
    """``received`` are the messages in the order in which they came."""

    port: int = 0
    received: list[hl7.Message] = field(default_factory=list)


@contextmanager
def hl7_receiver(answer: Answer = accept, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Hl7Receiver]:
    """A receiver that answers as told: a message, bytes as they are, or None and closes the connection."""
    peer, loop, stop, ready = Hl7Receiver(), asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        try:
            while True:
                message = await reader.readmessage()
                peer.received.append(message)
                said = answer(message)
                if said is None:
                    break
                writer.write(said) if isinstance(said, bytes) else writer.writemessage(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sender has closed the connection
        finally:
            writer.close()

    async def run() -> None:
        server = await start_hl7_server(serve, "127.0.0.1", port, encoding="utf-8", ssl=tls)
        peer.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield peer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()

"""pynetdicom's upper layer and messages without their threads: whoever needs them drives them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, A_RELEASE
from pynetdicom.transport import AssociationSocket

from appliance.acceptor import reader
from appliance.acceptor.pdu import ProtocolError
from appliance.acceptor.reader import ConnectionEndedError

if TYPE_CHECKING:
    from appliance.acceptor.association import AcceptedAssociation

SEND_SECONDS = 10.0  # for the peer to take what is sent to it


class UpperLayer(DULServiceProvider):
    """pynetdicom's state machine, driven by the association's thread instead of one of its own."""

    def act(self) -> None:
        """Go through the events that wait, until the state machine is idle again."""
        while not (self._kill_thread or self.event_queue.empty()):
            self.state_machine.do_action(self.event_queue.get())

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self._process_recv_primitive()
        self.act()

    def take(self, pdu: bytes | bytearray | memoryview) -> None:
        """Act on a PDU; raises `ProtocolError` where it can't be decoded."""
        try:
            decoded, event = self._decode_pdu(bytearray(pdu))
        except Exception as error:  # pynetdicom's own, of many kinds
            raise ProtocolError(f"a PDU that can't be decoded ({error})") from error
        self._recv_pdu.put(decoded)
        self.event_queue.put(event)
        self.act()


class Messages(DIMSEServiceProvider):
    """pynetdicom's messages; who waits for a response reads it."""

    assoc: AcceptedAssociation

    def get_msg(self, block: bool = False) -> Any:
        if not block:
            return super().get_msg()
        deadline = time.monotonic() + (self.dimse_timeout or 0.0)
        requests = []  # that come meanwhile are served later
        try:
            while not isinstance(self.dul.peek_next_pdu(), (A_RELEASE, A_ABORT, A_P_ABORT)):
                while not self.msg_queue.empty():
                    context_id, message = self.msg_queue.get()
                    if message is not None and message.is_valid_response:
                        return context_id, message
                    requests.append((context_id, message))
                self.assoc.read(deadline - time.monotonic())
        except ConnectionEndedError:
            self.dul.event_queue.put("Evt17")
        finally:
            for request in requests:
                self.msg_queue.put(request)
        return None, None


class Socket(AssociationSocket):
    """Sends in a bounded time; the association itself closes its connection."""

    def close(self) -> None:
        pass

    def _shutdown_socket(self) -> None:
        pass

    def send(self, bytestream: bytes) -> None:
        try:
            reader.send(self.socket, bytestream, SEND_SECONDS)
        except ConnectionEndedError:
            self.event_queue.put("Evt17")

"""One association on one thread: pynetdicom's state machine and negotiation, fed by bounded reads.

pynetdicom gives each association two threads that look for work a thousand times a second, and collects whole messages
in memory. Here the association's thread sleeps until bytes come, and the data set of a C-STORE goes fragment by
fragment to a `Sink`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from pynetdicom import AE
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE, P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AddressInformation

from appliance.acceptor import command, reader, upper_layer
from appliance.acceptor.command import StoreRequest
from appliance.acceptor.pdu import P_DATA_TF, ProtocolError, check_request, data_values
from appliance.acceptor.reader import ConnectionEndedError, Reader
from appliance.acceptor.upper_layer import Messages, Socket, UpperLayer

log = logging.getLogger("scanside.association")

Ending = Literal["released", "aborted"]

_LONGEST_COMMAND = 16 * 1024
_LONGEST_DATA = 1024 * 1024  # of a message that is no C-STORE: a storage commitment request of 7,000 instances
# C-ECHO-RQ, N-EVENT-REPORT-RQ, N-SET-RQ, N-ACTION-RQ, N-CREATE-RQ, N-EVENT-REPORT-RSP (PS3.7 annex E.1)
_SERVED = (0x0030, 0x0100, 0x0120, 0x0130, 0x0140, 0x8100)
_CLOSE_SECONDS = 2.0  # for the peer to close the connection after a release or an abort


class Sink(Protocol):
    """Takes the data set of one C-STORE request."""

    def write(self, fragment: memoryview) -> None:
        """Take a fragment, which is valid only during the call; what fails is answered by `finish`."""

    def finish(self) -> tuple[int, str]:
        """The data set is whole: the response's status and error comment."""

    def discard(self) -> None:
        """The rest will not come."""


class Service(Protocol):
    """What associations are served with; called on their threads."""

    def contexts(self, requested: list[PresentationContext]) -> list[PresentationContext]:
        """What is supported of the presentation contexts that a peer proposes."""

    def accepted(self, association: AcceptedAssociation) -> None: ...

    def begin_store(self, association: AcceptedAssociation, request: StoreRequest) -> Sink:
        """Take a C-STORE request; raises `ProtocolError` where its presentation context is none of storage."""

    def ended(self, association: AcceptedAssociation, ending: Ending) -> None:
        """Called once for each association that was accepted."""


@dataclass(frozen=True)
class Patience:
    """How long an association waits, in seconds: for anything to come, and for the rest of a PDU."""

    idle: float
    pdu: float


class AcceptedAssociation(Association):
    """An association whose request has been read.

    Parameters
    ----------
    connection
        Non-blocking; closed at the end.
    request
        The whole A-ASSOCIATE-RQ.
    on_closed
        Called last.
    only_verifies
        It gets no presentation context but Verification, whatever it proposes.
    """

    def __init__(
        self,
        entity: AE,
        connection: socket.socket,
        peer: tuple[str, int],
        request: bytearray,
        service: Service,
        patience: Patience,
        on_closed: Callable[[AcceptedAssociation], None],
        only_verifies: bool = False,
    ) -> None:
        super().__init__(entity, MODE_ACCEPTOR)
        self._connection, self._request, self._service = connection, request, service
        self._patience, self._on_closed, self._only_verifies = patience, on_closed, only_verifies
        self.is_established: bool = False
        self.dul: UpperLayer = UpperLayer(self)
        self.dimse = Messages(self)
        self._reader = Reader(connection, entity.maximum_pdu_size, patience.pdu)
        self._started_dul = self._is_paused = True  # there is no other thread to wait for
        self.set_socket(Socket(self, connection))
        self.requestor.address_info = AddressInformation(*peer)
        self.acceptor.ae_title = entity.ae_title
        self.acceptor.address_info = AddressInformation(*connection.getsockname()[:2])
        self.acceptor.maximum_length = entity.maximum_pdu_size
        self.acceptor.implementation_class_uid = entity.implementation_class_uid
        self.acceptor.implementation_version_name = entity.implementation_version_name
        self._command = bytearray()
        self._data = bytearray()
        self._message: tuple[int, Sink | None, StoreRequest | None] | None = None  # whose data set is awaited
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.misconduct = ""  # what it was aborted for, if anything
        self._was_accepted = self._aborted_by_peer = False

    # --- for those who serve it ---------------------------------------------------------------------------------

    def after_response(self, action: Callable[[], None]) -> None:
        """Do something once the response to the present request has been sent."""
        self._later.put(action)

    def end(self) -> None:
        """Abort from another thread, once what is being stored is answered."""
        self._kill = True
        with contextlib.suppress(OSError):
            # Past TLS, whose own shutdown would pull the connection from under the thread that reads.
            socket.socket.shutdown(self._connection, socket.SHUT_RD)

    # --- its thread ---------------------------------------------------------------------------------------------

    def run_reactor(self) -> None:
        """The whole life of the association; pynetdicom makes it the thread's target."""
        try:
            self._negotiate()
            while self.is_established:
                self.read()
                while self.is_established and not (self.dimse.msg_queue.empty() and self.dul.to_user_queue.empty()):
                    self._serve()
        except ConnectionEndedError as error:
            log.debug("association from %s: %s", self.requestor.address, error)
        except ProtocolError as error:
            self.misconduct = str(error)
        except Exception:  # whatever a peer sends must end no more than its own association
            log.exception("association from %s is aborted", self.requestor.address)
        finally:
            self._close()

    def _negotiate(self) -> None:
        check_request(self._request)
        self.dul.act()  # the connection is there
        self.dul.take(self._request)
        self._request.clear()
        request = self.dul.receive_pdu()
        if not isinstance(request, A_ASSOCIATE):  # such as one with another protocol version, which is rejected
            return
        self.requestor.primitive = request
        supported = self._service.contexts(request.presentation_context_definition_list)
        if self._only_verifies:
            supported = [each for each in supported if each.abstract_syntax == Verification]
        self.acceptor.supported_contexts = supported
        self.acse.negotiate_association()
        if self.is_established:
            self._was_accepted = True
            self._service.accepted(self)

    def read(self, seconds: float | None = None) -> None:
        """Read one PDU and act on it.

        Raises
        ------
        ConnectionEndedError, ProtocolError
        """
        kind, pdu = self._reader.next(self._patience.idle if seconds is None else seconds)
        if kind == P_DATA_TF and self.dul.state_machine.current_state == "Sta6":
            for context_id, control, fragment in data_values(pdu):
                self._take_fragment(context_id, control, fragment)
        else:
            self.dul.take(pdu)

    def _serve(self) -> None:
        """Answer what has come, other than C-STORE, which is answered as soon as it is whole."""
        context_id, message = self.dimse.get_msg()
        if message is not None:
            self._serve_request(message, context_id)
            self._is_paused = True  # as `__init__` has it
        while self.is_established and not self._later.empty():
            self._later.get()()
        if self.is_established and self.acse.is_release_requested():
            self.is_released = True
            self.acse.send_release(is_response=True)
            self.is_established = False
        elif self.acse.is_aborted():
            self.is_aborted = self._aborted_by_peer = True
            self.is_established = False

    def _close(self) -> None:
        try:
            self._take_leave()
        except Exception:  # the place must be free again, whatever has happened
            log.exception("association from %s did not end in order", self.requestor.address)
        finally:
            self._connection.close()
            self._on_closed(self)

    def _take_leave(self) -> None:
        if self._message is not None and (sink := self._message[1]) is not None:
            sink.discard()
        if not (self.is_released or self.is_rejected or self.acse.is_aborted() or self._sent_abort):
            with contextlib.suppress(Exception):  # the peer may be gone
                self.dul.event_queue.put("Evt19")  # something invalid came: A-ABORT, whatever the state
                self.dul.act()
        self.is_established = False
        self.kill()
        if self._was_accepted:
            self._service.ended(self, "released" if self.is_released else "aborted")
        if not self._aborted_by_peer:
            self._wait_for_close()

    def _wait_for_close(self) -> None:
        """The requestor closes first (PS3.8 section 9.2.3); closing at once could take back the last words to it."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        with contextlib.suppress(ConnectionEndedError, OSError):
            while True:
                reader.wait(self._connection, select.POLLIN, deadline)
                if not socket.socket.recv(self._connection, 65536):  # past TLS
                    return

    # --- messages -----------------------------------------------------------------------------------------------

    def _take_fragment(self, context_id: int, control: int, fragment: memoryview) -> None:
        if control & 1:
            if self._message is not None:
                raise ProtocolError("a command within a data set")
            self._command += fragment
            if len(self._command) > _LONGEST_COMMAND:
                raise ProtocolError(f"a command set of more than {_LONGEST_COMMAND} bytes")
            if control & 2:
                self._begin(context_id)
            return
        if self._message is None or self._message[0] != context_id:
            raise ProtocolError("a data set without a command")
        sink = self._message[1]
        if sink is not None:
            sink.write(fragment)
        else:
            self._data += fragment
            if len(self._data) > _LONGEST_DATA:
                raise ProtocolError(f"a data set of more than {_LONGEST_DATA} bytes that is none to store")
        if control & 2:
            self._finish()

    def _begin(self, context_id: int) -> None:
        """The command set is whole."""
        elements = command.elements(self._command)
        kind = command.command_field(elements)
        context = self._accepted_cx.get(context_id)
        if context is None:
            raise ProtocolError(f"a message in presentation context {context_id}, which was not accepted")
        sink, request = None, None
        if kind == command.C_STORE_RQ:
            syntaxes = str(context.abstract_syntax), str(context.transfer_syntax[0])
            request = command.store_request(elements, context_id, *syntaxes)
            if not command.has_data_set(elements):
                raise ProtocolError("a C-STORE-RQ without a data set")
            sink = self._service.begin_store(self, request)
            self._command.clear()
        elif kind not in _SERVED:
            raise ProtocolError(f"a message of type 0x{kind:04X}, which is not served here")
        self._message = (context_id, sink, request)
        if not command.has_data_set(elements):
            self._finish()

    def _finish(self) -> None:
        """The message is whole."""
        assert self._message is not None
        context_id, sink, request = self._message
        if sink is not None and request is not None:
            status, comment = sink.finish()
            self._message = None
            response = command.store_response(request, status, comment)
            for pdu in command.as_pdus(context_id, response, self.requestor.maximum_length):
                reader.send(self._connection, pdu, upper_layer.SEND_SECONDS)
            return
        self._message = None
        message = P_DATA()
        message.presentation_data_value_list.append((context_id, b"\x03" + self._command))
        if self._data:
            message.presentation_data_value_list.append((context_id, b"\x02" + self._data))
        self._command, self._data = bytearray(), bytearray()
        self.dimse.receive_primitive(message)

    def _handle_no_response(self) -> None:
        """A peer that releases instead of answering is no reason to abort."""
        if not isinstance(self.dul.peek_next_pdu(), A_RELEASE):
            super()._handle_no_response()

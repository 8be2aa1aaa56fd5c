"""The scanner simulator's way of sending: at a rate, on several associations, with connections that break."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pydicom.uid import UID
from pynetdicom.association import Association

from appliance.delivery import storage_scu
from appliance.delivery.storage_scu import File, Outcome, Tls
from appliance.errors import ApplianceError, DeliveryError

_TIMEOUT_SECONDS = 60.0
_A_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"  # PS3.8 section 9.3.8: by the service user


@dataclass(frozen=True)
class Manner:
    """How a scanner sends.

    Attributes
    ----------
    associations
        At once.
    per_association
        Images after which an association is released and another one made; None for all on one.
    images_per_second
        Of all associations together; None for as fast as the peer takes them.
    abort_every
        In the middle of every so many-th image the association is aborted, and the image sent again; None for never.
    priority
        Of the C-STORE requests (PS3.7 section 9.3.1.1).
    """

    associations: int = 1
    per_association: int | None = None
    images_per_second: float | None = None
    abort_every: int | None = None
    priority: int = 0
    tls: Tls | None = None


@dataclass(frozen=True)
class Load:
    """An image that is to be sent: ``source``, from which ``prepare`` makes the file that is sent."""

    source: Path
    prepare: Callable[[], File]


class Scanner:
    """Sends images as `Manner` says.

    Parameters
    ----------
    to
        Host, port, AE title.
    contexts
        Of all images: abstract and transfer syntax.
    on_abort
        Called for each association that was aborted on purpose, from any thread.
    """

    def __init__(
        self,
        to: tuple[str, int, str],
        calling_ae_title: str,
        contexts: Sequence[tuple[UID, UID]],
        manner: Manner,
        on_abort: Callable[[], None],
    ) -> None:
        self._to, self._calling, self._contexts, self._manner = to, calling_ae_title, contexts, manner
        self._on_abort = on_abort
        self._lock = threading.Lock()
        self._taken = 0
        self._unreachable = ""
        self._next_at = time.monotonic()

    def send(self, loads: Iterator[Load]) -> Iterator[Outcome]:
        """One outcome for each image, as they come."""
        answers: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()
        threads = [
            threading.Thread(target=self._work, args=(loads, answers), daemon=True)
            for _ in range(self._manner.associations)
        ]
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            answer = answers.get()
            if answer is None:
                left -= 1
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield answer

    def _work(self, loads: Iterator[Load], answers: SimpleQueue[Outcome | BaseException | None]) -> None:
        try:
            again: tuple[Load, bool] | None = None
            while again or (again := self._next(loads)):
                if self._unreachable:
                    answers.put(_not_sent(again[0], self._unreachable))
                    again = None
                else:
                    again = self._one_association(again, loads, answers)
            answers.put(None)
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            answers.put(error)

    def _next(self, loads: Iterator[Load]) -> tuple[Load, bool] | None:
        """The next image when its time has come, and whether its sending is to break off; None where there is none."""
        with self._lock:
            load = next(loads, None)
            if load is None:
                return None
            self._taken += 1
            breaks = self._manner.abort_every is not None and self._taken % self._manner.abort_every == 0
            now = time.monotonic()
            at = self._next_at = max(self._next_at, now)
            if self._manner.images_per_second:
                self._next_at += 1 / self._manner.images_per_second
        time.sleep(max(at - now, 0.0))
        return load, breaks

    def _one_association(
        self,
        first: tuple[Load, bool],
        loads: Iterator[Load],
        answers: SimpleQueue[Outcome | BaseException | None],
    ) -> tuple[Load, bool] | None:
        """Send on one association, ``first`` first; what the next one begins with, None where that is open."""
        manner, scissors, done = self._manner, _Scissors(), 0
        current: tuple[Load, bool] | None = first
        try:
            peer = storage_scu.Peer(*self._to, self._calling, _TIMEOUT_SECONDS, manner.tls)
            with storage_scu.associated(peer, self._contexts, scissors.on_sent) as association:
                while current and association.is_established:
                    load, breaks = current
                    outcome = self._one(association, load, scissors if breaks else None)
                    if outcome is None:
                        return load, False
                    answers.put(outcome)
                    done += 1
                    if done == manner.per_association:
                        return None
                    current = self._next(loads)
                return current
        except DeliveryError as error:  # of making the association; the others would wait as long
            self._unreachable = str(error)
            return current

    def _one(self, association: Association, load: Load, scissors: _Scissors | None) -> Outcome | None:
        """Send an image; None where the association was aborted within it, as wished."""
        try:
            file = load.prepare()
        except ApplianceError as error:
            return _not_sent(load, str(error))
        begin = time.monotonic()
        if scissors is not None:
            scissors.cut_within(file.path.stat().st_size, association.acceptor.maximum_length)
        status, error_words, _ = storage_scu.store(association, file, self._manner.priority)
        if scissors is not None:
            association.abort()
            self._on_abort()
            return None
        return Outcome(load.source, file.sop_instance_uid, status, error_words, time.monotonic() - begin, time.time())


class _Scissors:
    """Aborts an association after so many of its next PDUs."""

    def __init__(self) -> None:
        self._left = 0

    def cut_within(self, size: int, maximum_length: int | None) -> None:
        """In the middle of an object of ``size`` bytes: the first PDU is its command."""
        self._left = max(size // (maximum_length or 16382) // 2, 1)

    def on_sent(self, event: Any) -> None:
        if not self._left or type(event.pdu).__name__ != "P_DATA_TF":
            return
        self._left -= 1
        if not self._left:
            connection = event.assoc.dul.socket.socket
            with contextlib.suppress(OSError):
                connection.sendall(_A_ABORT)
                connection.shutdown(socket.SHUT_RDWR)


def _not_sent(load: Load, error: str) -> Outcome:
    return Outcome(load.source, "", None, error, 0.0, time.time())

"""A package in service: the backend that proved itself fastest, in a process that is replaced when it dies or hangs.

What one image may cost: its backend's process twice, that of each other backend once, as long as its lease has time;
then it is given up, and the next image is read.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from appliance import backends
from appliance.backend import Options
from appliance.errors import BackendError, InferenceStoppedError, NotServedError
from appliance.inference import InferenceProcess, Output
from appliance.package import Package
from appliance.receipt import Receipt
from appliance.store import MOST_CRASHES

log = logging.getLogger("scanside.serving")

_START_SECONDS = 60.0
_SHORTEST_RESTART_SECONDS = 5.0  # while an image waits
_REMEMBERED = 200
_BATCH_GAIN = 0.8  # a batch must take less than this share of the time, for each image
_SLOWER = 4.0  # times slower than when it proved itself: more is no answer
_GROUP_GAIN = 0.05  # of the time that an image takes in all


@dataclass(frozen=True)
class Answer:
    """What a network said about one image, float32 without a batch axis, and which proved backend it ran on."""

    outputs: dict[str, np.ndarray]
    receipt: Receipt


class Server:
    """One package and its backends.

    Parameters
    ----------
    receipts
        Of the backends that may serve, the one that shall first.
    options
        For all of them, but for the device and the batch.
    deadline
        Seconds within which one image must be answered, more where its receipt shows that the network is slower.

    Attributes
    ----------
    stops
        backend -> how often its process ended or was stopped; ``last_stop`` says the latest in words.
    dropped
        backend -> why it serves no longer, until it proves itself anew.
    unprepared
        Backends whose compiled network is gone.
    """

    def __init__(self, opened: Package, receipts: Sequence[Receipt], options: Options, deadline: float) -> None:
        self.package = opened
        self.stops: dict[str, int] = {}
        self.last_stop = ""
        self.dropped: dict[str, str] = {}
        self.unprepared: set[str] = set()
        self._receipts = list(receipts)
        self._options = options
        self._deadline = deadline
        self._restart_seconds = max(deadline, _SHORTEST_RESTART_SECONDS)
        self._processes: dict[str, InferenceProcess] = {}
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def receipt(self) -> Receipt:
        """Of the backend that serves; raises `NotServedError` where none is left."""
        if not self._receipts:
            raise self._none_left()
        return self._receipts[0]

    @property
    def backend(self) -> str | None:
        """That serves, None where none is left."""
        return self._receipts[0].backend if self._receipts else None

    @property
    def batch(self) -> int:
        """Images in one call: more than 1 only where the receipt shows that it gains."""
        return best_batch(self.receipt)

    def group(self, usual_seconds: float) -> int:
        """How many images to run at once: more than 1 only where that gains a telling share of an image's time.

        Parameters
        ----------
        usual_seconds
            All that one image takes, from its file to its result.
        """
        if self.package.takes_volumes:  # their decoding alone would outlast what is gained
            return 1
        receipt = self.receipt
        ways = {batch.size: batch.seconds for batch in receipt.batches if batch.size == self.batch}
        ways.setdefault(self._options.lanes, receipt.latency_p50 / self._options.lanes)
        size = min(ways, key=lambda size: ways[size])
        return size if receipt.latency_p50 - ways[size] >= _GROUP_GAIN * usual_seconds else 1

    @property
    def process(self) -> InferenceProcess | None:
        """That of the backend that serves, None where it is not running."""
        return self._processes.get(self.backend or "")

    @property
    def latency_p50(self) -> float | None:
        """Seconds, of the latest images; None where there was none."""
        return float(np.median(self._seconds)) if self._seconds else None

    def keep_alive(self) -> None:
        """See that a process serves: start it where it is not there, or ended by itself.

        One that can't be started is dropped, and the next one serves. Raises `NotServedError` where none is left.
        """
        while True:
            receipt = self.receipt
            try:
                self._running(receipt, _START_SECONDS)
            except BackendError as error:
                self._drop(receipt, error.message)
            else:
                return

    def run(
        self,
        inputs: dict[str, np.ndarray],
        until: float = math.inf,
        tries: int = MOST_CRASHES,
        on_stop: Callable[[str], object] = log.debug,
    ) -> Answer:
        """The answer for one image.

        Parameters
        ----------
        inputs
            For each input name -> float32 ``(1, channel, ...)``.
        until
            When there must be an answer, by the clock of `time.monotonic`.
        tries
            How often this image may stop the process of the backend that serves.
        on_stop
            Told the reason each time it does.

        Raises
        ------
        NotServedError
            No backend could try it.
        BackendError
            Those that tried gave no answer, with the reasons of each.
        """
        reasons: list[str] = []
        tried = False
        for receipt in tuple(self._receipts):
            for _ in range(tries if receipt is self._receipts[0] else 1):
                left = until - time.monotonic()
                if left <= 0:
                    reasons.append("no time is left for another try")
                    break
                try:
                    process = self._running(receipt, min(self._restart_seconds, left))
                except BackendError as error:
                    if left >= self._restart_seconds:  # else it was only too late to start it
                        self._drop(receipt, error.message)
                    reasons.append(error.message)
                    break
                tried = True
                try:
                    (output,) = process.run([inputs], min(self._patience(receipt), left))
                    answer = self._answer(receipt, output)
                except InferenceStoppedError as error:
                    self._note_stop(receipt.backend, error.message)
                    reasons.append(error.message)
                    on_stop(error.message)
                except BackendError as error:  # it has answered: asking once more would change nothing
                    reasons.append(error.message)
                    break
                else:
                    self._tidy_up()
                    return answer
        self._tidy_up()
        if not tried:
            raise NotServedError("; ".join(dict.fromkeys(reasons))) if self._receipts else self._none_left()
        raise BackendError("; ".join(dict.fromkeys(reasons)))

    def run_together(self, images: Sequence[dict[str, np.ndarray]]) -> list[Answer]:
        """The answers for several images at once, in batches and on all lanes.

        Raises
        ------
        BackendError
            Any of them failed or stopped the process: run each alone, to see which.
        """
        receipt = self.receipt
        try:
            outputs = self._running(receipt, self._restart_seconds).run(images, self._patience(receipt))
        except InferenceStoppedError as error:
            self._note_stop(receipt.backend, error.message)
            raise
        return [self._answer(receipt, output) for output in outputs]

    def _patience(self, receipt: Receipt) -> float:
        """Seconds for an answer: the configured ones, or more of a network that is known to need them."""
        return max(self._deadline, _SLOWER * receipt.latency_p95)

    def _answer(self, receipt: Receipt, output: Output) -> Answer:
        if not all(np.isfinite(array).all() for array in output.arrays.values()):
            raise BackendError(f"{receipt.backend} gave values that are no numbers")
        self._seconds.append(output.seconds)
        return Answer(output.arrays, receipt)

    def _running(self, receipt: Receipt, seconds: float) -> InferenceProcess:
        """The process of a backend, started where it has to be; raises `BackendError` where it can't be in time."""
        name = receipt.backend
        process = self._processes.get(name)
        if process is not None and process.is_alive():
            return process
        if process is not None:
            self._note_stop(name, f"{name}, while it had nothing to do: {process.how_it_ended()}")
        begin = time.perf_counter()
        opened = replace(self._options, device=backends.device(name), batch=best_batch(receipt))
        process = InferenceProcess(self.package, name, opened)
        started = process.wait_until_started(seconds)
        if started.unprepared:
            self.unprepared.add(name)
        if started.reason:
            raise BackendError(f"{name} can't be started: {started.reason}")
        if started.device != receipt.device:
            process.close()
            raise BackendError(f"{name} runs on {started.device} now, but has proved itself on {receipt.device}")
        self._processes[name] = process
        log.info("%s serves %s (process %d, %.2f s)", name, self.package, process.pid, time.perf_counter() - begin)
        return process

    def _note_stop(self, name: str, reason: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.close()
        self.stops[name] = self.stops.get(name, 0) + 1
        self.last_stop = reason
        log.error("%s; it is started again", reason)

    def _drop(self, receipt: Receipt, reason: str) -> None:
        log.error("%s serves no longer, until it proves itself anew: %s", receipt.backend, reason)
        self._receipts.remove(receipt)
        self.dropped[receipt.backend] = reason

    def _none_left(self) -> NotServedError:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.dropped.items())
        return NotServedError(f"no inference backend is left: {reasons}", hint="run `scanside receipt`")

    def _tidy_up(self) -> None:
        """Only the backend that serves keeps its process."""
        for name in [name for name in self._processes if name != self.backend]:
            self._processes.pop(name).close()

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes.clear()


def best_batch(receipt: Receipt) -> int:
    """The batch size with the least time for an image, 1 where no batch gains clearly."""
    best = min(receipt.batches, key=lambda batch: batch.seconds, default=None)
    return best.size if best and best.seconds < _BATCH_GAIN * receipt.latency_p50 else 1

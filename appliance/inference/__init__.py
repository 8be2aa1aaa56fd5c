"""A backend in a process of its own, fed through shared memory: what breaks it takes nothing else with it.

The parent holds an `InferenceProcess`; the child is ``python -m appliance.inference``. Between them are a memory file
(memfd_create(2)), which holds the arrays in slots, and a socket, over which slot numbers go to and fro. Each of the
child's lanes waits on that socket by itself, so the kernel hands a job to one that is free.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from appliance import backends
from appliance.backend import Options
from appliance.errors import BackendError, InferenceStoppedError
from appliance.package import Package
from appliance.process import is_readable
from appliance.receipt import Receipt

log = logging.getLogger("scanside.inference")

START_SECONDS = 120.0
_SLOTS_PER_LANE = 4  # one that is computed, and others that wait where all cores are busy and the parent is not next
_ALIGNMENT = 64  # a cache line, and what runtimes ask for to take an array as it is
_STOP_SECONDS = 2.0
_LARGEST_MESSAGE = 1 << 16

JOB = struct.Struct("<II")  # slot, images in it
DONE = struct.Struct("<Id")  # slot, seconds that the network took; where it failed, -1, and its words follow


class Start(msgspec.Struct, frozen=True):
    """The parent's first words: what to open. ``prove`` asks for a receipt."""

    backend: str
    path: str
    sha256: str
    options: Options
    slots: int
    prove: bool


class Started(msgspec.Struct, frozen=True):
    """The child's answer: it serves (``outputs``: name -> shape of one image's output), or why not.

    ``unprepared``: its network must be compiled first, see `appliance.backend.Preparing`.
    """

    reason: str = ""
    unprepared: bool = False
    receipt: Receipt | None = None
    device: str = ""
    outputs: dict[str, tuple[int, ...]] = {}


class Arrays:
    """Float32 arrays in shared memory: for each slot every input and output, the first axis the images.

    Parameters
    ----------
    shapes
        name -> shape with the batch in front; in both processes the same, in the same order.
    offset
        Bytes in the memory before the first slot.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], slots: int, offset: int = 0) -> None:
        self._shapes = shapes
        self._slots = slots
        self._offset = offset
        self.end = offset + slots * sum(_aligned(shape) for shape in shapes.values())

    def views(self, memory: mmap.mmap) -> list[dict[str, np.ndarray]]:
        """For each slot name -> array, not copied."""
        at, slots = self._offset, []
        for _ in range(self._slots):
            arrays = {}
            for name, shape in self._shapes.items():
                arrays[name] = np.frombuffer(memory, np.float32, int(np.prod(shape)), at).reshape(shape)
                at += _aligned(shape)
            slots.append(arrays)
        return slots


def _aligned(shape: tuple[int, ...]) -> int:
    """Bytes of a float32 array, rounded up."""
    size = int(np.prod(shape)) * 4
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def inputs_of(opened: Package, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes that `Arrays` takes, of a package's input."""
    spec = opened.manifest.input
    return {spec.name: (batch, *spec.shape[1:])}


@dataclass(frozen=True)
class Output:
    """What the network gave for one image: name -> array without the batch axis; and its seconds."""

    arrays: dict[str, np.ndarray]
    seconds: float


class InferenceProcess:
    """A package on a backend in a child process.

    Parameters
    ----------
    name
        The backend's, as in the configuration.
    prove
        Have it replay all golden vectors and make a receipt; else it replays one, to see that it works.

    Make it in the main thread, with whose end the child is killed.
    """

    def __init__(self, opened: Package, name: str, options: Options, prove: bool = False) -> None:
        self.name = name
        self._opened = opened
        self._options = options
        self._slots = _SLOTS_PER_LANE * options.lanes
        inputs = Arrays(inputs_of(opened, options.batch), self._slots)
        self._memory_file = os.memfd_create("scanside-inference")
        os.ftruncate(self._memory_file, inputs.end)
        self._input_end = inputs.end
        self._memory: mmap.mmap | None = None
        self._inputs: list[dict[str, np.ndarray]] = []
        self._outputs: list[dict[str, np.ndarray]] = []
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                self._process = self._start(theirs)
            start = Start(name, str(opened.path), opened.sha256, options, self._slots, prove)
            self._socket.send(msgspec.json.encode(start, enc_hook=str))
        except OSError as error:  # no memory for a process, or it died at once
            self.close()
            raise BackendError(f"{name}: its process can't be started: {error}") from error

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        stderr = os.dup(sys.stderr.fileno())  # for what it says once it serves
        descriptors = (theirs.fileno(), self._memory_file, stderr)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "appliance.inference", *map(str, (os.getpid(), *descriptors))],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C is its parent's to handle
            )
        finally:
            os.close(stderr)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def fileno(self) -> int:
        """For select(2): readable while nothing was asked means that the process has ended."""
        return self._socket.fileno()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def peak_memory(self) -> int:
        """Bytes that the process has held at most (VmHWM of proc(5))."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def wait_until_started(self, seconds: float = START_SECONDS) -> Started:
        """The child's answer, or the reason why there is none; without one it is stopped."""
        try:
            message = self._receive(time.monotonic() + seconds, seconds)
        except InferenceStoppedError as error:
            self.close()
            return Started(reason=error.message)
        started = msgspec.json.decode(message, type=Started)
        if started.reason:
            self.close()
            return started
        outputs = {name: (self._options.batch, *shape) for name, shape in started.outputs.items()}
        arrays = Arrays(outputs, self._slots, self._input_end)
        self._memory = mmap.mmap(self._memory_file, arrays.end)
        self._inputs = Arrays(inputs_of(self._opened, self._options.batch), self._slots).views(self._memory)
        self._outputs = arrays.views(self._memory)
        return started

    def run(self, images: Sequence[dict[str, np.ndarray]], seconds: float) -> list[Output]:
        """The outputs for some images, in their order; several run in batches and on all lanes at once.

        Whatever it raises, no job is left behind whose answer could be taken for that of a later one.

        Parameters
        ----------
        images
            For each input name -> float32 ``(1, channel, [slices,] rows, columns)``.
        seconds
            The longest time without an answer.

        Raises
        ------
        InferenceStoppedError
            It ended or did not answer; it is gone then, and a new one is needed.
        BackendError
            The network refused an image; the process goes on.
        """
        for image in images:
            self._check(image)
        groups = self._groups(images)
        free = list(range(self._slots))
        running: dict[int, Sequence[int]] = {}
        answers: list[Output | None] = [None] * len(images)
        failed = ""
        deadline = time.monotonic() + seconds
        while groups or running:
            while groups and free:
                slot, group = free.pop(), groups.pop()
                self._fill(slot, [images[number] for number in group])
                running[slot] = group
                self._send(JOB.pack(slot, len(group)))
            message = self._receive(deadline, seconds)
            slot, taken = DONE.unpack_from(message)
            if taken < 0:
                failed = message[DONE.size :].decode(errors="replace")
                groups.clear()
            for place, number in enumerate(running[slot]):
                arrays = {name: array[place].copy() for name, array in self._outputs[slot].items()}
                answers[number] = Output(arrays, taken / len(running[slot]))
            del running[slot]
            free.append(slot)
            deadline = time.monotonic() + seconds
        if failed:
            raise BackendError(failed)
        return [answer for answer in answers if answer is not None]

    def _groups(self, images: Sequence[Any]) -> list[Sequence[int]]:
        """Image numbers for each job, the last job first: full batches, what is left over one by one."""
        batch, numbers = self._options.batch, range(len(images))
        whole = len(images) - len(images) % batch
        groups: list[Sequence[int]] = [numbers[start : start + batch] for start in range(0, whole, batch)]
        return [*groups, *(numbers[start : start + 1] for start in range(whole, len(images)))][::-1]

    def _check(self, image: dict[str, np.ndarray]) -> None:
        given = {name: value.shape for name, value in image.items()}
        wanted = {name: (1, *array.shape[1:]) for name, array in self._inputs[0].items()}
        if given != wanted:
            raise BackendError(f"{self.name} can't run the network on {given}, only on {wanted}")

    def _fill(self, slot: int, images: Sequence[dict[str, np.ndarray]]) -> None:
        for name, array in self._inputs[slot].items():
            for place, image in enumerate(images):
                np.copyto(array[place], image[name][0])

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except OSError:
            raise self._stopped() from None

    def _receive(self, deadline: float, seconds: float) -> bytes:
        """The next message; raises `InferenceStoppedError` where the process ends or lets the deadline pass."""
        readable = is_readable(self._socket, deadline - time.monotonic())
        if not readable:
            self.close()
            raise InferenceStoppedError(f"{self.name} gave no answer within {seconds:g} s and was stopped")
        try:
            message = self._socket.recv(_LARGEST_MESSAGE)
        except ConnectionError:
            message = b""
        if not message:
            raise self._stopped()
        return message

    def _stopped(self) -> InferenceStoppedError:
        reason = self.how_it_ended()
        self.close()
        return InferenceStoppedError(f"{self.name}: {reason}")

    def how_it_ended(self) -> str:
        """In words, of a process that has closed its socket."""
        assert self._process is not None
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process closed its socket, went on, and was stopped"
        self._stderr.seek(0)
        return backends.how_it_ended(code, self._stderr.read())

    def close(self) -> None:
        """End the process at once; it holds nothing that could be lost."""
        if self._process is not None:
            self._process.kill()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:  # a driver that hangs in the kernel: nothing here can end it
                log.error("%s: process %d can't be ended; it is left behind", self.name, self._process.pid)
        self._socket.close()
        self._stderr.close()
        self._inputs, self._outputs, self._memory = [], [], None
        if self._memory_file >= 0:
            os.close(self._memory_file)
            self._memory_file = -1

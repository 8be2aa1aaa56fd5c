"""Received files are parsed and decoded in a process with limits: what breaks it takes nothing else with it.

The parent holds a `Sandbox`; the child is ``python -m appliance.sandbox``. Between them are a socket, over which a path
goes there and the answer back, and a memory file (memfd_create(2)), into which the child writes what it made of the
file: the header, encoded anew, or the pixels. The parent opens no received file; it copies what is in the memory file,
and what it parses of it has been checked again to be within the budget.

The child is used again for files that behave. One that reports damaged pixels is replaced, since a decoder may have
written where it should not; so is one that ended or was stopped. A crash counts against a file only where the process
was fresh: an earlier file may have caused it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import psutil
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset

from appliance import budget, config, decode, image
from appliance.errors import ImageError, QuarantineError, SandboxError, SpoolError
from appliance.image import Image
from appliance.process import is_readable

log = logging.getLogger("scanside.sandbox")

What = Literal["header", "pixels"]

LARGEST_MESSAGE = 1 << 16
_START_SECONDS = 60.0
_HEADER_SHARE = 1 / 3  # of the seconds for one file; the rest is for its pixels
_BUSY_SHARE = 0.5  # of its seconds: a process that got less of a processor had no chance to read any file
_STOP_SECONDS = 2.0
_KINDS = "iuf"  # of NumPy's numbers
_LARGEST_KEPT = 1 << 26  # bytes; a memory file that was larger goes, with its process


class Start(msgspec.Struct, frozen=True):
    """The parent's first words: the limit of the address space in bytes."""

    memory: int


class Request(msgspec.Struct, frozen=True):
    """What to make of a file, within how many seconds of processor time."""

    what: What
    path: str
    cpu_seconds: int


class Reply(msgspec.Struct, frozen=True):
    """What became of it.

    ``error``: the class of `appliance.errors` that it ends with, empty where ``size`` bytes lie in the memory file.
    For a header, ``meta`` bytes of them are the file meta information, the others the data set in its ``implicit`` and
    ``little`` encoding; for pixels they are an array of ``dtype`` and ``shape``.
    """

    error: Literal["", "ImageError", "QuarantineError", "SpoolError"] = ""
    message: str = ""
    hint: str | None = None
    size: int = 0
    meta: int = 0
    implicit: bool = False
    little: bool = True
    dtype: str = ""
    shape: tuple[int, ...] = ()


class _EndedError(Exception):
    """The child ended by itself; ``code`` as `subprocess.Popen.returncode`."""

    def __init__(self, code: int) -> None:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        super().__init__(name)
        self.code = code


class Sandbox:
    """Reads files in a child process; see the module. Use it in one thread, with whose end the child is killed."""

    def __init__(self, settings: config.Sandbox) -> None:
        self._memory = settings.memory_mib << 20
        self._seconds = {
            "header": settings.seconds * _HEADER_SHARE,
            "pixels": settings.seconds * (1 - _HEADER_SHARE),
        }
        self._child: _Child | None = None
        self.stops = 0  # processes that had to be replaced

    def start(self) -> None:
        """Start the child, or one in place of one that ended, so that the next file need not wait for it."""
        if self._child is None or not self._child.is_alive():
            self._close_child()
            self._child = _Child(self._memory)

    @property
    def pid(self) -> int:
        """Of the child; 0 where there is none."""
        return self._child.pid if self._child is not None else 0

    def close(self) -> None:
        """End the child; it holds nothing that could be lost."""
        self._close_child()

    def _close_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def read_header(self, path: Path) -> Dataset:
        """As of `appliance.image.read_header`.

        Raises
        ------
        ImageError
            The file is empty, no DICOM, or ends within its header.
        QuarantineError
            Reading it exceeds a limit or ended the process.
        SandboxError
            There is no process that could read it, or it got no processor to do so.
        SpoolError
            The disk does not give it.
        """
        reply, content = self._ask("header", path)
        try:
            return _header(reply, content)
        except ImageError:
            raise
        except Exception as error:  # what the child made can't be read: nothing to be blamed but the file
            log.exception("a header that was encoded anew can't be read")
            raise QuarantineError(f"Its header can't be passed on ({type(error).__name__}).") from error

    def load(self, path: Path, header: Dataset) -> Image:
        """As of `appliance.image.load`; errors as of `read_header`."""
        decode.check_header(header)
        reply, content = self._ask("pixels", path)
        dtype = np.dtype(reply.dtype)
        count = int(np.prod(reply.shape))
        if dtype.kind not in _KINDS or len(reply.shape) != 2 or count * dtype.itemsize != len(content):
            raise QuarantineError("What the reading process made of its pixels is no image.")
        return Image(content.view(dtype).reshape(reply.shape), header, image.spacing(header))

    def _ask(self, what: What, path: Path) -> tuple[Reply, np.ndarray]:
        limit = left = self._seconds[what]
        while True:
            self.start()
            child = self._child
            assert child is not None
            child.wait_until_ready()
            begin, cpu_begin = time.monotonic(), child.cpu_seconds()
            try:
                reply, content = child.ask(Request(what, str(path), int(limit)), left)
            except TimeoutError:
                worked = child.cpu_seconds() - cpu_begin
                self._replace()
                if worked < _BUSY_SHARE * left:
                    raise SandboxError(
                        f"reading a file's {what} got {worked:.1f} s of a processor in {left:.0f} s",
                        hint="this machine is too busy",
                    ) from None
                raise QuarantineError(f"Reading its {what} took longer than {limit:.0f} s.") from None
            except _EndedError as ended:
                self._replace()
                if ended.code == -signal.SIGXCPU:
                    reason = f"Reading its {what} took more than {int(limit)} s of processor time."
                    raise QuarantineError(reason) from None
                if not child.answered:
                    raise QuarantineError(f"The process that read its {what} was stopped by it: {ended}.") from None
                log.warning("the process that reads files ended over one, which is read again in a new one: %s", ended)
                left = max(left - (time.monotonic() - begin), 1.0)
                continue
            if not reply.error:
                if reply.size > _LARGEST_KEPT:
                    self._close_child()
                return reply, content
            if reply.error == "SpoolError":
                raise SpoolError(reply.message, hint=reply.hint)
            if what == "pixels" or reply.error == "QuarantineError":
                self._replace()
            error = QuarantineError if reply.error == "QuarantineError" else ImageError
            raise error(reply.message, hint=reply.hint)

    def _replace(self) -> None:
        self.stops += 1
        self._close_child()
        self.start()


class _Child:
    """The process behind a socket.

    Attributes
    ----------
    answered
        How many requests it has answered.
    """

    def __init__(self, memory: int) -> None:
        self.answered = 0
        self._ready = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._memory_file = os.memfd_create("scanside-sandbox")
        descriptors = theirs.fileno(), self._memory_file
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "appliance.sandbox", *map(str, (os.getpid(), *descriptors))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    start_new_session=True,  # Ctrl-C is its parent's to handle
                    # Each thread of OpenBLAS would reserve address space, which is limited.
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )
            except OSError as error:
                self._socket.close()
                os.close(self._memory_file)
                raise SandboxError(f"the process that reads files can't be started: {error}") from error
        self._socket.send(msgspec.json.encode(Start(memory)))

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Processor time that it has used; 0.0 of one that has ended."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def wait_until_ready(self) -> None:
        """Raises `SandboxError` where it can't be started: that is no file's fault."""
        if self._ready:
            return
        try:
            self._receive(_START_SECONDS)
        except (TimeoutError, _EndedError) as error:
            self.close()
            raise SandboxError(
                f"the process that reads files can't be started: {error}",
                hint="look into the log; sandbox.memory_mib may be too small for this machine",
            ) from error
        self._ready = True

    def ask(self, request: Request, seconds: float) -> tuple[Reply, np.ndarray]:
        """The answer with the bytes that came along.

        Raises
        ------
        TimeoutError
            There was none within so many seconds.
        _EndedError
            The process has ended.
        """
        try:
            self._socket.send(msgspec.json.encode(request))
        except OSError:
            raise _EndedError(self._process.wait(_STOP_SECONDS)) from None
        reply = msgspec.json.decode(self._receive(seconds), type=Reply)
        self.answered += 1
        content = np.empty(min(reply.size, os.fstat(self._memory_file).st_size), np.uint8)
        os.preadv(self._memory_file, [content.data], 0)
        return reply, content

    def _receive(self, seconds: float) -> bytes:
        if not is_readable(self._socket, seconds):
            raise TimeoutError
        message = b""
        with contextlib.suppress(ConnectionError):
            message = self._socket.recv(LARGEST_MESSAGE)
        if not message:
            raise _EndedError(self._process.wait(_STOP_SECONDS))
        return message

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()
        if self._memory_file >= 0:
            os.close(self._memory_file)
            self._memory_file = -1


def _header(reply: Reply, content: np.ndarray) -> Dataset:
    """The data set that the child has encoded anew."""
    meta, data_set = io.BytesIO(content[: reply.meta].tobytes()), io.BytesIO(content[reply.meta :].tobytes())
    budget.check_data_set(data_set, reply.little)
    data_set.seek(0)
    with image.quiet():
        read = read_dataset(data_set, reply.implicit, reply.little)
        file_meta = FileMetaDataset(read_dataset(meta, False, True))
        header = FileDataset("", read, None, file_meta, reply.implicit, reply.little)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "TransferSyntaxUID"):  # kept as they are looked at here
            header.get(keyword), file_meta.get(keyword)
    return header

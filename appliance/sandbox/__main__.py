"""The child of `appliance.sandbox.Sandbox`: reads one file after another, within its limits."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path

import msgspec
import numpy as np
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from appliance import decode, image, process
from appliance.errors import ImageError, QuarantineError, SpoolError
from appliance.log import set_up
from appliance.sandbox import LARGEST_MESSAGE, Reply, Request, Start

log = logging.getLogger("scanside.sandbox")

_MOST_FILES = 64  # open at once
_LONGEST_WORDS = 2000  # bytes of a message


def main() -> None:
    parent, descriptor, memory_file = map(int, sys.argv[1:])
    process.die_with_parent(parent)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to the whole service; its parent ends it when it is done with it
    process.be_the_first_to_go()
    set_up("warning")
    with socket.socket(fileno=descriptor) as line:
        start = msgspec.json.decode(line.recv(LARGEST_MESSAGE), type=Start)
        decode.missing_decoders()  # loads them all
        _limit(start)
        line.send(b"ready")
        while message := line.recv(LARGEST_MESSAGE):
            line.send(msgspec.json.encode(_answer(msgspec.json.decode(message, type=Request), memory_file)))


def _limit(start: Start) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, start.memory),
        (resource.RLIMIT_FSIZE, start.memory),
        (resource.RLIMIT_NOFILE, _MOST_FILES),
        (resource.RLIMIT_CORE, 0),  # a core file would hold a patient's image
    ):
        resource.setrlimit(kind, (most, most))


def _answer(request: Request, memory_file: int) -> Reply:
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + request.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    try:
        read = _read_header if request.what == "header" else _read_pixels
        reply, parts = read(Path(request.path))
        return msgspec.structs.replace(reply, size=_write(memory_file, parts))
    except QuarantineError as error:
        return _refusal("QuarantineError", error.message, error.hint)
    except ImageError as error:
        return _refusal("ImageError", error.message, error.hint)
    except SpoolError as error:
        return _refusal("SpoolError", error.message, error.hint)
    except MemoryError:
        return _refusal("QuarantineError", f"Reading its {request.what} needs more memory than it may have.")
    except Exception as error:  # noqa: BLE001  what a broken file provokes, and nobody has thought of
        at = traceback.extract_tb(error.__traceback__)[-1]  # its words may hold what the header says of a patient
        log.error("reading the %s of a file failed: %s at %s:%s", request.what, type(error).__name__, *at[:2])
        return _refusal("QuarantineError", f"Reading its {request.what} failed ({type(error).__name__}).")


def _refusal(error: str, message: str, hint: str | None = None) -> Reply:
    return msgspec.convert({"error": error, "message": message[:_LONGEST_WORDS], "hint": hint}, Reply)


def _write(memory_file: int, parts: list[memoryview]) -> int:
    """The parts one after the other; how many bytes they are."""
    at = 0
    for part in parts:
        while part:
            written = os.pwrite(memory_file, part, at)
            at, part = at + written, part[written:]
    return at


def _read_header(path: Path) -> tuple[Reply, list[memoryview]]:
    header = image.read_header(path)
    _, little = header.original_encoding
    # As it was found, which may be another encoding than the transfer syntax states.
    elements = (header.get_item(tag) for tag in header.keys())  # noqa: SIM118 (a Dataset iterates over its values)
    implicit = any(element.VR is None for element in elements)
    meta, data_set = _encoded(header.file_meta, False, True), _encoded(header, implicit, bool(little))
    return Reply(meta=len(meta), implicit=implicit, little=bool(little)), [meta, data_set]


def _read_pixels(path: Path) -> tuple[Reply, list[memoryview]]:
    pixels = np.ascontiguousarray(image.read_pixels(path))
    return Reply(dtype=pixels.dtype.str, shape=pixels.shape), [pixels.data.cast("B")]


def _encoded(header: Dataset, implicit: bool, little: bool) -> memoryview:
    """The elements as they were read; one that can't be written counts as missing, as one that can't be read does."""
    parts = []
    for tag in sorted(header.keys()):
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
        try:
            write_data_element(buffer, header.get_item(tag), header._character_set)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  pydicom raises whatever a broken value provokes
            log.info("%s is left out: %s", tag, type(error).__name__)
        else:
            parts.append(buffer.getvalue())
    return memoryview(b"".join(parts))


if __name__ == "__main__":
    main()

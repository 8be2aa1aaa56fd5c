"""Multipart bodies (RFC 2046 section 5.1) as they come in, part by part, without any part in memory as a whole.

Werkzeug's decoder is not used: where a read ends within a boundary, it leaves a byte of that with the content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from werkzeug.datastructures import Headers
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.http import parse_options_header

_PIECE_BYTES = 128 * 1024
_LARGEST_HEADERS = 16 * 1024  # of a part
_BLANK_LINE = b"\r\n\r\n"


@dataclass(frozen=True)
class Part:
    """One part; ``pieces`` must be read, or are skipped, before the next part comes.

    ``filename`` is what Content-Disposition says; multipart/related has none.
    """

    headers: Headers
    filename: str
    pieces: Iterator[bytes]


def parts(stream: IO[bytes], boundary: str, largest_part: int, most_parts: int) -> Iterator[Part]:
    """The parts of a body, in their order.

    Parameters
    ----------
    largest_part
        Bytes.

    Raises
    ------
    BadRequest
        It is no such body, or ends before its last boundary.
    RequestEntityTooLarge
        A part is larger, or there are more parts; or the stream's own limit is reached.
    """
    body = _Body(stream, boundary)
    for _ in body.until_delimiter():
        pass  # what comes before the first one means nothing
    count = 0
    while body.next_part():
        count += 1
        if count > most_parts:
            raise RequestEntityTooLarge(f"There are more than {most_parts} files.")
        headers = body.headers()
        filename = parse_options_header(headers.get("Content-Disposition"))[1].get("filename", "")
        pieces = _limited(body.until_delimiter(), largest_part)
        yield Part(headers, filename, pieces)
        for _ in pieces:
            pass
    while stream.read(_PIECE_BYTES):
        pass  # what comes after the last one means nothing, but unread it could keep the answer from arriving


def _limited(pieces: Iterator[bytes], largest: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > largest:
            raise RequestEntityTooLarge(f"A file is larger than {largest / 1e6:.0f} MB.")
        yield piece


class _Body:
    """What has come and was not passed on yet."""

    def __init__(self, stream: IO[bytes], boundary: str) -> None:
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning

    def until_delimiter(self) -> Iterator[bytes]:
        """Pieces of what comes before the next delimiter, which is read, too."""
        while (end := self._buffer.find(self._delimiter)) < 0:
            sure = len(self._buffer) - len(self._delimiter) + 1
            if sure > 0:
                yield self._take(sure)
            self._read()
        if end:
            yield self._take(end)
        self._take(len(self._delimiter))

    def next_part(self) -> bool:
        """Read the rest of the delimiter's line; False where it was the last one."""
        while True:
            line = self._buffer.lstrip(b" \t")
            if line.startswith(b"--"):
                return False
            if line.startswith(b"\r\n"):
                self._take(len(self._buffer) - len(line))
                return True
            if len(line) > 1 or len(self._buffer) > _LARGEST_HEADERS:
                raise BadRequest("A boundary of the multipart body is followed by something else than a part.")
            self._read()

    def headers(self) -> Headers:
        """The part's headers; the content follows."""
        while (end := self._buffer.find(_BLANK_LINE)) < 0:
            if len(self._buffer) > _LARGEST_HEADERS:
                raise RequestEntityTooLarge("A part's headers are too long.")
            self._read()
        lines = self._take(end).decode("utf-8", "replace").replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n")
        self._take(2)
        while len(self._buffer) < len(self._delimiter):
            self._read()
        if not self._buffer.startswith(self._delimiter):  # of an empty part the blank line may be the delimiter's
            self._take(2)
        pairs = (line.partition(":") for line in lines if ":" in line)
        return Headers([(name.strip(), value.strip()) for name, _, value in pairs])

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _read(self) -> None:
        piece = self._stream.read(_PIECE_BYTES)
        if not piece:
            raise BadRequest("The multipart body ends before its last boundary; it may be cut off.")
        self._buffer += piece

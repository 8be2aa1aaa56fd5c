"""A disk as bytes: written, flushed, and read back from the medium itself, past the kernel's cache."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from pathlib import Path

from firmware.errors import BrokenError, FirmwareError

_BLKFLSBUF = 0x1261
_BLKRRPART = 0x125F
_ALIGN = 4096
_PLUG_IN = "plug it in and run the same command again"
_HINTS = {errno.EBUSY: "it is in use; unmount it", errno.ENOENT: _PLUG_IN, errno.ENXIO: _PLUG_IN}


class Medium:
    """An open disk or file.

    Parameters
    ----------
    length
        That a file gets which stands for a disk; None opens it for reading only.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        self._device = path.is_block_device()
        writing = length is not None
        flags = (os.O_RDWR | (os.O_EXCL if self._device else 0)) if writing else os.O_RDONLY
        try:
            self._descriptor = os.open(path, flags | os.O_CLOEXEC)
            if writing and not self._device and os.fstat(self._descriptor).st_size < (length or 0):
                os.ftruncate(self._descriptor, length or 0)
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "run this as root (sudo)")
            raise FirmwareError(f"{path} can't be opened: {error.strerror}", hint) from error

    def size(self) -> int:
        """Bytes that it says it has."""
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def write(self, offset: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                raise _broken(self.path, offset, "written", error) from error
            view, offset = view[count:], offset + count

    def flush(self) -> None:
        """All that was written is on the medium, and nothing of it in the kernel's cache."""
        try:
            os.fsync(self._descriptor)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if self._device:
                with contextlib.suppress(PermissionError):
                    fcntl.ioctl(self._descriptor, _BLKFLSBUF, 0)
        except OSError as error:
            raise _broken(self.path, 0, "flushed", error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the medium, by direct I/O where there is any."""
        begin = offset // _ALIGN * _ALIGN
        span = -(-(offset + length - begin) // _ALIGN) * _ALIGN
        try:
            with mmap.mmap(-1, span) as buffer:
                count = self._read_into(buffer, begin)
                return buffer[offset - begin : min(offset - begin + length, count)]
        except OSError as error:
            raise _broken(self.path, offset, "read", error) from error

    def _read_into(self, buffer: mmap.mmap, begin: int) -> int:
        try:
            direct = os.open(self.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without direct I/O, such as tmpfs
                raise
            return os.preadv(self._descriptor, [buffer], begin)
        try:
            return os.preadv(direct, [buffer], begin)
        finally:
            os.close(direct)

    def close(self) -> None:
        """Give it back; the kernel looks at its new partitions."""
        if self._device:
            with contextlib.suppress(OSError):  # a loop device without partitions, or one that somebody else looks at
                fcntl.ioctl(self._descriptor, _BLKRRPART, 0)
        os.close(self._descriptor)


def _broken(path: Path, offset: int, what: str, error: OSError) -> BrokenError:
    if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ENOMEDIUM):
        return BrokenError(f"{path} is gone: it was unplugged at byte {offset}", hint=_PLUG_IN)
    if error.errno == errno.ENOSPC:
        return BrokenError(f"{path} ends at byte {offset}", hint="take another disk")
    return BrokenError(
        f"{path} can't be {what} at byte {offset}: {error.strerror}",
        hint="run the same command again; where it fails there once more, the disk is worn out",
    )

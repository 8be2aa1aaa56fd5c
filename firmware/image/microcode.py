"""Corrections of processors, where the kernel looks for them before all else: in a plain cpio ahead of the initrd.

The initrd is compressed, and the kernel unpacks it too late for them. The format is newc (cpio(5), and the kernel's
Documentation/arch/x86/microcode.rst); nothing of when and by whom it was made is in it.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = "kernel/x86/microcode"
_VENDORS = {"AuthenticAMD": "amd-ucode/microcode_amd*.bin", "GenuineIntel": "intel-ucode/*"}
_MAGIC, _FILE, _DIRECTORY = "070701", 0o100644, 0o40755


def archive(firmware: Path) -> bytes:
    """All that is in a folder as Linux's ``/usr/lib/firmware``; empty where it has none."""
    found = {}
    for vendor, pattern in _VENDORS.items():
        if blobs := sorted(path for path in firmware.glob(pattern) if path.is_file()):
            found[f"{_FOLDER}/{vendor}.bin"] = b"".join(path.read_bytes() for path in blobs)
    if not found:
        return b""
    folders = [_FOLDER[:end] for end in (len("kernel"), len("kernel/x86"), len(_FOLDER))]
    entries = [(name, _DIRECTORY, b"") for name in folders] + [(name, _FILE, found[name]) for name in sorted(found)]
    packed = b"".join(_entry(number, *each) for number, each in enumerate([*entries, ("TRAILER!!!", 0, b"")]))
    return packed + bytes(-len(packed) % 512)


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    links = 2 if mode == _DIRECTORY else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = f"{_MAGIC}{''.join(f'{each:08x}' for each in fields)}{name}\0".encode()
    return _filled(head) + _filled(content)


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)

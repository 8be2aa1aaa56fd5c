"""The machine as a field engineer asks for it: its network, its clock, its system. Linux; what isn't told is None."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_ADJTIMEX_BYTES = 512  # more than the kernel's struct timex


@dataclass(frozen=True)
class Interface:
    """``mbit_per_second`` is None where the driver doesn't tell; ``addresses`` without the mask."""

    name: str
    up: bool
    addresses: tuple[str, ...]
    mbit_per_second: int | None
    errors: int


@dataclass(frozen=True)
class Clock:
    """Whether something keeps the kernel's clock in step with others (NTP, PTP), and how far it may be off, at most."""

    synchronized: bool | None
    most_off_seconds: float | None


@dataclass(frozen=True)
class System:
    name: str
    kernel: str
    architecture: str
    host: str
    booted_at: float


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)), whose fields are ``long`` there."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * _ADJTIMEX_BYTES),
    )


def addresses() -> dict[str, list[str]]:
    """IP addresses by interface; none where the kernel may not be asked (a service without AF_NETLINK)."""
    try:
        known = psutil.net_if_addrs()
    except OSError:
        return {}
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [each.address.partition("%")[0] for each in of_one if each.family in families]
        for name, of_one in sorted(known.items())
    }


def interfaces() -> list[Interface]:
    """Those that have an address or a link, the loopback left out."""
    found, states = [], psutil.net_if_stats()
    counters = psutil.net_io_counters(pernic=True)
    for name, of_one in addresses().items():
        state = states.get(name)
        shown = tuple(each for each in of_one if not each.startswith("fe80:"))
        if name == "lo" or not (shown or (state and state.isup)):
            continue
        count = counters.get(name)
        errors = count.errin + count.errout if count else 0
        found.append(Interface(name, bool(state and state.isup), shown, (state and state.speed) or None, errors))
    return found


def clock() -> Clock:
    """As the kernel tells; it reads only, which needs no right."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except AttributeError:  # not Linux
        return Clock(None, None)
    if state < 0:
        return Clock(None, None)
    synchronized = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return Clock(synchronized, timex.maxerror / 1e6 if synchronized else None)


def system() -> System:
    return System(
        _os_release(), platform.release(), platform.machine(), platform.node().partition(".")[0], psutil.boot_time()
    )


def _os_release() -> str:
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip().strip('"')
    except OSError:
        return os.uname().sysname
    return os.uname().sysname

"""How hot the machine is and whether it runs slower for it, as Linux tells under /sys.

Read are the thermal zones and cooling devices (kernel: Documentation/ABI/testing/sysfs-class-thermal), the processor's
own sensors (sysfs-class-hwmon), its frequency limits (admin-guide/pm/cpufreq) and Intel's throttle counts. Whatever
stands in these files, or doesn't, nothing here raises: what can't be read counts as not told.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

SYS = Path("/sys")

_LONGEST = 128  # bytes of a file that are looked at
_SENSORS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}  # processors that need not have a thermal zone
_COLDEST, _HOTTEST = -55.0, 150.0  # degrees Celsius; sensors that are off tell others, such as -256
_UNTRUE_ZONES = {"PMIC-Die"}  # on Jetson always 100 °C, whatever it is in truth
# Types of cooling devices that cool by making something slower. Fans, a display's light and an offset ("TCC Offset")
# don't; "gpu-scaling" on Jetson sets a voltage for the temperature.
_SLOWING = re.compile(r"processor|cpu|gpu|devfreq|powerclamp|throttle|heavy|balanced", re.IGNORECASE)
_NOT_SLOWING = re.compile(r"fan|scaling", re.IGNORECASE)
_RECENT_SECONDS = 60.0


@dataclass(frozen=True)
class Thermal:
    """One reading.

    Attributes
    ----------
    celsius, zone
        The hottest sensor and its name; None and '' where the machine has none.
    throttling
        Whether it runs slower than it can, because of heat or of a limit; None where the machine doesn't tell.
    reason
        Why it is said to, in words; '' where it isn't.
    core_events, package_events
        How often heat made cores (their sum) and the processor package slower since the machine was started; None
        where it doesn't count.
    """

    celsius: float | None
    zone: str
    throttling: bool | None
    reason: str
    core_events: int | None
    package_events: int | None

    @property
    def events(self) -> int | None:
        counts = [count for count in (self.core_events, self.package_events) if count is not None]
        return sum(counts) if counts else None


def read(root: Path = SYS) -> Thermal:
    """What the files below ``root`` say now; see `Watch` for what changes between two readings."""
    hottest = max(_temperatures(root), default=None)
    cpus = root / "devices/system/cpu"
    cores = _numbers(cpus, "cpu[0-9]*/thermal_throttle/core_throttle_count")
    packages = _numbers(cpus, "cpu[0-9]*/thermal_throttle/package_throttle_count")
    slowed, told = _slowed(root)
    return Thermal(
        celsius=hottest[0] if hottest else None,
        zone=hottest[1] if hottest else "",
        throttling=bool(slowed) if told or cores or packages else None,
        reason="; ".join(slowed),
        core_events=sum(cores) if cores else None,
        package_events=max(packages, default=None),  # each core tells its package's
    )


class Watch:
    """Readings one after another, which show too that the throttle counts rose. Safe to use from several threads."""

    def __init__(self, root: Path = SYS) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._last: Thermal | None = None
        self._rose_at: float | None = None

    def read(self) -> Thermal:
        """A reading; it counts as throttling for a minute after a reading with higher counts than the one before."""
        with self._lock:
            now, found = time.monotonic(), read(self._root)
            if self._last is not None and (found.events or 0) > (self._last.events or 0):
                self._rose_at = now
            self._last = found
            rose = self._rose_at is not None and now - self._rose_at < _RECENT_SECONDS
        if not rose:
            return found
        reasons = ["heat made the processor slower within the last minute", *filter(None, [found.reason])]
        return replace(found, throttling=True, reason="; ".join(reasons))


def _temperatures(root: Path) -> list[tuple[float, str]]:
    """Degrees Celsius and the sensor's name."""
    zones = [(path / "temp", _text(path / "type")) for path in _paths(root / "class/thermal", "thermal_zone*")]
    for path in _paths(root / "class/hwmon", "hwmon*"):
        if (name := _text(path / "name")) in _SENSORS:
            zones += [(each, name) for each in _paths(path, "temp*_input")]
    found = []
    for path, name in zones:
        milli = _number(path)
        if milli is not None and name not in _UNTRUE_ZONES and _COLDEST <= milli / 1000 <= _HOTTEST:
            found.append((milli / 1000, name))
    return found


def _slowed(root: Path) -> tuple[list[str], bool]:
    """What is slower than it could be, in words, and whether the machine tells such things at all."""
    told, limits, cooled = False, [], []
    for policy in _paths(root / "devices/system/cpu/cpufreq", "policy*"):
        limit, most = _number(policy / "scaling_max_freq"), _number(policy / "cpuinfo_max_freq")
        if limit is None or most is None or min(limit, most) <= 0:
            continue
        told = True
        if limit < most:
            limits.append((limit / most, f"the processor is limited to {_gigahertz(limit, most)}"))
    for device in _paths(root / "class/thermal", "cooling_device*"):
        kind, state = _text(device / "type"), _number(device / "cur_state")
        if state is None or not _SLOWING.search(kind) or _NOT_SLOWING.search(kind):
            continue
        told = True
        if state > 0:
            cooled.append(kind)
    slowed = [min(limits)[1]] if limits else []  # the strictest of the cores'
    if cooled:
        slowed.append(f"it is cooled by running slower ({', '.join(sorted(set(cooled)))})")
    return slowed, told


def _gigahertz(limit: int, most: int) -> str:
    """Two frequencies, given in kHz, with as many digits as it takes to tell them apart."""
    for digits in range(1, 6):
        one, other = (f"{value / 1e6:.{digits}f}" for value in (limit, most))
        if one != other:
            break
    return f"{one} of {other} GHz"


def _paths(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _numbers(folder: Path, pattern: str) -> list[int]:
    """The counts in some files; what is no count is left out."""
    found = (_number(path) for path in _paths(folder, pattern))
    return [number for number in found if number is not None and number >= 0]


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """A file's first line in printable ASCII; '' where it can't be read, as of a sensor that is asleep."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST)
    except OSError:
        return ""
    line = content.partition(b"\n")[0].decode("ascii", "replace")
    return "".join(each for each in line if each.isprintable()).strip()

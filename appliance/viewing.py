"""Images at their full depth, for the page's viewer: values after the modality LUT, as they go out, in a cache.

A received file is opened by `appliance.sandbox` alone, in one thread, which lets it go when nobody has looked at
anything for a while. The cache is a folder for each image or series; what was looked at longest ago goes first.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from appliance.config import Config
from appliance.errors import ImageError
from appliance.store import Store

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset

    from appliance.sandbox import Sandbox

DESCRIPTION = "viewed.json"  # another name where its fields change, so that what was cached before is made anew
_MOST_CACHED = 1 << 30  # bytes
_REST_SECONDS = 300.0  # without a look, after which the process that reads files ends
_COMPRESSION = 1  # the fastest: half the bytes, for a fifth of a second of a large radiograph
_MOST_WINDOWS = 16
_LONGEST_LUT = 1 << 16
# Center and width in Hounsfield units, as radiologists use them.
_OF_CT = (("Soft tissue", 40, 400), ("Lung", -600, 1500), ("Bone", 400, 1800), ("Brain", 40, 80))


class Window(msgspec.Struct, frozen=True):
    """A window by its center and width, and the function that it goes with (PS3.3 section C.11.2.1.2)."""

    name: str
    center: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"


class Lut(msgspec.Struct, frozen=True):
    """A VOI LUT (PS3.3 section C.11.2.1.1): what the values from ``first`` on become, of ``bits`` bits each."""

    name: str
    first: int
    bits: int
    values: tuple[int, ...]


class Description(msgspec.Struct, frozen=True):
    """What the viewer must know of the pixels.

    A value is ``stored * slope + intercept``; ``stored`` are little-endian numbers of 16 bits, row by row. ``spacing``:
    millimeters between rows and between columns, None where they are not known; ``aspect``: how much taller than wide a
    pixel is; ``at_detector``: they are those at the detector, so that a distance in the patient is shorter.
    ``inverted``: low values are white (MONOCHROME1). ``windows``: presets, the first of which is shown at first.
    ``edges``: what of the patient lies at the left, right, upper and lower edge (`appliance.orientation`), None where
    that is not known.
    """

    slices: int
    rows: int
    columns: int
    signed: bool
    slope: float
    intercept: float
    lowest: float
    highest: float
    unit: str
    spacing: tuple[float, float] | None
    aspect: float
    at_detector: bool
    inverted: bool
    windows: tuple[Window, ...]
    luts: tuple[Lut, ...]
    edges: tuple[str, str, str, str] | None


def slice_name(number: int) -> str:
    """The file of a slice in the cache, from 0 on."""
    return f"{number:05d}.gz"


class Viewing:
    """What the viewer shows of a ledger's images; safe to use from several threads."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config, self._store = config, store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="viewing")
        self._sandbox: Sandbox | None = None
        self._rest: threading.Timer | None = None

    def warm(self) -> None:
        """Start what reads files, since somebody is about to look at one."""
        self._thread.submit(self._opened)

    def begin(self, instance_id: int) -> Future[Path]:
        """The folder with `DESCRIPTION` and the slices of an image, or of the series that it leads.

        Ends in `ImageError` where there is no such image any more, or it can't be read.
        """
        return self._thread.submit(self._folder, instance_id)

    def _opened(self) -> Sandbox:
        from appliance.sandbox import Sandbox

        if self._rest is not None:
            self._rest.cancel()
        if self._sandbox is None:
            self._sandbox = Sandbox(self._config.sandbox)
        self._sandbox.start()
        self._rest = threading.Timer(_REST_SECONDS, self._thread.submit, (self._close,))
        self._rest.daemon = True
        self._rest.start()
        return self._sandbox

    def _close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def _folder(self, instance_id: int) -> Path:
        folder = self._config.pixels_path / str(instance_id)
        if not (folder / DESCRIPTION).exists():
            self._make(instance_id, folder)
        with contextlib.suppress(OSError):
            folder.touch()  # it was looked at
        return folder

    def _make(self, instance_id: int, folder: Path) -> None:
        row = self._store.instance(instance_id)
        if row is None or row["image_removed_at"] is not None or row["state"] == "quarantined":
            raise ImageError(f"The pixels of image {instance_id} are not there any more.")
        members = self._store.members(row["lead_id"]) if row["lead_id"] is not None else [row]
        paths = [self._config.spool_path / each["file"] for each in members]
        if not all(path.exists() for path in paths):
            raise ImageError(f"The file of image {instance_id} is not there any more.")
        values, description = _read(self._opened(), paths)
        temporary = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for number, each in enumerate(values):
            content = gzip.compress(each.tobytes(), _COMPRESSION, mtime=0)
            (temporary / slice_name(number)).write_bytes(content)
        (temporary / DESCRIPTION).write_bytes(msgspec.json.encode(description))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _make_room(folder)


def _make_room(newest: Path) -> None:
    """Remove what was looked at longest ago, until the cache is within its bounds."""
    left = _MOST_CACHED
    for folder in sorted(newest.parent.iterdir(), key=lambda path: (path != newest, -path.stat().st_mtime)):
        left -= sum(file.stat().st_size for file in folder.iterdir())
        if left < 0 and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)


def _read(sandbox: Sandbox, paths: Sequence[Path]) -> tuple[np.ndarray, Description]:
    """The stored numbers ``(slices, rows, columns)`` of an image or of a volume in the canonical orientation."""
    from appliance import image, orientation, render, volume

    headers = [sandbox.read_header(path) for path in paths]
    if len(paths) == 1:
        loaded = sandbox.load(paths[0], headers[0])
        header, pixels, spacing = loaded.header, loaded.pixels[None], loaded.spacing
        tall, wide = loaded.pixel_shape
        shown = render.window(header, pixels) is not None
        leads = orientation.stated(header) or orientation.measured(header)
    else:
        stack = volume.load_volume(paths, headers, sandbox)
        header, pixels = stack.images[len(stack.images) // 2].header, stack.pixels
        tall, wide = spacing = render.plane_spacing(stack, 0)
        shown = render.levels(stack) == render.window(header, pixels)
        _, down, right = stack.directions
        leads = orientation.along(right.tolist(), down.tolist())
    inverted = image.text(header, "PhotometricInterpretation") == "MONOCHROME1"
    if inverted:
        pixels = pixels.max() + pixels.min() - pixels  # as `image` turned them around: the values themselves
        shown = True
    stored, slope, intercept = _stored(pixels)
    lowest, highest = float(pixels.min()), float(pixels.max())
    measured = render.percentiles(pixels[len(pixels) // 2] if len(pixels) > 1 else pixels[:, ::4, ::4])
    stated, automatic = _windows(header, lowest, highest), _automatic(measured, lowest, highest)
    windows = [*stated, *automatic] if shown else [*automatic, *stated]
    if image.text(header, "Modality") == "CT":
        windows += [Window(name, center, width) for name, center, width in _OF_CT]
    return stored, Description(
        slices=len(stored),
        rows=stored.shape[1],
        columns=stored.shape[2],
        signed=stored.dtype.kind == "i",
        slope=slope,
        intercept=intercept,
        lowest=lowest,
        highest=highest,
        unit=image.text(header, "RescaleType").replace("US", "")[:16],
        spacing=spacing,
        aspect=tall / wide,
        at_detector=spacing is not None and "PixelSpacing" not in header,
        inverted=inverted,
        windows=tuple(windows),
        luts=tuple(_luts(header)),
        edges=orientation.edges(leads) if leads is not None else None,
    )


def _stored(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values as little-endian numbers of 16 bits, and the slope and intercept back to them.

    Whole numbers stay what they are. Others are spread over all 65,536 numbers, of which those of a file with a
    rescale slope use no more.
    """
    import numpy as np

    lowest, highest = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    if whole and lowest >= -(1 << 15) and highest < 1 << 15:
        return values.astype("<i2"), 1.0, 0.0
    if whole and highest - lowest < 1 << 16:
        start = min(lowest, 0.0) if highest < 1 << 16 and lowest >= 0 else lowest
        return (values - values.dtype.type(start)).astype("<u2"), 1.0, start
    slope = (highest - lowest) / 65535 or 1.0
    return np.rint((values - lowest) / slope).astype("<u2"), slope, lowest


def _windows(header: Dataset, lowest: float, highest: float) -> list[Window]:
    """The header's own windows, of those that show any of the pixels."""
    from appliance import image

    function: Any = image.text(header, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return []
    centers, widths, names = (
        image.text(header, keyword).split("\\")
        for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation")
    )
    found: list[Window] = []
    for number, (center, width) in enumerate(list(zip(centers, widths, strict=False))[:_MOST_WINDOWS]):
        with contextlib.suppress(ValueError):
            name = names[number].strip()[:64] if number < len(names) else ""
            window = Window(name or f"Of the image{f' {number + 1}' if number else ''}", float(center), float(width),
                            function)  # fmt: skip
            low, high = window.center - window.width / 2, window.center + window.width / 2
            if window.width > (1 if function == "LINEAR" else 0) and lowest < high and highest > low:
                found.append(window)
    return found


def _automatic(measured: tuple[float, float], lowest: float, highest: float) -> Iterable[Window]:
    for name, (low, high) in (("Automatic", measured), ("All values", (lowest, highest))):
        yield Window(name, (low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT")


def _luts(header: Dataset) -> Iterable[Lut]:
    """The header's VOI LUTs; one that breaks the rules is left out."""
    import numpy as np

    for number, item in enumerate(header.get("VOILUTSequence") or ()):
        try:
            entries, first, bits = (int(value) for value in item.LUTDescriptor)
            data = item.LUTData
            values = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data))
        except (AttributeError, TypeError, ValueError):
            continue
        entries = entries or _LONGEST_LUT
        signed = str(header.get("PixelRepresentation")) == "1" and first >= 1 << 15
        if len(values) >= entries and 8 <= bits <= 16 and number < _MOST_WINDOWS:
            name = (
                str(item.get("LUTExplanation") or "")[:64] or f"Table of the image{f' {number + 1}' if number else ''}"
            )
            yield Lut(name, first - (1 << 16) * signed, bits, tuple(values[:entries].tolist()))

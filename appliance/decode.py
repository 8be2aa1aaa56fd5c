"""From pixel data to stored values: which decoder serves which transfer syntax, and what is too broken for any.

Decoders differ by up to five grey levels on the same lossy JPEG, and a model would see that, so one is fixed for each
transfer syntax.
"""

from __future__ import annotations

import re
import struct
import warnings

import gdcm
import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from appliance.errors import ImageError, QuarantineError

MAX_PIXELS = 50_000_000  # a spine that is stitched together has 30 million

_NATIVE = ""
# Transfer syntax -> the one decoding plugin that serves it ("" for uncompressed pixels, which need none).
DECODERS = {
    "1.2.840.10008.1.2": _NATIVE,  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": _NATIVE,  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99": _NATIVE,  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2": _NATIVE,  # Explicit VR Big Endian
    "1.2.840.10008.1.2.4.50": "gdcm",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG Extended, 12 bits
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.203": "pylibjpeg",  # HTJ2K
    "1.2.840.10008.1.2.5": "pydicom",  # RLE (pylibjpeg's RLE decoder aborts the process on hostile input)
}
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
_SEND_AGAIN = "send it again"


def check_header(header: Dataset) -> None:
    """What can be told from the header alone."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ImageError("The file does not state its transfer syntax.", hint=_SEND_AGAIN)
    if str(syntax) not in DECODERS:
        name = UID(syntax).name
        raise ImageError(
            f"Its transfer syntax {syntax}{f' ({name})' if name != str(syntax) else ''} can't be decoded here.",
            hint="send it uncompressed or in a JPEG, JPEG-LS, JPEG 2000 or RLE transfer syntax",
        )
    rows, columns = number(header, "Rows", 0), number(header, "Columns", 0)
    if rows < 1 or columns < 1:
        raise ImageError("The object has no pixels, or the file is cut off within its header (Rows is missing).")
    frames = number(header, "NumberOfFrames", 1)
    if frames > 1:
        raise ImageError(f"The image has {frames} frames; only single-frame images are read.")
    samples = number(header, "SamplesPerPixel", 1)
    interpretation = str(header.get("PhotometricInterpretation", ""))
    if samples != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(
            f"The image is not grayscale (Photometric Interpretation {interpretation or 'missing'}, "
            f"{samples} samples per pixel)."
        )
    if rows * columns * frames * samples > MAX_PIXELS:
        raise QuarantineError(
            f"The image of {rows} x {columns} pixels is larger than any radiograph ({MAX_PIXELS:,} pixels)."
        )
    allocated, stored = number(header, "BitsAllocated", 0), number(header, "BitsStored", 0)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise ImageError(f"Bits Allocated {allocated} and Bits Stored {stored} don't describe a grayscale image.")
    high = number(header, "HighBit", stored - 1)
    if high != stored - 1:  # PS3.5 section 8.1.1; decoders disagree about what another one means
        raise ImageError(f"High Bit is {high} with {stored} Bits Stored; it must be {stored - 1}.")


def _check_pixels(dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ImageError("The pixels are floating-point numbers, which no radiograph has.")
        raise ImageError(
            "The object has no pixel data.", hint="send the image itself, or the file again if it was cut off"
        )
    try:
        data = dataset.PixelData or b""
    except Exception as error:  # pydicom has a dozen for an element that is none
        raise ImageError("The pixel data element is damaged.", hint=_SEND_AGAIN) from error
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if DECODERS[syntax] == _NATIVE:
        expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
        if len(data) < expected:
            raise ImageError(
                f"The file ends after {len(data):,} of {expected:,} bytes of pixel data.", hint=_SEND_AGAIN
            )
    elif not data:
        raise ImageError("The pixel data is empty.", hint=_SEND_AGAIN)
    else:
        _check_codestream(dataset, syntax, data)


def _check_codestream(dataset: Dataset, syntax: str, data: bytes) -> None:
    """Refuse a compressed frame whose own size is another than the header's, before anything is allocated for it."""
    found = None
    if syntax in _JPEG_2000:
        at = data.find(b"\xff\x4f\xff\x51")  # SOC, SIZ (ISO/IEC 15444-1 A.5.1)
        if at >= 0 and len(data) >= at + 24:
            right, bottom, left, top = struct.unpack(">4I", data[at + 8 : at + 24])
            found = (bottom - top, right - left)
    elif "1.2.840.10008.1.2.4." in syntax:
        # Start of frame (ISO/IEC 10918-1 B.2.2).
        frame = re.search(rb"\xff[\xc0-\xc3\xf7]..[\x01-\x20](....)", data[:65536], re.DOTALL)
        if frame:
            found = struct.unpack(">2H", frame.group(1))
    if found is not None and found != (dataset.Rows, dataset.Columns):
        raise ImageError(
            f"The compressed image is {found[0]} x {found[1]} pixels, "
            f"its header says {dataset.Rows} x {dataset.Columns}."
        )


def stored_values(dataset: Dataset) -> np.ndarray:
    """Stored values ``(rows, columns)``, signed as stated, bits beyond Bits Stored removed.

    Raises
    ------
    ImageError
        There are no pixels, or they are damaged.
    """
    _check_pixels(dataset)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    plugin = DECODERS[str(syntax)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if syntax == JPEGExtended12Bit and dataset.BitsStored > 8:
                pixels = _extended_12_bit(dataset)
            else:
                pixels, _ = get_decoder(syntax).as_array(dataset, decoding_plugin=plugin)
    except MemoryError as error:
        raise QuarantineError("Decoding its pixels needs more memory than it may have.") from error
    except Exception as error:  # each decoder has errors of its own
        raise ImageError(f"The pixel data is damaged: {_reason(error, plugin)}.", hint=_SEND_AGAIN) from error
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise ImageError(
            f"The pixel data decodes to {pixels.shape}, the header says {dataset.Rows} x {dataset.Columns}."
        )
    stored, signed = dataset.BitsStored, dataset.PixelRepresentation == 1
    if stored == dataset.BitsAllocated or not (signed or plugin == _NATIVE):
        return pixels
    # Old devices keep overlays in the unused bits; some encoders don't extend the sign into them.
    values = pixels.astype(np.int64) & ((1 << stored) - 1)
    if signed:
        values -= (values >> (stored - 1)) << stored
    return values.astype(pixels.dtype)


def _extended_12_bit(dataset: Dataset) -> np.ndarray:
    """JPEG Extended with 12 bits by GDCM, which pydicom's plugin does not let through.

    GDCM 3.2 gives the very values that dcmtk's dcmdjpeg gives; a test compares them.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((dataset.Columns, dataset.Rows, 1))
    image.SetDataElement(element)
    photometric = gdcm.PhotometricInterpretation.GetPIType(dataset.PhotometricInterpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    syntax = gdcm.TransferSyntax.GetTSType(str(dataset.file_meta.TransferSyntaxUID))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    image.SetPixelFormat(gdcm.PixelFormat(1, dataset.BitsAllocated, bits, bits - 1, signed))
    values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.int16 if signed else np.uint16)
    return values.reshape(dataset.Rows, dataset.Columns)


def number(dataset: Dataset, keyword: str, default: int) -> int:
    try:
        value = dataset.get(keyword)
        return default if value in (None, "") else int(value)
    except (TypeError, ValueError):
        raise ImageError(f"{keyword} is not a number.") from None


def _reason(error: BaseException, plugin: str) -> str:
    """What the decoder says; pydicom puts a line of its own before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "'NoneType' object" in lines[-1]:  # GDCM gives no reason, and nothing where there should be pixels
        return f"{plugin} can't decode it"
    return lines[-1].strip().removeprefix(f"{plugin}: ").rstrip(".")[:200]


def missing_decoders() -> list[str]:
    """Transfer syntaxes whose decoder is not installed, in words."""
    return [
        f"{UID(syntax).name} needs {plugin}"
        for syntax, plugin in DECODERS.items()
        if plugin != _NATIVE and plugin not in get_decoder(UID(syntax)).available_plugins
    ]

"""The processor: its name, and how it computes int8."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

# Flags that decide how int8 is computed on x86 and ARM.
_TELLING_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
_IN_32_BITS = {"avx_vnni", "avx512_vnni", "amx_int8"}


@functools.cache
def processor() -> tuple[str, tuple[str, ...]]:
    """Its name, and which of the instructions it has that int8 is computed with."""
    present = set((_cpu_info("flags") or _cpu_info("Features")).split())
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in _TELLING_FLAGS if flag in present)


def int8_overflows() -> bool:
    """Whether it adds products of int8 in 16 bits, which saturate: x86 with SSE, AVX2 or AVX-512 and without VNNI.

    One that tells no flags is taken for one that does not; receipts show whether that is right.

    Source: OpenVINO's documentation, "Saturation (overflow) Issue Workaround"; ONNX Runtime's, "Quantize ONNX Models".
    """
    flags = _cpu_info("flags").split()
    return platform.machine() == "x86_64" and bool(flags) and not _IN_32_BITS.intersection(flags)


def _cpu_info(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:  # not Linux, or no /proc
        return ""
    return ""

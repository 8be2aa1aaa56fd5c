"""What differs between boards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from firmware.errors import FirmwareError

X86_64, AARCH64 = "x86_64", "aarch64"
# What the appliance, RAUC, the TPM and the network need, by its names in Debian 13 and Ubuntu 24.04.
_EVERYWHERE = (
    "systemd-resolved",
    "systemd-timesyncd",
    "dbus",
    "kmod",
    "iproute2",
    "nftables",
    "e2fsprogs",
    "cryptsetup-bin",
    "rauc",
    "rauc-service",
    "python3",
    "python3-venv",
    "libgomp1",
    "ca-certificates",
    "tzdata",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
)
# No apt, no shell login, no editor.
_PACKAGES = (
    *_EVERYWHERE,
    "systemd",
    "systemd-sysv",
    "systemd-repart",
    "systemd-cryptsetup",
    "udev",
    "dracut",
)


@dataclass(frozen=True)
class Board:
    """A kind of machine."""

    name: str
    about: str
    packages: tuple[str, ...]
    components: str = ""  # of Debian
    extras: tuple[str, ...] = ()  # of the appliance
    console: str = ""
    boot: Literal["sd-boot", "nvbootctrl"] = "sd-boot"
    slots: tuple[str, str] = ("root-a", "root-b")  # labels of their partitions
    machine: str = X86_64
    python: str = "3.13"  # Debian 13's
    nvidias: bool = False  # whether it is NVIDIA's root file system that ours comes into

    @property
    def compatible(self) -> str:
        return f"scanside-{self.name}"

    @property
    def site_packages(self) -> str:
        """Of the appliance's environment, within a root."""
        return f"opt/scanside/lib/python{self.python}/site-packages"


BOARDS = {
    board.name: board
    for board in (
        Board(
            "generic",
            "virtual machines; it has no drivers for a bare one",
            (*_PACKAGES, "linux-image-cloud-amd64"),
            "main",
            (),
            "console=tty0 console=ttyS0,115200",
        ),
        Board(
            "x86-efi",
            "bare UEFI machines of x86-64, on the CPU: Debian 13 has no driver by which OpenVINO uses GPUs and NPUs",
            (
                *_PACKAGES,
                "linux-image-amd64",
                "intel-microcode",
                "amd64-microcode",
                "firmware-realtek",
                "firmware-misc-nonfree",
                "firmware-bnx2",
            ),
            "main,non-free-firmware",
            ("openvino",),
            "console=ttyS0,115200 console=tty0",
        ),
        Board(
            "jetson-orin",
            "Jetson Orin with Jetson Linux r39, TensorRT; not yet run on hardware (firmware/jetson)",
            (*_EVERYWHERE, "python3-libnvinfer"),  # into NVIDIA's own root file system, from Ubuntu and JetPack
            boot="nvbootctrl",
            slots=("APP", "APP_b"),  # the names by which NVIDIA's loader finds them
            machine=AARCH64,
            python="3.12",
            nvidias=True,
        ),
    )
}


def board(name: str) -> Board:
    if name not in BOARDS:
        raise FirmwareError(f"there is no board {name!r}", hint=f"one of {', '.join(BOARDS)}")
    return BOARDS[name]

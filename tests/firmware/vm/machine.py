"""A bare machine: qemu with UEFI Secure Boot, a TPM, a disk and a network card, without KVM.

The figures of its processor (``-cpu Nehalem``) are those with which emulation is fast.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_OVMF = Path("/usr/share/OVMF")
_OWNER = "5ca251de-0000-4000-8000-000000000001"
MEMORY_MIB = 1024
PROGRAMS = ("qemu-system-x86_64", "swtpm", "virt-fw-vars", "mcopy", "mkfs.vfat", "curl")


def missing() -> list[str]:
    """What a run needs and this machine lacks."""
    lacks = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    return lacks + ([] if (_OVMF / "OVMF_CODE_4M.secboot.fd").exists() else ["ovmf"])


def _path() -> str:
    return (
        f"{os.environ['PATH']}:{os.environ.get('SCANSIDE_VM_TOOLS', '')}:/usr/sbin:/sbin:{Path(sys.executable).parent}"
    )


class Machine:
    """One box.

    Parameters
    ----------
    folder
        For its firmware's variables, its TPM's state, its serial log.
    keys
        Folder with pk.pem, kek.pem and db.pem, which are enrolled: Secure Boot is on. None: it is in setup mode.
    """

    def __init__(self, folder: Path, disk: Path, keys: Path | None, tpm: bool = True) -> None:
        self.folder, self.disk, self._keys, self._has_tpm = folder, disk, keys, tpm
        folder.mkdir(parents=True, exist_ok=True)
        self.serial, self._line = folder / "serial.log", folder / "line.sock"
        self.dicom_port, self.page_port = _free_port(), _free_port()
        self._vars = folder / "vars.fd"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._tpm: subprocess.Popen[bytes] | None = None
        if not self._vars.exists() and keys is None:
            shutil.copy(_OVMF / "OVMF_VARS_4M.fd", self._vars)
        elif not self._vars.exists():
            assert keys is not None
            command = ["virt-fw-vars", "--input", _OVMF / "OVMF_VARS_4M.fd", "--output", self._vars, "--sb",
                       "--set-pk", _OWNER, keys / "pk.pem", "--add-kek", _OWNER, keys / "kek.pem",
                       "--add-db", _OWNER, keys / "db.pem"]  # fmt: skip
            program = shutil.which("virt-fw-vars", path=_path())
            subprocess.run([str(program), *map(str, command[1:])], check=True, capture_output=True)

    def start(self, stick: Path | None = None) -> None:
        """Switch it on, with a stick plugged in."""
        assert self._qemu is None or self._qemu.poll() is not None, "it is on already"
        network = f"user,hostfwd=tcp:127.0.0.1:{self.dicom_port}-:11112,hostfwd=tcp:127.0.0.1:{self.page_port}-:8080"
        drives = [self.disk, *([stick] if stick else [])]
        with self.serial.open("ab") as file:
            file.write(b"\n--- switched on ---\n")
        command = ["qemu-system-x86_64", "-machine", "q35,smm=on", "-cpu", "Nehalem", "-accel", "tcg,thread=multi",
                   "-smp", "2", "-m", str(MEMORY_MIB), "-display", "none", "-nodefaults", "-no-user-config",
                   "-global", "driver=cfi.pflash01,property=secure,value=on",
                   "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_OVMF / 'OVMF_CODE_4M.secboot.fd'}",
                   "-drive", f"if=pflash,format=raw,unit=1,file={self._vars}",
                   *self._start_tpm(), "-nic", f"{network},model=virtio-net-pci",
                   "-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset",
                   "-chardev", f"socket,id=serial,path={self._line},server=on,wait=off,"
                               f"logfile={self.serial},logappend=on", "-serial", "chardev:serial"]  # fmt: skip
        for drive in drives:
            command += ["-drive", f"if=virtio,format=raw,cache=writeback,file={drive}"]
        with (self.folder / "qemu.log").open("ab") as file:
            self._qemu = subprocess.Popen(command, stderr=file)

    def _start_tpm(self) -> list[str]:
        """It, and how qemu finds it."""
        if not self._has_tpm:
            return []
        state, control = self.folder / "tpm", self.folder / "tpm.sock"
        state.mkdir(exist_ok=True)
        control.unlink(missing_ok=True)
        self._tpm = subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
                                      "--ctrl", f"type=unixio,path={control}"])  # fmt: skip
        while not control.exists():
            time.sleep(0.05)
        return ["-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm,chardev=tpm",
                "-device", "tpm-crb,tpmdev=tpm"]  # fmt: skip

    @property
    def log(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def wait_for(self, *words: str, timeout: float, since: int = 0) -> str:
        """The first of the words that the console shows after position ``since`` of the log."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            said = self.log[since:]
            for word in words:
                if word in said:
                    return word
            if self._qemu is not None and self._qemu.poll() is not None:
                raise AssertionError(f"the machine went off:\n{said[-3000:]}")
            time.sleep(0.5)
        raise AssertionError(f"none of {words} within {timeout:.0f} s:\n{self.log[since:][-4000:]}")

    def type(self, text: str) -> None:
        """On its console."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self._line))
            line.sendall(text.encode())
            time.sleep(1)  # qemu drops what it has not read when the line is hung up

    def as_if_cut(self, folder: Path) -> Machine:
        """Another box, with what this one has on its disk, in its TPM and its firmware's variables at this moment."""
        running = [process for process in (self._qemu, self._tpm) if process is not None]
        for process in running:
            process.send_signal(signal.SIGSTOP)
        try:
            folder.mkdir(parents=True)
            disk = folder / "disk.img"
            subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.disk, disk], check=True)
            shutil.copy(self._vars, folder)
            if self._has_tpm:
                shutil.copytree(self.folder / "tpm", folder / "tpm")
        finally:
            for process in running:
                process.send_signal(signal.SIGCONT)
        return Machine(folder, disk, self._keys, self._has_tpm)

    def cut(self) -> None:
        """The plug is pulled."""
        for process in (self._qemu, self._tpm):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        self._qemu = self._tpm = None


def make_stick(path: Path, folder: Path) -> Path:
    """A FAT file system with the label SCANSIDE, holding a folder's files."""
    files = sorted(each for each in folder.iterdir() if each.is_file())
    size = sum(each.stat().st_size for each in files) + (64 << 20)
    with path.open("wb") as file:
        file.truncate(-(-size // (1 << 20)) << 20)
    subprocess.run(["/usr/sbin/mkfs.vfat", "-F", "32", "-n", "SCANSIDE", path], check=True, capture_output=True)
    if files:
        subprocess.run(["mcopy", "-i", path, *files, "::/"], check=True)
    return path


def read_stick(path: Path, folder: Path) -> Path:
    """All that is on it, as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mcopy", "-s", "-n", "-i", path, "::/*", folder], check=True, capture_output=True)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The data partition: made at the first start in what the image leaves free, and opened at each one.

With a TPM 2.0 it is LUKS2, and opens for the boot chain that was there when it was made (PCR 7: Secure Boot's keys),
or with the recovery key, which is shown once. Without a TPM it is not encrypted, and the console and
``scanside-firmware data status`` say so: a key that lies beside the lock would only look like one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError

_TYPE = "8f1c0a52-6d3e-4f57-9c0b-5c414e534944"  # as in 50-data.conf
_MAPPED = Path("/dev/mapper/data")
_TPM = Path("/dev/tpmrm0")
_PCRS = "7"
_OWNED = ("scanside",)  # folders of the data partition that the appliance writes
_OURS = ("firmware", "config", "journal", "timesync")
_WRITERS = (
    "scanside-stick@*.service",
    "scanside-inbox.path",
    "scanside-inbox.service",
    "scanside-deadline.timer",
    "scanside-confirm.service",
    "scanside.service",
    "systemd-timesyncd.service",
)


def open_data(box: Box) -> dict[str, Any]:
    """Make what is missing, open, check, mount; what there is now, as `status` says it."""
    device = partition = find_partition(box) or _make_partition(box)
    made = False
    kind = _file_system(partition)
    if kind == "crypto_LUKS" and _never_finished(partition):
        _call("wipefs", "--all", "--quiet", str(partition))
        kind = ""
    if not kind:
        kind, made = ("crypto_LUKS" if _TPM.exists() else "ext4"), True
        if kind == "crypto_LUKS":
            _encrypt(box, partition)
    if kind == "crypto_LUKS":
        device = _MAPPED
        if not device.exists():
            _unlock(partition)
    if not _file_system(device):
        _call("mkfs.ext4", "-q", "-L", "data", "-m", "1", str(device))
    else:
        _check(device)
    where = box.root / "data"
    _call("mount", "-o", "noatime,nosuid,nodev,noexec", str(device), str(where))
    _fill(box)
    said = {"encrypted": kind == "crypto_LUKS", "made": made}
    Files().write(box.runtime / "data.json", json.dumps(said).encode())
    return said


def find_partition(box: Box) -> Path | None:
    """The data partition on the disk that the system runs from; None before it was made. Labels are not asked: any disk
    or stick may have one.

    Raises
    ------
    FirmwareError
        There are several.
    """
    listed = json.loads(_call("lsblk", "--json", "--list", "--output", "PATH,PARTTYPE", f"/dev/{_disk(box)}"))
    found = [Path(row["path"]) for row in listed["blockdevices"] if (row["parttype"] or "").lower() == _TYPE]
    if len(found) > 1:
        raise FirmwareError(
            f"/dev/{_disk(box)} has several data partitions: {', '.join(map(str, found))}",
            hint="one of them is not this box's: look at the disk on another machine, or flash it again",
        )
    return found[0] if found else None


def _disk(box: Box) -> str:
    """The name of the disk beneath the running root, whatever lies between, such as dm-verity."""
    number = box.root.stat().st_dev
    node = (box.root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    while below := sorted((node / "slaves").glob("*")):
        if len(below) > 1:
            raise FirmwareError(f"the root lies on several disks: {', '.join(each.name for each in below)}")
        node = below[0].resolve()
    return node.parent.name if (node / "partition").exists() else node.name


def status(box: Box) -> str:
    """A sentence about the encryption."""
    try:
        said = json.loads((box.runtime / "data.json").read_text())
    except (OSError, ValueError) as error:
        raise FirmwareError(
            f"the data partition was not opened: {error}", hint="journalctl -u scanside-data"
        ) from error
    if said["encrypted"]:
        return "data is encrypted (LUKS2) and opened by this machine's TPM, or by the recovery key"
    return "data is NOT encrypted: this machine has no TPM 2.0"


def take_recovery_key(box: Box) -> str:
    """The recovery key of a data partition that was just made; once, then it is only where it was written down."""
    path = box.runtime / "recovery-key"
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise FirmwareError(
            "no recovery key is waiting: it is shown once, after the data partition was made",
            hint="make a new one with: systemd-cryptenroll --unlock-tpm2-device=auto --recovery-key "
            + str(find_partition(box)),
        ) from error
    path.unlink()
    return key


def erase(box: Box) -> str:
    """Factory reset: the data is gone for good.

    Encrypted: all key slots are destroyed, so that nothing can ever open it again, then the header is written over.
    Not encrypted: every byte of the partition is written over, which takes a while.

    Returns what was done, as a sentence for the record.
    """
    device = find_partition(box)
    if device is None:
        raise FirmwareError(f"/dev/{_disk(box)} has no data partition", hint="the next start makes one")
    encrypted = _file_system(device) == "crypto_LUKS"
    _release(box)
    if encrypted:
        _call("systemd-cryptsetup", "detach", "data")
        _call("cryptsetup", "erase", "--batch-mode", str(device))
        if _luks(device)["keyslots"]:
            raise FirmwareError(f"{device} still has a key slot", hint="destroy the disk instead")
        _overwrite(device, 32 << 20)
        return "all key slots of the data partition were destroyed and its header written over"
    _overwrite(device, None)
    return "every byte of the data partition was written over"


def _release(box: Box) -> None:
    """Nothing writes to it any more: what was still to be written would land on the erased disk."""
    _call("systemctl", "stop", *_WRITERS)
    _call("journalctl", "--relinquish-var")
    for where in (*(target for _, target in _elsewhere()), box.root / "data"):
        _call("umount", str(where))


def _overwrite(device: Path, length: int | None) -> None:
    with device.open("r+b", buffering=0) as file:
        left = length if length is not None else os.lseek(file.fileno(), 0, os.SEEK_END)
        file.seek(0)
        while left > 0:
            left -= file.write(bytes(min(left, 4 << 20))) or 0
        os.fsync(file.fileno())
        file.seek(0)
        if any(file.read(1 << 20)):
            raise FirmwareError(f"{device} does not keep what is written over it", hint="destroy the disk instead")


def _make_partition(box: Box) -> Path:
    disk = f"/dev/{_disk(box)}"
    _call("systemd-repart", "--dry-run=no", "--no-pager", "--definitions=/usr/lib/scanside/repart.d", disk)
    _call("udevadm", "settle", "--timeout=60")
    made = find_partition(box)
    if made is None:
        raise FirmwareError(
            f"{disk} has no room for a data partition", hint="flash a disk of the size that the image asks for"
        )
    return made


def _encrypt(box: Box, partition: Path) -> None:
    box.runtime.mkdir(parents=True, exist_ok=True)
    key = box.runtime / "first-key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    # The first key is random and goes at once: its derivation needs no rounds.
    _call("cryptsetup", "luksFormat", "--batch-mode", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000",
          f"--key-file={key}", str(partition))  # fmt: skip
    unlock = f"--unlock-key-file={key}"
    _call("systemd-cryptenroll", unlock, "--tpm2-device=auto", f"--tpm2-pcrs={_PCRS}", str(partition))
    recovery = _call("systemd-cryptenroll", unlock, "--recovery-key", str(partition)).strip().splitlines()[-1].strip()
    kept = box.runtime / "recovery-key"
    kept.touch(mode=0o600)
    kept.write_text(recovery)
    _call("systemd-cryptenroll", unlock, "--wipe-slot=password", str(partition))
    key.unlink()


def _never_finished(partition: Path) -> bool:
    """A cut came while it was made: what `_encrypt` enrolls is not there, and the first key went with the start.

    Whatever has a token may have been in use, such as with the recovery key in another machine, and is left as it is.
    """
    return not _luks(partition)["tokens"]


def _luks(device: Path) -> dict[str, Any]:
    return dict(json.loads(_call("cryptsetup", "luksDump", "--dump-json-metadata", str(device))))


def _unlock(partition: Path) -> None:
    try:
        _call("systemd-cryptsetup", "attach", "data", str(partition), "-", "tpm2-device=auto,headless=true")
    except FirmwareError as error:
        raise FirmwareError(
            f"the TPM does not open the data partition: {error.message}",
            hint="did the firmware's Secure Boot keys change, or is this disk from another box? Open it with the "
            f"recovery key: systemd-cryptsetup attach data {partition}",
        ) from error


def _check(device: Path) -> None:
    """Mend what a power cut left; exit code 4 and more of e2fsck(8) is what it can't mend."""
    done = subprocess.run(["e2fsck", "-p", str(device)], capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode >= 4:
        raise FirmwareError(
            f"the file system on the data partition is damaged: {done.stdout.strip()[-300:]}",
            hint=f"run e2fsck {device} from the service mode; a factory reset makes a new one and loses what is there",
        )


def _fill(box: Box) -> None:
    for name in (*_OWNED, *_OURS):
        (box.root / "data" / name).mkdir(exist_ok=True)
    for name in _OWNED:
        shutil.chown(box.root / "data" / name, "scanside", "scanside")
        (box.root / "data" / name).chmod(0o700)
    if not box.configuration.exists():
        Files().write(box.configuration, (box.root / "usr/lib/scanside/default.toml").read_bytes())
    for source, target in _elsewhere():
        target.mkdir(parents=True, exist_ok=True)
        _call("mount", "--bind", str(box.root / "data" / source), str(target))
    shutil.chown("/data/timesync", "systemd-timesync", "systemd-timesync")
    identity = box.configuration.with_name("box-id")
    if not identity.exists():
        Files().write(identity, f"{secrets.token_hex(4)}\n".encode())
    use_site(box)


def _elsewhere() -> tuple[tuple[str, Path], ...]:
    """Folders of the data partition, and where the system looks for them.

    The machine's id is a new one at each start, since root is read-only. journald takes a folder of that name: it would
    begin an empty one each time, count none of the earlier to its limit, and show none of them.
    """
    machine_id = Path("/etc/machine-id").read_text().strip()
    return ("journal", Path("/var/log/journal") / machine_id), ("timesync", Path("/var/lib/systemd/timesync"))


def use_site(box: Box) -> None:
    """The site's network and time servers, where the system looks for them."""
    config, run = box.configuration.parent, box.root / "run/systemd"
    if (config / "network").exists():
        shutil.copytree(config / "network", run / "network", dirs_exist_ok=True)
    if (config / "timesyncd.conf").exists():
        Files().write(run / "timesyncd.conf.d/50-site.conf", (config / "timesyncd.conf").read_bytes())


def _file_system(device: Path) -> str:
    """What blkid finds; empty where there is nothing."""
    done = subprocess.run(
        ["blkid", "--probe", "--match-tag", "TYPE", "--output", "value", str(device)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode not in (0, 2):
        raise FirmwareError(f"blkid can't read {device}: {done.stderr.strip()}")
    return done.stdout.strip()


def _call(*command: str) -> str:
    done = _run(command)
    if done.returncode:
        raise FirmwareError(f"`{' '.join(command[:2])}` failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    except OSError as error:
        raise FirmwareError(f"{command[0]} can't be started: {error}") from error

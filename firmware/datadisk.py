"""The data partition: made at the first start in what the image leaves free, and opened at each one.

With a TPM 2.0 it is LUKS2, and opens for the boot chain that was there when it was made (PCR 7: Secure Boot's keys),
or with the recovery key. Each start makes a new recovery key until one was handed over: by the stick that brings the
site's configuration, or in the service mode. A system on trial makes none, and one that is not noted as waiting is left
as it is: somebody may have it. Without a TPM it is not encrypted, and the console and ``scanside-firmware data status``
say so: a key that lies beside the lock would only look like one.

A wipe is noted on the ESP before its first byte, and goes on at the next start where a cut came, before data is opened.
So is the box's identity from the first start on: where it is, nothing is made over a partition that can't be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from firmware import labels, lsblk
from firmware.boot import on_trial
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import BrokenError, FirmwareError
from firmware.flash.medium import Medium

_MAPPED = Path("/dev/mapper/data")
_TPM = Path("/dev/tpmrm0")
_PCRS = "7"
_RECOVERY_KEY = re.compile(r"[cbdefghijklnrtuv]{8}(-[cbdefghijklnrtuv]{8}){7}")  # as systemd-cryptenroll(1) makes them
_BY_TPM = ("--tpm2-device=auto", f"--tpm2-pcrs={_PCRS}")
_LUKS = "crypto_LUKS"
_LUKS_HEADER = 32 << 20  # bytes: both headers and all key slots, twice over
_PART = 4 << 20
_PROBED = 1 << 20  # bytes, in which a file system or LUKS begins
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


def open_data(box: Box) -> None:
    """Make what is missing, open, check, mount; `status` says what there is then, or `why_closed` why there is nothing.

    Raises
    ------
    FirmwareError
        It does not open, or a factory reset has to come to its end first: `finish_wiping`. Or there is nothing to open
        on a box that had data: that may be a disk that fails, and nothing is made over it.
    """
    with _failure_noted(box):
        _note(box, _open(box))


def check_labels(box: Box) -> None:
    """As `firmware.labels.check`, before data may open; `why_closed` has its reason, too."""
    with _failure_noted(box):
        labels.check(("esp", *box.slots()))


def finish_wiping(box: Box) -> str:
    """A noted factory reset, to its end, before data may open; without encryption it takes hours.

    Returns what was done, for the record; `record_of_reset` has it, too.

    Raises
    ------
    FirmwareError
        The disk does not keep what is written over it; `why_closed` has its reason, too.
    """
    with _failure_noted(box):
        return _wipe(box, find_partition(box) or _make_partition(box))


@contextlib.contextmanager
def _failure_noted(box: Box) -> Iterator[None]:
    try:
        yield
    except (FirmwareError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        _note(box, {"failed": str(error)})
        raise


def _open(box: Box) -> dict[str, Any]:
    if _wiping(box).exists():
        raise FirmwareError("a factory reset is not at its end", hint="start the box again: it goes on first")
    partition = find_partition(box)
    if partition is None:
        _must_be_new(box, f"/dev/{_disk(box)} has no data partition")
        partition = _make_partition(box)
    device, kind = partition, _file_system(partition)
    if kind == _LUKS and _can_never_open(partition):
        _must_be_new(box, f"{partition} has no key that could open it")
        _call("wipefs", "--all", "--quiet", str(partition))
        kind = ""
    if not kind:
        _must_be_new(box, _nothing_on(partition))
        kind = _LUKS if _TPM.exists() else "ext4"
        if kind == _LUKS:
            _encrypt(box, partition)
    if kind == _LUKS:
        device = _MAPPED
        if not device.exists():
            _unlock(partition)
    if not _file_system(device):
        _must_be_new(box, _nothing_on(device))
        _call("mkfs.ext4", "-q", "-L", "data", "-m", "1", str(device))
    else:
        _check(device)
    where = box.root / "data"
    _call("mount", "-o", "noatime,nosuid,nodev,noexec", str(device), str(where))
    _fill(box)
    said = {"encrypted": kind == _LUKS}
    return {**said, **_make_recovery_key(box, partition)} if kind == _LUKS else said


def _must_be_new(box: Box, missing: str) -> None:
    """Before anything is made: this box never had data, or a factory reset has erased it."""
    if not (box.esp / "EFI").exists():
        raise FirmwareError(
            f"{missing}, and the ESP, which notes whether there was data, can't be read; nothing was made over it",
            hint="switch the box off and on again; if that does not help, its disk is broken",
        )
    if _noted_identity(box).exists():
        raise FirmwareError(
            f"{missing}, and this box had data; nothing was made over it",
            hint="switch the box off and on again: a disk may have failed to answer. If that does not help, put a "
            "service token on a stick: in the shell that it opens, e2fsck and cryptsetup look for what is left, and a "
            "factory reset makes a new one and loses what is there",
        )


def _nothing_on(device: Path) -> str:
    """Why nothing was found there, in words; blkid does not tell a disk that can't be read from an empty one."""
    try:
        with device.open("rb") as file:
            file.read(_PROBED)
    except OSError as error:
        return f"{device} can't be read: {error.strerror}"
    return f"{device} holds neither a file system nor LUKS"


def _note(box: Box, said: dict[str, Any]) -> None:
    Files().write(box.runtime / "data.json", json.dumps(said).encode())


def _noted(box: Box) -> dict[str, Any]:
    try:
        return dict(json.loads((box.runtime / "data.json").read_text()))
    except (OSError, ValueError):
        return {"failed": "`scanside-firmware data open` has not ended since the box was switched on"}


def find_partition(box: Box) -> Path | None:
    """The data partition on the disk that the system runs from; None before it was made. Labels are not asked: any disk
    or stick may have one.

    Raises
    ------
    FirmwareError
        There are several, or lsblk does not answer.
    """
    listed = lsblk.devices("--list", "--output=PATH,PARTTYPE", f"/dev/{_disk(box)}")
    found = [Path(row["path"]) for row in listed if (row["parttype"] or "").lower() == labels.DATA_TYPE]
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
    """A sentence about the encryption, and where the recovery key is.

    Raises
    ------
    FirmwareError
        The data partition did not open.
    """
    if why := why_closed(box):
        raise FirmwareError(
            f"the data partition did not open: {why}", hint="service.token on a stick opens a shell on the console"
        )
    said = _noted(box)
    if not said["encrypted"]:
        return "data is NOT encrypted: this machine has no TPM 2.0"
    if "no_recovery_key" in said:
        recovery = f"and by nothing else: no recovery key could be made: {said['no_recovery_key']}"
    elif waits(box).exists():
        recovery = "or by the recovery key, which waits for a stick with the site's configuration"
    else:
        recovery = "or by the recovery key, which was handed over or made by an earlier version"
    return f"data is encrypted (LUKS2) and opened by this machine's TPM, {recovery}"


def why_closed(box: Box) -> str:
    """Why the data partition did not open, and what to do; empty where it did."""
    return str(_noted(box).get("failed", ""))


def recovery_key(box: Box) -> str:
    """The recovery key while it waits to be handed over, then `handed_over` is called; otherwise empty."""
    waiting = _waiting(box)
    return waiting.read_text() if waiting.exists() else ""


def handed_over(box: Box) -> None:
    """The recovery key is where a person keeps it: no start makes another one."""
    Files().remove(waits(box))
    _waiting(box).unlink(missing_ok=True)


def recover(box: Box, text: str) -> str:
    """Let this machine's TPM open the data partition again, by the recovery key in ``text``; the next start opens it.

    Returns what was done, as a sentence.

    Raises
    ------
    FirmwareError
        There is no recovery key in it, it is another one's, or it is not what is missing, and nothing was changed; or
        the TPM can't be enrolled, and the recovery key counts as before.
    """
    found = _RECOVERY_KEY.search(text.lower())
    if not found:
        raise FirmwareError("there is no recovery key in it", hint="it is 8 groups of 8 letters, with hyphens between")
    partition = _partition(box)
    if _MAPPED.exists() or _tpm_opens(partition):
        raise FirmwareError(
            "the TPM opens the data partition, and what is wrong lies behind that",
            hint="start the box again; if that does not help, a service token opens a shell",
        )
    key = box.runtime / "unlock-key"
    Files().write(key, found[0].encode(), mode=0o600)
    try:
        _call("cryptsetup", "open", "--test-passphrase", f"--key-file={key}", str(partition))
        # First and apart: where a slot has the same PCRs, enrolling leaves it, whichever TPM it is of (systemd 37517).
        _call("systemd-cryptenroll", "--wipe-slot=tpm2", str(partition))
        _call("systemd-cryptenroll", f"--unlock-key-file={key}", *_BY_TPM, str(partition))
    finally:
        key.unlink()
    _unlock(partition)
    return "the recovery key opens the data partition, and from now on the TPM does again; the box starts again"


def _told_apart(box: Box) -> str:
    """By what the disk and its data partition are told from others, in words, before they are erased.

    Raises
    ------
    FirmwareError
        lsblk does not answer.
    """
    columns = "PATH,TYPE,MODEL,SERIAL,SIZE,PARTTYPE,PARTUUID,FSTYPE,UUID"
    said = []
    for row in lsblk.devices("--list", "--bytes", f"--output={columns}", f"/dev/{_disk(box)}"):
        known = {name: str(value).strip() for name, value in row.items() if value is not None}
        if known.get("type") == "disk":
            model, serial = known.get("model", "without a model"), known.get("serial", "none")
            said.append(f"disk: {model}, serial number {serial}, {int(known['size']):,} bytes")
        elif known.get("parttype", "").lower() == labels.DATA_TYPE:
            said.append(f"data partition: PARTUUID {known.get('partuuid', 'none')}")
            if "uuid" in known:
                kind = "LUKS" if known.get("fstype") == _LUKS else "file system"
                said.append(f"{kind}: UUID {known['uuid']}")
    return "; ".join(said)


def erase(box: Box) -> str:
    """Factory reset: the data is gone for good, whether its partition is open or not.

    Encrypted: all key slots are destroyed, so that nothing can ever open it again, then the header is written over, at
    once. Not encrypted: every byte of the partition is written over, which takes hours, so the next start does it,
    before anything else: a shell would end with its token.
    All that was written is read back from the disk. What a cut leaves, the next start wipes.

    Returns what was done, or will be, for the record; where it was done, `record_of_reset` has it, too.

    Raises
    ------
    FirmwareError
        There is no data partition, it is in use, or it does not keep what is written over it.
    """
    device = _partition(box)
    begun = _begun(box, device)
    encrypted = begun["kind"] == _LUKS
    if encrypted:
        _release(box)
    try:
        Files().write(_wiping(box), json.dumps(begun).encode())
    except OSError as error:
        raise FirmwareError(
            f"{_wiping(box)} can't be written: {error.strerror}; nothing was erased", hint="destroy the disk instead"
        ) from error
    if encrypted:
        return _wipe(box, device)
    return (
        f"box {begun['box']}: every byte of the data partition is written over at the next start, before anything "
        f"else; the next stick gets the record of it\n{begun['disk']}"
    )


def record_of_reset(box: Box) -> str:
    """What the latest factory reset has done, of which box and disk, when, by which version; empty where none was."""
    path = _reset_record(box)
    return path.read_text() if path.exists() else ""


def _begun(box: Box, device: Path) -> dict[str, str]:
    """What is noted before the first byte is erased: afterwards nothing tells it any more."""
    try:
        known = box.identity()
    except FirmwareError:
        known = "without identity"
    return {"box": known, "kind": _file_system(device), "disk": _told_apart(box)}


def _wipe(box: Box, device: Path) -> str:
    """What `erase` has begun, to its end."""
    try:
        begun = dict(json.loads(_wiping(box).read_text()))
    except ValueError:  # torn by a cut: nothing was erased then
        begun = _begun(box, device)
    if _file_system(device) == _LUKS:
        # It fails where a cut has left half a header; what is written over it then has the key slots in it, too.
        erased = _run(("cryptsetup", "erase", "--batch-mode", str(device)))
        if not erased.returncode and _luks(device)["keyslots"]:
            raise FirmwareError(f"{device} still has a key slot", hint="destroy the disk instead")
    if begun["kind"] == _LUKS:
        _overwrite(device, _LUKS_HEADER)
        done = "all key slots of the data partition were destroyed and its header written over"
    else:
        _overwrite(device, None)
        done = "every byte of the data partition was written over"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    text = (
        f"box {begun['box']}: {done}, and read back\n{begun['disk']}\n{when}, by scanside-firmware of {box.release()}\n"
    )
    Files().write(_reset_record(box), text.encode())
    Files().remove(_noted_identity(box))  # before the note: the next start must make all anew
    Files().remove(_wiping(box))
    return text


def _reset_record(box: Box) -> Path:
    return box.notes / "factory-reset.txt"


def _wiping(box: Box) -> Path:
    return box.notes / "wiping"


def _noted_identity(box: Box) -> Path:
    """The box's identity, from its first start until a factory reset."""
    return box.notes / box.identity_file.name


def _waiting(box: Box) -> Path:
    return box.runtime / "recovery-key"


def waits(box: Box) -> Path:
    """Says that nobody has the recovery key yet; each start with it makes another one."""
    return box.firmware_data / "recovery-key-waits"


def _partition(box: Box) -> Path:
    device = find_partition(box)
    if device is None:
        raise FirmwareError(f"/dev/{_disk(box)} has no data partition", hint="the next start makes one")
    return device


def _release(box: Box) -> None:
    """Nothing writes to it any more: what was still to be written would land on the erased disk."""
    _call("systemctl", "stop", *_WRITERS)
    _call("journalctl", "--relinquish-var")
    for where in (*(target for _, target in _elsewhere(box)), box.root / "data"):
        if where.is_mount():
            _call("umount", str(where))
    if _MAPPED.exists():
        _call("systemd-cryptsetup", "detach", "data")


def _overwrite(device: Path, length: int | None) -> None:
    """Zeros in the first ``length`` bytes, or in all, and all of them read back."""
    with contextlib.closing(Medium(device, length=0)) as medium:
        end = medium.size() if length is None else min(length, medium.size())
        parts = [(offset, min(_PART, end - offset)) for offset in range(0, end, _PART)]
        for offset, count in parts:
            medium.write(offset, bytes(count))
        medium.flush()
        for offset, count in parts:
            if medium.read(offset, count) != bytes(count):
                raise BrokenError(
                    f"{device} does not keep what is written over it at byte {offset}", hint="destroy the disk instead"
                )


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
    key = box.runtime / "first-key"
    Files().write(key, secrets.token_bytes(64), mode=0o600)
    # The first key is random and goes at once: its derivation needs no rounds.
    _call("cryptsetup", "luksFormat", "--batch-mode", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000",
          f"--key-file={key}", str(partition))  # fmt: skip
    unlock = f"--unlock-key-file={key}"
    _call("systemd-cryptenroll", unlock, *_BY_TPM, str(partition))
    _call("systemd-cryptenroll", unlock, "--wipe-slot=password", str(partition))
    key.unlink()


def _make_recovery_key(box: Box, partition: Path) -> dict[str, str]:
    """A recovery key that waits to be handed over, in place of one that nobody has; why there is none."""
    if _waiting(box).exists():
        return {}
    try:
        made = any(token["type"] == "systemd-recovery" for token in _luks(partition)["tokens"].values())
        if made and not waits(box).exists():
            return {}
        if on_trial(box.boot()):
            return {"no_recovery_key": "a system on trial makes none, and the next start after that does"}
        # Before there is one: a key that is not noted counts as somebody's.
        Files().write(waits(box), b"")
        said = _call("systemd-cryptenroll", "--unlock-tpm2-device=auto", "--wipe-slot=recovery", "--recovery-key",
                     str(partition))  # fmt: skip
    except (FirmwareError, OSError) as error:
        return {"no_recovery_key": str(error)}
    found = _RECOVERY_KEY.search(said)
    if not found:
        return {"no_recovery_key": "systemd-cryptenroll printed none"}
    Files().write(_waiting(box), found[0].encode(), mode=0o600)
    return {}


def _can_never_open(partition: Path) -> bool:
    """A cut came while it was made, and the first key went with that start; or all its key slots were destroyed.

    Whatever has a token may have been in use, such as with the recovery key in another machine, and is left as it is.
    """
    header = _luks(partition)
    return not header["tokens"] or not header["keyslots"]


def _luks(device: Path) -> dict[str, Any]:
    return dict(json.loads(_call("cryptsetup", "luksDump", "--dump-json-metadata", str(device))))


def _tpm_opens(partition: Path) -> bool:
    try:
        _unlock(partition)
    except FirmwareError:
        return False
    return True


def _unlock(partition: Path) -> None:
    try:
        _call("systemd-cryptsetup", "attach", "data", str(partition), "-", "tpm2-device=auto,headless=true")
    except FirmwareError as error:
        raise FirmwareError(
            f"the TPM does not open the data partition: {error.message}",
            hint="did the firmware's Secure Boot keys change, or is this disk from another box? Put the recovery key "
            "on a stick with the label SCANSIDE, as recovery-key.txt",
        ) from error


def _check(device: Path) -> None:
    """Mend what a power cut left; exit code 4 and more of e2fsck(8) is what it can't mend."""
    done = subprocess.run(["e2fsck", "-p", str(device)], capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode >= 4:
        raise FirmwareError(
            f"the file system on the data partition is damaged: {done.stdout.strip()[-300:]}",
            hint=f"put a service token on a stick, and run e2fsck {device} in the shell that it opens; a factory reset "
            "makes a new one and loses what is there",
        )


def _fill(box: Box) -> None:
    for name in (*_OWNED, *_OURS):
        (box.root / "data" / name).mkdir(exist_ok=True)
    for name in _OWNED:
        shutil.chown(box.root / "data" / name, "scanside", "scanside")
        (box.root / "data" / name).chmod(0o700)
    if not box.configuration.exists():
        Files().write(box.configuration, (box.root / "usr/lib/scanside/default.toml").read_bytes())
    for source, target in _elsewhere(box):
        target.mkdir(parents=True, exist_ok=True)
        _call("mount", "--bind", str(box.root / "data" / source), str(target))
    shutil.chown(box.root / "data/timesync", "systemd-timesync", "systemd-timesync")
    if not box.identity_file.exists():
        Files().write(box.identity_file, f"{secrets.token_hex(4)}\n".encode())
    _note_identity(box)
    use_site(box)


def _note_identity(box: Box) -> None:
    """On the ESP, too: a service token has to count where this partition does not open, and nothing is made over it."""
    identity, noted = box.identity_file.read_bytes(), _noted_identity(box)
    with contextlib.suppress(OSError):  # what is open works without it
        if not noted.exists() or noted.read_bytes() != identity:
            Files().write(noted, identity)


def _elsewhere(box: Box) -> tuple[tuple[str, Path], ...]:
    """Folders of the data partition, and where the system looks for them.

    The machine's id is a new one at each start, since root is read-only. journald takes a folder of that name: it would
    begin an empty one each time, count none of the earlier to its limit, and show none of them.
    """
    machine_id = (box.root / "etc/machine-id").read_text().strip()
    return ("journal", box.root / "var/log/journal" / machine_id), ("timesync", box.root / "var/lib/systemd/timesync")


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
    except subprocess.TimeoutExpired as error:
        raise FirmwareError(f"`{' '.join(command[:2])}` did not end within an hour") from error

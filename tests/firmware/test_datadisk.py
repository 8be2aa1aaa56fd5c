"""The data partition: which one it is, what a power cut leaves of it, its recovery key, and a factory reset."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware import datadisk, provisioning
from firmware.box import Box
from firmware.cli import main
from firmware.errors import BrokenError, FirmwareError
from firmware.flash.medium import Medium
from tests.firmware.boxes import PowerCut, make_box, start
from tests.firmware.commissioning import site, taken

DATA = "8F1C0A52-6D3E-4F57-9C0B-5C414E534944"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
KEYS = ["-".join([letters * 4] * 8) for letters in ("cb", "de", "fg")]  # as systemd-cryptenroll makes them
# A program that is no stand-in says nothing and succeeds; each call is a line of $CALLS.
_PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
{body}
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = make_box(tmp_path / "box")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return made


def program(tmp_path: Path, name: str, body: str = "") -> None:
    path = tmp_path / "bin" / name
    path.write_text(_PROGRAM.format(body=body))
    path.chmod(0o755)


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def runs_from(box: Box, *nodes: str) -> None:
    """The kernel's tree of block devices, the root first and the disk, or its partition, last."""
    number = box.root.stat().st_dev
    devices = [box.root / "sys/devices" / node for node in nodes]
    for above, below in zip([None, *devices], devices, strict=False):
        below.mkdir(parents=True)
        if above is not None:
            (above / "slaves").mkdir()
            (above / "slaves" / below.name).symlink_to(below)
    if devices[-1].parent.name != "block":
        (devices[-1] / "partition").write_text("2\n")
    link = box.root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(devices[0], link.parent))


def has_partitions(tmp_path: Path, **types: str | None) -> None:
    rows = [{"path": f"/dev/{name}", "parttype": kind} for name, kind in types.items()]
    program(tmp_path, "lsblk", f"echo '{json.dumps({'blockdevices': rows})}'")


@pytest.mark.parametrize(
    ("nodes", "disk"),
    [
        (("virtual/block/dm-0", "pci0000:00/0000:00:1f.2/ata1/host0/block/sda/sda2"), "sda"),
        (("virtual/block/dm-0", "pci0000:00/0000:00:01.0/nvme/nvme0/block/nvme0n1/nvme0n1p2"), "nvme0n1"),
        (("virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2"), "vda"),
        (("virtual/block/dm-1", "virtual/block/dm-0", "virtual/block/loop0/loop0p2"), "loop0"),
        (("platform/soc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p2",), "mmcblk0"),
        (("pci0000:00/0000:00:02.0/virtio1/block/vda",), "vda"),
    ],
)
def test_the_data_partition_is_on_the_disk_that_the_system_runs_from(
    box: Box, tmp_path: Path, nodes: tuple[str, ...], disk: str
) -> None:
    runs_from(box, *nodes)
    has_partitions(tmp_path, **{disk: None, "x2": LINUX, "x4": DATA, "mapped": None})
    assert datadisk.find_partition(box) == Path("/dev/x4")
    assert calls(tmp_path)[-1].endswith(f" /dev/{disk}")


def test_there_is_one_data_partition(box: Box, tmp_path: Path) -> None:
    runs_from(box, "virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2")
    has_partitions(tmp_path, vda=None, vda2=LINUX)
    assert datadisk.find_partition(box) is None
    has_partitions(tmp_path, vda=None, vda4=DATA, vda5=DATA)
    with pytest.raises(FirmwareError, match="/dev/vda has several data partitions: /dev/vda4, /dev/vda5"):
        datadisk.open_data(box)


@pytest.mark.parametrize(
    ("keyslots", "tokens", "again"),
    [
        ({"0": {}}, {}, True),
        ({"0": {}}, {"0": {"type": "systemd-tpm2"}}, False),
        ({}, {"0": {"type": "systemd-tpm2"}}, True),  # nothing can ever open it
    ],
)
def test_a_data_partition_that_a_cut_left_half_made_is_made_again(
    box: Box,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keyslots: dict[str, object],
    tokens: dict[str, object],
    again: bool,
) -> None:
    runs_from(box, "virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2")
    has_partitions(tmp_path, vda=None, vda4=DATA)
    monkeypatch.setattr(datadisk, "_TPM", tmp_path)  # there is one
    dump = json.dumps({"keyslots": keyslots, "tokens": tokens})
    program(tmp_path, "cryptsetup", f"[ $1 != luksDump ] || echo '{dump}'")
    program(tmp_path, "blkid", 'case "$*" in */dev/vda4*) echo crypto_LUKS;; *) exit 2;; esac')
    for name in ("systemd-cryptenroll", "wipefs", "systemd-cryptsetup", "mkfs.ext4"):
        program(tmp_path, name)
    program(tmp_path, "mount", "exit 1")
    with pytest.raises(FirmwareError, match="`mount"):
        datadisk.open_data(box)
    made = [line.split()[0] + " " + line.split()[1] for line in calls(tmp_path)]
    assert made[-2:] == ["mkfs.ext4 -q", "mount -o"]
    assert ("wipefs --all" in made) == ("cryptsetup luksFormat" in made) == again


# --- what is there and can't be read ---


@pytest.mark.parametrize("lost", ["superblock", "partition", "table", "inside LUKS", "key slots"])
def test_nothing_is_made_over_data_that_can_not_be_read(
    box: Box, encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost in ("superblock", "partition", "table"):
        monkeypatch.setattr(datadisk, "_TPM", tmp_path / "no-tpm")
        for name in ("blkid", "e2fsck", "mkfs.ext4"):
            (tmp_path / "bin" / name).unlink()  # the real ones
        old_data(encrypted)
    datadisk.open_data(box)
    identity = box.identity()
    switch_off(box, tmp_path)
    if lost == "superblock":
        with encrypted.open("r+b") as file:
            file.write(bytes(4096))
    elif lost == "partition":
        encrypted.rename(tmp_path / "aside")
    elif lost == "table":
        has_partitions(tmp_path, vda=None)
    elif lost == "inside LUKS":
        program(tmp_path, "blkid", f'for last; do :; done; [ "$last" = {encrypted} ] && echo crypto_LUKS || exit 2')
    else:
        (tmp_path / "slots").write_text("{}")
    before = encrypted.read_bytes() if encrypted.exists() else b""
    for name in ("mkfs.ext4", "wipefs", "systemd-repart"):
        program(tmp_path, name)
    said = calls(tmp_path)
    shutil.rmtree(box.root / "data")
    with pytest.raises(FirmwareError, match="this box had data; nothing was made over it") as caught:
        datadisk.open_data(box)
    assert "factory reset" in caught.value.hint and caught.value.message in datadisk.why_closed(box)
    assert ("can't be read: No such file" in caught.value.message) == (lost == "partition")
    made = {line.split()[0] for line in calls(tmp_path)[len(said) :]}
    assert not made & {"mkfs.ext4", "wipefs", "systemd-repart", "systemd-cryptenroll"}
    assert box.identity() == identity, "a token for a shell counts"
    assert not encrypted.exists() or encrypted.read_bytes() == before


def test_nothing_is_made_while_the_esp_can_not_be_read(box: Box, partition: Path, tmp_path: Path) -> None:
    (box.esp / "EFI").rename(tmp_path / "EFI")
    with pytest.raises(FirmwareError, match="the ESP, which notes whether there was data, can't be read"):
        datadisk.open_data(box)
    assert not any(partition.read_bytes())


def test_a_reset_lets_the_next_start_make_all_anew(box: Box, partition: Path, tmp_path: Path) -> None:
    datadisk.open_data(box)
    assert (box.notes / "box-id").exists()
    datadisk.erase(box)
    datadisk.finish_wiping(box)
    assert not (box.notes / "box-id").exists() and not any(partition.read_bytes())
    datadisk.open_data(box)
    assert (box.notes / "box-id").exists() and b"data" in partition.read_bytes()[:4096]


# --- open, its recovery key, and what helps where it does not open ---


@pytest.fixture
def partition(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for the data partition of a box without a TPM; it is never mounted."""
    runs_from(box, "virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2")
    path = tmp_path / "partition"
    path.touch()
    os.truncate(path, 12 << 20)
    disk = {
        "path": "/dev/vda",
        "type": "disk",
        "model": "QEMU HARDDISK ",
        "serial": "S-0042",
        "size": 8 << 30,
        "parttype": None,
    }
    data = {"path": str(path), "type": "part", "parttype": DATA, "partuuid": "4d-a1", "fstype": "ext4", "uuid": "e2-f5"}
    listed = json.dumps({"blockdevices": [disk, data]})
    program(tmp_path, "lsblk", f"echo '{listed}'")
    for name in ("mount", "systemctl", "journalctl", "umount"):
        program(tmp_path, name)
    monkeypatch.setattr(datadisk, "_TPM", tmp_path / "no-tpm")
    monkeypatch.setattr(datadisk, "_MAPPED", tmp_path / "mapped")
    monkeypatch.setattr(shutil, "chown", lambda *_: None)  # to users that a test machine lacks
    (box.root / "etc").mkdir()
    (box.root / "etc/machine-id").write_text("0123\n")
    return path


@pytest.fixture
def encrypted(partition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a TPM: LUKS2, as far as the tools tell.

    ``tpm`` is this machine's, ``slot`` that of the TPM which opens it, and ``enrolled`` its recovery key.
    """
    monkeypatch.setattr(datadisk, "_TPM", tmp_path)
    (tmp_path / "slots").write_text('{"0": {}}')
    for name in ("tpm", "slot"):
        (tmp_path / name).write_text("one")
    os.truncate(tmp_path / "partition", 40 << 20)
    begin_luks(partition)
    (tmp_path / "keys").write_text("\n".join(KEYS))
    program(
        tmp_path,
        "cryptsetup",
        f"""cd {tmp_path}
case $1 in
    luksDump)
        head -c 4 {partition} | grep -q LUKS || exit 1
        tokens='"0": {{"type": "systemd-tpm2"}}'
        [ ! -e enrolled ] || tokens="$tokens, "'"1": {{"type": "systemd-recovery"}}'
        echo "{{\\"keyslots\\": $(cat slots), \\"tokens\\": {{$tokens}}}}";;
    open)
        key=$(echo "$*" | sed 's/.*--key-file=\\([^ ]*\\).*/\\1/')
        printf %s "$(cat enrolled)" | cmp -s - "$key" || {{ echo "no such key" >&2; exit 2; }};;
    erase) echo '{{}}' > slots; rm -f enrolled;;
esac""",
    )
    program(
        tmp_path,
        "blkid",
        f"""for last; do :; done
[ "$last" = {tmp_path}/mapped ] && echo ext4 && exit
head -c 4 {partition} | grep -q LUKS && echo crypto_LUKS || exit 2""",
    )
    program(
        tmp_path,
        "systemd-cryptenroll",
        f"""cd {tmp_path}
case "$*" in
    *--tpm2-device=auto*)
        [ ! -e slot ] || {{ echo "This PCR set is already enrolled, executing no operation."; exit; }}
        cp tpm slot;;
    *--wipe-slot=tpm2*) rm -f slot;;
    *--recovery-key*) head -1 keys | tee enrolled; sed -i 1d keys;;
esac""",
    )
    program(
        tmp_path,
        "systemd-cryptsetup",
        f"""cd {tmp_path}
case $1 in
    attach) cmp -s tpm slot && touch mapped || {{ echo "PCR 7 differs" >&2; exit 1; }};;
    detach) rm mapped;;
esac""",
    )
    program(tmp_path, "e2fsck")
    program(tmp_path, "mkfs.ext4")
    return partition


def begin_luks(partition: Path) -> None:
    with partition.open("r+b") as file:
        file.write(b"LUKS\xba\xbe")


def switch_off(box: Box, tmp_path: Path) -> None:
    """What lies in memory alone is gone."""
    shutil.rmtree(box.runtime, ignore_errors=True)
    (tmp_path / "mapped").unlink(missing_ok=True)


def scanside_firmware(box: Box, *arguments: str) -> str:
    return CliRunner().invoke(main, [*arguments, "--root", str(box.root)]).output


def test_each_start_makes_a_recovery_key_until_one_was_handed_over(box: Box, encrypted: Path, tmp_path: Path) -> None:
    said = scanside_firmware(box, "data", "open")
    assert f"this is box {box.identity()}\n" in said and "recovery key, which waits for a stick" in said
    assert datadisk.recovery_key(box) == KEYS[0]
    assert (box.runtime / "recovery-key").stat().st_mode & 0o077 == 0
    switch_off(box, tmp_path)  # nobody has seen it
    datadisk.open_data(box)
    assert datadisk.recovery_key(box) == KEYS[1]
    enrolled = [line for line in calls(tmp_path) if "--recovery-key" in line]
    assert len(enrolled) == 2 and all("--wipe-slot=recovery" in line for line in enrolled)
    assert scanside_firmware(box, "data", "recovery-key") == f"{KEYS[1]}\n"
    assert "which was handed over" in datadisk.status(box)
    assert "it is handed over once" in scanside_firmware(box, "data", "recovery-key")
    switch_off(box, tmp_path)
    datadisk.open_data(box)
    assert datadisk.recovery_key(box) == ""
    assert (tmp_path / "enrolled").read_text() == f"{KEYS[1]}\n", "the key that a person has opens it still"


def test_a_box_whose_recovery_key_can_not_be_made_opens_and_says_so(box: Box, encrypted: Path, tmp_path: Path) -> None:
    program(tmp_path, "systemd-cryptenroll", "echo 'no room' >&2; exit 1")
    assert "no recovery key could be made: `systemd-cryptenroll" in scanside_firmware(box, "data", "open")
    assert box.data_is_open()


@pytest.mark.parametrize("noted", [True, False])
def test_a_recovery_key_that_somebody_may_have_is_left_as_it_is(
    box: Box, encrypted: Path, tmp_path: Path, noted: bool
) -> None:
    """An earlier version showed it when it made it, and kept no note that it waits."""
    (tmp_path / "enrolled").write_text(f"{KEYS[2]}\n")
    if noted:
        datadisk.waits(box).parent.mkdir()
        datadisk.waits(box).touch()
    said = scanside_firmware(box, "data", "open")
    if noted:
        assert datadisk.recovery_key(box) == KEYS[0] and "which waits for a stick" in said
    else:
        assert datadisk.recovery_key(box) == "" and "handed over or made by an earlier version" in said
        assert (tmp_path / "enrolled").read_text() == f"{KEYS[2]}\n"


def test_a_system_on_trial_makes_no_recovery_key(box: Box, encrypted: Path, tmp_path: Path) -> None:
    datadisk.open_data(box)  # nobody has that one
    entries = box.esp / "loader/entries"
    (box.esp / "EFI/scanside/b.efi").write_text("b 2.0.0|whole")
    (entries / "scanside-b+2-1.conf").write_text("version 2\nefi /EFI/scanside/b.efi\n")
    start(box, "b", "2.0.0")
    switch_off(box, tmp_path)
    assert "by nothing else: no recovery key could be made: a system on trial" in scanside_firmware(box, "data", "open")
    assert datadisk.recovery_key(box) == "" and (tmp_path / "enrolled").read_text() == f"{KEYS[0]}\n"
    box.boot().mark_good("b")
    switch_off(box, tmp_path)
    datadisk.open_data(box)
    assert datadisk.recovery_key(box) == KEYS[1]


def test_the_recovery_key_lets_the_tpm_open_data_again(box: Box, encrypted: Path, tmp_path: Path) -> None:
    datadisk.open_data(box)
    key = datadisk.recovery_key(box)
    datadisk.handed_over(box)
    switch_off(box, tmp_path)
    (tmp_path / "tpm").write_text("another, with the same Secure Boot keys")
    with pytest.raises(FirmwareError, match="the TPM does not open the data partition"):
        datadisk.open_data(box)
    assert "PCR 7 differs" in datadisk.why_closed(box)
    with pytest.raises(FirmwareError, match=r"did not open.*PCR 7 differs"):
        datadisk.status(box)
    with pytest.raises(FirmwareError, match="no recovery key in it"):
        datadisk.recover(box, "abcd-efgh")
    with pytest.raises(FirmwareError, match="no such key"):
        datadisk.recover(box, KEYS[2])
    assert (tmp_path / "slot").read_text() == "one", "nothing was changed"
    assert "the box starts again" in datadisk.recover(box, f"The key:\n\n{key.upper()}\n")
    assert not (box.runtime / "unlock-key").exists()
    with pytest.raises(FirmwareError, match="what is wrong lies behind that"):
        datadisk.recover(box, key)  # otherwise a stick that stays would start the box again and again
    switch_off(box, tmp_path)
    datadisk.open_data(box)
    assert datadisk.why_closed(box) == ""


def test_a_recovery_key_changes_nothing_where_data_is_closed_for_another_reason(
    box: Box, encrypted: Path, tmp_path: Path
) -> None:
    """Such as a second flashed disk: the box would start again and again with a stick that stays."""
    datadisk.open_data(box)
    key = datadisk.recovery_key(box)
    datadisk.handed_over(box)
    switch_off(box, tmp_path)
    before = len(calls(tmp_path))
    with pytest.raises(FirmwareError, match="what is wrong lies behind that"):
        datadisk.recover(box, key)
    assert not any("cryptenroll" in line for line in calls(tmp_path)[before:])


def test_a_box_that_does_not_open_knows_its_identity(box: Box, partition: Path) -> None:
    datadisk.open_data(box)
    identity = box.identity()
    shutil.rmtree(box.root / "data")
    assert box.identity() == identity and not box.data_is_open()
    (box.notes / "box-id").write_bytes(b"")  # what FAT may leave after a cut
    with pytest.raises(FirmwareError, match="has no identity yet"):
        box.identity()


# --- after another image ---


def test_a_box_without_a_site_has_the_default_of_the_image_that_runs(box: Box, partition: Path) -> None:
    (box.root / "usr/lib/scanside/default.toml").write_text("# of a later image\n")
    assert "this image's own default configuration is in place\n" in scanside_firmware(box, "data", "open")
    assert box.configuration.read_text() == "# of a later image\n"
    assert "default" not in scanside_firmware(box, "data", "open")


def test_an_image_makes_the_configuration_in_force_as_it_does(
    box: Box, partition: Path, tmp_path: Path, publisher: Path
) -> None:
    """Forth by an update, and back by falling back; a box goes on where the appliance does not take it."""
    shutil.copy(publisher / "site.pub", box.trust)
    provisioning.apply(box, site(tmp_path / "1", publisher, 1, "ONE"), taken)
    folder = box.configuration.parent
    ours = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    program(tmp_path, "scanside")

    def another_image_made_it() -> None:
        box.configuration.write_text("# as another image makes it\n")
        (folder / "network/60-other-ports.network").unlink(missing_ok=True)
        (folder / "environment").write_text("TZ=CET\n")

    assert "configuration 1" not in scanside_firmware(box, "data", "open")
    for slot, version in (("b", "2.0.0"), ("a", "1.0.0")):
        start(box, slot, version)
        another_image_made_it()
        said = scanside_firmware(box, "data", "open")
        assert "configuration 1 is in place as this image makes it\n" in said
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == ours
        assert (box.root / "run/systemd/network/60-other-ports.network").exists()
        assert box.history()[-1]["made_by"] == version
        assert "configuration 1" not in scanside_firmware(box, "data", "open")

    another_image_made_it()
    program(tmp_path, "scanside", "echo 'scanside: it has no such key' >&2; exit 1")
    said = scanside_firmware(box, "data", "open")
    assert "the configuration stays as another image has made it: " in said and "it has no such key" in said
    assert box.configuration.read_text() == "# as another image makes it\n" and box.data_is_open()
    assert f"this is box {box.identity()}\n" in said


# --- factory reset ---


def old_data(partition: Path) -> None:
    """A file system, and a patient's image at its end."""
    subprocess.run(["mkfs.ext4", "-q", "-F", str(partition)], check=True, capture_output=True, timeout=60)
    with partition.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"Doe^John")


def cut_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The power fails before so many parts and one more are written."""
    left = [writes]
    write = Medium.write

    def dying(medium: Medium, offset: int, content: bytes) -> None:
        if not left[0]:
            raise PowerCut
        left[0] -= 1
        write(medium, offset, content)

    monkeypatch.setattr(Medium, "write", dying)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_reset_without_encryption_that_a_cut_interrupts_goes_on_at_the_next_start(
    box: Box, partition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    old_data(partition)
    scanside_firmware(box, "factory-reset", "--box", "5eedb0c5")
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        cut_after(patched, writes)
        datadisk.finish_wiping(box)
    assert b"Doe^John" in partition.read_bytes()
    program(tmp_path, "mkfs.ext4", f"cp {partition} {tmp_path}/before")  # what is there when a new one is made
    assert "start the box again" in scanside_firmware(box, "data", "open")
    assert not (tmp_path / "before").exists(), "nothing is made over what is still there"
    said = scanside_firmware(box, "data", "finish-wiping")
    record = datadisk.record_of_reset(box)
    assert said.endswith(f"leave the box switched on\n{record}")
    assert record.startswith(
        "box 5eedb0c5: every byte of the data partition was written over, and read back\ndisk: QEMU"
    )
    assert "PARTUUID 4d-a1; file system: UUID e2-f5\n" in record and "UTC, by scanside-firmware of 1.0.0" in record
    scanside_firmware(box, "data", "open")
    assert (tmp_path / "before").read_bytes() == bytes(12 << 20)
    assert scanside_firmware(box, "data", "open").startswith("this is box")


@pytest.mark.parametrize("writes", [0, 1])
def test_a_reset_with_encryption_that_a_cut_interrupts_goes_on_at_the_next_start(
    box: Box, encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    with encrypted.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"key material")
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        cut_after(patched, writes)
        datadisk.erase(box)
    assert (tmp_path / "slots").read_text() == "{}\n"
    switch_off(box, tmp_path)
    said = scanside_firmware(box, "data", "finish-wiping")
    assert "box 5eedb0c5: all key slots of the data partition were destroyed" in said
    assert said.endswith(datadisk.record_of_reset(box))
    scanside_firmware(box, "data", "open")
    assert b"key material" not in encrypted.read_bytes()
    assert any("luksFormat" in line for line in calls(tmp_path)), "a new one is made"
    assert not (box.notes / "wiping").exists()


def test_a_reset_needs_no_data_partition_that_opens(box: Box, encrypted: Path, tmp_path: Path) -> None:
    datadisk.open_data(box)
    identity = box.identity()
    switch_off(box, tmp_path)
    shutil.rmtree(box.root / "data")
    program(tmp_path, "umount", "echo 'not mounted' >&2; exit 1")
    program(tmp_path, "systemd-cryptsetup", "exit 1")
    said = scanside_firmware(box, "factory-reset", "--box", identity)
    first, disk, when = said.splitlines()
    assert first == (
        f"box {identity}: all key slots of the data partition were destroyed and its header written over, and read back"
    )
    assert disk == (
        "disk: QEMU HARDDISK, serial number S-0042, 8,589,934,592 bytes; data partition: PARTUUID 4d-a1; "
        "file system: UUID e2-f5"
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, by scanside-firmware of 1.0.0 \(epoch 1\)", when)
    assert datadisk.record_of_reset(box) == said
    assert not any(encrypted.read_bytes()[: 32 << 20])
    assert calls(tmp_path)[-1] == "systemctl reboot"


def test_a_reset_that_takes_hours_is_done_by_the_next_start(box: Box, partition: Path, tmp_path: Path) -> None:
    """A shell would end with its token, in the middle of it."""
    old_data(partition)
    before, record = partition.read_bytes(), tmp_path / "record.txt"
    said = scanside_firmware(box, "factory-reset", "--box", "5eedb0c5", "--record", str(record))
    assert said.startswith("box 5eedb0c5: every byte of the data partition is written over at the next start")
    assert "the next stick gets the record" in said and "serial number S-0042" in said and record.read_text() == said
    assert partition.read_bytes() == before and calls(tmp_path)[-1] == "systemctl reboot"
    assert datadisk.record_of_reset(box) == ""
    scanside_firmware(box, "data", "finish-wiping")
    assert not any(partition.read_bytes()) and "was written over, and read back" in datadisk.record_of_reset(box)


def test_a_note_of_a_reset_that_a_cut_has_torn_loses_nothing(box: Box, partition: Path) -> None:
    """FAT may leave a new name with nothing in it; nothing was erased then."""
    old_data(partition)
    box.notes.mkdir()
    (box.notes / "wiping").write_bytes(b"")
    assert datadisk.finish_wiping(box).startswith("box 5eedb0c5: every byte of the data partition was written over")
    assert not any(partition.read_bytes())


def test_a_reset_whose_record_can_not_be_written_erases_nothing(box: Box, partition: Path, tmp_path: Path) -> None:
    old_data(partition)
    before = partition.read_bytes()
    for record in (tmp_path / "no-stick" / "record.txt", box.root / "data" / "record.txt"):
        said = scanside_firmware(box, "factory-reset", "--box", "5eedb0c5", "--record", str(record))
        assert said.startswith("scanside-firmware: ") and str(record) in said and "nothing was erased" in said
    assert partition.read_bytes() == before and not (tmp_path / "calls").exists()


def test_a_reset_whose_record_is_lost_on_the_way_is_shown_and_starts_again(
    box: Box, encrypted: Path, tmp_path: Path
) -> None:
    """The stick is pulled out while the disk is written over."""
    record = tmp_path / "stick" / "record.txt"
    record.parent.mkdir()
    program(tmp_path, "journalctl", f"rm -r {record.parent}")
    said = scanside_firmware(box, "factory-reset", "--box", "5eedb0c5", "--record", str(record)).splitlines()
    assert said[0].startswith("box 5eedb0c5: all key slots of the data partition were destroyed")
    assert said[3].startswith(f"the record can't be written to {record}: ")
    assert calls(tmp_path)[-1] == "systemctl reboot"


def test_a_disk_that_does_not_keep_what_is_written_is_not_called_erased(
    box: Box, partition: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_data(partition)
    write = Medium.write

    def losing(medium: Medium, offset: int, content: bytes) -> None:
        if offset < 8 << 20:
            write(medium, offset, content)

    datadisk.erase(box)
    with monkeypatch.context() as patched, pytest.raises(BrokenError, match=r"does not keep .* at byte 8388608"):
        patched.setattr(Medium, "write", losing)
        datadisk.finish_wiping(box)
    assert datadisk.record_of_reset(box) == ""
    assert "every byte of the data partition was written over" in datadisk.finish_wiping(box)


def test_nothing_is_erased_where_that_can_not_be_noted(box: Box, partition: Path) -> None:
    old_data(partition)
    before = partition.read_bytes()
    box.notes.write_text("in the way")
    with pytest.raises(FirmwareError, match="nothing was erased"):
        datadisk.erase(box)
    assert partition.read_bytes() == before

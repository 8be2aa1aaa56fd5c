"""A Jetson, on stand-ins of NVIDIA's tools and of its folder; none of it has run on hardware (firmware/jetson)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from firmware import bundle, health, keys, update
from firmware.boot import SLOTS, BootBackend
from firmware.boot.nvbootctrl import NvBootCtrl
from firmware.boot.sd_boot import SdBoot
from firmware.cli import main
from firmware.errors import FirmwareError
from firmware.image import contents, jetson, wheels
from firmware.image.boards import Board, board
from tests.firmware.boxes import make_box, make_esp
from tests.running import CHECKOUT

STAND_INS = Path(__file__).parent / "stand_ins"
UUIDS = {"a": "0aa0fe3d-0000-4000-8000-000000000001", "b": "0aa0fe3d-0000-4000-8000-000000000002"}
MENU = """TIMEOUT 30
DEFAULT primary
LABEL primary
      MENU LABEL primary kernel
      LINUX /boot/Image
      # APPEND root=/dev/sda1
      APPEND ${cbootargs} root=PARTUUID=0aa0fe3d-0000-4000-8000-000000000001 rw rootwait rootfstype=ext4
"""
# `mount` puts a link in the place of the folder that it is to mount on.
MOUNT = """#!/bin/sh
[ -d "$3" ] || { echo "mount: $3: special device does not exist" >&2; exit 32; }
rmdir "$4" && ln -s "$3" "$4"
"""
UMOUNT = '#!/bin/sh\nrm "$1" && mkdir "$1"\n'
SECTORS = 250_069_680  # of a drive that is sold as 128 GB
# As NVIDIA documents its layouts: what is not asked for here is left out.
LAYOUT = """<?xml version="1.0"?>
<partition_layout version="01.00.0000">
    <device type="external" instance="0" sector_size="512" num_sectors="NUM_SECTORS">
        <partition name="master_boot_record" type="protective_master_boot_record"><size> 512 </size></partition>
        <partition name="primary_gpt" type="primary_gpt"><size> 19968 </size></partition>
        <partition name="esp" id="10" type="data"><size> 67108864 </size></partition>
        <partition name="UDA" id="15" type="data"><size> 419430400 </size></partition>
        <partition name="reserved" id="16" type="data"><size> 502792192 </size></partition>
        <partition name="APP" id="1" type="data"><size> APPSIZE </size></partition>
        <partition name="APP_b" id="2" type="data"><size> APPSIZE </size></partition>
        <partition name="secondary_gpt" type="secondary_gpt"><size> 0xFFFFFFFFFFFFFFFF </size></partition>
    </device>
</partition_layout>
"""
OS_RELEASE = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\n'
PACKAGE = "Package: nvidia-l4t-core\nStatus: install ok installed\nArchitecture: arm64\nVersion: 39.2.0-1\n"


def put_program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    put_program(folder, "nvbootctrl", (STAND_INS / "nvbootctrl").read_text())
    put_program(folder, "mount", MOUNT)
    put_program(folder, "umount", UMOUNT)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_NVBOOTCTRL", str(tmp_path / "uefi"))
    return folder


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """Both slots with one root, as udev links to them."""
    folder = tmp_path / "disk"
    for kind in ("by-partlabel", "by-partuuid"):
        (folder / kind).mkdir(parents=True)
    for slot, label in zip(SLOTS, board("jetson-orin").slots, strict=True):
        root = folder / f"root of {slot}"
        (root / "boot/extlinux").mkdir(parents=True)
        (root / "boot/extlinux/extlinux.conf").write_text(MENU)
        (folder / "by-partlabel" / label).symlink_to(root)
        (folder / "by-partuuid" / UUIDS[slot]).symlink_to(root)
    return folder


@pytest.fixture
def slots(tmp_path: Path, programs: Path, disks: Path) -> NvBootCtrl:
    backend = NvBootCtrl(tmp_path / "notes", board("jetson-orin").slots, disks=disks)
    backend.mark_good("a")
    return backend


def test_a_jetson_updates_and_proves_itself(slots: NvBootCtrl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (slots.current(), slots.primary(), slots.state("a")) == ("a", "a", "good")
    slots.close("b")
    assert slots.state("b") == "empty"
    slots.try_next("b", "2.0.0")
    assert (slots.primary(), slots.state("b")) == ("b", "trial")
    monkeypatch.setenv("FAKE_NVBOOTCTRL_CURRENT", "1")
    slots.mark_good("b")
    assert (slots.current(), slots.state("b")) == ("b", "good")
    slots.discard("a")
    assert (slots.state("a"), slots.primary()) == ("bad", "b")


def test_a_jetson_leaves_a_slot_that_failed(slots: NvBootCtrl, monkeypatch: pytest.MonkeyPatch) -> None:
    slots.close("b")
    slots.try_next("b", "2.0.0")
    monkeypatch.setenv("FAKE_NVBOOTCTRL_CURRENT", "1")
    slots.mark_bad("b")
    assert (slots.state("b"), slots.primary()) == ("bad", "a")


def test_a_slot_starts_its_own_root(slots: NvBootCtrl, disks: Path) -> None:
    """The same bundle goes into either slot, and NVIDIA's loader takes the root from the slot's own command line."""
    slots.close("b")
    slots.try_next("b", "2.0.0")
    menus = {slot: (disks / f"root of {slot}/boot/extlinux/extlinux.conf").read_text() for slot in SLOTS}
    assert menus == {"a": MENU, "b": MENU.replace(UUIDS["a"], UUIDS["b"])}
    slots.try_next("a", "1.0.0")  # the one that runs, whose root is mounted already
    assert (disks / "root of a/boot/extlinux/extlinux.conf").read_text() == MENU


@pytest.mark.parametrize("menu", [None, "", "LABEL primary\n  APPEND quiet\n"])
def test_a_slot_that_could_not_start_is_not_tried(slots: NvBootCtrl, disks: Path, menu: str | None) -> None:
    path = disks / "root of b/boot/extlinux/extlinux.conf"
    if menu is None:
        path.unlink()
    else:
        path.write_text(menu)
    slots.close("b")
    with pytest.raises(FirmwareError, match=r"slot b can't start: its /boot/extlinux/extlinux\.conf names no root"):
        slots.try_next("b", "2.0.0")
    assert (slots.primary(), slots.state("b")) == ("a", "empty")


def test_a_slot_that_can_not_be_looked_into_is_not_tried(slots: NvBootCtrl, disks: Path) -> None:
    slots.close("b")
    shutil.rmtree(disks / "root of b")
    with pytest.raises(FirmwareError, match="special device does not exist"):
        slots.try_next("b", "2.0.0")
    (disks / "by-partuuid" / UUIDS["b"]).unlink()
    with pytest.raises(FirmwareError, match="has no unique id"):
        slots.try_next("b", "2.0.0")
    assert (slots.primary(), slots.state("b")) == ("a", "empty")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_slot_as_a_real_file_system(slots: NvBootCtrl, programs: Path, disks: Path, tmp_path: Path) -> None:
    for name in ("mount", "umount"):
        (programs / name).unlink()
    root, partition = disks / "root of b", tmp_path / "nvme0n1p2"
    subprocess.run(["mkfs.ext4", "-q", "-d", root, partition, "4M"], check=True, capture_output=True)
    shutil.rmtree(root)
    root.symlink_to(partition)
    probe = subprocess.run(["mount", partition, programs], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no loop device")
    subprocess.run(["umount", programs], check=True)
    slots.try_next("b", "2.0.0")
    done = subprocess.run(
        ["debugfs", "-R", "cat /boot/extlinux/extlinux.conf", partition], capture_output=True, text=True, check=True
    )
    assert done.stdout == MENU.replace(UUIDS["a"], UUIDS["b"])


def test_a_jetson_whose_data_does_not_open_knows_of_no_slot_and_gives_none_up(
    slots: NvBootCtrl, tmp_path: Path
) -> None:
    """What it knows lies there, so neither is taken for one on trial."""
    box = make_box(tmp_path / "box")
    image = box.root / "usr/lib/scanside/image.json"
    image.write_text(json.dumps({**json.loads(image.read_text()), "boot": "nvbootctrl"}))
    assert [box.boot().state(slot) for slot in SLOTS] == ["trial", "trial"]
    box.boot().mark_good("a")
    shutil.rmtree(box.root / "data")
    assert [box.boot().state(slot) for slot in SLOTS] == ["unknown", "unknown"]
    broken = health.Finding("data", ok=False, detail="Read-only file system")
    assert update.confirm(box, lambda: [broken]) == "degraded"
    for act in (box.boot().mark_bad, box.boot().mark_good, box.boot().discard):
        with pytest.raises(FirmwareError, match="the data partition is not open"):
            act("b")
    assert [slots.primary(), *slots._slots().values()] == ["a", "normal", "normal"]


def test_both_backends_are_backends(slots: NvBootCtrl, tmp_path: Path) -> None:
    backends: list[BootBackend] = [slots, SdBoot(make_esp(tmp_path / "esp"), "rauc.slot=a")]
    for backend in backends:
        with pytest.raises(FirmwareError):
            backend.close(backend.current())


def test_a_jetson_without_its_tool(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match="not installed"):
        NvBootCtrl(tmp_path, (), program="nvbootctrl-that-is-not-there").current()


# --- its image ---


@pytest.fixture
def bsp(tmp_path: Path) -> Path:
    """As NVIDIA's folder after ``apply_binaries.sh``."""
    folder = tmp_path / "Linux_for_Tegra"
    root = folder / "rootfs"
    for each in ("etc", "usr/bin", "usr/lib/systemd/system", "var/lib/dpkg", "run"):
        (root / each).mkdir(parents=True)
    (root / "etc/nv_tegra_release").write_text("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n")
    (root / "usr/lib/os-release").write_text(OS_RELEASE)
    (root / "var/lib/dpkg/status").write_text(PACKAGE)
    (folder / "tools/kernel_flash").mkdir(parents=True)
    (folder / "tools/kernel_flash/flash_l4t_t234_nvme_rootfs_ab.xml").write_text(LAYOUT)
    return folder


def build(bsp: Path, *more: str) -> Result:
    arguments = ["build", "--board", "jetson-orin", "--to", str(bsp.parent / "out"), "--keys", str(bsp.parent / "keys"),
                 "--project", str(CHECKOUT), "--version", "2.0.0", *more]  # fmt: skip
    return CliRunner().invoke(main, arguments)


def test_the_data_partition_comes_behind_both_slots_in_all_that_is_left(bsp: Path) -> None:
    """NVIDIA's own data partition, UDA, and its layout stay as they are."""
    device = ElementTree.parse(jetson.write_layout(bsp, SECTORS)).find("device")
    assert device is not None and device.get("num_sectors") == str(SECTORS)
    theirs = bsp / "tools/kernel_flash/flash_l4t_t234_nvme_rootfs_ab.xml"
    assert theirs.read_text() == LAYOUT
    before = [each.attrib for each in ElementTree.fromstring(LAYOUT).iter("partition")]
    after = [each.attrib for each in device]
    data = {"name": "data", "id": "17", "type": "data"}
    assert after == [*before[:-1], data, before[-1]]
    made = {each.tag: str(each.text).strip() for each in device[-2]}
    assert (
        made["partition_type_guid"]
        in (CHECKOUT / "firmware/image/files/usr/lib/scanside/repart.d/50-data.conf").read_text()
    )
    assert made["allocation_attribute"] == "0x808" and "filename" not in made


def test_a_drive_that_is_too_small(bsp: Path) -> None:
    with pytest.raises(FirmwareError, match=r"a drive of 32\.0 GB has no room for two slots of 16 GiB and data"):
        jetson.write_layout(bsp, 62_533_296)
    assert not (bsp / "tools/kernel_flash/flash_scanside_nvme.xml").exists()


def test_a_layout_that_is_not_known(bsp: Path) -> None:
    (bsp / "tools/kernel_flash/flash_l4t_t234_nvme_rootfs_ab.xml").write_text(LAYOUT.replace('"APP_b"', '"ROOT_b"'))
    with pytest.raises(FirmwareError, match="has not the partitions that are known of it"):
        jetson.write_layout(bsp, SECTORS)


def test_what_is_no_folder_of_nvidias(bsp: Path) -> None:
    release = bsp / "rootfs/etc/nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    done = build(bsp, "--bsp", str(bsp), "--sectors", str(SECTORS))
    assert done.exit_code == 1 and "is Jetson Linux r36, whose TensorRT is for a Python" in done.output
    release.unlink()
    done = build(bsp, "--bsp", str(bsp), "--sectors", str(SECTORS))
    assert done.exit_code == 1 and "sudo ./apply_binaries.sh" in done.output
    done = build(bsp, "--bsp", str(bsp / "rootfs"), "--sectors", str(SECTORS))
    assert done.exit_code == 1 and "is no Jetson Linux for Orin" in done.output


def test_what_a_jetson_needs_and_others_do_not(bsp: Path) -> None:
    for more in (("--bsp", str(bsp)), ("--sectors", "1"), ("--bsp", str(bsp), "--sectors", "1", "--twice")):
        done = build(bsp, *more)
        assert done.exit_code == 2 and "--board jetson-orin needs --bsp and --sectors" in done.output
    done = build(bsp, "--board", "generic", "--bsp", str(bsp))
    assert done.exit_code == 2 and "--board generic is none" in done.output


def put_tree_of_stand_ins(programs: Path, monkeypatch: pytest.MonkeyPatch, inside: Callable[..., str]) -> None:
    """Its programs are for arm64, and mounting /dev into it is for root."""
    for name in ("mount", "umount"):
        put_program(programs, name, "#!/bin/sh\n")
    for module in (jetson, contents):
        monkeypatch.setattr(module, "inside", inside)


def test_where_no_program_of_arm64_runs(bsp: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(tree: Path, *command: str, **_: object) -> str:
        raise FirmwareError(f"`chroot {tree} ...` failed:\nchroot: failed to run {command[0]}: Exec format error")

    put_tree_of_stand_ins(programs, monkeypatch, inside)
    done = build(bsp, "--bsp", str(bsp), "--sectors", str(SECTORS))
    assert done.exit_code == 1
    assert "Exec format error" in done.output and "qemu-user-static" in done.output


@pytest.mark.skipif(
    shutil.which("rauc") is None or shutil.which("mksquashfs") is None, reason="Debian packages rauc and squashfs-tools"
)
def test_ours_comes_into_nvidias_root_and_into_a_bundle(
    bsp: Path, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, as where a first build was interrupted. Wheels are not fetched; programs of the root are noted only."""

    def install(project: Path, kind: Board, target: Path, cache: Path) -> None:
        for name, (version, _) in wheels.locked(kind).items():
            info = target / f"{name}-{version}.dist-info"
            info.mkdir(exist_ok=True)
            (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n\n")

    asked: list[str] = []

    def inside(tree: Path, *command: str, **_: object) -> str:
        asked.append(" ".join(map(str, command)))
        if "venv" in command:
            for each in ("bin", "lib/python3.12/site-packages"):
                (tree / "opt/scanside" / each).mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(wheels, "install", install)
    put_tree_of_stand_ins(programs, monkeypatch, inside)
    keys.make(tmp_path / "keys")
    for _ in range(2):
        done = build(bsp, "--bsp", str(bsp), "--sectors", str(SECTORS), "--module", "jetson-agx-orin-devkit")
        assert done.exit_code == 0, done.output
    command = done.output.splitlines()[-1]
    assert f"cd {bsp} && sudo ROOTFS_AB=1 ROOTFS_RETRY_COUNT_MAX=3 ./tools/kernel_flash/l4t_initrd_flash.sh" in command
    assert "-c tools/kernel_flash/flash_scanside_nvme.xml" in command and "jetson-agx-orin-devkit internal" in command

    root = bsp / "rootfs"
    image = json.loads((root / "usr/lib/scanside/image.json").read_text())
    assert (image["boot"], image["slots"], image["version"]) == ("nvbootctrl", ["APP", "APP_b"], "2.0.0")
    raucs = (root / "etc/rauc/system.conf").read_text()
    assert "device=/dev/disk/by-partlabel/APP\n" in raucs and "device=/dev/disk/by-partlabel/APP_b\n" in raucs
    assert "@" not in raucs.replace("@COMPATIBLE@", "!")
    fstab = (root / "etc/fstab").read_text()
    assert "/dev/root / ext4" in fstab and "PARTLABEL=esp /efi" in fstab and "/var" not in fstab
    units = root / "usr/lib/systemd/system"
    assert "char-nvhost" in (units / "scanside.service.d/jetson.conf").read_text()
    assert (root / "usr/lib/os-release").read_text().count("IMAGE_VERSION=2.0.0") == 1
    assert not (root / "run/systemd/resolve/stub-resolv.conf").exists()
    (installed,) = {line for line in asked if "apt-get" in line and " install " in line}
    assert {"rauc", "rauc-service", "python3-libnvinfer"} <= set(installed.split())
    (masked,) = {line for line in asked if line.startswith("systemctl mask")}
    assert {"nv-oem-config.service", "ssh.service", "NetworkManager.service", "getty.target"} <= set(masked.split())
    assert "python3 -m venv --without-pip --system-site-packages /opt/scanside" in asked
    assert "systemctl set-default multi-user.target" in asked

    bill = json.loads((tmp_path / "out/scanside-jetson-orin-2.0.0.cdx.json").read_text())
    purls = {each.get("purl") for each in bill["components"]}
    assert "pkg:deb/ubuntu/nvidia-l4t-core@39.2.0-1?arch=arm64&distro=ubuntu-24.04" in purls
    offered = bundle.verify(tmp_path / "out/scanside-jetson-orin-2.0.0.raucb", tmp_path / "keys/update-ca.pem")
    assert (offered.compatible, offered.version, offered.epoch) == ("scanside-jetson-orin", "2.0.0", 1)


def test_nvidias_own_word_on_a_start_waits_for_ours() -> None:
    """`nvbootctrl verify` gives a slot its boots back."""
    files = CHECKOUT / "firmware/jetson/files/etc/systemd/system"
    text = (files / "nv-l4t-bootloader-config.service.d/scanside.conf").read_text()
    assert "\nAfter=scanside-confirm.service\n" in text

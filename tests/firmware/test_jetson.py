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

from firmware import bundle, health, keys, trial, update
from firmware.boot import SLOTS, BootBackend, on_trial
from firmware.boot.nvbootctrl import NvBootCtrl
from firmware.boot.sd_boot import SdBoot
from firmware.box import Box
from firmware.cli import main
from firmware.errors import FirmwareError
from firmware.image import contents, jetson, wheels
from firmware.image.boards import Board, board
from tests.firmware.boxes import make_box, make_esp
from tests.running import CHECKOUT

STAND_INS = Path(__file__).parent / "stand_ins"
UUIDS = {"a": "0aa0fe3d-0000-4000-8000-000000000001", "b": "0aa0fe3d-0000-4000-8000-000000000002"}
# As it is in NVIDIA's root file system, and so in a bundle; its tool adds to the line as it flashes.
STOCK = """TIMEOUT 30
DEFAULT primary
LABEL primary
      MENU LABEL primary kernel
      LINUX /boot/Image
      # APPEND root=/dev/sda1
      APPEND ${cbootargs} quiet
"""
FLASHED = STOCK.replace("quiet", f"root=PARTUUID={UUIDS['a']} rw rootwait console=ttyTCU0,115200")
VENDOR = "781e084c-a330-417c-b678-38e696380cb9"
# `mount` puts a link in the place of the folder that it is to mount on.
MOUNT = """#!/bin/sh
[ -d "$3" ] || { echo "mount: $3: special device does not exist" >&2; exit 32; }
rmdir "$4" && ln -s "$3" "$4"
"""
UMOUNT = '#!/bin/sh\nrm "$1" && mkdir "$1"\n'
SECTORS = 250_069_680  # of a drive that is sold as 128 GB
NAMES = (
    "APP", "APP_b", "A_kernel", "A_kernel-dtb", "A_reserved_on_user", "B_kernel", "B_kernel-dtb", "B_reserved_on_user",
    "recovery", "recovery-dtb", "esp", "recovery_alt", "recovery-dtb_alt", "esp_alt", "UDA", "reserved",
)  # fmt: skip
# As NVIDIA documents its layouts: the first three have numbers. What is not asked for here is left out.
LAYOUT = """<?xml version="1.0"?>
<partition_layout version="01.00.0000">
    <device type="external" instance="0" sector_size="512" num_sectors="NUM_SECTORS">
        <partition name="master_boot_record" type="protective_master_boot_record"><size> 512 </size></partition>
        <partition name="primary_gpt" type="primary_gpt"><size> 19968 </size></partition>
{partitions}
        <partition name="secondary_gpt" type="secondary_gpt"><size> 0xFFFFFFFFFFFFFFFF </size></partition>
    </device>
</partition_layout>
""".format(
    partitions="\n".join(
        f'        <partition name="{name}"{id_} type="data"><size> APPSIZE </size></partition>'
        for name, id_ in zip(NAMES, (*(f' id="{number}"' for number in (1, 2, 3)), *[""] * 13), strict=True)
    )
)
OS_RELEASE = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\n'
THEIR_UNIT = "nv-l4t-usb-device-mode.service"
PACKAGE = "Package: nvidia-l4t-core\nStatus: install ok installed\nArchitecture: arm64\nVersion: 39.2.0-1\n"


def put_program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of the system that runs, which is slot a as NVIDIA's tool has flashed it; slot b, as udev links to it."""
    folder = tmp_path / "root"
    for each in ("sys/firmware/efi/efivars", "dev/disk/by-partlabel", "dev/disk/by-partuuid"):
        (folder / each).mkdir(parents=True)
    for place, menu in ((folder, FLASHED), (tmp_path / "nvme0n1p2", STOCK)):
        (place / "boot/extlinux").mkdir(parents=True)
        (place / "boot/extlinux/extlinux.conf").write_text(menu)
    (folder / "dev/disk/by-partlabel/APP_b").symlink_to(tmp_path / "nvme0n1p2")
    (folder / "dev/disk/by-partuuid" / UUIDS["b"]).symlink_to(tmp_path / "nvme0n1p2")
    return folder


@pytest.fixture
def programs(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    put_program(folder, "nvbootctrl", (STAND_INS / "nvbootctrl").read_text())
    put_program(folder, "mount", MOUNT)
    put_program(folder, "umount", UMOUNT)
    put_program(folder, "chattr", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_NVBOOTCTRL", str(root / "sys/firmware/efi/efivars"))
    return folder


@pytest.fixture
def slots(tmp_path: Path, programs: Path, root: Path) -> NvBootCtrl:
    backend = NvBootCtrl(tmp_path / "notes", board("jetson-orin").slots, root)
    backend.mark_good("a")
    return backend


def menu_of_b(folder: Path) -> Path:
    return folder / "nvme0n1p2/boot/extlinux/extlinux.conf"


def runs(slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVBOOTCTRL_CURRENT", str("ab".index(slot)))


def test_a_jetson_as_flashed_has_nothing_to_go_back_to(slots: NvBootCtrl, tmp_path: Path) -> None:
    """Both slots hold the same. A first start that is not fit is not given up for it, and takes what a stick brings."""
    (tmp_path / "notes/slot-a-good").unlink()
    assert [slots.state(slot) for slot in SLOTS] == ["trial", "empty"]
    assert not on_trial(slots)


def test_a_jetson_updates_and_proves_itself(slots: NvBootCtrl, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (slots.current(), slots.primary(), slots.state("a")) == ("a", "a", "good")
    slots.close("b")
    assert slots.state("b") == "empty"
    slots.try_next("b", "2.0.0")
    assert (slots.primary(), slots.state("b")) == ("b", "trial")
    assert on_trial(slots) is False  # slot a runs still
    runs("b", monkeypatch)
    assert on_trial(slots)
    slots.mark_good("b")
    assert (slots.current(), slots.state("b")) == ("b", "good")
    verified = root / "sys/firmware/efi/efivars/verified"
    assert verified.read_text() == "0\n1\n"
    slots.discard("a")
    assert (slots.state("a"), slots.primary()) == ("empty", "b")


def test_a_jetson_leaves_a_slot_that_failed_and_tries_it_with_the_next_bundle(
    slots: NvBootCtrl, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The firmware goes back at once from a slot that was given up, whatever is set active."""
    slots.close("b")
    slots.try_next("b", "2.0.0")
    runs("b", monkeypatch)
    slots.mark_bad("b")
    assert (slots.state("b"), slots.primary()) == ("bad", "a")
    variable = root / f"sys/firmware/efi/efivars/RootfsStatusSlotB-{VENDOR}"
    assert variable.read_bytes() == bytes((7, 0, 0, 0, 0xFF, 0, 0, 0))
    runs("a", monkeypatch)
    slots.close("b")
    assert slots.state("b") == "empty"
    slots.try_next("b", "2.0.1")
    assert (slots.state("b"), slots.primary()) == ("trial", "b")
    assert variable.read_bytes() == bytes((7, 0, 0, 0, 0, 0, 0, 0))


def test_a_slot_that_is_written_is_not_what_the_firmware_falls_back_to(slots: NvBootCtrl) -> None:
    slots.close("b")
    assert slots._slots() == {"a": "normal", "b": "unbootable"}


def test_a_good_slot_has_its_starts_back_before_it_is_judged(
    slots: NvBootCtrl, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The firmware counts them, too, and a judgement may take as long as three starts."""
    box = make_box(tmp_path / "box")
    monkeypatch.setattr(Box, "boot", lambda _: slots)
    verified = root / "sys/firmware/efi/efivars/verified"
    verified.unlink()
    trial.prepare(box)
    assert verified.read_text() == "0\n"
    (tmp_path / "notes/slot-a-good").unlink()
    trial.prepare(box)
    assert verified.read_text() == "0\n"


def test_a_slot_starts_its_own_root_as_nvidias_tool_would_have_it(
    slots: NvBootCtrl, root: Path, tmp_path: Path
) -> None:
    """A bundle fits either slot, and its command line is the stock one."""
    slots.close("b")
    slots.try_next("b", "2.0.0")
    assert menu_of_b(tmp_path).read_text() == FLASHED.replace(UUIDS["a"], UUIDS["b"])
    slots.try_next("a", "1.0.0")  # the one that runs, whose root is mounted already
    assert (root / "boot/extlinux/extlinux.conf").read_text() == FLASHED


@pytest.mark.parametrize("menu", [None, "", "LABEL primary\n  LINUX /boot/Image\n"])
def test_a_slot_that_could_not_start_is_not_tried(slots: NvBootCtrl, tmp_path: Path, menu: str | None) -> None:
    path = menu_of_b(tmp_path)
    if menu is None:
        path.unlink()
    else:
        path.write_text(menu)
    slots.close("b")
    with pytest.raises(FirmwareError, match=r"slot b can't start: its /boot/extlinux/extlinux\.conf has no command"):
        slots.try_next("b", "2.0.0")
    assert (slots.primary(), slots.state("b")) == ("a", "empty")


def test_a_system_that_was_not_flashed_by_nvidias_tool(slots: NvBootCtrl, root: Path) -> None:
    (root / "boot/extlinux/extlinux.conf").write_text(STOCK)
    slots.close("b")
    with pytest.raises(FirmwareError, match="of the system that runs names no root"):
        slots.try_next("b", "2.0.0")


def test_a_slot_that_can_not_be_looked_into_is_not_tried(slots: NvBootCtrl, root: Path, tmp_path: Path) -> None:
    slots.close("b")
    shutil.rmtree(tmp_path / "nvme0n1p2")
    with pytest.raises(FirmwareError, match="special device does not exist"):
        slots.try_next("b", "2.0.0")
    (root / "dev/disk/by-partuuid" / UUIDS["b"]).unlink()
    with pytest.raises(FirmwareError, match="has no unique id"):
        slots.try_next("b", "2.0.0")
    assert (slots.primary(), slots.state("b")) == ("a", "empty")


def test_a_slot_that_can_not_be_unmounted_stays_whole(slots: NvBootCtrl, programs: Path, tmp_path: Path) -> None:
    put_program(programs, "umount", "#!/bin/sh\necho target is busy >&2; exit 32\n")
    slots.close("b")
    with pytest.raises(FirmwareError, match="target is busy"):
        slots.try_next("b", "2.0.0")
    assert menu_of_b(tmp_path).exists() and slots.primary() == "a"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_slot_as_a_real_file_system(slots: NvBootCtrl, programs: Path, tmp_path: Path) -> None:
    for name in ("mount", "umount"):
        (programs / name).unlink()
    partition, content = tmp_path / "nvme0n1p2", tmp_path / "content"
    partition.rename(content)
    subprocess.run(["mkfs.ext4", "-q", "-d", content, partition, "4M"], check=True, capture_output=True)
    probe = subprocess.run(["mount", partition, programs], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no loop device")
    subprocess.run(["umount", programs], check=True)
    slots.try_next("b", "2.0.0")
    done = subprocess.run(
        ["debugfs", "-R", "cat /boot/extlinux/extlinux.conf", partition], capture_output=True, text=True, check=True
    )
    assert done.stdout == FLASHED.replace(UUIDS["a"], UUIDS["b"])


def test_a_jetson_whose_data_does_not_open_knows_of_no_slot_and_gives_none_up(
    slots: NvBootCtrl, tmp_path: Path
) -> None:
    """What it knows lies there, so neither is taken for one on trial."""
    box = make_box(tmp_path / "box")
    image = box.root / "usr/lib/scanside/image.json"
    image.write_text(json.dumps({**json.loads(image.read_text()), "boot": "nvbootctrl"}))
    (box.root / "sys/firmware/efi/efivars").mkdir(parents=True, exist_ok=True)
    assert [box.boot().state(slot) for slot in SLOTS] == ["trial", "empty"]
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
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/systemd/system" / THEIR_UNIT).symlink_to(f"/opt/nvidia/l4t-usb-device-mode/{THEIR_UNIT}")
    (root / "etc/machine-id").write_text("5eedb0c5\n")
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
    assert after == [*before[:-1], data, before[-1]] and len(NAMES) == 16
    made = {each.tag: str(each.text).strip() for each in device[-2]}
    assert (
        made["partition_type_guid"]
        in (CHECKOUT / "firmware/image/files/usr/lib/scanside/repart.d/50-data.conf").read_text()
    )
    assert made["allocation_attribute"] == "0x808" and "filename" not in made


def test_a_drive_that_is_too_small(bsp: Path) -> None:
    with pytest.raises(FirmwareError, match=r"a drive of 48\.0 GB has no room for two slots of 16 GiB and data"):
        jetson.write_layout(bsp, 93_750_000)
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


def test_keys_that_are_not_there_are_named_before_anything_is_changed(bsp: Path) -> None:
    done = build(bsp, "--bsp", str(bsp), "--sectors", str(SECTORS))
    assert done.exit_code == 1 and "has no update-ca.pem" in done.output
    assert not (bsp / "tools/kernel_flash/flash_scanside_nvme.xml").exists()


def test_where_no_program_of_arm64_runs(bsp: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(tree: Path, *command: str, **_: object) -> str:
        raise FirmwareError(f"`chroot {tree} ...` failed:\nchroot: failed to run {command[0]}: Exec format error")

    put_tree_of_stand_ins(programs, monkeypatch, inside)
    keys.make(bsp.parent / "keys")
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
        (bsp / "rootfs/opt/scanside").mkdir(parents=True, exist_ok=True)
        (bsp / "rootfs/opt/scanside/of-an-earlier-build").touch()
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
    assert "@" not in raucs
    fstab = (root / "etc/fstab").read_text()
    assert "/dev/root / ext4" in fstab and "PARTLABEL=esp /efi" in fstab and "/var" not in fstab
    units = root / "usr/lib/systemd/system"
    assert "char-nvhost" in (units / "scanside.service.d/jetson.conf").read_text()
    assert (root / "usr/lib/os-release").read_text().count("IMAGE_VERSION=2.0.0") == 1
    assert not (root / "run/systemd/resolve/stub-resolv.conf").exists()
    (installed,) = {line for line in asked if "apt-get" in line and " install " in line}
    assert {"rauc", "rauc-service", "python3-libnvinfer"} <= set(installed.split())
    for each in ("nv-oobe.service", "ssh.service", "NetworkManager.service", "getty.target", THEIR_UNIT):
        assert (root / "etc/systemd/system" / each).readlink() == Path("/dev/null"), each
    assert (root / "etc/machine-id").read_bytes() == b"" and (root / "etc/hostname").read_text() == "scanside\n"
    assert not (root / "opt/scanside/of-an-earlier-build").exists()
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

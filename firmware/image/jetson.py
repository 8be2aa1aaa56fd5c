"""A Jetson's system: NVIDIA's own root file system with ours in it, our partition layout beside NVIDIA's, and a bundle.

What is flashed first is flashed by NVIDIA's tool, from the same folder. Sources: NVIDIA, "Jetson Linux Developer
Guide", chapters "Root File System", "Partition Configuration" and "Flashing Support". Not yet run on hardware.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from firmware import bundle, keys
from firmware.durable import Files
from firmware.errors import FirmwareError
from firmware.image import contents
from firmware.image.chroot import call, inside, mounted, remove
from firmware.image.plan import Plan
from firmware.labels import DATA_TYPE
from firmware.steps import complete_step

_GIB = 1 << 30
SLOT = 16 * _GIB
_SECTOR = 512
_OTHERS = 2 * _GIB  # NVIDIA's kernels, recovery, ESP; less in its layouts of r36 and r39
_LEAST_DATA = 16 * _GIB  # a bundle is copied there before it is installed
_FOLDER = Path("tools/kernel_flash")
_THEIRS, _OURS = "flash_l4t_t234_nvme_rootfs_ab.xml", "flash_scanside_nvme.xml"
_TABLES = ("protective_master_boot_record", "primary_gpt", "secondary_gpt")
_RELEASE = 39  # the first for Orin with the Python that the appliance needs
_MASKED = (
    # First-start wizard, shells and networks of a developer's kit.
    "nv-oem-config.service",
    "nv-oem-config-gui.service",
    "nv-oobe.service",
    "nv-oobe.target",
    "nv-l4t-usb-device-mode.service",
    "nv-l4t-usb-device-mode-runtime.service",
    "serial-getty@ttyTCU0.service",
    "serial-getty@ttyGS0.service",
    "ssh.service",
    "ssh.socket",
    "gdm.service",
    "NetworkManager.service",
    "wpa_supplicant.service",
    "avahi-daemon.service",
    "bluetooth.service",
    "snapd.service",
    "snapd.socket",
    "unattended-upgrades.service",
)
# The firmware's ext4 driver does not know them, and today's mkfs makes them.
_NOT_IN_EXT4 = "^orphan_file,^metadata_csum_seed"


def build(plan: Plan, bsp: Path, sectors: int) -> dict[str, str]:
    """Ours into ``bsp``, and the bundle of it into ``plan.target``; name -> SHA-256.

    Parameters
    ----------
    bsp
        NVIDIA's folder Linux_for_Tegra, with its sample root file system, after ``apply_binaries.sh``.
    sectors
        Of 512 bytes, of the NVMe drive.

    Raises
    ------
    FirmwareError
        It is no such folder, or the drive is too small.
    """
    check(bsp)
    keys.check(plan.keys)
    root = bsp / "rootfs"
    write_layout(bsp, sectors)
    with mounted(root):
        with complete_step("packages of Ubuntu and JetPack"), _names_resolved(root):
            _install(plan, root)
        with complete_step("the appliance, from locked wheels"):
            contents.put_appliance(plan, root)
        with complete_step("files, units, users"):
            contents.configure(plan, root, (plan.project / "firmware/jetson/files",), _MASKED)
            drop_in = root / "usr/lib/systemd/system/scanside.service.d/jetson.conf"
            shutil.copy(drop_in.with_suffix(".conf.example"), drop_in)
            inside(root, "systemctl", "set-default", "multi-user.target")
            os.utime(root / "usr/lib/clock-epoch", (plan.date, plan.date))
            contents.forget_machine(root)
    with complete_step("bill of materials"):
        plan.target.mkdir(parents=True, exist_ok=True)
        contents.put_bill(plan, root)
    work = plan.target / "work"
    remove(work)
    work.mkdir()
    with complete_step("root: ext4"):
        image = _root_image(plan, root, work / "root.img")
    with complete_step("signed bundle"):
        bundle.make(work, plan.offered, plan.keys, plan.bundle)
    digest = hashlib.sha256()
    with image.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    shutil.rmtree(work)
    return {"root.img": digest.hexdigest()}


def flash_command(bsp: Path, module: str) -> str:
    """What flashes a module in recovery mode, by NVIDIA's tool, from its folder.

    All is erased: an earlier box's data would be taken for this one's, and a module's own memory has partitions of the
    same labels.
    """
    return (
        f"cd {shlex.quote(str(bsp))} && sudo ROOTFS_AB=1 ROOTFS_RETRY_COUNT_MAX=3 ./{_FOLDER}/l4t_initrd_flash.sh "
        f"--erase-all --external-device nvme0n1p1 -c {_FOLDER}/{_OURS} -S {SLOT // _GIB}GiB "
        f"-p '-c bootloader/generic/cfg/flash_t234_qspi.xml' --showlogs --network usb0 {module} internal"
    )


def check(bsp: Path) -> None:
    """Whether a folder is what `build` asks for.

    Raises
    ------
    FirmwareError
        With what it lacks.
    """
    if not (bsp / _FOLDER / _THEIRS).is_file():
        raise FirmwareError(
            f"{bsp} is no Jetson Linux for Orin: {_FOLDER / _THEIRS} is not there",
            hint="unpack NVIDIA's BSP, and give its folder Linux_for_Tegra",
        )
    release = bsp / "rootfs/etc/nv_tegra_release"
    found = re.search(r"R(\d+) \(release\)", release.read_text()) if release.is_file() else None
    if not found:
        raise FirmwareError(
            f"{bsp / 'rootfs'} is no root file system of NVIDIA's: etc/nv_tegra_release says no release",
            hint="unpack the sample root file system there, then sudo ./apply_binaries.sh",
        )
    if int(found[1]) < _RELEASE:
        raise FirmwareError(
            f"{bsp} is Jetson Linux r{found[1]}, whose TensorRT is for a Python that the appliance does not run on",
            hint=f"take r{_RELEASE} (JetPack 7) or later",
        )


def write_layout(bsp: Path, sectors: int) -> Path:
    """NVIDIA's layout of an NVMe drive with two slots, and behind them a data partition in all that is left.

    NVIDIA keeps its own data partition (UDA) for its updates, so that one stays as it is.
    """
    least = 2 * SLOT + _OTHERS + _LEAST_DATA
    if sectors * _SECTOR < least:
        raise FirmwareError(
            f"a drive of {sectors * _SECTOR / 1e9:.1f} GB has no room for two slots of {SLOT // _GIB} GiB and data",
            hint=f"take one of {-(-least // 10**9)} GB at least; `blockdev --getsz DISK` tells its sectors",
        )
    tree = ElementTree.parse(bsp / _FOLDER / _THEIRS)  # noqa: S314 (the publisher's own file)
    device = tree.find("device[@type='external']")
    partitions = device.findall("partition") if device is not None else []
    names = [each.get("name") for each in partitions]
    if device is None or not {"APP", "APP_b", "secondary_gpt"} <= set(names):
        raise FirmwareError(
            f"{bsp / _FOLDER / _THEIRS} has not the partitions that are known of it",
            hint="it may be of a later release: tell us which, with the file",
        )
    device.set("num_sectors", str(sectors))
    # Those without a number are counted on by NVIDIA's tool.
    numbered = [each for each in partitions if each.get("type") not in _TABLES]
    number = max(len(numbered), *(int(each.get("id") or 0) for each in numbered)) + 1
    data = ElementTree.Element("partition", {"name": "data", "id": str(number), "type": "data"})
    for name, value in (
        ("allocation_policy", "sequential"),
        ("filesystem_type", "basic"),
        ("size", str(_LEAST_DATA)),
        ("file_system_attribute", "0"),
        ("allocation_attribute", "0x808"),  # all that is left
        ("partition_type_guid", DATA_TYPE),
        ("percent_reserved", "0"),
        ("align_boundary", "16384"),
    ):
        ElementTree.SubElement(data, name).text = f" {value} "
    device.insert(list(device).index(partitions[names.index("secondary_gpt")]), data)
    ElementTree.indent(tree, "    ")
    target = bsp / _FOLDER / _OURS
    Files().write(target, ElementTree.tostring(tree.getroot(), encoding="utf-8", xml_declaration=True))
    return target


@contextlib.contextmanager
def _names_resolved(root: Path) -> Iterator[None]:
    """Its resolv.conf leads into /run, where no service puts one yet."""
    own = root / "run/systemd/resolve/stub-resolv.conf"
    own.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy("/etc/resolv.conf", own)
    try:
        yield
    finally:
        own.unlink()


def _install(plan: Plan, root: Path) -> None:
    try:
        inside(root, "true")
    except FirmwareError as error:
        raise FirmwareError(
            f"no program of {root} runs here: {error.message.splitlines()[-1]}",
            hint="programs for arm64 run by apt-get install qemu-user-static binfmt-support",
        ) from error
    apt = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes")
    inside(root, *apt, "update")
    inside(root, *apt, "--no-install-recommends", "install", *plan.board.packages)
    inside(root, *apt, "clean")


def _root_image(plan: Plan, root: Path, target: Path) -> Path:
    used = int(call("du", "--summarize", "--block-size=1", root).split()[0])
    size = used + used // 10 + (512 << 20)
    if size > SLOT:
        raise FirmwareError(f"the root has {used / 1e9:.1f} GB, and a slot {SLOT / 1e9:.1f}")
    seed = uuid.uuid5(uuid.NAMESPACE_URL, f"scanside/{plan.board.name}/{plan.version}")
    call("mkfs.ext4", "-q", "-d", root, "-U", str(seed), "-E", f"hash_seed={seed}", "-O", _NOT_IN_EXT4, target,
         f"{size >> 20}M", epoch=plan.date)  # fmt: skip
    return target

"""The image of a box, from nothing: Debian, the appliance, root with dm-verity, signed kernels, disk, bundle, SBOM."""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from pathlib import Path

from firmware import bundle, keys, secure_boot
from firmware.errors import FirmwareError
from firmware.flash import manifest
from firmware.image import contents, debian, disk, microcode, trees
from firmware.image.chroot import call, inside, mounted, remove
from firmware.image.plan import Plan
from firmware.steps import complete_step

_MICROCODE = "microcode.cpio"


def build(plan: Plan) -> dict[str, str]:
    """Everything into ``plan.target``; name -> SHA-256 of what must come out the same each time.

    What it was made from lies in ``work`` there meanwhile, and stays where the build fails.
    """
    keys.check(plan.keys)
    secure_boot.check(plan.keys)
    work = plan.target / "work"
    remove(work)
    work.mkdir(parents=True)
    with complete_step("tools of the build (Debian 13)"):
        tree = trees.tools(plan)
    root = work / "root"
    with complete_step(f"Debian 13 for {plan.board.name}"):
        call("cp", "--archive", "--reflink=auto", trees.base(plan), root)
    with complete_step("the appliance, from locked wheels"):
        contents.put_appliance(plan, root)
    with complete_step("files, units, users"):
        contents.configure(plan, root)
    with complete_step("initrd"):
        kernel, initrd = _initrd(plan, tree, root, work)
        _microcode(plan, root, work)
    with complete_step("bill of materials"):
        contents.put_bill(plan, root, tree)
    with complete_step("root: erofs with dm-verity"):
        _clean(root)
        image, root_hash, offset = _root_image(plan, tree, root, work)
    with mounted(tree, work, plan.keys):
        with complete_step("kernels of both slots, signed"):
            for slot in ("a", "b"):
                _kernel(plan, tree, work, kernel, initrd, slot, root_hash, offset)
            loader = _loader(plan, tree, work)
        with complete_step("disk"):
            raw = disk.make(tree, work, image, loader, plan.keys, plan.version, plan.date)
    with complete_step("signed image and bundle"):
        path = manifest.make(
            raw, plan.target, plan.keys / "image.key", plan.version, plan.epoch, plan.board.name, disk.LEAST_DISK
        )
        shutil.copy(plan.keys / "image.pub", plan.target)
        content = work / "bundle"
        content.mkdir()
        image.rename(content / "root.img")
        for slot in ("a", "b"):
            shutil.copy(work / f"{slot}.efi", content)
        bundle.make(content, plan.offered, plan.keys, plan.bundle)
    digests = {"root.img": content / "root.img", "initrd": initrd, "kernel a": work / "a.efi", "disk": path}
    found = {name: hashlib.sha256(each.read_bytes()).hexdigest() for name, each in digests.items()}
    shutil.rmtree(work)
    return found


def _initrd(plan: Plan, tree: Path, root: Path, work: Path) -> tuple[Path, Path]:
    found = sorted((root / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise FirmwareError(f"the image has {len(found)} kernels instead of one")
    kernel = shutil.copy(root / "boot" / f"vmlinuz-{found[0].name}", work / "vmlinuz")
    with mounted(root):
        inside(
            root,
            "dracut",
            "--force",
            "--quiet",
            "--reproducible",
            "--no-hostonly",
            "--no-hostonly-cmdline",
            "--add",
            "systemd-veritysetup",
            "--omit",
            debian.NOT_IN_INITRD,
            "--omit-drivers",
            debian.NO_DRIVERS,
            "--filesystems",
            "erofs",
            "--no-early-microcode",  # it would be compressed with the rest, where the kernel does not find it
            "--no-compress",
            "--kver",
            found[0].name,
            "/run/initrd",
            epoch=plan.date,
        )
    raw = shutil.move(root / "run/initrd", work / "initrd.cpio")
    with mounted(tree, work):
        inside(tree, "zstd", "--quiet", "-12", raw, "-o", work / "initrd")
    return Path(kernel), work / "initrd"


def _microcode(plan: Plan, root: Path, work: Path) -> None:
    """For the boards that have some; each slot's kernel is signed with it."""
    content = microcode.archive(root / "usr/lib/firmware")
    if content:
        (work / _MICROCODE).write_bytes(content)
    elif missing := [name for name in plan.board.packages if name.endswith("-microcode")]:
        raise FirmwareError(f"{' and '.join(missing)} put nothing into {root / 'usr/lib/firmware'}")


def _clean(root: Path) -> None:
    for each in debian.DROPPED:
        path = root / each
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in ("var", "boot", "run", "tmp"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(mode=0o755, exist_ok=True)
    contents.forget_machine(root)
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")


def _root_image(plan: Plan, tree: Path, root: Path, work: Path) -> tuple[Path, str, int]:
    """erofs and behind it its hash tree; the root hash and the tree's offset."""
    image = work / "root.img"
    seed = uuid.uuid5(uuid.NAMESPACE_URL, f"scanside/{plan.board.name}/{plan.version}")
    with mounted(tree, work):
        inside(
            tree,
            "mkfs.erofs",
            "--quiet",
            "-zlz4hc",
            "-C65536",
            f"-T{plan.date}",
            f"-U{seed}",
            image,
            root,
            epoch=plan.date,
        )
        offset = -(-image.stat().st_size // 4096) * 4096
        if offset > disk.SLOT - (32 << 20):
            raise FirmwareError(f"the root has {offset >> 20} MiB, and a slot {disk.SLOT >> 20}")
        said = inside(
            tree,
            "veritysetup",
            "format",
            f"--hash-offset={offset}",
            f"--uuid={seed}",
            f"--salt={hashlib.sha256(seed.bytes).hexdigest()}",
            f"--data-blocks={offset // 4096}",
            image,
            image,
        )
    found = next(line.split()[-1] for line in said.splitlines() if line.startswith("Root hash"))
    return image, found, offset


def _kernel(
    plan: Plan, tree: Path, work: Path, kernel: Path, initrd: Path, slot: str, root_hash: str, offset: int
) -> None:
    where = f"PARTLABEL=root-{slot}"
    line = (
        f"root=/dev/mapper/root rootfstype=erofs ro systemd.verity=1 roothash={root_hash} "
        f"systemd.verity_root_data={where} "
        f"systemd.verity_root_hash={where} systemd.verity_root_options=hash-offset={offset},restart-on-corruption "
        f"rauc.slot={slot} rd.shell=0 rd.emergency=reboot panic=10 quiet loglevel=4 {plan.board.console} "
        "systemd.show_status=1 systemd.gpt_auto=0 "
        # Without bpf: no unit restricts file systems by it, and loading that costs each start seconds.
        "lsm=landlock,lockdown,yama,integrity"
    )
    (work / "cmdline").write_text(line)
    (work / "os-release").write_text((work / "root/usr/lib/os-release").read_text())
    inside(
        tree,
        *_clock_stands(plan.date),
        "ukify",
        "build",
        f"--stub={debian.STUB}",
        f"--linux={kernel}",
        f"--initrd={initrd}",
        *([f"--microcode={work / _MICROCODE}"] if (work / _MICROCODE).exists() else ()),
        f"--cmdline=@{work / 'cmdline'}",
        f"--os-release=@{work / 'os-release'}",
        f"--secureboot-private-key={plan.keys / 'db.key'}",
        f"--secureboot-certificate={plan.keys / 'db.pem'}",
        f"--output={work / slot}.efi",
        epoch=plan.date,
    )


def _loader(plan: Plan, tree: Path, work: Path) -> Path:
    signed = work / "BOOTX64.EFI"
    inside(
        tree,
        *_clock_stands(plan.date),
        "sbsign",
        "--key",
        plan.keys / "db.key",
        "--cert",
        plan.keys / "db.pem",
        "--output",
        signed,
        debian.LOADER,
        epoch=plan.date,
    )
    return signed


def _clock_stands(date: int) -> tuple[str, ...]:
    """What to put before a program that signs for Secure Boot: sbsign has no option for the time of a signature."""
    return "env", "TZ=UTC0", "faketime", "-f", time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(date))

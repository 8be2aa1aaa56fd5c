"""What of a root is ours, whichever system lies beneath: the appliance, files, units, users, the bill of materials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from firmware.image import debian, sbom, wheels
from firmware.image.chroot import call, inside
from firmware.image.plan import Plan

_LAUNCHER = """#!/opt/scanside/bin/python3 -I
import sys
from {module} import main
sys.exit(main(prog_name="{name}"))
"""


def put_appliance(plan: Plan, root: Path) -> None:
    """Its environment, from locked wheels."""
    shutil.rmtree(root / "opt/scanside", ignore_errors=True)  # of an earlier build: pip leaves what is there as it is
    system = ("--system-site-packages",) if plan.board.nvidias else ()  # TensorRT's Python package is one of these
    inside(root, "python3", "-m", "venv", "--without-pip", *system, "/opt/scanside")
    site = root / plan.board.site_packages
    wheels.install(plan.project, plan.board, site, plan.cache / "wheels")
    shutil.rmtree(site / "bin", ignore_errors=True)
    shutil.rmtree(site / "compression", ignore_errors=True)
    for name, module in (("scanside", "appliance.cli"), ("scanside-firmware", "firmware.cli")):
        launcher = root / "opt/scanside/bin" / name
        launcher.write_text(_LAUNCHER.format(module=module, name=name))
        launcher.chmod(0o755)
        command = root / "usr/bin" / name
        command.unlink(missing_ok=True)
        command.symlink_to(f"/opt/scanside/bin/{name}")
    # Not by time: the root is read-only, and its times are all the same.
    inside(root, "/opt/scanside/bin/python3", "-m", "compileall", "-q", "-j", "2", "--invalidation-mode",
           "unchecked-hash", "/opt/scanside/lib", f"/usr/lib/python{plan.board.python}", epoch=plan.date)  # fmt: skip


def configure(plan: Plan, root: Path, files: Sequence[Path] = (), masked: Sequence[str] = ()) -> None:
    """Files, units, keys that are trusted, users.

    Parameters
    ----------
    files
        Folders of a board's own, which come over those of all boards.
    masked
        Units that never start on this board, beside those that start on none.
    """
    for folder in (plan.project / "firmware/image/files", *files):
        call("cp", "--recursive", "--no-preserve=ownership", f"{folder}/.", root)
    for name in ("rauc-loader", "rauc-before-install"):
        (root / "usr/lib/scanside" / name).chmod(0o755)
    system = root / "etc/rauc/system.conf"
    text = system.read_text().replace("@COMPATIBLE@", plan.board.compatible)
    for place, label in zip(("@ROOT_A@", "@ROOT_B@"), plan.board.slots, strict=True):
        text = text.replace(place, label)
    system.write_text(text)
    units = root / "usr/lib/systemd/system"
    call("cp", "--recursive", "--no-preserve=ownership", f"{plan.project}/firmware/systemd/.", units)
    trust = root / "usr/lib/scanside/trust"
    models = trust / "models"
    models.mkdir(parents=True, exist_ok=True)
    for name in ("update-ca.pem", "site.pub", "image.pub"):
        shutil.copy(plan.keys / name, trust)
    shutil.copy(plan.keys / "models.pub", models)
    about = {
        "version": plan.version,
        "epoch": plan.epoch,
        "board": plan.board.name,
        "boot": plan.board.boot,
        "slots": plan.board.slots,
        "compatible": plan.board.compatible,
        "built_at": plan.date,
    }
    (root / "usr/lib/scanside/image.json").write_text(json.dumps(about))
    _name(plan, root / "usr/lib/os-release")
    inside(root, "systemd-sysusers", epoch=plan.date)
    for name in ("data", "efi"):
        (root / name).mkdir(exist_ok=True)
    inside(root, "systemctl", "enable", *debian.ENABLED)
    # Not by systemctl, which leaves a link that is there as it is; NVIDIA's units are such.
    never = [f"system/{name}" for name in (*debian.MASKED, *masked)]
    for each in (*never, *(f"system-generators/systemd-{name}-generator" for name in debian.NO_GENERATORS)):
        mask = root / "etc/systemd" / each
        mask.parent.mkdir(exist_ok=True)
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    inside(root, "usermod", "--password", "!", "--shell", "/usr/sbin/nologin", "root", epoch=plan.date)


def forget_machine(root: Path) -> None:
    """Each box gets an identity of its own."""
    (root / "etc/machine-id").write_bytes(b"")  # systemd mounts one over it, or fills it
    (root / "etc/hostname").write_text("scanside\n")


def _name(plan: Plan, release: Path) -> None:
    """What the image says of itself in os-release(5), once."""
    own = ("IMAGE_ID", "IMAGE_VERSION", "VARIANT")
    lines = [line for line in release.read_text().splitlines() if line.split("=")[0] not in own]
    lines += [
        f"IMAGE_ID=scanside-{plan.board.name}",
        f"IMAGE_VERSION={plan.version}",
        f'VARIANT="Scanside {plan.version}"',
    ]
    release.write_text("\n".join(lines) + "\n")


def put_bill(plan: Plan, root: Path, tools: Path | None = None) -> None:
    """The bill of materials, inside and beside; ``tools`` is the tree that the loader comes from."""
    text = json.dumps(sbom.make(root, plan.version, plan.board, plan.date, tools), indent=1)
    (root / "usr/lib/scanside/sbom.cdx.json").write_text(text)
    (plan.target / f"scanside-{plan.board.name}-{plan.version}.cdx.json").write_text(text)

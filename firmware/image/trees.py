"""Debian trees: made by mmdebstrap, and kept from build to build while their mirrors have nothing new."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from firmware.errors import die
from firmware.image import mirror
from firmware.image.chroot import call, remove
from firmware.image.plan import Plan

_TOOLS = (
    "systemd-ukify",
    "systemd-boot-efi",
    "sbsigntool",
    "erofs-utils",
    "cryptsetup-bin",
    "rauc",
    "squashfs-tools",
    "mtools",
    "dosfstools",
    "fdisk",
    "openssl",
    "faketime",
    "zstd",
)


def tools(plan: Plan) -> Path:
    """The tree with the tools of a build: Debian 13's ukify, veritysetup, mkfs.erofs, whatever runs outside."""
    return _kept(plan, "tools", _TOOLS, "main", None)


def base(plan: Plan) -> Path:
    """The tree of which the board's root becomes a copy."""
    return _kept(plan, f"debian-{plan.board.name}", plan.board.packages, plan.board.components, plan.date)


def _kept(plan: Plan, name: str, packages: tuple[str, ...], components: str, epoch: int | None) -> Path:
    sources = mirror.sources(components, plan.mirror, plan.security)
    what = (packages, sources, mirror.state(sources))
    target = plan.cache / f"{name}-{hashlib.sha256(repr(what).encode()).hexdigest()[:12]}"
    if not target.exists():
        _bootstrap(target, packages, sources, epoch)
        for each in plan.cache.glob(f"{name}-{'?' * 12}"):
            if each != target:  # it lacks what is new, and no build takes it again
                remove(each)
    return target


def _bootstrap(target: Path, packages: tuple[str, ...], sources: tuple[str, ...], epoch: int | None) -> None:
    if os.geteuid():
        die("building an image needs root", "run it with sudo, or in a container")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    remove(part)
    call(
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        "--format=directory",
        "--aptopt=Apt::Install-Recommends false",
        f"--include={','.join(packages)}",
        mirror.SUITE,
        part,
        *sources,
        epoch=epoch,
    )
    part.rename(target)

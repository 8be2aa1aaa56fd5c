"""Update bundles: made and signed by RAUC, and verified in full before anything of the box is touched.

A bundle is a squashfs with the root image and a kernel for each slot, followed by its dm-verity tree and a CMS
signature over the manifest that holds the tree's root. RAUC itself checks a block when that is read, in the middle of
an install; so the whole payload is hashed here first.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from firmware.errors import BrokenError, FirmwareError, RefusedError
from firmware.policy import MOVE_CLOCK, Offered

_BLOCK = 4096
_COPY_AGAIN = "copy it again from where it came; the stick may be full or worn"
_CONFIGURATION = """[system]
compatible={compatible}
bootloader=noop
bundle-formats=-plain
[keyring]
path={keyring}
check-purpose=codesign
"""
_MANIFEST = """[update]
compatible={compatible}
version={version}
description=epoch={epoch}
[bundle]
format=verity
[image.rootfs]
filename=root.img
"""


def make(content: Path, offered: Offered, keys: Path, target: Path) -> None:
    """Sign ``content`` (root.img and the kernels a.efi, b.efi) as a bundle.

    Parameters
    ----------
    keys
        Folder with release.pem, release.key and update-ca.pem.
    """
    offered.key()  # says so where the version is none
    (content / "manifest.raucm").write_text(
        _MANIFEST.format(compatible=offered.compatible, version=offered.version, epoch=offered.epoch)
    )
    target.unlink(missing_ok=True)
    ca = keys / "update-ca.pem"
    signer = (f"--cert={keys / 'release.pem'}", f"--key={keys / 'release.key'}")
    with tempfile.TemporaryDirectory() as folder:
        done = _rauc(
            Path(folder), ca, offered.compatible, *signer, f"--keyring={ca}", "bundle", str(content), str(target)
        )
    if done.returncode:
        raise FirmwareError(f"RAUC did not make {target.name}: {_why(done)}")


def verify(path: Path, keyring: Path) -> Offered:
    """What a bundle offers, once its signature and every byte of it are right.

    Raises
    ------
    RefusedError
        It was signed by nobody that is trusted here, or the certificate does not count now.
    BrokenError
        It is damaged, or was changed.
    """
    if not path.is_file():
        raise FirmwareError(f"there is no bundle {path}")
    with tempfile.TemporaryDirectory() as folder:
        done = _rauc(Path(folder), keyring, "any", f"--keyring={keyring}", "info", "--output-format=json", str(path))
    if done.returncode:
        raise _refusal(path, _why(done))
    try:
        said: dict[str, Any] = json.loads(done.stdout)
        epoch = int(str(said["description"]).removeprefix("epoch="))
        offered = Offered(said["version"], epoch, said["compatible"])
    except (ValueError, KeyError) as error:
        raise BrokenError(f"{path.name} is no bundle of Scanside: {error}", hint="take one for this box") from error
    _verify_payload(path, _signed_manifest(path))
    return offered


def _refusal(path: Path, why: str) -> FirmwareError:
    lower = why.lower()
    if "expired" in lower or "not yet valid" in lower:
        return RefusedError(
            f"the certificate that signed {path.name} does not count now: {why}",
            hint=f"where the clock is right, ask for a bundle that was signed anew; where a box's is not, {MOVE_CLOCK}",
        )
    if "bundle format" in lower or "squashfs" in lower or "failed to open" in lower:
        return BrokenError(f"{path.name} is no whole bundle: {why}", hint=_COPY_AGAIN)
    if "signature" in lower or "certificate" in lower or "verify" in lower:
        return RefusedError(f"{path.name} was not signed for this box: {why}", hint="take it from its publisher")
    return BrokenError(f"{path.name} is no whole bundle: {why}", hint=_COPY_AGAIN)


def _signed_manifest(path: Path) -> dict[str, str]:
    """The section ``bundle`` of the manifest within the CMS signature, whose validity RAUC has just checked."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        size = int.from_bytes(file.read(8), "big")
        if not 0 < size <= 1 << 20:
            raise BrokenError(f"{path.name} does not end in a signature", hint="copy it again")
        file.seek(-8 - size, 2)
        cms = file.read(size)
    done = subprocess.run(
        ["openssl", "cms", "-verify", "-noverify", "-inform", "DER", "-binary"],
        input=cms, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    values: dict[str, str] = {}
    section = ""
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith("["):
            section = line.strip()
        elif section == "[bundle]" and "=" in line:
            key, _, value = line.partition("=")
            values[key] = value
    if done.returncode or values.get("format") != "verity":
        raise BrokenError(f"{path.name} has no signed manifest of the format verity", hint="build it again")
    return values


def _verify_payload(path: Path, signed: dict[str, str]) -> None:
    salt, tree = bytes.fromhex(signed["verity-salt"]), int(signed["verity-size"])
    with path.open("rb") as file:
        file.seek(-8, 2)
        size = int.from_bytes(file.read(8), "big")
        payload = file.tell() - 8 - size - tree
        if payload <= 0 or payload % _BLOCK:
            raise BrokenError(f"{path.name} has another length than it was signed with", hint="copy it again")
        file.seek(0)
        seeded = hashlib.sha256(salt)
        hashes = []
        for _ in range(payload // _BLOCK):
            each = seeded.copy()
            each.update(file.read(_BLOCK))
            hashes.append(each.digest())
    if merkle_root(hashes, salt) != signed["verity-hash"]:
        raise BrokenError(
            f"{path.name} was changed after it was signed, or damaged on the way",
            hint="copy it again from its publisher; nothing of this box was touched",
        )


def merkle_root(hashes: list[bytes], salt: bytes) -> str:
    """dm-verity's root (format 1, SHA-256, blocks of 4096) over the salted hashes of the data blocks."""
    while True:
        blocks = [b"".join(hashes[at : at + 128]).ljust(_BLOCK, b"\0") for at in range(0, len(hashes), 128)]
        hashes = [hashlib.sha256(salt + block).digest() for block in blocks]
        if len(hashes) == 1:
            return hashes[0].hex()


def _rauc(folder: Path, keyring: Path, compatible: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    configuration = folder / "system.conf"
    configuration.write_text(_CONFIGURATION.format(compatible=compatible, keyring=keyring.resolve()))
    try:
        return subprocess.run(
            ["rauc", f"--conf={configuration}", *arguments], capture_output=True, text=True, timeout=900, check=False
        )
    except FileNotFoundError as error:
        raise FirmwareError("rauc is not installed", hint="apt-get install rauc squashfs-tools") from error


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}")[:400]

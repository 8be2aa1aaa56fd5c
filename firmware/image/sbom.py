"""The software bill of materials: Debian packages, loader, Python packages, models, in one CycloneDX 1.6 document."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
import uuid
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from firmware.errors import FirmwareError
from firmware.image import debian, wheels
from firmware.image.boards import Board


def make(root: Path, version: str, board: Board, epoch: int, tools: Path | None = None) -> dict[str, Any]:
    """Of an image's tree; the same trees give the same document.

    Parameters
    ----------
    tools
        The tree of the build's tools, of which the loader and the stub of the signed kernels come; None where a board
        starts otherwise.

    Raises
    ------
    FirmwareError
        No package of ``tools`` has one of them.
    """
    components = [*_system(root), *_python(root, board), *_models(root / board.site_packages)]
    if tools:
        components += _start(tools)
    digest = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(digest[:32])}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": {"type": "firmware", "bom-ref": "image", "name": board.compatible, "version": version},
        },
        "components": components,
    }


def _system(root: Path) -> Iterator[dict[str, Any]]:
    """Its packages: Debian's, or those of a system that is made of it."""
    lines = shlex.split((root / "usr/lib/os-release").read_text(), comments=True)
    release = dict(line.split("=", 1) for line in lines)
    system, edition = release["ID"], f"{release['ID']}-{release['VERSION_ID']}"
    for block in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = HeaderParser().parsestr(block)
        if fields["Package"] and "installed" in (fields["Status"] or ""):
            name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
            yield {
                "type": "operating-system" if name == "base-files" else "library",
                "bom-ref": f"deb/{name}",
                "name": name,
                "version": version,
                "supplier": {"name": system.capitalize()},
                "purl": f"pkg:deb/{system}/{name}@{version.replace('+', '%2B')}?arch={machine}&distro={edition}",
                **_licenses(root / "usr/share/doc" / name / "copyright"),
            }


def _licenses(path: Path) -> dict[str, Any]:
    """Those that a package's copyright file names, where it is in Debian's machine-readable form (DEP 5)."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    if not lines or not lines[0].startswith("Format:"):
        return {}
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("License:")}
    return {"licenses": [{"license": {"name": name[:200]}} for name in sorted(names - {""})]}


def _start(tools: Path) -> Iterator[dict[str, Any]]:
    """What the ESP has of the tools' tree: the packages of the loader and of the stub, by dpkg's lists of files."""
    lists = {path.stem: set(path.read_text().splitlines()) for path in tools.glob("var/lib/dpkg/info/*.list")}
    owners = set()
    for file in (debian.LOADER, debian.STUB):
        owner = next((name.partition(":")[0] for name, files in sorted(lists.items()) if file in files), None)
        if owner is None:
            raise FirmwareError(f"no package of {tools} has {file}", hint="build with another --cache folder")
        owners.add(owner)
    yield from (each for each in _system(tools) if each["name"] in owners)


def _python(root: Path, board: Board) -> Iterator[dict[str, Any]]:
    pins = wheels.locked(board)
    for path in sorted((root / board.site_packages).glob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(path.read_text(errors="replace"))
        name, version = wheels.normal(fields["Name"]), fields["Version"]
        found: dict[str, Any] = {
            "type": "application" if name == "scanside" else "library",
            "bom-ref": f"pypi/{name}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
        }
        licence = fields["License-Expression"] or fields["License"]
        if licence and "\n" not in licence:
            found["licenses"] = [{"license": {"name": licence[:200]}}]
        if name in pins:
            found["hashes"] = [{"alg": "SHA-256", "content": pins[name][1]}]
        yield found


def _models(site: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((site / "appliance/bundled").glob("*.scanside")):
        with zipfile.ZipFile(path) as package:
            manifest = json.loads(package.read("manifest.json"))
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model/{manifest['id']}",
            "name": manifest["id"],
            "version": manifest["version"],
            "description": manifest.get("title", ""),
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        }

"""The software bill of materials: Debian packages, Python packages, models, in one CycloneDX 1.6 document."""

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

from firmware.image import wheels
from firmware.image.boards import Board


def make(root: Path, version: str, board: Board, epoch: int) -> dict[str, Any]:
    """Of an image's tree; the same tree gives the same document."""
    components = [*_system(root), *_python(root, board), *_models(root / board.site_packages)]
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
            }


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

"""The software bill of materials: Debian packages, Python packages, models, in one CycloneDX 1.6 document."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from firmware.image import wheels


def make(root: Path, version: str, board: str, epoch: int) -> dict[str, Any]:
    """Of an image's tree; the same tree gives the same document."""
    components = [*_debian(root), *_python(root, board), *_models(root)]
    digest = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(digest[:32])}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": {"type": "firmware", "bom-ref": "image", "name": f"scanside-{board}", "version": version},
        },
        "components": components,
    }


def _debian(root: Path) -> Iterator[dict[str, Any]]:
    for block in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = HeaderParser().parsestr(block)
        if fields["Package"] and "installed" in (fields["Status"] or ""):
            name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
            yield {
                "type": "operating-system" if name == "base-files" else "library",
                "bom-ref": f"deb/{name}",
                "name": name,
                "version": version,
                "supplier": {"name": "Debian"},
                "purl": f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={machine}&distro=debian-13",
            }


def _python(root: Path, board: str) -> Iterator[dict[str, Any]]:
    pins = wheels.locked(board)
    for path in sorted((root / "opt/scanside/lib/python3.13/site-packages").glob("*.dist-info/METADATA")):
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


def _models(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((root / "opt/scanside/lib/python3.13/site-packages/appliance/bundled").glob("*.scanside")):
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

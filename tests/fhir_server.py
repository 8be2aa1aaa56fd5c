"""A real FHIR R4 server for tests: Medplum's, in memory, with the definitions of FHIR 4.0.1."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.running import CHECKOUT

_PACKAGES = CHECKOUT / ".build" / "fhir-peer"


@dataclass
class FhirServer:
    """A running server."""

    base: str

    def all(self, resource_type: str) -> list[dict[str, Any]]:
        """Every resource of a type."""
        with urllib.request.urlopen(f"{self.base}/{resource_type}?_count=1000", timeout=10) as answer:
            return [entry["resource"] for entry in json.load(answer).get("entry", ())]


@contextmanager
def fhir_server() -> Iterator[FhirServer]:
    """An empty server, which turns away what is not valid; skips where Node or its packages are missing."""
    node = shutil.which("node")
    if node is None or not (_PACKAGES / "node_modules").is_dir():
        pytest.skip("the FHIR server is not installed (.ci/node-packages; it needs npm)")
    program = CHECKOUT / "tests" / "fhir_peer" / "server.mjs"
    process = subprocess.Popen([node, str(program), str(_PACKAGES)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        assert port, "the FHIR server did not start"
        yield FhirServer(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()

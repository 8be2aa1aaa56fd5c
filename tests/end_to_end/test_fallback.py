"""A package in force that can't be served when the appliance starts: what read before reads, and the device says so."""

from __future__ import annotations

import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import package
from appliance.package_store import PackageStore
from tests import fake_package
from tests.device import MODEL
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance, scanside

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]


class Site:
    """An appliance that reads with version 1.4.1, which somebody has switched to from the configured 1.3.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.newer = fake_package.version(folder / "newer", "1.4.1")
        self.key = folder / "newer" / "trusted" / f"{MODEL}.pub"
        self.configured = Path(shutil.copy(fake_package.BUNDLED[0], folder))
        models = f"[models]\npackages = ['{self.configured}']\ntrusted_keys = ['{self.key.parent}']\n"
        self.running = RunningAppliance(folder / "appliance", extra=f'{models}[inference]\nbackend = "onnxruntime"\n')
        self.sent = 0
        self.start()
        self.call("models", "install", self.newer)
        self.call("models", "switch", MODEL, "1.4.1", "--why", "newer")

    def call(self, *arguments: str | Path) -> str:
        return scanside(*arguments, "--config", self.running.config_path, check=True, timeout=300).stdout

    def start(self) -> None:
        self.running.start(300)

    def send(self) -> None:
        self.sent += 1
        image = make_radiograph(self.folder / "image.dcm", seed=self.sent)
        scanside("send", image, "--to", f"SCANSIDE@127.0.0.1:{self.running.port}", check=True)

    def read_by(self) -> str:
        """The version that reads an image which is sent now."""
        self.send()
        latest = max(self.running.wait_final(self.sent, 300), key=lambda row: row["id"])
        version: str = latest["provenance"]["version"]
        return version

    def files(self, version: str) -> list[Path]:
        return list((self.running.data / "packages").glob(f"*{version}*"))

    def latest_choice(self) -> dict[str, Any]:
        store = PackageStore(self.running.data / "ledger.sqlite3", read_only=True)
        try:
            return store.in_force()[MODEL]
        finally:
            store.close()

    def device_page(self) -> str:
        with urllib.request.urlopen(f"{self.running.url}device.fragment", timeout=60) as answer:
            return str(answer.read().decode())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.running.stop()


def test_what_read_before_reads_again_and_everybody_is_told_until_somebody_decides(site: Site) -> None:
    assert site.read_by() == "1.4.1"
    site.running.kill()
    (file,) = site.files("1.4.1")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    site.start()
    assert site.read_by() == "1.3.1"
    choice = site.latest_choice()
    assert (choice["kind"], choice["version"], choice["chosen_by"]) == ("fallback", "1.3.1", "")
    assert "is damaged" in choice["why"]
    assert "1.3.1 reads instead" in site.device_page()
    assert "1.3.1 reads. 1.4.1 can't be served" in site.call("status")
    assert "1.3.1" in site.call("models", "list")
    site.call("models", "install", site.newer)  # mends it
    site.call("models", "switch", MODEL, "1.4.1", "--why", "mended")
    assert site.read_by() == "1.4.1"
    assert "reads instead" not in site.device_page()

    site.running.kill()
    site.key.rename(site.folder / "kept.pub")
    site.start()
    assert site.read_by() == "1.3.1"
    assert "does not trust" in site.latest_choice()["why"]
    site.call("models", "switch", MODEL, "1.3.1", "--why", "the key was withdrawn for good")
    assert site.latest_choice()["kind"] == "switch"
    assert "reads instead" not in site.device_page()
    refused = scanside("models", "rollback", MODEL, "--why", "x", "--config", site.running.config_path)
    assert "confirmed what reads" in refused.stderr
    assert "no fault" in site.call("ledger", "verify")


def test_where_nothing_can_be_served_images_wait_and_nothing_is_lost(site: Site) -> None:
    site.running.kill()
    for each in (*site.files("1.4.1"), *site.files("1.3.1")):
        each.unlink()
    whole = site.configured.read_bytes()
    site.configured.write_bytes(whole[: len(whole) // 2])
    site.start()
    site.send()
    deadline = time.monotonic() + 120
    while "the file of chest-pneumonia 1.4.1" not in site.running.status()["components"]["worker"].get("reason", ""):
        assert time.monotonic() < deadline, site.running.log
    assert site.latest_choice()["kind"] == "switch"
    assert "Nothing is read at the moment" in site.device_page()
    assert [row["state"] for row in site.running.store().worklist()] == ["received"]
    site.configured.write_bytes(whole)
    (row,) = site.running.wait_final(1, 300)
    assert row["provenance"]["version"] == "1.3.1"
    assert site.latest_choice()["kind"] == "fallback"

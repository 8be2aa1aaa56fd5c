"""What a build is made from: locks, boards, bill of materials, the files that go into an image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from firmware.errors import FirmwareError
from firmware.image import chroot, disk, sbom, wheels
from firmware.image.boards import AARCH64, BOARDS, board
from tests.running import CHECKOUT

FILES = CHECKOUT / "firmware" / "image" / "files"
STATUS = """Package: base-files
Status: install ok installed
Architecture: amd64
Version: 13.8+deb13u2

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: rauc
Status: install ok installed
Architecture: amd64
Version: 1.13-1
Description: updates
 of boxes
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As an image's tree, with what every board's lock names."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 13"\nID=debian\nVERSION_ID="13"\n')
    site = tmp_path / board("generic").site_packages
    for name, (version, _) in [*wheels.locked(board("generic")).items(), ("scanside", ("0.1.0", ""))]:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense: MIT\n\nText")
    (site / "appliance/bundled").mkdir(parents=True)
    for path in (CHECKOUT / "appliance/bundled").glob("*.scanside"):
        shutil.copy(path, site / "appliance/bundled")
    return tmp_path


def test_the_bill_names_everything(tree: Path) -> None:
    document = sbom.make(tree, "1.0.0", board("generic"), 1_780_000_000)
    names = {each["bom-ref"]: each for each in document["components"]}
    assert {"deb/base-files", "deb/rauc", "pypi/scanside"} <= set(names)
    assert "deb/gone" not in names
    assert names["deb/rauc"]["purl"] == "pkg:deb/debian/rauc@1.13-1?arch=amd64&distro=debian-13"
    for name, (version, digest) in wheels.locked(board("generic")).items():
        found = names[f"pypi/{name}"]
        assert (found["version"], found["hashes"][0]["content"]) == (version, digest)
    bundled = list((CHECKOUT / "appliance/bundled").glob("*.scanside"))
    assert len([each for each in names if each.startswith("model/")]) == len(bundled) > 0
    assert len(names) == len(document["components"]), "two components of one name"


def test_the_bill_has_the_form_of_cyclonedx(tree: Path) -> None:
    document = sbom.make(tree, "1.0.0", board("generic"), 1_780_000_000)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", document["serialNumber"]
    )
    for each in document["components"]:
        assert {"type", "name", "version", "bom-ref"} <= set(each)
        assert each["type"] in {"library", "application", "operating-system", "machine-learning-model"}
    assert document == sbom.make(tree, "1.0.0", board("generic"), 1_780_000_000)


@pytest.mark.parametrize(("name", "machine"), [*((name, "") for name in sorted(BOARDS)), ("generic", AARCH64)])
def test_a_lock_pins_all_that_the_device_asks_for(name: str, machine: str) -> None:
    import tomllib

    table = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [*table["dependencies"], *(each for e in board(name).extras for each in table["optional-dependencies"][e])]
    pins = wheels.locked(board(name), machine)
    for each in wanted:
        package, pinned = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?(?:==([\w.]+))?", each).groups()  # type: ignore[union-attr]
        assert wheels.normal(package) in pins, f"{package} is missing: scanside-firmware lock --board {name}"
        if pinned:
            assert pins[wheels.normal(package)][0] == pinned, f"{package}: scanside-firmware lock --board {name}"
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for _, digest in pins.values())


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_rauc_comes_with_the_service_that_it_asks_over_d_bus(name: str) -> None:
    assert {"rauc", "rauc-service", "dbus"} <= set(board(name).packages)


def test_an_unknown_board_says_which_there_are() -> None:
    with pytest.raises(FirmwareError, match="no board 'toaster'") as caught:
        board("toaster")
    assert "generic" in caught.value.hint


def test_no_key_and_no_secret_goes_into_an_image() -> None:
    for path in FILES.rglob("*"):
        if path.is_file():
            assert "PRIVATE" not in path.read_text(), path


def test_raucs_slots_and_handlers_are_ours() -> None:
    text = (FILES / "etc/rauc/system.conf").read_text()
    assert text.count("bootname=") == 2 and "bundle-formats=-plain" in text and "check-purpose=codesign" in text
    for name in re.findall(r"=/usr/lib/scanside/(rauc-\S+)", text):
        assert (FILES / "usr/lib/scanside" / name).stat().st_mode & 0o111, name


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mcopy") is None or shutil.which("mkfs.vfat") is None,
    reason="needs root and Debian packages mtools and dosfstools",
)
def test_who_holds_a_key_at_the_start_can_choose_nothing(tmp_path: Path) -> None:
    """Neither an older slot nor another command line; systemd-boot 257's own words for it."""
    for name in ("BOOTX64.EFI", "a.efi", "PK.auth", "KEK.auth", "db.auth"):
        (tmp_path / name).touch()
    esp = disk._esp(Path("/"), tmp_path, tmp_path / "BOOTX64.EFI", tmp_path, "1.0.0", 1_780_000_000)
    told = chroot.inside(Path("/"), "mtype", "-i", esp, "::/loader/loader.conf").splitlines()
    assert {"timeout menu-disabled", "editor no"} <= set(told)


def test_no_start_begins_before_the_build() -> None:
    """systemd asks for the time of this file; all files of the root have that of the build (`mkfs.erofs -T`)."""
    assert (FILES / "usr/lib/clock-epoch").is_file()


def test_what_a_killed_build_left_mounted_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the /dev of the machine that builds."""
    work, own = tmp_path / "a work", tmp_path / "dev"
    for folder in (work / "root" / "dev", own):
        folder.mkdir(parents=True)
    (own / "null").touch()
    if subprocess.run(["mount", "--bind", own, work / "root" / "dev"], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    assert chroot.mounts_below(work) == [work / "root" / "dev"]
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(FirmwareError):  # it can't be unmounted
            chroot.remove(work)
    assert (work / "root" / "dev" / "null").exists()
    chroot.remove(work)
    assert (own / "null").exists() and not work.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may enter a tree")
def test_nothing_of_who_builds_gets_into_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/only/here")
    monkeypatch.setenv("PYTHONPATH", "/only/here")
    assert chroot.inside(Path("/"), "cat", data="said") == "said"
    found = dict(line.split("=", 1) for line in chroot.inside(Path("/"), "env", epoch=1).splitlines())
    assert set(found) == {"PATH", "HOME", "LC_ALL", "SOURCE_DATE_EPOCH"}

"""What a build is made from: locks, boards, bill of materials, the files that go into an image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from firmware.cli import main
from firmware.errors import FirmwareError
from firmware.image import build, chroot, disk, microcode, mirror, sbom, trees, wheels
from firmware.image import debian as debian_of
from firmware.image.boards import AARCH64, BOARDS, board
from firmware.image.plan import Plan
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


def test_the_bill_names_what_the_esp_has_of_the_tools(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader is the first code that is signed, and in no package of the root."""
    tools, asked = tmp_path / "tools", []
    text = f"{STATUS}\n" + STATUS.split("\n\n")[2].replace("rauc", "systemd-boot-efi").replace("1.13-1", "257.13-1")
    for name, content in (
        ("usr/lib/os-release", 'ID=debian\nVERSION_ID="13"\n'),
        ("usr/share/doc/systemd-boot-efi/copyright", "Format: 1.0\n\nFiles: *\nLicense: LGPL-2.1+\n Text\n"),
        ("var/lib/dpkg/status", text),
        ("var/lib/dpkg/info/rauc.list", "/usr/bin/rauc\n"),
        ("var/lib/dpkg/info/systemd-boot-efi.list", f"/usr\n{debian_of.LOADER}\n{debian_of.STUB}\n"),
    ):
        (tools / name).parent.mkdir(parents=True, exist_ok=True)
        (tools / name).write_text(content)
    known = {each["bom-ref"] for each in sbom.make(tree, "1.0.0", board("generic"), 1)["components"]}
    found = sbom.make(tree, "1.0.0", board("generic"), 1, tools)["components"]
    (added,) = (each for each in found if each["bom-ref"] not in known)
    assert (added["name"], added["version"]) == ("systemd-boot-efi", "257.13-1")
    assert added["licenses"] == [{"license": {"name": "LGPL-2.1+"}}]
    # Whatever the build signs for the ESP: each file of the tools' tree that goes into it is one of that package.
    monkeypatch.setattr(build, "inside", lambda _, *command, **__: asked.extend(map(str, command)))
    (tmp_path / "root/usr/lib").mkdir(parents=True)
    (tmp_path / "root/usr/lib/os-release").touch()
    build._loader(plan(tmp_path), tools, tmp_path)
    build._kernel(plan(tmp_path), tools, tmp_path, tmp_path / "vmlinuz", tmp_path / "initrd", "a", "0", 0)
    taken = {word.partition("=")[2] or word for word in asked if re.match(r"(--\w+=)?/usr/", word)}
    assert taken == {debian_of.LOADER, debian_of.STUB}
    (tools / "var/lib/dpkg/info/systemd-boot-efi.list").unlink()
    with pytest.raises(FirmwareError, match="no package of"):
        sbom.make(tree, "1.0.0", board("generic"), 1, tools)


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


def test_a_box_listens_on_the_ports_that_a_hospital_asks_for() -> None:
    """The appliance has no capability; systemd-sysctl, which Debian's systemd starts early, reads this."""
    place = "usr/lib/sysctl.d"
    lines = (FILES / place / "50-scanside.conf").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["net.ipv4.ip_unprivileged_port_start = 80"]
    assert not {"systemd-sysctl.service", "sysinit.target"} & set(debian_of.MASKED)
    assert not any(place.startswith(each) for each in debian_of.DROPPED)


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


_APT = """#!/bin/sh
# Stand-in of apt-get, which gets what $FAKE_MIRROR holds.
[ -e $FAKE_MIRROR ] || { echo "E: Failed to fetch" >&2; exit 100; }
for each; do case $each in --option=Dir::State=*)
    mkdir -p "${each#*State=}/lists"; cp $FAKE_MIRROR/* "${each#*State=}/lists"
esac; done
"""
_MMDEBSTRAP = """#!/bin/sh
# Stand-in of mmdebstrap, which makes an empty tree.
printf '%s\\n' "$@" >> $FAKE_ASKED
for each; do case $each in *.part) mkdir "$each"; esac; done
"""


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a mirror of Debian holds, and stand-ins of those who ask it; what mmdebstrap was told lies in `asked`."""
    programs, held = tmp_path / "bin", tmp_path / "mirror"
    for folder in (programs, held):
        folder.mkdir()
    for name, text in (("apt-get", _APT), ("mmdebstrap", _MMDEBSTRAP)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_MIRROR", str(held))
    monkeypatch.setenv("FAKE_ASKED", str(tmp_path / "asked"))
    for suite in ("trixie", "trixie-updates", "trixie-security"):
        index(held, suite, "a", "Sat, 21 Nov 2026")
    mirror.state.cache_clear()
    return held


def index(held: Path, suite: str, digest: str, date: str) -> None:
    line = f" {digest * 64}  22596 main/binary-amd64/Packages"
    (held / f"{suite}_InRelease").write_text(f"Date: {date}\nSHA256:\n{line}\n")


def plan(tmp_path: Path, **fields: str) -> Plan:
    here = tmp_path / "here"
    return Plan(CHECKOUT, board("x86-efi"), "1.0.0", 1, here, here, tmp_path / "cache", mirror.DEBIAN, 1, **fields)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a tree")


@as_root
def test_debian_comes_with_its_security_updates(debian: Path, tmp_path: Path) -> None:
    trees.base(plan(tmp_path))
    signed = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert (tmp_path / "asked").read_text().splitlines()[-3:] == [
        f"{signed} http://deb.debian.org/debian trixie main non-free-firmware",
        f"{signed} http://deb.debian.org/debian trixie-updates main non-free-firmware",
        f"{signed} http://deb.debian.org/debian-security trixie-security main non-free-firmware",
    ]


@as_root
@pytest.mark.parametrize("tree_of", [trees.base, trees.tools])
def test_a_tree_is_made_anew_once_a_mirror_has_something_new(
    debian: Path, tmp_path: Path, tree_of: Callable[[Plan], Path]
) -> None:
    def next_build() -> Path:
        mirror.state.cache_clear()
        return tree_of(plan(tmp_path))

    first = next_build()
    (first / "kept").touch()
    index(debian, "trixie-security", "a", "Sun, 22 Nov 2026")  # signed anew, each day
    assert next_build() == first and (first / "kept").exists()
    index(debian, "trixie-security", "b", "Mon, 23 Nov 2026")
    second = tree_of(plan(tmp_path))
    assert second == first, "one process builds from one state, so that what is built twice is the same"
    second = next_build()
    assert second != first and not (second / "kept").exists()
    assert list((tmp_path / "cache").iterdir()) == [second]
    shutil.rmtree(debian)
    with pytest.raises(FirmwareError, match="Failed to fetch") as caught:
        next_build()
    assert "--security" in caught.value.hint


@as_root
def test_what_was_there_at_an_earlier_time_may_be_past_its_date(debian: Path, tmp_path: Path) -> None:
    then = "http://snapshot.debian.org/archive/debian-security/20261101T000000Z"
    trees.tools(plan(tmp_path, security=then))
    asked = (tmp_path / "asked").read_text().splitlines()
    assert ["check-valid-until=no" in line for line in asked[-3:]] == [False, False, True]


def test_an_image_without_security_updates_says_that_it_is_nothing_to_release(tmp_path: Path) -> None:
    where = ["--keys", str(tmp_path), "--to", str(tmp_path / "out"), "--project", str(CHECKOUT)]
    for option, said in ((["--security", "none"], True), ([], False)):
        done = CliRunner().invoke(main, ["build", "--board", "generic", *option, *where])
        assert ("NOT TO BE RELEASED" in done.output) == said, done.output
    assert not any("security" in line for line in mirror.sources("main", mirror.DEBIAN, ""))


@pytest.mark.parametrize("git", ["echo 'fatal: detected dubious ownership' >&2; exit 128", None, "echo 1764547200"])
@pytest.mark.parametrize("named", [None, "--date", "SOURCE_DATE_EPOCH"])
def test_an_image_has_the_date_of_the_last_commit_or_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: str | None, named: str | None
) -> None:
    dates: list[int] = []
    monkeypatch.setattr("firmware.image.build.build", lambda plan: dates.append(plan.date) or {})
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if git:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{git}\n")
        (tmp_path / "git").chmod(0o755)
    if named == "SOURCE_DATE_EPOCH":
        monkeypatch.setenv(named, "1700000001")
    option = ["--date", "1700000001"] if named == "--date" else []
    where = ["--keys", str(tmp_path), "--to", str(tmp_path / "out"), "--project", str(CHECKOUT)]
    done = CliRunner().invoke(main, ["build", "--board", "generic", *option, *where])
    if named:
        assert dates == [1700000001], done.output
    elif git and "fatal" not in git:
        assert dates == [1764547200], done.output
    else:
        assert done.exit_code == 1 and not dates and "--date SECONDS" in done.output
        assert ("dubious ownership" if git else "can't be started") in done.output


def newc(content: bytes) -> dict[str, bytes]:
    """The files of a cpio as the kernel reads it (find_cpio_data), plain and from its first byte on."""
    found, at = {}, 0
    while True:
        assert content[at : at + 6] == b"070701" and at % 4 == 0
        fields = [int(content[at + begin : at + begin + 8], 16) for begin in range(6, 110, 8)]
        length, named, date = fields[6], fields[11], fields[5]
        name = content[at + 110 : at + 110 + named - 1].decode()
        begin = -(-(at + 110 + named) // 4) * 4
        assert date == fields[2] == fields[3] == 0, "nothing of when and by whom it was made"
        if name == "TRAILER!!!":
            return found
        found[name] = content[begin : begin + length]
        at = -(-(begin + length) // 4) * 4


def firmware_of(root: Path) -> None:
    for name in ("intel-ucode/06-9e-0a", "intel-ucode/06-55-04", "amd-ucode/microcode_amd.bin", "amd-ucode/README"):
        path = root / "usr/lib/firmware" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name};")


def test_microcode_lies_plain_ahead_of_the_initrd(tmp_path: Path) -> None:
    firmware_of(tmp_path)
    content = microcode.archive(tmp_path / "usr/lib/firmware")
    files = newc(content)
    assert list(files) == ["kernel", "kernel/x86", "kernel/x86/microcode", "kernel/x86/microcode/AuthenticAMD.bin",
                           "kernel/x86/microcode/GenuineIntel.bin"]  # fmt: skip
    assert files["kernel/x86/microcode/GenuineIntel.bin"] == b"06-55-04;06-9e-0a;"
    assert files["kernel/x86/microcode/AuthenticAMD.bin"] == b"microcode_amd.bin;"
    assert microcode.archive(tmp_path / "usr/lib/firmware") == content


@pytest.mark.parametrize("name", ["generic", "x86-efi"])
def test_kernels_are_signed_with_the_microcode_of_their_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(build, "inside", lambda _, *command, **__: called.append([*map(str, command)]) or "")
    root = tmp_path / "work/root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/os-release").touch()
    made = Plan(CHECKOUT, board(name), "1.0.0", 1, tmp_path, tmp_path, tmp_path, mirror.DEBIAN, 1_780_000_000)
    if name == "x86-efi":
        with pytest.raises(FirmwareError, match="intel-microcode and amd64-microcode put nothing into"):
            build._microcode(made, root, root.parent)
        firmware_of(root)
    build._microcode(made, root, root.parent)
    build._kernel(made, tmp_path, root.parent, Path("vmlinuz"), Path("initrd"), "a", "0", 0)
    (command,) = called
    given = [each.partition("=")[2] for each in command if each.startswith("--microcode=")]
    assert [Path(path).exists() for path in given] == ([True] if name == "x86-efi" else [])


def test_the_projects_own_wheel_is_made_by_what_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append((command, str((options.get("env") or {}).get("PYTHONPATH", ""))))  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("firmware.image.wheels.subprocess.run", run)
    wheels.install(CHECKOUT, board("generic"), tmp_path / "site", tmp_path / "cache")
    (making,) = [call for call in calls if "wheel" in call[0]]
    tools = [each for each, _ in calls if str(wheels.BUILD_LOCK) in each]
    assert "--no-build-isolation" in making[0] and all("--require-hashes" in each for each in tools)
    assert making[1] == tools[-1][tools[-1].index("--target") + 1]
    needed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["build-system"]["requires"]
    pins = dict(line.split()[0].split("==") for line in wheels.BUILD_LOCK.read_text().splitlines()[1:])
    for each in map(Requirement, needed):
        assert each.specifier.contains(pins[each.name]), "scanside-firmware lock"
    lines = (CHECKOUT / "firmware/container/Containerfile").read_text()
    assert "COPY firmware/image/build.lock " in lines and "--no-deps --no-build-isolation /src/scanside" in lines

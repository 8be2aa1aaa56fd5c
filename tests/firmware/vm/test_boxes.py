"""The life of a box, on a machine without KVM: flashed, commissioned by stick, fed, updated, sent back, attacked.

By hand, as root: ``pytest -m vm tests/firmware/vm``; firmware/README.md says what it needs and what was seen.
``SCANSIDE_VM_WORK`` keeps images and Debian trees between runs, ``SCANSIDE_VM_BOX`` the box; ``SCANSIDE_VM_CUTS`` the
number of power cuts, ``SCANSIDE_VM_SEED`` says when they are made.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance import package
from firmware import keys, provisioning, service, signing
from firmware.flash.disks import Disk
from firmware.flash.manifest import load
from firmware.flash.writing import flash
from firmware.image import wheels
from firmware.image.boards import board
from firmware.image.build import build
from firmware.image.plan import Plan
from tests.dicom_files import make_radiograph
from tests.firmware.vm.machine import Machine, make_stick, missing, read_stick
from tests.peers import free_port, storescp
from tests.running import CHECKOUT, scanside

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(bool(missing()) or os.geteuid() != 0, reason=f"needs root and: {', '.join(missing())}"),
]
SLOW = float(os.environ.get("SCANSIDE_VM_SLOW", "1"))  # by how much a busy machine is slower
BOOT = 400 * SLOW
READY = 120 * SLOW  # from switching on until everything of the appliance runs, at the first start, too
_READY_LINE = "Started \x1b[0;1;39mscanside.service"
JUDGED = ("this system is good", "this system is degraded", "this system is failed")
_MODELS = "/opt/scanside/lib/python3.13/site-packages/appliance/bundled"
_MODEL = package.bundled("chest-pneumonia")[0].name  # one of three: emulation is slow
_MIRROR = "http://deb.debian.org/debian"


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("SCANSIDE_VM_WORK")
    return Path(kept) if kept else tmp_path_factory.mktemp("vm")


@pytest.fixture(scope="session")
def publisher(work: Path) -> Path:
    keys.make(work / "keys")
    return work / "keys"


@pytest.fixture(scope="session")
def image(work: Path, publisher: Path) -> Callable[..., Path]:
    """Version -> folder of its image. 3.0.0 is broken: its model was damaged, so no backend earns a receipt."""

    def made(version: str, name: str = "generic") -> Path:
        target = work / (f"image-{version}" if name == "generic" else f"image-{name}-{version}")
        if not (target / "whole").exists():  # a run that was stopped leaves half of one
            shutil.rmtree(target, ignore_errors=True)
            project = CHECKOUT
            if version == "3.0.0":
                shutil.rmtree(work / "broken", ignore_errors=True)
                project = wheels.copy_sources(CHECKOUT, work / "broken")
                for path in (project / "appliance" / "bundled").glob("*.scanside"):
                    content = bytearray(path.read_bytes())
                    content[len(content) // 2] ^= 1
                    path.write_bytes(content)
                unit = project / "firmware" / "systemd" / "scanside-confirm.service"  # it will not get well by waiting
                unit.write_text(unit.read_text().replace("--seconds 1200", "--seconds 60"))
            build(Plan(project, board(name), version, 1, publisher, target, work / "cache", _MIRROR, 1_780_000_000))
            (target / "whole").touch()
        return target

    return made


@pytest.fixture(scope="session")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("pacs")
    with storescp(folder, port=free_port()) as port:
        yield port, folder


@pytest.fixture(scope="session")
def box(
    work: Path, publisher: Path, image: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """Version 1.0.0, flashed; or a box of an earlier run as that left it (``SCANSIDE_VM_BOX``)."""
    kept = os.environ.get("SCANSIDE_VM_BOX")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("box")
    disk = folder / "disk.img"
    machine = Machine(folder, disk if disk.exists() else flashed(image, publisher, folder), publisher)
    yield machine
    machine.cut()


def flashed(image: Callable[..., Path], publisher: Path, folder: Path, name: str = "generic") -> Path:
    """A disk with version 1.0.0."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = folder / "disk.img"
    first = load(image("1.0.0", name) / "manifest.json", [publisher / "image.pub"])
    flash(first, Disk(disk, 0, is_file=True), lambda done, phase: None, folder / "notes")
    return disk


def plug(machine: Machine, folder: Path, publisher: Path, *files: Path, site: str = "") -> Path:
    """Start it with a stick; the stick."""
    content = folder / "content"
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir(parents=True)
    for path in files:
        os.link(path, content / path.name)
    if site:
        (content / "site.toml").write_text(site)
        signing.sign_file(content / "site.toml", publisher / "site.key", provisioning.PURPOSE)
    stick = make_stick(folder / "stick.img", content)
    machine.start(stick)
    return stick


def answered(machine: Machine, stick: Path, folder: Path, since: int = 0) -> Path:
    """What the box writes to its stick, once it has."""
    machine.wait_for("lies on the stick in scanside-", timeout=BOOT, since=since)
    return next(read_stick(stick, folder).glob("scanside-*"))


def site(port: int) -> str:
    return (
        '[site]\nname = "Test"\nversion = 1\n[appliance]\n'
        f'models = {{packages = ["{_MODELS}/{_MODEL}"]}}\n'
        f'[[appliance.destinations]]\nname = "pacs"\nae_title = "STORESCP"\nhost = "10.0.2.2"\nport = {port}\n'
    )


def commissioned(machine: Machine, folder: Path, publisher: Path, port: int) -> None:
    stick = plug(machine, folder, publisher, site=site(port))
    begin = time.monotonic()
    machine.wait_for(_READY_LINE, timeout=READY)
    print(f"ready {time.monotonic() - begin:.0f} s after it was switched on")
    machine.wait_for("configuration 1 is in place", timeout=BOOT * 2)
    assert machine.wait_for(*JUDGED, timeout=BOOT) == JUDGED[0]
    assert "is in place" in (answered(machine, stick, folder / "answer") / "what-happened.txt").read_text()


def send(machine: Machine, path: Path, seconds: float) -> None:
    """C-STORE, acknowledged; tried again while the box starts."""
    deadline = time.monotonic() + seconds
    while True:
        done = scanside("send", path, "--to", f"SCANSIDE@127.0.0.1:{machine.dicom_port}", timeout=300)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(5)


def test_1_a_radiograph_comes_back_as_a_report(
    box: Machine, publisher: Path, pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """Secure Boot, TPM, encrypted data; configured by a signed stick; C-STORE in, SR out."""
    commissioned(box, tmp_path, publisher, pacs[0])
    assert "data is encrypted (LUKS2) and opened by this machine's TPM" in box.log
    radiograph = make_radiograph(tmp_path / "radiograph.dcm")
    send(box, radiograph, BOOT)
    deadline = time.monotonic() + BOOT
    while not list(pacs[1].glob("SR*")) and time.monotonic() < deadline:
        time.sleep(2)
    assert list(pacs[1].glob("SR*")), "no report came back"


def ask_page(machine: Machine, folder: Path, path: str, *arguments: str) -> str:
    """What its page answers, and on a last line the status; ``folder`` keeps the login."""
    page = f"https://127.0.0.1:{machine.page_port}"
    command = ["curl", "--insecure", "--silent", "--show-error", "--cookie", "jar", "--cookie-jar", "jar",
               "--header", f"Origin: {page}", "--write-out", "\n%{http_code}", *arguments, page + path]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600 * SLOW).stdout


def enrol(curl: Callable[..., str], code: str) -> None:
    password = "a long enough password"
    fields = {"code": code, "username": "anna", "password": password, "again": password}
    assert curl("/enrol", *form(fields)).endswith("\n302")


def form(fields: dict[str, str]) -> list[str]:
    return [word for name, value in fields.items() for word in ("--data-urlencode", f"{name}={value}")]


def installed(machine: Machine, since: int) -> int:
    """Waits until it has installed what its stick brings, and starts again; from where its console speaks of that."""
    machine.wait_for("is installed; the box starts again", timeout=BOOT * 2, since=since)
    since = len(machine.log)
    machine.wait_for("BdsDxe: start", timeout=BOOT, since=since)
    return since + machine.log[since:].index("BdsDxe: start")


def test_2_an_update_proves_itself(box: Machine, publisher: Path, image: Callable[..., Path], tmp_path: Path) -> None:
    box.cut()
    since = len(box.log)
    plug(box, tmp_path, publisher, next(image("2.0.0").glob("*.raucb")))
    since = installed(box, since)
    assert box.wait_for(*JUDGED, timeout=BOOT * 2, since=since) == JUDGED[0]
    box.wait_for("runs already", timeout=BOOT, since=since)
    box.cut()


def test_3_an_update_that_fails_its_check_falls_back(
    box: Machine, publisher: Path, image: Callable[..., Path], tmp_path: Path
) -> None:
    since = len(box.log)
    stick = plug(box, tmp_path, publisher, next(image("3.0.0").glob("*.raucb")))
    since = installed(box, since)
    assert box.wait_for(*JUDGED, timeout=BOOT * 4, since=since) == JUDGED[2]
    since = len(box.log)
    box.wait_for("did not prove itself; this system runs again", timeout=BOOT * 2, since=since)
    assert box.wait_for(*JUDGED, timeout=BOOT, since=since) == JUDGED[0]
    box.wait_for("was tried here and did not prove itself", timeout=BOOT, since=since)
    folder = answered(box, stick, tmp_path / "answer", since)
    box.cut()
    recount = json.loads((folder / "recount.json").read_text())
    assert recount["faults"] == 0 and recount["counts"]["received"] == 1, recount
    assert json.loads((folder / "history.json").read_text())["image"]["version"] == "2.0.0"
    assert "this system is failed" in (folder / "journal.txt").read_text(), "the log of the start that failed is gone"


def test_4_bundles_that_are_turned_away(
    box: Machine, publisher: Path, image: Callable[..., Path], tmp_path: Path
) -> None:
    """Tampered, by another authority, older: each refused in words, and the box starts as before."""
    from firmware import bundle
    from firmware.policy import Offered

    second = next(image("2.0.0").glob("*.raucb"))
    tampered = tmp_path / "tampered.raucb"
    shutil.copy(second, tampered)
    with tampered.open("r+b") as file:
        file.seek(100 << 20)
        byte = file.read(1)
        file.seek(100 << 20)
        file.write(bytes([byte[0] ^ 1]))
    content = tmp_path / "content-foreign"
    content.mkdir()
    for name in ("root.img", "a.efi", "b.efi"):
        (content / name).write_bytes(os.urandom(100_000))
    keys.make(tmp_path / "stranger")
    foreign, older = tmp_path / "foreign.raucb", next(image("1.0.0").glob("*.raucb"))
    bundle.make(content, Offered("9.0.0", 1, "scanside-generic"), tmp_path / "stranger", foreign)
    since = len(box.log)
    stick = plug(box, tmp_path / "stick", publisher, tampered, foreign, older)
    for words in ("changed after it was signed", "was not signed for this box", "is older than 2.0.0"):
        box.wait_for(words, timeout=BOOT * 2, since=since)
    assert box.wait_for(*JUDGED, timeout=BOOT, since=since) == JUDGED[0]
    box.cut()
    assert stick.exists()


def change_loader(disk: Path, folder: Path) -> None:
    """One byte of it."""
    unsigned = folder / "BOOTX64.EFI"
    subprocess.run(["mcopy", "-i", f"{disk}@@1M", "::/EFI/BOOT/BOOTX64.EFI", unsigned], check=True)
    content = bytearray(unsigned.read_bytes())
    content[len(content) // 2] ^= 1
    unsigned.write_bytes(content)
    subprocess.run(["mcopy", "-o", "-i", f"{disk}@@1M", unsigned, "::/EFI/BOOT/BOOTX64.EFI"], check=True)


def refused(machine: Machine) -> bool:
    """Whether the firmware starts no loader."""
    begin = len(machine.log)
    machine.start()
    try:
        return machine.wait_for("Access Denied", "Welcome to", timeout=BOOT, since=begin) == "Access Denied"
    finally:
        machine.cut()


def test_5_an_unsigned_loader_is_refused(box: Machine, publisher: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", box.disk, disk], check=True)
    change_loader(disk, tmp_path)
    assert refused(Machine(tmp_path / "machine", disk, publisher))


def test_6_a_corrupted_root_does_not_run(publisher: Path, image: Callable[..., Path], tmp_path: Path) -> None:
    disk = flashed(image, publisher, tmp_path)
    with disk.open("r+b") as file:  # past the superblock, everywhere
        for offset in range(514 << 20, 700 << 20, 64 << 10):
            file.seek(offset)
            file.write(b"\xa5" * 512)
    machine = Machine(tmp_path / "machine", disk, publisher)
    machine.start()
    try:
        machine.wait_for("dm-verity device corrupted", "device-mapper: verity", "is corrupted", timeout=BOOT)
        assert "Scanside" not in machine.log
    finally:
        machine.cut()


def test_7_a_shell_by_a_signed_token_and_a_factory_reset(
    box: Machine, publisher: Path, pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """Nobody gets in without a token; the reset destroys every key, and the box begins anew as another one."""
    box.cut()
    since = len(box.log)
    stick = plug(box, tmp_path / "first", publisher, site=site(pacs[0]))
    first = answered(box, stick, tmp_path / "answer", since)
    box.cut()
    identity = first.name.removeprefix("scanside-")
    token = tmp_path / "service.token"
    token.write_text(service.make(identity, 4, publisher / "site.key", "a test"))
    since = len(box.log)
    plug(box, tmp_path / "second", publisher, token, site=site(pacs[0]))
    box.wait_for("service mode for a test", timeout=BOOT, since=since)
    assert " is in place already" in box.log[since:], "it was commissioned before"
    box.type(f"\nscanside-firmware factory-reset --box {identity}\n")
    box.wait_for("all key slots of the data partition were destroyed", timeout=BOOT, since=since)
    since = len(box.log)
    box.wait_for("recovery key, which waits for a stick", timeout=BOOT, since=since)
    box.wait_for("configuration 1 is in place", timeout=BOOT, since=since)
    box.wait_for(f"the service token is for box {identity}, and this is", timeout=BOOT, since=since)
    assert box.wait_for(*JUDGED, timeout=BOOT, since=since) == JUDGED[0]
    box.cut()


def test_8_a_box_without_a_tpm_says_so_and_takes_a_model(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """Its data is plain. A stick brings another model, which reads from then on beside the one of the configuration."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher, tpm=False)
    stick = plug(machine, tmp_path, publisher, site=site(pacs[0]))
    lungs = Path(shutil.copy(package.bundled("lungs")[0], tmp_path))
    try:
        machine.wait_for("data is NOT encrypted: this machine has no TPM 2.0", timeout=BOOT)
        assert machine.wait_for(*JUDGED, timeout=BOOT) == JUDGED[0]
        answered(machine, stick, tmp_path / "answer")
        machine.cut()
        since = len(machine.log)
        plug(machine, tmp_path / "model", publisher, lungs)
        machine.wait_for(f"{lungs.name}: lungs {lungs.stem.split('-')[-1]} is in force", timeout=BOOT * 2, since=since)
        send(machine, make_radiograph(tmp_path / "radiograph.dcm", seed=8), BOOT)
        deadline = time.monotonic() + BOOT
        while not list(pacs[1].glob("SG*")):
            assert time.monotonic() < deadline, "no outline of the lungs came back"
            time.sleep(2)
    finally:
        machine.cut()


def test_9_an_update_is_handed_over_on_the_page(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """An account by the code on the stick; the bundle by the form; how far it is; the new system is good."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher)
    curl = functools.partial(ask_page, machine, tmp_path)
    try:
        open_to_others = '[appliance.web]\nhost = "0.0.0.0"\n[[accounts]]\nname = "anna"\nrole = "administrator"\n'
        stick = plug(machine, tmp_path, publisher, site=site(pacs[0]) + open_to_others)
        answer = answered(machine, stick, tmp_path / "answer")
        deadline = time.monotonic() + BOOT
        while not (answer / "accounts.txt").exists():
            assert time.monotonic() < deadline
            time.sleep(5)
            read_stick(stick, tmp_path / "answer")
        code = re.findall(r"(?m)^anna +administrator +(\S+)$", (answer / "accounts.txt").read_text())[0]
        assert machine.wait_for(*JUDGED, timeout=BOOT) == JUDGED[0]
        enrol(curl, code)
        assert "anna" in curl("/accounts")

        since = len(machine.log)
        bundle = next(image("2.0.0").glob("*.raucb"))
        assert curl("/box", "--form", f"files=@{bundle}").endswith("\n302")
        seen = ""
        while "is installed; the box starts again" not in machine.log[since:]:
            assert time.monotonic() < deadline + BOOT * 3
            seen += curl("/box.fragment")
            time.sleep(2)
        assert 'role="status"' in seen and "<progress" in seen, seen[-2000:]
        machine.wait_for("BdsDxe: start", timeout=BOOT, since=since)
        assert machine.wait_for(*JUDGED, timeout=BOOT * 2, since=since) == JUDGED[0]
        assert "<dd>2.0.0, slot b</dd>" in curl("/box")
    finally:
        machine.cut()


def test_10_a_box_whose_tpm_opens_its_data_no_longer_takes_the_recovery_key(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """Its first stick gets the key. With another TPM it says on a stick why nothing runs; the key brings all back."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher)
    try:
        stick = plug(machine, tmp_path, publisher, site=site(pacs[0]))
        assert machine.wait_for(*JUDGED, timeout=BOOT * 2) == JUDGED[0]
        key = answered(machine, stick, tmp_path / "answer") / "recovery-key.txt"
        send(machine, make_radiograph(tmp_path / "radiograph.dcm", seed=10), BOOT)
        machine.cut()
        shutil.rmtree(machine.folder / "tpm")
        since = len(machine.log)
        stick = plug(machine, tmp_path / "closed", publisher, site=site(pacs[0]))
        found = answered(machine, stick, tmp_path / "closed" / "answer", since)
        machine.cut()
        said = (found / "what-happened.txt").read_text()
        assert "the data partition did not open" in said and "recovery-key.txt" in said, said
        since = len(machine.log)
        stick = plug(machine, tmp_path / "open", publisher, key)
        machine.wait_for("from now on the TPM does again", timeout=BOOT, since=since)
        assert machine.wait_for(*JUDGED, timeout=BOOT * 2, since=since) == JUDGED[0]
        found = answered(machine, stick, tmp_path / "open" / "answer", machine.log.rindex("BdsDxe: start"))
        recount = json.loads((found / "recount.json").read_text())
        assert recount["faults"] == 0 and recount["counts"]["received"] == 1, recount
    finally:
        machine.cut()


def test_11_a_machine_without_keys_takes_ours(publisher: Path, image: Callable[..., Path], tmp_path: Path) -> None:
    """By itself, at its first start; from then on it starts nothing else."""
    disk = flashed(image, publisher, tmp_path)
    machine = Machine(tmp_path / "machine", disk, keys=None)
    machine.start()
    try:
        machine.wait_for("Secure Boot keys successfully enrolled", timeout=BOOT)
        since = machine.log.index("successfully enrolled")
        assert machine.wait_for("Booting initrd", "Access Denied", timeout=BOOT, since=since) == "Booting initrd"
    finally:
        machine.cut()
    change_loader(disk, tmp_path)
    assert refused(machine)


def test_12_a_first_configuration_is_entered_on_the_page(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """No stick: the console's code makes the account, the form the configuration; C-STORE in, SR out."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher)
    curl = functools.partial(ask_page, machine, tmp_path)
    try:
        machine.start()
        machine.wait_for("with which the first account is made", timeout=BOOT * 2)
        assert "enter it at https://10.0.2.15:8080/box" in machine.log
        (code,) = re.findall(r"its page asks for the code (\S+),", machine.log)
        enrol(curl, code)
        assert "Configuration of this box" in curl("/box/site")
        since = len(machine.log)
        fields = {
            "name": "Basement 1", "time_zone": "Europe/Berlin", "addressing": "dhcp", "ae_title": "BASEMENT",
            "scp_port": "11112", "destination-0-ae_title": "STORESCP", "destination-0-host": "10.0.2.2",
            "destination-0-port": str(pacs[0]),
        }  # fmt: skip
        assert curl("/box/site", *form(fields)).endswith("\n302")
        machine.wait_for("what was entered: configuration 1 is in place", timeout=BOOT, since=since)
        machine.wait_for("the appliance has started with it", timeout=BOOT * 2, since=since)
        reports = set(pacs[1].glob("SR*"))
        send(machine, make_radiograph(tmp_path / "radiograph.dcm", seed=12), BOOT)
        deadline = time.monotonic() + BOOT * 2
        while not set(pacs[1].glob("SR*")) - reports:
            assert time.monotonic() < deadline, "no report came back"
            time.sleep(2)
        assert "Basement 1, configuration 1" in curl("/box")
    finally:
        machine.cut()


def test_13_a_system_on_trial_that_nobody_has_judged_is_left(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """By the unit of the deadline, which a timer starts after 40 minutes, and here the shell that a token opens."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher)
    try:
        commissioned(machine, tmp_path / "commission", publisher, pacs[0])
        machine.cut()
        token = tmp_path / "service.token"
        token.write_text(service.make(identity_of(machine), 4, publisher / "site.key", "a test"))
        since = len(machine.log)
        plug(machine, tmp_path / "update", publisher, next(image("2.0.0").glob("*.raucb")), token)
        since = installed(machine, since)
        machine.wait_for("the ledger is kept aside", timeout=BOOT, since=since)
        machine.wait_for("service mode for a test", timeout=BOOT, since=since)  # the shell reads from then on
        machine.type("\nsystemctl start scanside-deadline\n")
        machine.wait_for("did not prove itself; this system runs again", timeout=BOOT * 2, since=since)
        since += machine.log[since:].index("did not prove itself; this system runs again")
        assert machine.wait_for(*JUDGED, timeout=BOOT * 2, since=since) == JUDGED[0]
    finally:
        machine.cut()


def test_14_a_factory_reset_without_encryption(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """The next start writes over every byte before anything else, and the stick gets the record of it."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher, tpm=False)
    try:
        commissioned(machine, tmp_path / "commission", publisher, pacs[0])
        machine.cut()
        former = identity_of(machine)
        token = tmp_path / "service.token"
        token.write_text(service.make(former, 4, publisher / "site.key", "a test"))
        since = len(machine.log)
        stick = plug(machine, tmp_path / "reset", publisher, token)
        machine.wait_for("service mode for a test", timeout=BOOT, since=since)
        machine.type(f"\nscanside-firmware factory-reset --box {former}\n")
        erased = "every byte of the data partition was written over, and read back"
        machine.wait_for(erased, timeout=BOOT * 3, since=since)
        since += machine.log[since:].index(erased)
        found = answered(machine, stick, tmp_path / "answer", since)
        assert found.name != f"scanside-{former}", "it is the box that it was"
        assert f"box {former}: {erased}" in (found / "factory-reset.txt").read_text()
    finally:
        machine.cut()


def identity_of(machine: Machine) -> str:
    """As its console says it."""
    (said,) = set(re.findall(r"this is box (\w+)", machine.log))
    return str(said)


@pytest.mark.slow
def test_the_image_for_bare_machines_starts_too(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> None:
    """On demand. Its kernel, firmware and backend are others; its console is a screen, so its stick tells."""
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path, "x86-efi"), publisher)
    begin, before = time.monotonic(), len(list(pacs[1].glob("SR*")))
    try:
        stick = plug(machine, tmp_path, publisher, site=site(pacs[0]))
        send(machine, make_radiograph(tmp_path / "radiograph.dcm", seed=11), BOOT * 3)
        print(f"took a radiograph {time.monotonic() - begin:.0f} s after it was switched on")
        deadline = time.monotonic() + BOOT
        while len(list(pacs[1].glob("SR*"))) == before:
            assert time.monotonic() < deadline, "no report came back"
            time.sleep(2)
        answers: list[Path] = []
        while not answers:
            assert time.monotonic() < deadline + BOOT, "nothing lies on the stick"
            time.sleep(10)
            answers = list(read_stick(stick, tmp_path / "answer").glob("scanside-*/what-happened.txt"))
        print(answers[0].read_text())
        assert "is in place" in answers[0].read_text()
    finally:
        machine.cut()


@pytest.fixture
def commissioned_box(
    publisher: Path, image: Callable[..., Path], pacs: tuple[int, Path], tmp_path: Path
) -> Iterator[Machine]:
    machine = Machine(tmp_path / "machine", flashed(image, publisher, tmp_path), publisher)
    commissioned(machine, tmp_path / "commission", publisher, pacs[0])
    yield machine
    machine.cut()


def cuts() -> int:
    return int(os.environ.get("SCANSIDE_VM_CUTS", "20")) // 2


def chance() -> random.Random:
    """When the plug is pulled: at the same points in each run, or at others."""
    return random.Random(int(os.environ.get("SCANSIDE_VM_SEED", "1")))


def survives(cut: Machine, acknowledged: int, folder: Path, publisher: Path) -> str:
    """It starts, is good, and has all that was acknowledged; the version that runs then."""
    try:
        stick = plug(cut, folder / "stick", publisher)
        assert cut.wait_for(*JUDGED, timeout=BOOT * 3) == JUDGED[0]
        cut.wait_for(", with logs", timeout=BOOT)  # on trial there are none; a good system looks again
        found = answered(cut, stick, folder / "answer")
    finally:
        cut.cut()
        cut.disk.unlink()
    recount = json.loads((found / "recount.json").read_text())
    assert recount["faults"] == 0 and recount["counts"]["received"] >= acknowledged, recount
    return str(json.loads((found / "history.json").read_text())["image"]["version"])


@pytest.mark.slow
def test_power_cuts_while_it_receives(commissioned_box: Machine, publisher: Path, tmp_path: Path) -> None:
    """On demand (``-m "vm and slow"``). The plug is pulled in the middle of a C-STORE, or just after it."""
    rng = chance()
    points = []
    for number in range(cuts()):
        radiograph = make_radiograph(tmp_path / f"{number}.dcm", seed=number)
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(send, commissioned_box, radiograph, BOOT)
            time.sleep(rng.uniform(0.5, 8) * SLOW)
            known = number + sent.done()
            points.append((commissioned_box.as_if_cut(tmp_path / f"cut{number}"), known))
            sent.result()
    commissioned_box.cut()
    for number, (cut, known) in enumerate(points):
        print(f"cut {number}: {known} acknowledged; runs {survives(cut, known, tmp_path / str(number), publisher)}")


@pytest.mark.slow
def test_power_cuts_while_it_updates(
    commissioned_box: Machine, publisher: Path, image: Callable[..., Path], tmp_path: Path
) -> None:
    """On demand. The plug is pulled while the slot is written, at the restart, on trial: one of both versions runs."""
    machine, rng = commissioned_box, chance()
    for number in range(3):
        send(machine, make_radiograph(tmp_path / f"{number}.dcm", seed=number), BOOT)
    machine.cut()
    since = len(machine.log)
    plug(machine, tmp_path / "update", publisher, next(image("2.0.0").glob("*.raucb")))
    machine.wait_for("is whole and signed", timeout=BOOT, since=since)
    since, points = len(machine.log), []
    while len(points) < cuts() and not (points and JUDGED[0] in machine.log[since:].partition("BdsDxe: start")[2]):
        time.sleep(rng.uniform(1, 40) * SLOW)
        points.append((machine.as_if_cut(tmp_path / f"cut{len(points)}"), machine.log[since:].splitlines()[-1:]))
    machine.cut()
    for number, (cut, last) in enumerate(points):
        print(f"cut {number} after {last}: runs {survives(cut, 3, tmp_path / str(number), publisher)}")

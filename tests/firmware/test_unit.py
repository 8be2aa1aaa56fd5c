"""The systemd units, judged by systemd itself; the packet filter, judged by nft; what the appliance tells systemd."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance import machine
from firmware import firewall, inbox
from firmware.cli import main
from firmware.image import debian
from tests.firmware.boxes import loader_chose, make_box
from tests.running import CHECKOUT, RunningAppliance

UNITS = CHECKOUT / "firmware" / "systemd"
DROP_INS = sorted((UNITS / "scanside.service.d").glob("*.conf*"))


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_the_units_are_valid(tmp_path: Path) -> None:
    true = shutil.which("true") or "/bin/true"
    for path in [path for kind in ("service", "timer", "path") for path in UNITS.glob(f"*.{kind}")]:
        text = path.read_text()
        for program in ("scanside-firmware", "scanside"):
            text = text.replace(f"/opt/scanside/bin/{program}", true)
        (tmp_path / path.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    of_a_jetson = "scanside-.service.d"  # for all of the box's own
    shutil.copytree(CHECKOUT / "firmware/jetson/files/etc/systemd/system" / of_a_jetson, tmp_path / of_a_jetson)
    for path in units:
        done = analyze("verify", "--man=no", path)
        assert "scanside" not in done.stderr, done.stderr


def test_a_stick_is_looked_through_although_data_does_not_open() -> None:
    unit = (UNITS / "scanside-stick@.service").read_text()
    ordered = {name for line in unit.splitlines() if line.startswith("After=") for name in line[6:].split()}
    assert "scanside-data.service" in ordered and not re.search(r"(?m)^(Requires|BindsTo|Requisite|PartOf)", unit)


def unit(name: str) -> dict[str, set[str]]:
    """The words of each key of a unit."""
    rows = [line.partition("=") for line in (UNITS / name).read_text().splitlines() if not line.startswith("#")]
    return {key: {word for each, _, words in rows if each == key for word in words.split()} for key, _, _ in rows}


def test_no_unit_fails_where_the_esp_can_not_be_mounted() -> None:
    for path in UNITS.rglob("scanside*.*"):
        if path.is_file():
            keys = unit(str(path.relative_to(UNITS)))
            needed = [keys.get(key, set()) for key in ("Requires", "Requisite", "BindsTo", "RequiresMountsFor")]
            assert not set().union(*needed) & {"/efi", "efi.mount"}, path
    assert all("efi.mount" in unit("scanside-prepare.service")[key] for key in ("Wants", "After"))


def test_the_packet_filter_is_loaded_although_data_does_not_open() -> None:
    keys = unit("scanside-firewall.service")
    assert "scanside-data.service" in keys["Wants"] & keys["After"] and "Requires" not in keys


def test_opening_data_ends_so_that_a_system_on_trial_is_judged() -> None:
    """The timer of its deadline waits for sysinit.target, too. A reset that goes on has the time that it needs."""
    data, wipe = unit("scanside-data.service"), unit("scanside-wipe.service")
    assert data["TimeoutStartSec"] == {"600"} and wipe["TimeoutStartSec"] == {"infinity"}
    assert wipe["ConditionPathExists"] == {"/efi/scanside/wiping"} and "efi.mount" in wipe["After"]
    assert "scanside-data.service" in wipe["Before"] & wipe["RequiredBy"]
    assert "scanside-wipe.service" in debian.ENABLED


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.name if path else "alone")
def test_the_appliance_exposes_little(tmp_path: Path, drop_in: Path | None) -> None:
    """systemd's own figure, of at most 2.0, with each drop-in, too."""
    unit = tmp_path / "scanside.service"
    unit.write_text((UNITS / "scanside.service").read_text() + (f"\n{drop_in.read_text()}" if drop_in else ""))
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


EXPOSURE = dict(
    re.findall(r"(?m)^\| `(scanside[\w@-]*\.service)` \| (\d\.\d) \|", (CHECKOUT / "firmware/README.md").read_text())
)


@pytest.mark.parametrize("path", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
def test_a_unit_exposes_no_more_than_is_said(path: Path) -> None:
    """By systemd's own figure; the README says for each unit above 2.0 what it can't do without."""
    threshold = round(float(EXPOSURE[path.name]) * 10)
    done = analyze("security", "--offline=true", f"--threshold={threshold}", path)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


def test_the_unit_that_opens_data_has_no_mounts_of_its_own() -> None:
    """What it mounted there nobody else would see: systemd.exec(5), PrivateMounts=."""
    keys = unit("scanside-data.service")
    own = re.compile(r"Protect(?!Clock)|Private|Bind|Temporary|\w+Paths$")
    assert not [key for key in keys if own.match(key)]


_ALLOWED_FAMILIES = """#!{python}
import ctypes, os, socket, sys

class Compared(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

seccomp, allow, errno_97, equal = ctypes.CDLL("libseccomp.so.2"), 0x7FFF0000, 0x00050000 | 97, 4
seccomp.seccomp_init.restype = ctypes.c_void_p
rules = ctypes.c_void_p(seccomp.seccomp_init(allow))
for family in set(range(46)) - {{{allowed}}}:
    call = seccomp.seccomp_syscall_resolve_name(b"socket")
    assert not seccomp.seccomp_rule_add_array(rules, errno_97, call, 1, ctypes.byref(Compared(0, equal, family, 0)))
assert not seccomp.seccomp_load(rules)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


_CONFINED = """#!{python}
import ctypes, os, sys

seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
rules = ctypes.c_void_p(seccomp.seccomp_init(0x00050000 | 1))  # what is not allowed: EPERM
for name in {calls}:
    call = seccomp.seccomp_syscall_resolve_name(name.encode())
    if call != -1:
        seccomp.seccomp_rule_add_array(rules, 0x7FFF0000, call, 0, None)
assert not seccomp.seccomp_load(rules)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def system_calls(name: str) -> set[str]:
    """Those of a set, such as ``@mount``, or the one of this name."""
    if not name.startswith("@"):
        return {name}
    listed = [line.strip() for line in analyze("syscall-filter", name).stdout.splitlines()]
    inner = [each for each in listed if each and each != name and not each.startswith("#")]
    return {call for each in inner for call in system_calls(each)}


def allowed_calls(text: str) -> set[str]:
    """Those that a unit's lines of SystemCallFilter= leave, the first of which allows."""
    found: set[str] = set()
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", text):
        named = {call for word in line.removeprefix("~").split() for call in system_calls(word)}
        found = found - named if line.startswith("~") else found | named
    return found


@pytest.mark.skipif(
    os.geteuid() != 0 or ctypes.util.find_library("seccomp") is None or shutil.which("setpriv") is None,
    reason="needs root, libseccomp2 and util-linux",
)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("firewall", ["firewall"]),
        ("prepare", ["update", "prepare-start"]),
        ("inbox", ["inbox"]),
        ("stick@", ["stick", "{stick}"]),
        ("confirm", ["update", "confirm", "--seconds", "0"]),
    ],
)
def test_a_unit_does_its_work_with_the_calls_and_capabilities_that_it_keeps(
    tmp_path: Path, name: str, arguments: list[str]
) -> None:
    """On a box that is a folder, whose ledger is another user's. Mounts, disks and the TPM are for the machine."""
    text = (UNITS / f"scanside-{name}.service").read_text()
    words = "".join(re.findall(r"(?m)^CapabilityBoundingSet=.*$", text))
    kept = {each.removeprefix("CAP_").lower() for each in re.findall(r"CAP_\w+", words)}
    known = set(subprocess.run(["setpriv", "--list-caps"], capture_output=True, text=True, check=True).stdout.split())
    dropped = ",".join(f"-{each}" for each in sorted(known - kept) if not each.startswith("cap_"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("nft", "systemctl", "journalctl", "scanside"):
        (programs / program).write_text("#!/bin/sh\ncat > /dev/null; echo called >> $CALLED\n")
        (programs / program).chmod(0o755)
    launcher = tmp_path / "confined"
    launcher.write_text(_CONFINED.format(python=sys.executable, calls=sorted(allowed_calls(text))))
    launcher.chmod(0o755)
    said = []
    for confined in (False, True):
        box = make_box(tmp_path / f"box-{confined}")
        box.configuration.write_text("")
        entries = box.esp / "loader" / "entries"
        if name == "prepare":
            (entries / "scanside-a.conf").rename(entries / "scanside-a+2-1.conf")
        with sqlite3.connect(box.data / "ledger.sqlite3") as ledger:
            ledger.execute("CREATE TABLE seen (at)")
        (box.data / "inbox").mkdir()
        (box.data / "inbox" / "go").touch()
        for path in (box.data, *box.data.rglob("*")):
            os.chown(path, 950, 950)
            path.chmod(0o700)
        stick = tmp_path / f"stick-{confined}"
        stick.mkdir()
        program = ["setpriv", "--no-new-privs", f"--bounding-set={dropped}", launcher] if confined else [sys.executable]
        done = subprocess.run(
            [*program, "-m", "firmware", *(each.format(stick=stick) for each in arguments), "--root", str(box.root)],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=CHECKOUT,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLED": str(tmp_path / "called")},
        )  # fmt: skip
        files = sorted(str(path.relative_to(box.root)) for path in box.root.rglob("*"))
        words = re.sub(r"box-(True|False)|stick-(True|False)", "", done.stdout + done.stderr)
        said.append((done.returncode, re.sub(r"\d+ MiB", "", words), files))
    assert said[0] == said[1]
    assert said[0][0] == (1 if name == "confirm" else 0), said[0][1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_appliance_needs_no_more_kinds_of_sockets_than_its_unit_allows(tmp_path: Path, host: str) -> None:
    """Whatever the page's address; a box once did not start with one that others reach."""
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("libseccomp is not installed (Debian package libseccomp2)")
    (line,) = (each for each in (UNITS / "scanside.service").read_text().splitlines() if "AddressFamilies=" in each)
    families = line.partition("=")[2].split()
    python = tmp_path / "python"
    allowed = ", ".join(f"socket.{each}" for each in families)
    python.write_text(_ALLOWED_FAMILIES.format(python=sys.executable, allowed=allowed))
    python.chmod(0o755)
    appliance = RunningAppliance(tmp_path / "site", web=f'host = "{host}"', python=str(python))
    appliance.start()
    try:
        assert "Traceback" not in appliance.log
        if host == "127.0.0.1":
            with urllib.request.urlopen(f"{appliance.url}device", timeout=30) as page:
                shown = page.read().decode()
            known = [address for each in machine.interfaces() for address in each.addresses]
            assert [address for address in known if address not in shown] == []
    finally:
        appliance.stop()


@pytest.mark.parametrize(
    ("configuration", "opened", "closed"),
    [
        ("", ["tcp dport 11112 accept"], ["8080"]),
        ('[web]\nhost = "0.0.0.0"\nport = 8443\n', ["tcp dport 11112 accept", "tcp dport 8443 accept"], []),
        ("[storage_scp]\nenabled = false\n", [], ["dport 11112"]),
        ('[storage_scp]\nhost = "127.0.0.1"\n', [], ["dport 11112"]),
        (
            '[storage_scp]\nonly_modalities = true\n[[storage_scp.modalities]]\naddress = "192.0.2.0/24"\n'
            '[[storage_scp.modalities]]\naddress = "2001:db8::5"\n',
            ["ip saddr 192.0.2.0/24 tcp dport 11112 accept", "ip6 saddr 2001:db8::5/128 tcp dport 11112 accept"],
            ["\n        tcp dport 11112 accept"],
        ),
        ('[diagnoses]\nport = 2576\naddresses = ["192.0.2.30"]\n', [], ["dport 2576"]),
        (
            '[diagnoses]\nenabled = true\nport = 2576\naddresses = ["192.0.2.30"]\n',
            ["ip saddr 192.0.2.30/32 tcp dport 2576 accept"],
            ["\n        tcp dport 2576 accept"],
        ),
        (
            '[diagnoses]\nenabled = true\n[diagnoses.tls]\nkey = "k"\ncertificate = "c"\nca = "a"\n',
            ["tcp dport 2575 accept"],
            [],
        ),
        ('[diagnoses]\nenabled = true\nhost = "127.0.0.1"\n', [], ["dport 2575"]),
        (
            '[storage_scp]\nonly_modalities = true\n[[storage_scp.modalities]]\nae_title = "CT1"\n',
            ["tcp dport 11112 accept"],
            [],
        ),
    ],
)
def test_only_what_is_configured_is_open(configuration: str, opened: list[str], closed: list[str]) -> None:
    text = firewall.rules(tomllib.loads(configuration))
    assert "policy drop" in text and "hook output" not in text
    assert all(rule in text for rule in opened), text
    assert not any(rule in text for rule in closed), text
    _judged_by_nft(text)


@pytest.mark.parametrize("on_trial", [True, False])
def test_answers_of_dhcp_servers_arrive(on_trial: bool) -> None:
    """They come from a server's own address where a group or everybody was asked, which no connection matches."""
    arriving = firewall.rules({}, on_trial).partition("chain forward")[0]
    assert "udp sport 67 udp dport 68 accept" in arriving
    assert "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept" in arriving


def test_whoever_judges_a_system_loads_the_filter_that_follows_from_it() -> None:
    judges = [text for text in (path.read_text() for path in UNITS.glob("*.service")) if "update confirm" in text]
    assert len(judges) == 2
    assert all("\nExecStopPost=-/opt/scanside/bin/scanside-firmware firewall\n" in text for text in judges)


def test_the_page_does_not_wait_for_what_the_kernel_has_ended(tmp_path: Path) -> None:
    keys = unit("scanside-inbox.service")
    assert {"-/opt/scanside/bin/scanside-firmware", "inbox-ended"} == keys["ExecStopPost"]
    assert keys["OOMPolicy"] == unit("scanside-stick@.service")["OOMPolicy"] == {"continue"}
    box = make_box(tmp_path / "box")

    def ended(working: bool) -> dict[str, Any]:
        inbox.write_report(box, working=working, said=["site.toml: configuration 1 is in place"])
        done = CliRunner().invoke(main, ["inbox-ended", "--root", str(box.root)], env={"SERVICE_RESULT": "oom-kill"})
        assert done.exit_code == 0, done.output
        return dict(json.loads(box.report.read_text()))

    first, *rest = (told := ended(working=True))["said"]
    assert not told["working"] and first == "site.toml: configuration 1 is in place"
    assert rest == ["taking it was cut short: memory ran out; hand over again what is not told here"]
    assert ended(working=False)["said"] == [first]


def test_without_a_configuration_the_filter_is_loaded_although_data_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = make_box(tmp_path / "box")
    box.configuration.unlink()
    (box.firmware_data / "history.jsonl").mkdir(parents=True)
    (tmp_path / "nft").write_text(f"#!/bin/sh\ncat > {tmp_path}/loaded\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = CliRunner().invoke(main, ["firewall", "--root", str(box.root)])
    assert done.output == "the packet filter is loaded; open: nothing\n"
    assert "policy drop" in (loaded := (tmp_path / "loaded").read_text()) and "dport 11112" not in loaded
    entries = box.esp / "loader" / "entries"
    (entries / "scanside-a.conf").rename(entries / "scanside-a+2-1.conf")
    done = CliRunner().invoke(main, ["firewall", "--root", str(box.root)])
    assert done.output == "the packet filter is loaded; open: nothing\n"
    assert "hook output" in (tmp_path / "loaded").read_text()


def test_only_a_system_that_is_known_to_be_good_opens_its_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its ESP, by the loader's own word on this start."""
    box = make_box(tmp_path / "box")
    box.configuration.write_text("")
    shutil.rmtree(box.esp)
    (tmp_path / "nft").write_text("#!/bin/sh\ncat > /dev/null\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def opened() -> str:
        return CliRunner().invoke(main, ["firewall", "--root", str(box.root)]).output.partition("; ")[2]

    assert opened() == "open: nothing\n"
    loader_chose(box, "scanside-a+3.conf")
    assert opened() == "open: nothing\n"
    loader_chose(box, "scanside-a.conf")
    assert opened() == "open: tcp dport 11112\n"
    loader_chose(box, "scanside-a.conf", counted="\\loader\\entries\\scanside-a+2-1.conf")
    assert opened() == "open: nothing\n"


def test_a_system_on_trial_opens_nothing() -> None:
    text = firewall.rules({"web": {"host": "0.0.0.0"}}, on_trial=True)
    assert "dport 11112" not in text and "dport 8080" not in text
    sent = text.partition("hook output")[2]
    assert re.findall(r"policy \w+|dport .* accept|^ *reject$", sent, re.MULTILINE) == [
        "policy drop", "dport { 53, 67, 123, 547 } accept", "dport 53 accept", "        reject",
    ]  # fmt: skip
    _judged_by_nft(text)


def _judged_by_nft(text: str) -> None:
    if shutil.which("nft") is None or os.geteuid():
        return
    done = subprocess.run(["nft", "--check", "--file", "-"], input=text, capture_output=True, text=True, timeout=30)
    if "Operation not" in done.stderr or "cache initialization failed" in done.stderr:
        return  # a kernel without nftables
    assert done.returncode == 0, done.stderr


def test_the_appliance_tells_systemd_that_it_is_ready_and_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        appliance = RunningAppliance(tmp_path)
        appliance.start()
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        appliance.stop()
        words = b""
        while words != b"STOPPING=1":
            words = manager.recv(100)
            assert words in (b"WATCHDOG=1", b"STOPPING=1")

"""A site's configuration and the files that go with it: signed, versioned, in place as a whole, or refused."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware import keys, network, provisioning, signing, site_toml
from firmware.box import Box
from firmware.cli import main
from firmware.errors import FirmwareError, RefusedError
from firmware.firewall import page_port
from tests.firmware.boxes import DyingFiles, PowerCut
from tests.firmware.commissioning import SITE, WITH_FILES, in_force, site, taken, with_files
from tests.running import CHECKOUT


def test_a_site_is_configured_and_comes_back(box: Box, publisher: Path, tmp_path: Path) -> None:
    assert provisioning.apply(box, site(tmp_path / "1", publisher, 1, "FIRST")) == 1
    assert provisioning.apply(box, site(tmp_path / "2", publisher, 2, "SECOND")) == 2
    tables = tomllib.loads(box.configuration.read_text())
    assert tables["storage_scp"]["ae_title"] == "SECOND"
    assert tables["data_dir"] == str(box.data)
    assert "Address=192.0.2.5/24" in (box.configuration.parent / "network" / "50-site.network").read_text()
    with pytest.raises(RefusedError, match="has version 1, and version 2 was applied"):
        provisioning.apply(box, tmp_path / "1" / "site.toml")
    done = CliRunner().invoke(main, ["provision", "back", "1", "--root", str(box.root)])
    assert done.exit_code == 0, done.output
    assert tomllib.loads(box.configuration.read_text())["storage_scp"]["ae_title"] == "FIRST"
    assert "version 2" in CliRunner().invoke(main, ["provision", "history", "--root", str(box.root)]).output


def test_configurations_that_are_turned_away(box: Box, publisher: Path, tmp_path: Path) -> None:
    before = box.configuration.read_text()
    good = site(tmp_path / "1", publisher)
    good.write_text(good.read_text().replace("ORTHANC", "EVIL"))
    with pytest.raises(RefusedError, match="changed after it was signed"):
        provisioning.apply(box, good)
    keys.make(tmp_path / "stranger")
    with pytest.raises(RefusedError):
        provisioning.apply(box, site(tmp_path / "2", tmp_path / "stranger"))
    with pytest.raises(FirmwareError, match="the appliance does not take its tables"):
        provisioning.apply(box, site(tmp_path / "3", publisher, extra="[appliance.web]\nprot = 1\n"))
    other = site(tmp_path / "4", publisher)
    other.write_text(other.read_text().replace("[network]", 'box = "00000000"\n[network]'))
    signing.sign_file(other, publisher / "site.key", provisioning.PURPOSE)
    with pytest.raises(RefusedError, match="is for box 00000000"):
        provisioning.apply(box, other)
    assert box.configuration.read_text() == before
    assert provisioning.history(box) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[site", "is no TOML"),
        ("[site]\nname='x'\n", "site.version is missing"),
        ("[site]\nname='x'\nversion='1'\n", "must be of type int"),
        ("[site]\nname='x'\nversion=1\ncolour='red'\n", "site.colour is not known"),
        ("[site]\nname='x'\nversion=1\n[cloud]\n", "not known: cloud"),
        ("[site]\nname='x'\nversion=1\n[network]\naddress='192.0.2.5'\n", "no prefix length"),
        ("[site]\nname='x'\nversion=1\n[network]\naddress='192.0.2.555/24'\n", "192.0.2.555"),
        ("appliance=1\n[site]\nname='x'\nversion=1\n", "appliance must be a table"),
        ("[site]\nname='x'\nversion=true\n", "must be of type int"),
        ("[site]\nname='x'\nversion=1\ntime_zone='Europe/Berln'\n", "no time zone 'Europe/Berln'.*Europe/Berlin"),
        ("[site]\nname='x'\nversion=1\ntime_zone='../etc/passwd'\n", "no time zone"),
        ("[site]\nname='x'\nversion=1\nntp_servers=[1, {a=2}]\n", "ntp_servers must be a list of strings"),
        ("[site]\nname='x'\nversion=1\nntp_servers=['a b']\n", "'a b' is no name or address of a server"),
        ("[site]\nname='x'\nversion=1\n[network]\ndns=[1]\n", "dns must be a list of strings"),
        (
            "[site]\nname='x'\nversion=1\n[network]\naddress='192.0.2.5/24'\ngateway='10.0.0.1'\n",
            "gateway 10.0.0.1 is not in 192.0.2.0/24",
        ),
        ("[site]\nname='x'\nversion=1\n[network]\nport='eth0 eth1'\n", "'eth0 eth1' is no port"),
        ("[site]\nname='x'\nversion=1\n[[files]]\nname='ca.pem'\n", "files.sha256 is missing"),
        ("[site]\nname='x'\nversion=1\n[[files]]\nname='../x.pem'\nsha256='0'\n", "can't be a file's name"),
        (
            "[site]\nname='x'\nversion=1\n[[files]]\nname='certificate.pem'\nsha256='0'\n",
            "would take files/certificate.pem for the hospital's answer.*pacs-certificate.pem",
        ),
        ("[site]\nname='x'\nversion=1\n[appliance.a]\nca='files/ca.pem'\n", "a.ca names files/ca.pem, which is not"),
    ],
)
def test_a_configuration_that_is_wrong_says_where(text: str, words: str) -> None:
    with pytest.raises(FirmwareError, match=words):
        site_toml.parse(text, "site.toml")


@pytest.mark.parametrize(
    ("address", "gateway", "words"),
    [
        ("192.0.2.0/24", "", "192.0.2.0 is the address of the network 192.0.2.0/24, and no machine's"),
        ("192.0.2.255/24", "", "192.0.2.255 is that of all machines in 192.0.2.0/24"),
        ("127.0.0.1/8", "", "127.0.0.1 is no address that a machine can have in a network"),
        ("0.0.0.0/24", "", "0.0.0.0 is no address"),
        ("224.0.0.1/24", "", "224.0.0.1 is no address"),
        ("255.255.255.255/32", "", "255.255.255.255 is no address"),
        ("::/64", "", ":: is no address"),
        ("::1/128", "", "::1 is no address"),
        ("ff02::1/64", "", "ff02::1 is no address"),
        ("2001:db8::/64", "", "2001:db8:: is the address of the network"),
        ("192.0.2.5/24", "192.0.2.5", "the gateway 192.0.2.5 is the box's own address"),
        ("192.0.2.5/24", "192.0.2.255", "192.0.2.255 is that of all machines"),
        ("dhcp", "192.0.2.254", 'a gateway beside "dhcp" counts for nothing'),
    ],
)
def test_a_network_in_which_nobody_would_reach_the_box_is_refused(address: str, gateway: str, words: str) -> None:
    way = f"gateway='{gateway}'\n" if gateway else ""
    with pytest.raises(FirmwareError, match=re.escape(f"[network]: {words}")):
        network.file({"address": address, **({"gateway": gateway} if gateway else {})})
    with pytest.raises(FirmwareError, match=re.escape(words)):
        site_toml.parse(f"[site]\nname='x'\nversion=1\n[network]\naddress='{address}'\n{way}", "site.toml")


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("192.0.2.0/31", "192.0.2.1"),
        ("192.0.2.255/32", ""),
        ("2001:db8::/127", "2001:db8::1"),
        ("2001:db8::ffff:ffff:ffff:ffff/64", "fe80::1"),
        ("169.254.7.7/16", ""),
    ],
)
def test_a_network_of_few_addresses_is_taken(address: str, gateway: str) -> None:
    lines = network.file({"address": address, **({"gateway": gateway} if gateway else {})}).splitlines()
    assert f"Address={address}" in lines and (f"Gateway={gateway}" in lines) == bool(gateway)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ('[[accounts]]\nname = "joe"\n', "accounts.role is missing"),
        ('[[accounts]]\nname = "joe"\nrole = "king"\n', "no role king"),
        ('[[accounts]]\nname = "joe"\nrole = "viewer"\npassword = "x"\n', "accounts.password is not known"),
        ('[[accounts]]\nname = "a b"\nrole = "viewer"\n', "can't be an account's name"),
        ('[accounts]\nname = "joe"\n', "accounts must be a list"),
        (
            '[[accounts]]\nname = "joe"\nrole = "viewer"\n[[accounts]]\nname = "Joe"\nrole = "viewer"\n',
            "two accounts are named joe",
        ),
        ('accounts = ["joe"]\n', "accounts must be a table"),
    ],
)
def test_accounts_that_are_wrong_are_refused(wrong: str, why: str) -> None:
    base = '[site]\nname = "x"\nversion = 1\n'
    with pytest.raises(FirmwareError, match=why):
        site_toml.parse(wrong + base if wrong.startswith("accounts =") else base + wrong, "site.toml")


def port(box: Box, name: str, address: str, carrier: bool, physical: bool = True) -> None:
    folder = box.root / "sys/class/net" / name
    folder.mkdir(parents=True)
    for key, value in (("type", "1"), ("address", address), ("carrier", str(int(carrier)))):
        (folder / key).write_text(f"{value}\n")
    if physical:
        (folder / "device").touch()


def test_a_static_address_is_at_one_port(box: Box, publisher: Path, tmp_path: Path) -> None:
    """The same one at two ports of a machine would be reached by chance."""
    port(box, "enp1s0", "02:00:00:00:00:01", carrier=True)
    port(box, "enp2s0", "02:00:00:00:00:02", carrier=False)
    port(box, "veth0", "02:00:00:00:00:03", carrier=True, physical=False)
    path = site(tmp_path / "1", publisher)
    assert provisioning.apply(box, path, taken) == 1
    (box.root / "sys/class/net/enp2s0/carrier").write_text("1\n")
    with pytest.raises(FirmwareError, match=r"192.0.2.5/24 would be at 2 ports .*enp1s0 \(02:00:00:00:00:01\)"):
        provisioning.apply(box, path, taken)

    def chosen(which: str) -> str:
        path.write_text(SITE.format(version=1, ae_title="X").replace("[network]", f'[network]\nport = "{which}"'))
        signing.sign_file(path, publisher / "site.key", provisioning.PURPOSE)
        provisioning.apply(box, path, taken)
        return (box.configuration.parent / "network/50-site.network").read_text()

    assert "\nName=enp2s0\n" in chosen("enp2s0")
    assert "\nMACAddress=02:00:00:00:00:01\n" in chosen("02:00:00:00:00:01")
    assert "Unmanaged=yes" in (box.configuration.parent / "network/60-other-ports.network").read_text()
    with pytest.raises(FirmwareError, match=r"no port enp3s0 \(there are enp1s0 .*enp2s0"):
        chosen("enp3s0")


def test_a_box_keeps_its_address_although_its_machine_id_changes() -> None:
    shipped = CHECKOUT / "firmware/image/files/etc/systemd/network/80-dhcp.network"
    for text in (shipped.read_text(), network.file({"address": "dhcp"})):
        assert "DHCP=yes\n" in text and "[DHCPv4]\nClientIdentifier=mac\n" in text


_VALUES = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3)
)
_NAMES = st.text('abc_-1 ."', min_size=1, max_size=6)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_NAMES, st.one_of(_VALUES, st.dictionaries(_NAMES, _VALUES, max_size=3),
                                         st.lists(st.dictionaries(_NAMES, _VALUES, max_size=2), max_size=2)),
                       max_size=4))  # fmt: skip
def test_toml_says_what_it_was_given(tables: dict[str, object]) -> None:
    assert tomllib.loads(provisioning.toml(tables)) == tables


def in_place(box: Box) -> dict[str, bytes]:
    """Every file of what is configured, and of what was."""
    folder = box.configuration.parent
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["cut", "full"])
def test_a_configuration_is_in_place_as_a_whole_or_not_at_all(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Cut, or without room, before each step; a lower version than the one that did not come in place is taken then."""
    provisioning.apply(box, site(tmp_path / "1", publisher, 1, "ONE"), taken)
    fifth, second = site(tmp_path / "5", publisher, 5, "FIVE"), site(tmp_path / "2", publisher, 2, "TWO")
    shutil.copytree(box.configuration.parent, kept := tmp_path / "kept")
    before, steps = in_place(box), 0
    while True:
        files = DyingFiles(steps)
        if kind == "full":
            monkeypatch.setattr(files, "_step", functools.partial(_no_room_after, files))
        try:
            with monkeypatch.context() as patched:
                patched.setattr(provisioning, "Files", lambda files=files: files)
                provisioning.apply(box, fifth, taken)
        except (PowerCut, OSError):
            steps += 1
            assert in_place(box) == before
            assert provisioning.known(box, fifth) == ""
            assert provisioning.apply(box, second, taken) == 2
            assert provisioning.known(box, second) == "configuration 2 is in place already"
            shutil.rmtree(box.configuration.parent)
            shutil.copytree(kept, box.configuration.parent)
        else:
            break
    assert steps > 8
    assert provisioning.known(box, fifth) == "configuration 2 is in place already"
    assert b"FIVE" in in_place(box)["scanside.toml"] and b'"version": 5' in in_place(box)["site.json"]
    assert [path.name for path in box.configuration.parent.parent.iterdir() if "config" in path.name] == ["config"]


def _no_room_after(files: DyingFiles) -> None:
    if files.left == 0:
        raise OSError(28, "No space left on device")
    files.left -= 1


def test_a_configuration_counts_although_the_history_can_not_be_written(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    (box.firmware_data / "history.jsonl").mkdir(parents=True)
    assert provisioning.apply(box, site(tmp_path / "1", publisher), taken) == 1
    assert provisioning.known(box, tmp_path / "1" / "site.toml") == "configuration 1 is in place already"


@pytest.mark.parametrize("wrong", ['"files/"', "5", "[5]"])
def test_trusted_keys_that_are_none_are_refused(box: Box, publisher: Path, tmp_path: Path, wrong: str) -> None:
    path = site(tmp_path / "1", publisher, extra=f"[appliance.models]\ntrusted_keys = {wrong}\n")
    with pytest.raises(FirmwareError, match=r"the appliance does not take its tables: .*\$\.models\.trusted_keys"):
        provisioning.apply(box, path)


def test_the_images_keys_are_trusted_beside_the_sites(box: Box, publisher: Path, tmp_path: Path) -> None:
    for extra, theirs in (("", []), ('[appliance.models]\ntrusted_keys = ["/data/keys"]\n', ["/data/keys"])):
        provisioning.apply(box, site(tmp_path / "1", publisher, extra=extra), taken)
        tables = tomllib.loads(box.configuration.read_text())
        assert tables["models"]["trusted_keys"] == [*theirs, str(box.trust / "models")]


# --- signing ---


def test_signing_a_configuration_checks_it_first(publisher: Path, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[site]\nname = 'x'\n")
    done = CliRunner().invoke(main, ["provision", "sign", str(path), "--key", str(publisher / "site.key")])
    assert done.exit_code == 1 and "site.version is missing" in done.output
    assert not signing.signature_of(path).exists()


def test_signing_has_the_appliance_judge_its_tables(publisher: Path, tmp_path: Path) -> None:
    """As the box does: otherwise a slip is found at the box only."""
    path = tmp_path / "site.toml"
    path.write_text(SITE.format(version=1, ae_title="X") + "[appliance.web]\nprot = 1\n")
    done = CliRunner().invoke(main, ["provision", "sign", str(path), "--key", str(publisher / "site.key")])
    assert done.exit_code == 1 and re.search(r"site.toml: .*tables: \[appliance\]: .*`prot`", done.output), done.output
    assert not signing.signature_of(path).exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[appliance.web.brand]\nlogo = "files/logo.png"\n', r"web.brand.logo: files/logo.png is neither a PNG nor"),
        ('[appliance.web.brand]\naccent_dark = "#000000"\n', r"web.brand.accent_dark = '#000000' has a contrast of"),
        ("[appliance.web]\nport = 11112\n", r"\[appliance\]: storage_scp.port and web.port are both 11112"),
        ('[appliance.inference]\nbackend = "abacus"\n', r"there is no backend 'abacus'"),
    ],
)
@pytest.mark.usefixtures("box")  # the appliance that judges is this one
def test_what_no_appliance_starts_with_is_not_signed(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/logo.png").write_bytes(b"no picture")
    path = tmp_path / "site.toml"
    path.write_text(SITE.format(version=1, ae_title="X") + table)
    with pytest.raises(FirmwareError, match=f"site.toml: .*tables: {words}"):
        provisioning.check(path)


@pytest.mark.usefixtures("box")
def test_accounts_need_a_page_that_others_reach(publisher: Path, tmp_path: Path) -> None:
    path, people = tmp_path / "site.toml", '[[accounts]]\nname = "anna"\nrole = "administrator"\n'
    closed = ("", 'host = "localhost"', 'host = "0.0.0.0"\nenabled = false')
    for web in closed:
        path.write_text(SITE.format(version=1, ae_title="X") + f"[appliance.web]\n{web}\n{people}")
        with pytest.raises(
            FirmwareError, match=r"site.toml: \[\[accounts\]\] are made on the page, .* host = \"0.0.0.0\""
        ):
            provisioning.check(path, taken)
    path.write_text(SITE.format(version=1, ae_title="X") + f'[appliance.web]\nhost = "0.0.0.0"\n{people}')
    sign = ["provision", "sign", str(path), "--key", str(publisher / "site.key")]
    assert CliRunner().invoke(main, sign).output == f"{signing.signature_of(path)}\n"
    path.write_text(SITE.format(version=1, ae_title="X"))
    done = CliRunner().invoke(main, sign)
    assert done.exit_code == 0 and "note: nobody but the box itself reaches its page" in done.output


def test_the_sample_of_the_readme_is_one_that_others_reach() -> None:
    """Whoever copies it has named people, who are to reach the page."""
    readme = (CHECKOUT / "firmware/README.md").read_text()
    sample = next(each for each in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL) if each.startswith("[site]"))
    tables = site_toml.parse(sample, "site.toml")
    assert tables["accounts"] and page_port(tables["appliance"]) == 8080


# --- what goes with a configuration ---


def test_files_go_with_the_configuration_that_lists_them(box: Box, publisher: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(box.data, 65534, 65533)
    provisioning.apply(box, with_files(tmp_path / "1", publisher, 1, "the first secret"), taken)
    path, content = in_force(box)
    assert content == "the first secret" and path.is_relative_to(box.configuration.parent)
    assert path.stat().st_uid == box.data.stat().st_uid
    provisioning.apply(box, with_files(tmp_path / "2", publisher, 2, "the second secret"), taken)
    assert in_force(box)[1] == "the second secret"
    provisioning.go_back(box, 1, taken)
    assert in_force(box)[1] == "the first secret"

    changed = with_files(tmp_path / "3", publisher, 3, "as signed")
    before = in_place(box)
    (tmp_path / "3/files/pacs-password.txt").write_text("another one")
    with pytest.raises(RefusedError, match=r"files/pacs-password.txt is not the one that was signed"):
        provisioning.apply(box, changed, taken)
    (tmp_path / "3/files/pacs-password.txt").unlink()
    with pytest.raises(RefusedError, match=r"files/pacs-password.txt is missing"):
        provisioning.apply(box, changed, taken)
    assert in_place(box) == before


def test_signing_lists_the_files_as_they_are_now_and_changes_nothing_else(publisher: Path, tmp_path: Path) -> None:
    path = with_files(tmp_path, publisher, 1, "one")
    once = path.read_text()
    assert once.startswith(WITH_FILES.format(version=1).rstrip()) and once.count("[[files]]") == 3
    assert provisioning.check(path, taken) == once
    path.write_text(f'{once}\n[appliance.log]\nlevel = "debug"\n')
    (tmp_path / "files/pacs-password.txt").write_text("two")
    again = provisioning.check(path, taken)
    assert 'level = "debug"' in again and again.count("[[files]]") == 3
    assert hashlib.sha256(b"two").hexdigest() in again and hashlib.sha256(b"one").hexdigest() not in again

    (tmp_path / "files/pacs-ca.pem").unlink()
    with pytest.raises(FirmwareError, match=r"destinations.tls.ca names files/pacs-ca.pem, which is not listed"):
        provisioning.check(path, taken)
    path.write_text(once.replace("files/pacs-ca.pem", "pacs-ca.pem"))
    with pytest.raises(FirmwareError, match=r"names pacs-ca.pem, which nothing brings to a box .*files/pacs-ca.pem"):
        provisioning.check(path, taken)
    (tmp_path / "files/notes.docx").write_text("x")
    with pytest.raises(FirmwareError, match=r"notes.docx can't go with site.toml"):
        provisioning.check(path, taken)

"""A stick: what is taken from it, what follows at once or at the next start, and what it gets back."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509

from appliance.accounts import Accounts
from appliance.errors import LoginError
from appliance.store import Store
from firmware import handover, health, logs, provisioning, stick
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError
from tests.certificates import Authority
from tests.firmware.commissioning import certify, in_force, site, taken, with_files
from tests.peers import small_disk


def test_a_stick_is_taken_and_answered(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher, 3, "STICK")
    (folder / "broken.raucb").write_bytes(b"no bundle")
    (folder / "service.token").write_text("guess")
    loaded: list[Box] = []
    heard: list[str] = []
    said = stick.take(box, folder, heard.append, restart=pytest.fail, reload=loaded.append)
    assert said[0] == "site.toml: configuration 1 is in place"
    assert said[1].startswith("broken.raucb: REFUSED") and said[2].startswith("service.token: REFUSED")
    assert loaded == [box] and heard == said
    assert said[-2:] == [
        "what happened lies on the stick in scanside-5eedb0c5, with logs",
        "the appliance has started with it",
    ]
    answer = folder / "scanside-5eedb0c5"
    assert "REFUSED" in (answer / "what-happened.txt").read_text()
    assert x509.load_pem_x509_csr((answer / "request.csr").read_bytes())
    assert (answer / "history.json").exists()


def test_a_stick_brings_files_and_gets_none_back(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover.provisioning, "apply", functools.partial(provisioning.apply, ask=taken))
    folder = tmp_path / "stick"
    with_files(folder, publisher, 1, "the first secret")
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None, ask=taken)
    assert said[0] == "site.toml: configuration 1 is in place" and in_force(box)[1] == "the first secret"
    assert not any("not taken" in line for line in said)
    answer = b"".join(path.read_bytes() for path in (folder / "scanside-5eedb0c5").iterdir())
    assert b"the first secret" not in answer
    (folder / "site.toml").unlink()
    assert stick.take(box, folder, restart=pytest.fail, reload=pytest.fail, ask=taken)[0].startswith(
        "files/: REFUSED: what is in it goes with a configuration"
    )


def test_a_stick_that_can_not_be_read_everywhere_is_answered(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher, 3, "STICK")
    (folder / "certificate.pem").mkdir()
    (folder / "service.token").write_bytes(b"\xff\xfe")
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert said[0] == "site.toml: configuration 1 is in place"
    assert said[1].startswith("certificate.pem: REFUSED: it can't be taken: ") and "Is a directory" in said[1]
    assert said[2].startswith("service.token: REFUSED: it can't be taken: ") and "decode" in said[2]
    assert "Is a directory" in (folder / "scanside-5eedb0c5" / "what-happened.txt").read_text()


def test_a_stick_is_told_what_it_has_under_a_name_that_no_box_takes(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "site.toml").rename(folder / "site.toml.txt")
    (folder / "site.toml.sig").rename(folder / "site.toml (1).sig")
    names = ("V2.RAUCB", "certficate.pem", "SERVICE.TOKEN", "holiday.jpg", "System Volume Information/x", ".Trashes",
             "update/v3.raucb", "update/readme.txt", "scanside-other/request.csr")  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "service.token").hardlink_to(folder / "SERVICE.TOKEN")  # FAT finds the one by the other's name
    said = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    told = (folder / "scanside-5eedb0c5" / "what-happened.txt").read_text()
    for line in (
        "site.toml.txt: not taken: its name must be site.toml",
        "site.toml (1).sig: not taken: its name must be site.toml.sig",
        "V2.RAUCB: not taken: its name must be v2.raucb",
        "certficate.pem: not taken: its name must be certificate.pem",
        "update/v3.raucb: not taken: it must lie at the stick's top",
    ):
        assert line in said and f"{line}\n" in told
    assert [line for line in said if "not taken" in line][5:] == [
        "not taken: holiday.jpg: a box takes site.toml, site.toml.sig, certificate.pem, service.token, "
        "recovery-key.txt, *.scanside and *.raucb"
    ]


def test_what_can_not_be_copied_leaves_nothing_beside(tmp_path: Path) -> None:
    unreadable = Path("/proc/self/mem")  # its first byte answers EIO, as a worn stick's does
    with pytest.raises(OSError, match="Input/output error"):
        Files().copy(unreadable, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


# --- what follows ---


@pytest.mark.long
def test_a_stick_that_is_still_there_at_the_next_start_changes_nothing(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    """Otherwise each start would interrupt what is read, and make one more configuration."""
    folder, loaded = tmp_path / "stick", []

    def plugged(version: int, ae_title: str) -> str:
        site(folder, publisher, version, ae_title)
        return stick.take(box, folder, restart=pytest.fail, reload=loaded.append)[0]

    assert plugged(1, "ONE") == "site.toml: configuration 1 is in place"
    (folder / "certificate.pem").write_bytes(certify((folder / "scanside-5eedb0c5" / "request.csr").read_bytes()))
    stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert len(loaded) == 2
    said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert said[0] == "site.toml: configuration 1 is in place already"
    assert said[1].startswith("certificate.pem: CN=") and said[1].endswith(": in place already")
    assert len(loaded) == 2 and len(provisioning.history(box)) == 1

    assert plugged(2, "TWO") == "site.toml: configuration 2 is in place"
    provisioning.go_back(box, 1)
    assert plugged(2, "TWO").startswith(
        "site.toml: configuration 2 was left for 1 at the box, which stays; `scanside-f"
    )
    assert 'ae_title = "ONE"' in box.configuration.read_text() and len(loaded) == 3
    provisioning.go_back(box, 2)
    assert plugged(2, "OTHER") == "site.toml: configuration 3 is in place"
    assert plugged(2, "TWO") == "site.toml: configuration 4 is in place"  # by another stick again
    box.configuration.unlink()
    assert plugged(2, "TWO") == "site.toml: configuration 5 is in place"


@pytest.mark.long
def test_a_configuration_with_tls_comes_before_the_certificate_that_is_asked_for(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    """The request comes back on the stick that brings it. What else is not there, or does not fit, is refused."""
    folder = tmp_path / "stick"
    tls = '[appliance.storage_scp.tls]\nkey = "keys/scp.key"\ncertificate = "keys/scp.pem"\nca = "keys/{ca}"\n'
    (box.data / "keys").mkdir()
    authority = Authority(tmp_path / "ca", "hospital")
    shutil.copy(authority.ca, box.data / "keys" / "ca.pem")
    site(folder, publisher, extra=tls.format(ca="none.pem"))
    refused = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)[0]
    assert "site.toml: REFUSED: the appliance could not use" in refused and "keys/none.pem" in refused
    assert not provisioning.history(box)
    site(folder, publisher, extra=tls.format(ca="ca.pem"))
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert said[0] == "site.toml: configuration 1 is in place"
    answer = folder / "scanside-5eedb0c5"
    happened = (answer / "what-happened.txt").read_text()
    assert "the appliance has started with it" in happened
    assert f"still to be put right: {box.data}/keys/scp.pem (Storage SCP, shown to scanners): it can't be" in happened
    (folder / "certificate.pem").write_bytes(certify((answer / "request.csr").read_bytes()))
    stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    happened = (answer / "what-happened.txt").read_text()
    assert "the appliance has started with it" in happened and "put right" not in happened
    certificate, _ = authority.issue("other")
    shutil.copy(certificate, box.data / "keys" / "other.pem")
    with pytest.raises(FirmwareError, match="does not belong to the certificate"):
        provisioning.apply(
            box, site(folder, publisher, 2, extra=tls.format(ca="ca.pem").replace("scp.pem", "other.pem"))
        )


@pytest.mark.long
def test_a_configuration_with_which_the_appliance_does_not_start_is_left_again(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    folder, answers = tmp_path / "stick", [""]
    happened = folder / "scanside-5eedb0c5" / "what-happened.txt"

    def plugged(version: int, ae_title: str, *comes_up: str) -> list[str]:
        answers[:] = comes_up
        site(folder, publisher, version, ae_title)
        said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: answers.pop(0))
        assert not answers and (not comes_up or said[-1] in happened.read_text().splitlines())
        return said

    said = plugged(1, "ONE", "scanside: the page can't listen")
    assert "the appliance does NOT start with it: scanside: the page can't listen" in said
    assert 'ae_title = "ONE"' in box.configuration.read_text(), "there is none to go back to"
    plugged(2, "TWO", "")
    said = plugged(3, "THREE", "scanside: the page can't listen", "")
    assert said[-2:] == [
        "the appliance does NOT start with it: scanside: the page can't listen",
        "configuration 3 is left: 2 is in place again, and the appliance runs",
    ]
    assert 'ae_title = "TWO"' in box.configuration.read_text()
    said = plugged(3, "THREE")
    assert "3 was left for 2, since the appliance did not start with it; mend it, raise its version" in said[0]
    said = plugged(4, "FOUR", "it broke", "it broke again")
    assert said[-1].endswith("2 is in place again, and the appliance does not start with it either: it broke again")


def test_a_configuration_is_tried_before_the_update_that_came_with_it(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the update would be judged with it, and sent back for it."""
    folder, order = tmp_path / "stick", []
    site(folder, publisher)
    (folder / "new.raucb").touch()
    monkeypatch.setattr(handover, "_copied_update", lambda *_: ("it is installed", handover.Follows.RESTART))

    def plugged() -> list[str]:
        order.clear()
        stick.take(box, folder, lambda _: None, lambda: order.append("restart"), lambda _: order.append("reload"))
        return order

    assert plugged() == ["reload", "restart"]
    assert plugged() == ["restart"], "the configuration is in place already"


def test_what_systemd_says_of_the_start_is_what_is_said(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    called = tmp_path / "called"
    for name, script in (
        ("systemctl", f'echo "$@" >> {called}; [ "$*" != "restart scanside" ] || [ ! -e {tmp_path}/broken ]'),
        ("journalctl", "printf 'earlier\\nscanside: web.port is taken\\n          stop what uses it\\n'"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(handover.datadisk, "use_site", lambda _: None)
    assert handover.start_anew(box) == ""
    assert called.read_text().splitlines()[-1] == "restart scanside"
    (tmp_path / "broken").touch()
    assert handover.start_anew(box) == "scanside: web.port is taken (stop what uses it)"


# --- logs and codes that it gets back ---


def test_a_stick_without_room_for_the_logs_has_what_happened_and_the_request(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    folder, loaded = tmp_path / "stick", []
    (tmp_path / "bin" / "journalctl").write_text("#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    with small_disk(folder, "1m"):
        site(folder, publisher, 1)
        said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
        answer = folder / "scanside-5eedb0c5"
        lacks = "without all of the logs: [Errno 28] No space left on device"
        assert said[-2] == f"what happened lies on the stick in scanside-5eedb0c5, {lacks}"
        assert (answer / "what-happened.txt").read_text().splitlines()[1:] == said
        assert x509.load_pem_x509_csr((answer / "request.csr").read_bytes())
        assert {path.name for path in answer.iterdir()} >= {"history.json", "recount.json"}
        assert loaded == [box]


def test_a_journal_that_does_not_answer_keeps_nothing_from_taking_effect(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = tmp_path / "stick", []
    (tmp_path / "bin" / "journalctl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    monkeypatch.setattr(logs, "_SECONDS_FOR_JOURNAL", 1)
    site(folder, publisher, 1)
    stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert loaded == [box]
    assert "timed out after 1 seconds" in (folder / "scanside-5eedb0c5" / "journal.txt").read_text()


def test_a_stick_does_not_have_every_image_hashed(box: Box, tmp_path: Path) -> None:
    """With a full disk that takes hours, in which nothing that it brought would count."""
    asked: list[Sequence[str]] = []

    def ask(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        return health.scanside(arguments)

    Store(box.data / "ledger.sqlite3").close()
    logs.export(box, tmp_path / "logs", ask)
    assert [arguments for arguments in asked if "verify" in arguments and "--quick" not in arguments] == []
    assert json.loads((tmp_path / "logs" / "recount.json").read_text())["kind"] == "quick"


def test_exported_logs_hold_no_code_and_no_name_of_a_file(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(box.data / "ledger.sqlite3")
    store.set_component("drop_folder", {"state": "ready", "problems": {"Doe^John.dcm": "can't be read"}})
    accounts = Accounts(box.data / "ledger.sqlite3")
    said = f"make the first account with the one-time code {accounts.new_code()}"
    accounts.close()
    store.close()
    (tmp_path / "bin" / "journalctl").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    logs.export(box, tmp_path / "logs")
    exported = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert exported["journal.txt"] == "make the first account with the one-time code (code left out)\n"
    state = json.loads(exported["status.json"])
    assert state["counts"]["received"] == 0 and "drop_folder" in state["parts"]
    assert not any("Doe" in text for text in exported.values())


@pytest.mark.long
def test_the_stick_has_the_code_for_the_first_account(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder, answer = tmp_path / "stick", tmp_path / "stick" / "scanside-5eedb0c5" / "first-account.txt"
    site(folder, publisher, 1)
    stick.take(box, folder, reload=lambda _: None)
    assert not answer.exists()  # nobody but the box itself reaches the page

    site(folder, publisher, 2, extra='[appliance.web]\nhost = "0.0.0.0"\nport = 8443\n')
    Store(box.data / "ledger.sqlite3").close()  # as the appliance makes it
    stick.take(box, folder, reload=lambda _: None)
    code = answer.read_text().split("with the code ")[1].split()[0]
    assert ":8443/enrol" in answer.read_text()
    stick.take(box, folder, reload=pytest.fail)
    assert code in answer.read_text(), "it stayed in, and its code may have been given out"
    accounts = Accounts(box.data / "ledger.sqlite3")
    assert accounts.enrol(code, "anna", "a long enough password", "192.0.2.7").role == "administrator"
    accounts.close()

    answer.unlink()
    site(folder, publisher, 3, extra='[appliance.web]\nhost = "0.0.0.0"\n')
    stick.take(box, folder, reload=lambda _: None)
    assert not answer.exists()  # anna makes the others


@pytest.mark.long
def test_the_stick_has_codes_for_those_whom_the_configuration_names(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder, answer = tmp_path / "stick", tmp_path / "stick" / "scanside-5eedb0c5" / "accounts.txt"
    people = '[[accounts]]\nname = "anna"\nrole = "administrator"\n[[accounts]]\nname = "joe"\nrole = "clinician"\n'
    web = '[appliance.web]\nhost = "0.0.0.0"\nport = 8443\n'
    Store(box.data / "ledger.sqlite3").close()  # as the appliance makes it
    site(folder, publisher, 1, extra=people + web)
    stick.take(box, folder, reload=lambda _: None)
    told = answer.read_text()
    codes = {name: code for name, role, code in re.findall(r"(?m)^(\w+) +(\w+) +([A-Z0-9-]{19})$", told)}
    assert ":8443/enrol" in told and set(codes) == {"anna", "joe"}
    accounts = Accounts(box.data / "ledger.sqlite3")
    password = "a long enough password"
    assert accounts.enrol(codes["anna"], "anna", password, "192.0.2.7").role == "administrator"

    stick.take(box, folder, reload=pytest.fail)
    assert answer.read_text() == told  # the stick stayed in: joe's code may have been given out
    answer.unlink()
    stick.take(box, folder, reload=pytest.fail)
    assert "joe" in answer.read_text() and codes["joe"] not in answer.read_text()  # lost: another one

    site(folder, publisher, 2, extra=people + web)
    stick.take(box, folder, reload=lambda _: None)
    again = answer.read_text()
    assert "anna" not in again  # who has an account needs no code
    newer = again.split("clinician")[1].split()[0]
    with pytest.raises(LoginError):
        accounts.enrol(codes["joe"], "joe", password, "192.0.2.7")  # that of the latest stick counts
    assert accounts.enrol(newer, "joe", password, "192.0.2.7").role == "clinician"
    accounts.close()

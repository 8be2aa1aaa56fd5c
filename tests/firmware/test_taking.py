"""What is taken, is taken to its end: one at a time, tried whatever came between, and told."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from firmware import handover, inbox, provisioning, service, stick
from firmware.box import Box
from firmware.durable import Files
from tests.firmware.boxes import PowerCut
from tests.firmware.commissioning import certify, site
from tests.firmware.updating import command, on_trial, raise_


@pytest.fixture(autouse=True)
def appliance(tmp_path: Path, box: Box) -> Path:
    """Takes every configuration; what it was called with, in a file."""
    called = tmp_path / "called"
    for name in ("scanside", "systemctl", "systemd-run"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {called}\n')
        program.chmod(0o755)
    return called


def works(_: Box) -> None:
    """The appliance starts."""


def number(box: Box) -> int | None:
    return provisioning.number_in_force(box)


# --- tried, whatever came between ---


@pytest.mark.parametrize("error", [UnsupportedAlgorithm("a new one"), RecursionError("too deep"), TypeError("nobody")])
def test_what_nobody_has_foreseen_keeps_nothing_else_from_counting(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder, loaded = tmp_path / "stick", []
    site(folder, publisher)
    (folder / "certificate.pem").write_bytes(certify(provisioning.request(box, "ai1")))
    monkeypatch.setattr(provisioning, "take_certificate", raise_(error))
    said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert f"certificate.pem: REFUSED: it can't be taken: {error}" in said
    assert loaded == [box] and "the appliance has started with it" in said
    assert "REFUSED" in (folder / "scanside-5eedb0c5" / "what-happened.txt").read_text()


def test_a_stick_that_is_pulled_out_says_so_and_leaves_nothing_untried(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = tmp_path / "stick", []
    site(folder, publisher)
    (folder / "certificate.pem").write_bytes(certify(provisioning.request(box, "ai1")))
    pulled_out = OSError(5, "Input/output error", "certificate.pem")
    with monkeypatch.context() as patched:
        patched.setattr(provisioning, "take_certificate", raise_(pulled_out))
        patched.setattr(stick.left, "passed_over", raise_(pulled_out))
        patched.setattr(stick.Files, "write", _only_on_the_box(folder))
        said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert any("it was pulled out too early, or is worn; bring it again, or on another stick" in line for line in said)
    assert any(line.startswith("the stick can't be written") for line in said)
    assert loaded == [box] and said[-1] == "the appliance has started with it"

    with monkeypatch.context() as patched:
        patched.setattr(handover, "_taken_when_open", raise_(pulled_out))
        said = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    assert said[0].startswith("nothing was taken: ") and "it was pulled out too early" in said[0]


def _only_on_the_box(stick_: Path) -> object:
    write = Files.write

    def to(self: Files, path: Path, content: bytes, mode: int = 0o666) -> None:
        if path.is_relative_to(stick_):
            raise OSError(5, "Input/output error", str(path))
        write(self, path, content, mode)

    return to


@pytest.mark.parametrize("starts", [True, False])
def test_a_configuration_that_a_cut_kept_from_being_tried_is_tried_at_the_next_start(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appliance: Path, starts: bool
) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher, 1, "ONE")
    stick.take(box, folder, restart=pytest.fail, reload=works)
    site(folder, publisher, 2, "TWO")
    with monkeypatch.context() as patched:
        patched.setattr(stick.logs, "export", raise_(PowerCut()))
        with pytest.raises(PowerCut):
            stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    assert number(box) == 2

    appliance.unlink()
    monkeypatch.setattr("firmware.health.wait_until_fit", lambda look, seconds, say: [])
    command(box, "confirm")
    assert "systemctl start --no-block scanside-inbox.service" in appliance.read_text()
    answers = [] if starts else ["scanside: it broke"]
    said = inbox.take(box, restart=pytest.fail, reload=lambda _: answers.pop(0) if answers else "")
    if starts:
        assert said == ["the appliance has started with it"] and number(box) == 2
    else:
        assert said[-1] == "configuration 2 is left: 1 is in place again, and the appliance runs" and number(box) == 1

    appliance.unlink()
    command(box, "confirm")
    assert not appliance.exists() or "inbox" not in appliance.read_text(), "it was tried"
    assert not inbox.take(box, restart=pytest.fail, reload=pytest.fail), "nobody has handed over anything"
    assert not any(line["event"] == "handed_over" for line in box.history())


def test_the_stick_of_a_cut_tries_its_configuration_too(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = tmp_path / "stick", []
    site(folder, publisher)
    with monkeypatch.context() as patched:
        patched.setattr(stick.logs, "export", raise_(PowerCut()))
        with pytest.raises(PowerCut):
            stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert said[0] == "site.toml: configuration 1 is in place already" and loaded == [box]
    assert stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)[0] == said[0]


def test_the_files_of_a_configuration_that_a_cut_stopped_do_not_go_with_the_next(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = box.configuration.parent / "versions" / "0001.files" / "eve.pub"
    Files().write(left, b"her key")
    provisioning.apply(box, site(tmp_path / "stick", publisher))
    assert number(box) == 1 and not left.exists()


# --- one at a time ---


def test_the_page_waits_while_a_stick_is_taken(box: Box, publisher: Path, tmp_path: Path) -> None:
    handed_over = box.data / "inbox"
    site(handed_over, publisher, 2, "PAGE")
    (handed_over / "go").touch()
    said: list[list[str]] = []
    heard: list[str] = []
    page = threading.Thread(
        target=lambda: said.append(inbox.take(box, heard.append, restart=pytest.fail, reload=works))
    )

    def while_it_starts(_: Box) -> None:
        page.start()
        page.join(timeout=1)
        assert page.is_alive() and number(box) == 1, "another one was taken before this one had been tried"

    site(tmp_path / "stick", publisher, 1, "STICK")
    stick.take(box, tmp_path / "stick", restart=pytest.fail, reload=while_it_starts)
    page.join(timeout=60)
    assert heard[0] == "waits until what a stick or the page has brought was taken"
    assert said[0][0].startswith("site.toml: configuration 2 is in place") and number(box) == 2


def test_a_stick_that_a_verdict_finds_at_work_is_looked_through_again(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd starts no unit again that still runs."""
    on_trial(box)
    site(tmp_path / "stick", publisher)
    take = handover.take

    def and_meanwhile(*arguments: object, **how: object) -> handover.Outcome:
        outcome = take(*arguments, **how)  # type: ignore[arg-type]
        box.boot().mark_good("b")
        return outcome

    monkeypatch.setattr(handover, "take", and_meanwhile)
    said = stick.take(box, tmp_path / "stick", restart=pytest.fail, reload=works)
    assert said[0] == "site.toml: configuration 1 is in place"


# --- what does not wait, and what gets nothing ---


def test_a_token_does_not_wait_for_a_verdict(box: Box, publisher: Path, tmp_path: Path, appliance: Path) -> None:
    """The shell is the way to give a system on trial up."""
    on_trial(box)
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "service.token").write_text(service.make("5eedb0c5", 4, publisher / "site.key", "A. Engineer"))
    said = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    assert said[0].startswith("site.toml: waits until this system, which is on trial")
    assert said[1].startswith("service.token: service mode for A. Engineer") and "systemd-run" in appliance.read_text()


def test_an_unsigned_token_can_be_anything(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher)
    nested = service.base64.urlsafe_b64encode(b"[" * 100_000).decode()
    (folder / "service.token").write_text(f"{nested}.AAAA")
    said = stick.take(box, folder, restart=pytest.fail, reload=works)
    assert said[0] == "site.toml: configuration 1 is in place" and said[1].startswith("service.token: REFUSED: ")


def test_what_macos_lays_beside_each_file_is_passed_over(box: Box, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    for name in ("._2.0.0.raucb", "._lungs.scanside", "._site.toml"):
        (folder / name).write_bytes(b"AppleDouble")
    said = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    assert not any("REFUSED" in line or "not taken" in line for line in said)


def test_a_certificate_alone_brings_no_invitation(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no secret: whoever connects gets it. Nor do the codes that were given out end with it."""
    anew: list[bool] = []
    monkeypatch.setattr(stick, "_invite", lambda box, answer, ask, is_new: anew.append(is_new))
    site(tmp_path / "first", publisher)
    certificate = certify(provisioning.request(box, "ai1"))
    stick.take(box, tmp_path / "first", restart=pytest.fail, reload=works)
    assert anew == [True]
    (tmp_path / "anybodys").mkdir()
    (tmp_path / "anybodys" / "certificate.pem").write_bytes(certificate)
    (tmp_path / "first" / "certificate.pem").write_bytes(certificate)
    stick.take(box, tmp_path / "anybodys", restart=pytest.fail, reload=works)
    assert anew == [True]
    stick.take(box, tmp_path / "first", restart=pytest.fail, reload=works)
    assert anew == [True, False]


def test_accounts_without_a_page_are_said(box: Box, publisher: Path, tmp_path: Path) -> None:
    anna = '[[accounts]]\nname = "anna"\nrole = "administrator"\n'
    site(tmp_path / "stick", publisher, extra=anna)
    box.configuration.write_text("")
    said = stick.take(box, tmp_path / "stick", restart=pytest.fail, reload=works)
    assert any("nobody but the box itself reaches its page (set host" in line for line in said)


def test_the_console_keeps_its_code_when_the_deadline_comes(
    box: Box, appliance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firmware.health.wait_until_fit", pytest.fail)
    assert command(box, "confirm", "--seconds", "0", "--only-on-trial") == "0 this system is not on trial\n"
    assert not appliance.exists(), "another code was made"


def test_an_upload_leaves_room_for_what_is_received(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over = box.data / "inbox"
    handed_over.mkdir(parents=True)
    (handed_over / "go").touch()
    (handed_over / "2.0.0.raucb").write_bytes(bytes(2 << 20))
    monkeypatch.setattr("firmware.incoming.shutil.disk_usage", lambda _: SimpleNamespace(free=65 << 20))
    said = inbox.take(box, restart=pytest.fail, reload=pytest.fail)
    assert "has 2 MiB, and the data partition only 65 MiB left (remove old results first" in said[0]
    assert not list(handed_over.iterdir()) and not json.loads(box.report.read_text())["working"]

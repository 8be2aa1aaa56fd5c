"""What an administrator hands over on the page: taken as from a stick, whoever the page's process may be."""

from __future__ import annotations

import functools
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509

from firmware import inbox
from firmware.box import Box
from tests.firmware.boxes import start
from tests.firmware.commissioning import in_force, site, taken, with_files


def hand_over(box: Box) -> Path:
    folder = box.data / "inbox"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go").touch()
    return folder


def report(box: Box) -> dict[str, object]:
    return dict(json.loads(box.report.read_text()))


def test_what_is_signed_is_taken_and_the_page_can_tell_it(box: Box, publisher: Path) -> None:
    folder = hand_over(box)
    site(folder, publisher, 3, "PAGE")
    (folder / "broken.raucb").write_bytes(b"no bundle")
    loaded: list[Box] = []
    said = inbox.take(box, restart=pytest.fail, reload=loaded.append)
    assert said[0] == "site.toml: configuration 1 is in place"
    assert said[1].startswith("broken.raucb: REFUSED")
    assert loaded == [box] and not list(folder.iterdir()) and not (box.incoming / "page").exists()
    told = report(box)
    assert told["said"] == said and not told["working"] and told["box"] == "5eedb0c5"
    assert isinstance(told["request"], str) and x509.load_pem_x509_csr(told["request"].encode())
    assert stat.S_IMODE(box.report.stat().st_mode) == 0o644
    assert box.history()[-1]["event"] == "handed_over"
    assert str(box.report) in box.configuration.read_text()  # so that the page is there, whatever the site says


def test_files_go_with_the_configuration_that_lists_them(
    box: Box, publisher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has no folders; a stick has them in files/."""
    monkeypatch.setattr(
        inbox.handover.provisioning, "apply", functools.partial(inbox.handover.provisioning.apply, ask=taken)
    )
    folder = hand_over(box)
    with_files(folder, publisher, 1, "a secret")
    for path in (folder / "files").iterdir():
        path.rename(folder / path.name)
    (folder / "files").rmdir()
    said = inbox.take(box, restart=pytest.fail, reload=lambda _: None)
    assert said[0] == "site.toml: configuration 1 is in place" and in_force(box)[1] == "a secret"
    assert not list(folder.iterdir()) and "a secret" not in box.report.read_text()


def test_what_opens_a_shell_or_has_no_known_name_is_not_taken(box: Box) -> None:
    folder = hand_over(box)
    for name in ("service.token", "evil.sh", ".hidden.scanside", "half.raucb.part"):
        (folder / name).write_text("x")
    assert inbox.take(box, restart=pytest.fail, reload=pytest.fail) == ["nothing that a box takes was handed over"]
    assert [path.name for path in folder.iterdir()] == ["half.raucb.part"]


def test_links_and_pipes_of_the_pages_process_lead_nowhere(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of root")
    folder = hand_over(box)
    (folder / "site.toml").symlink_to(secret)
    os.mkfifo(folder / "model.scanside")
    (folder / "system.raucb").mkdir()
    said = inbox.take(box, restart=pytest.fail, reload=pytest.fail)
    assert len(said) == 3 and all("REFUSED: it can't be taken" in line for line in said), said
    assert secret.read_text() == "of root"
    assert "of root" not in json.dumps(report(box))


def test_an_inbox_that_is_a_link_leads_nowhere(box: Box, publisher: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "of root"
    site(elsewhere, publisher, 3, "PAGE")
    (elsewhere / "go").touch()
    (elsewhere / "other").touch()
    (box.data / "inbox").symlink_to(elsewhere)
    assert inbox.take(box, restart=pytest.fail, reload=pytest.fail) == ["nothing that a box takes was handed over"]
    assert {path.name for path in elsewhere.iterdir()} == {"site.toml", "site.toml.sig", "go", "other"}
    assert not (box.data / "inbox").is_symlink()


def test_an_update_shows_how_far_it_is_before_the_box_starts_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hand_over(box)
    (folder / "system.raucb").write_bytes(b"bundle")
    seen: list[dict[str, object]] = []

    def take(_box: Box, own: Path, say: inbox.handover.Say, by_hand: bool) -> inbox.handover.Outcome:
        assert (own / "system.raucb").read_bytes() == b"bundle" and not by_hand
        say("system.raucb:  50 %  copying image")
        seen.append(report(box))
        return inbox.handover.Outcome(["system.raucb: 2.0 is installed"], inbox.handover.Follows.RESTART)

    monkeypatch.setattr(inbox.handover, "take", take)
    restarts: list[bool] = []
    inbox.take(box, restart=lambda: restarts.append(True), reload=pytest.fail)
    assert seen[0]["working"] and seen[0]["said"] == ["system.raucb:  50 %  copying image"]
    assert restarts == [True] and report(box)["said"] == ["system.raucb: 2.0 is installed"]


def test_what_is_handed_over_waits_while_a_system_is_on_trial(box: Box) -> None:
    """The earlier system finds it as it was left, and this one once it has proved itself."""
    folder, held = hand_over(box), []
    (folder / "site.toml").write_text("x")
    entries = box.esp / "loader" / "entries"
    (box.esp / "EFI/scanside/b.efi").write_text("b 2.0.0|whole")
    (entries / "scanside-b+2-1.conf").write_text("version 2\nefi /EFI/scanside/b.efi\n")
    start(box, "b", "2.0.0")
    told: list[str] = []
    said = inbox.take(box, told.append, pytest.fail, pytest.fail, hold=lambda: held.append(True))
    assert said == told == report(box)["said"] and "waits until this system, which is on trial" in said[0]
    assert held == [True] and {path.name for path in folder.iterdir()} == {"site.toml", "go"}
    box.boot().mark_good("b")
    assert "REFUSED" in inbox.take(box, restart=pytest.fail, reload=pytest.fail)[0]
    assert not list(folder.iterdir())


def test_what_is_handed_over_as_a_system_becomes_good_is_taken(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict comes between the look at the slot and the stop of the path unit, which nothing else would start."""
    folder, asked = hand_over(box), tmp_path / "asked"
    (folder / "site.toml").write_text("x")
    (box.esp / "EFI/scanside/b.efi").write_text("b 2.0.0|whole")
    (box.esp / "loader/entries/scanside-b+2-1.conf").write_text("version 2\nefi /EFI/scanside/b.efi\n")
    start(box, "b", "2.0.0")
    program = tmp_path / "system" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    said = inbox.take(box, restart=pytest.fail, reload=pytest.fail, hold=lambda: box.boot().mark_good("b"))
    assert "REFUSED" in said[0] and not list(folder.iterdir())
    assert asked.read_text().startswith("start --no-block scanside-inbox.path")


def test_the_page_waits_no_longer_whatever_went_wrong(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(_box: Box, _own: Path, say: inbox.handover.Say, by_hand: bool) -> inbox.handover.Outcome:
        say("system.raucb:  50 %  copying image")
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(inbox.handover, "take", take)
    hand_over(box)
    with pytest.raises(RuntimeError):
        inbox.take(box)
    assert not report(box)["working"] and report(box)["said"] == ["system.raucb:  50 %  copying image"]
    assert not (box.incoming / "page").exists()

"""The commands of the firmware, as they are typed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware import provisioning, signing
from firmware.box import Box
from firmware.cli import main
from tests.firmware.commissioning import site
from tests.running import CHECKOUT, PYTHON


def test_a_factory_reset_wants_the_boxs_name_typed(box: Box) -> None:
    done = CliRunner().invoke(main, ["factory-reset", "--box", "wrong", "--root", str(box.root)])
    assert done.exit_code == 1 and "this is box 5eedb0c5, not wrong" in done.output


def test_help_of_every_command() -> None:
    done = subprocess.run(
        [PYTHON, "-m", "firmware", "--help"], capture_output=True, text=True, cwd=CHECKOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("build", "flash", "verify", "record", "update", "provision", "factory-reset", "export-logs"):
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0
        assert f"  {name} " in done.stdout


# --- what newcomers type ---


def refused(*arguments: str | Path) -> str:
    """What a command says that ends as it should: with a sentence, a hint perhaps, and exit code 1."""
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
    assert done.output.startswith("scanside-firmware: ") and len(done.output.splitlines()) <= 2, done.output
    return done.output


@pytest.mark.parametrize(
    ("name", "address", "words"),
    [
        ("R\u00f6ntgen", "192.0.2.5", "'R\u00f6ntgen' can't be a box's name in the network"),
        ("", "192.0.2.5", "'' can't be a box's name in the network"),
        ("a" * 65, "192.0.2.5", "up to 64 letters"),
        ("ai1", "300.1.1.1", "'300.1.1.1' does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_a_request_that_can_not_be_made_says_why(box: Box, tmp_path: Path, name: str, address: str, words: str) -> None:
    said = refused("provision", "csr", tmp_path / "it.csr", "--name", name, "--address", address, "--root", box.root)
    assert words in said
    assert not (box.data / "keys").exists()


def test_a_folder_that_is_not_there_is_named(box: Box, tmp_path: Path) -> None:
    target = tmp_path / "none" / "it.csr"
    said = refused("provision", "csr", target, "--name", "ai1", "--root", box.root)
    assert said == f"scanside-firmware: {target}: No such file or directory\n"


@pytest.mark.parametrize("command", [("csr", "it.csr", "--name", "ai1"), ("history",), ("certificate", "it.pem")])
def test_a_machine_that_is_no_box_is_told_so_and_gets_no_key(tmp_path: Path, command: tuple[str, ...]) -> None:
    said = refused("provision", *command, "--root", tmp_path)
    assert "image.json can't be read" in said and "run this on a box that was flashed" in said
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_an_editor_has_marked_is_signed_without_the_mark(publisher: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "site.toml", '[site]\nname = "R\u00f6ntgen"\nversion = 1\n'
    path.write_text(text, encoding="utf-8-sig")
    done = CliRunner().invoke(main, ["provision", "sign", str(path), "--key", str(publisher / "site.key")])
    assert done.exit_code == 0, done.output
    assert path.read_bytes() == text.encode()
    assert signing.verify_file(path, [publisher / "site.pub"], provisioning.PURPOSE) == text.encode()
    path.write_text(text, encoding="utf-16")
    assert "is no text in UTF-8" in refused("provision", "sign", path, "--key", publisher / "site.key")


def test_a_text_that_is_none_is_two_lines_too(box: Box, publisher: Path, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[site]", encoding="utf-16")
    signing.sign_file(path, publisher / "site.key", provisioning.PURPOSE)
    assert "a file holds something else than its name says" in refused("provision", "apply", path, "--root", box.root)


def test_a_key_for_something_else_signs_nothing_for_a_site(box: Box, publisher: Path, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[site]\nname = "x"\nversion = 1\n')
    said = refused("provision", "sign", path, "--key", publisher / "models.key")
    assert "models.key does not belong to" in said and "name site.key; nothing was signed" in said
    assert not signing.signature_of(path).exists()
    assert "models.key does" in refused(
        "service-token", "--box", "5eedb0c5", "--who", "x", "--key", publisher / "models.key"
    )
    signing.sign_file(path, publisher / "models.key", provisioning.PURPOSE)  # in a folder without site.pub
    said = refused("provision", "apply", path, "--root", box.root)
    assert "was not signed by a key that is trusted here" in said and "with the key of site.pub" in said


def test_what_is_in_place_says_when_it_counts(box: Box, publisher: Path, tmp_path: Path) -> None:
    path = site(tmp_path / "1", publisher)
    for command in (("apply", path), ("back", "1")):
        done = CliRunner().invoke(main, ["provision", *map(str, command), "--root", str(box.root)])
        assert "it counts from the next start of the box, which reads network" in done.output

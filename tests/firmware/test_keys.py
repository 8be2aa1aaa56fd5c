"""A publisher's keys: secret, kept, and never in a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware import keys
from firmware.durable import Files
from firmware.errors import FirmwareError


def test_keys_never_in_a_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(FirmwareError, match="lies in the repository"):
        keys.make(tmp_path / "sub" / "keys")


def test_keys_are_secret_and_kept(publisher: Path) -> None:
    for path in publisher.glob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert keys.make(publisher) == []


def test_a_publishers_keys_are_nobody_elses_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.key").write_bytes(b"")  # a cut left it
    modes = {}
    rename = Files.rename

    def looking(self: Files, old: Path, new: Path) -> None:
        modes[new.name] = old.stat().st_mode & 0o777
        rename(self, old, new)

    monkeypatch.setattr(Files, "rename", looking)
    keys.make(tmp_path)
    names = ("image", "site", "models", "pk", "kek", "db", "update-ca", "release")
    assert {name: mode for name, mode in modes.items() if name.endswith(".key")} == {
        f"{name}.key": 0o600 for name in names
    }

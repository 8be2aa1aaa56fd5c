"""What the tests of updates share: a box that takes bundles, one bundle, and what was asked of systemd."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from firmware.box import Box
from tests.firmware.boxes import make_box
from tests.firmware.updating import RAUC, make_bundle


@pytest.fixture(scope="session")
def second(publisher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if RAUC is None:
        pytest.skip("Debian package rauc")
    return make_bundle(tmp_path_factory.mktemp("bundle"), publisher)


@pytest.fixture
def box(tmp_path: Path, publisher: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = make_box(tmp_path / "box")
    shutil.copy(publisher / "update-ca.pem", made.trust)
    stand_ins = Path(__file__).parents[1] / "stand_ins"
    monkeypatch.setenv("PATH", f"{stand_ins}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("REAL_RAUC", RAUC or "")
    monkeypatch.setenv("FAKE_BOX", str(made.root))
    content = tmp_path / "mounted"
    content.mkdir()
    for slot in ("a", "b"):
        (content / f"{slot}.efi").write_text(f"{slot} 2.0.0|whole")
    monkeypatch.setenv("RAUC_BUNDLE_MOUNT_POINT", str(content))
    return made


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemctl was asked for, a line each."""
    program, asked = tmp_path / "system" / "systemctl", tmp_path / "system" / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    asked.touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return asked

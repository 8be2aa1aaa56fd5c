"""What the tests of the firmware share: a publisher's keys, and a box that trusts its site."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from firmware import keys
from firmware.box import Box
from tests.firmware.boxes import make_box
from tests.running import CHECKOUT, PYTHON


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keys.make(folder)
    return folder


@pytest.fixture
def box(tmp_path: Path, publisher: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = make_box(tmp_path / "box")
    shutil.copy(publisher / "site.pub", made.trust)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scanside").write_text(f'#!/bin/sh\ncd {CHECKOUT} && exec {PYTHON} -m appliance "$@"\n')
    (programs / "scanside").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return made

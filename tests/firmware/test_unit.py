"""The systemd unit, judged by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.running import CHECKOUT

UNIT = CHECKOUT / "firmware" / "systemd" / "scanside.service"


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_the_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / "scanside.service"
    unit.write_text(UNIT.read_text().replace("/opt/scanside/bin/scanside", shutil.which("true") or "/bin/true"))
    done = analyze("verify", "--man=no", unit)
    assert "scanside.service" not in done.stderr, done.stderr


def test_the_unit_exposes_little() -> None:
    done = analyze("security", "--offline=true", "--threshold=20", UNIT)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr

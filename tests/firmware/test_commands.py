"""The commands of the firmware, as they are typed."""

from __future__ import annotations

import subprocess

from click.testing import CliRunner

from firmware.box import Box
from firmware.cli import main
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

"""A data folder with a configuration, on which the command line works as on a device; no appliance runs there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance import installed
from appliance.assessment_store import Assessments
from appliance.cli import main
from appliance.config import Config
from appliance.config_file import load
from appliance.in_service import try_out
from appliance.pipeline import Pipeline
from appliance.store import Store
from tests import fake_package
from tests.filled import fill

MODEL = "chest-pneumonia"


class Device:
    """A data folder with a configuration, on which the command line works as on a device."""

    def __init__(self, folder: Path, output: pytest.CaptureFixture[str]) -> None:
        self.folder, self._output = folder, output
        self.path = folder / "scanside.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(
            f'data_dir = "box"\n[models]\npackages = ["{fake_package.BUNDLED[0]}"]\n'
            f'trusted_keys = ["{folder / "better" / "trusted"}", "{folder / "worse" / "trusted"}"]\n'
            '[inference]\nbackend = "onnxruntime"\n'
        )
        Store(self.config.ledger_path).close()

    @property
    def config(self) -> Config:
        return load(self.path)

    def call(self, *arguments: str | Path, code: int = 0) -> str:
        """What a command prints, on either stream."""
        return self.plain(*arguments, "--config", self.path, code=code)

    def plain(self, *arguments: str | Path, code: int = 0) -> str:
        """One that takes no configuration."""
        self._output.readouterr()
        try:
            done = main([*map(str, arguments)], standalone_mode=False) or 0
        except SystemExit as ended:
            done = ended.code
        said = "".join(self._output.readouterr())
        assert done == code, said
        return said

    def reads(self) -> list[str]:
        return [str(each) for each in installed.packages(self.config)]

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.call("models", "history", "--json"))
        return found

    def read(self, *paths: Path) -> list[int]:
        config = self.config
        opened = Pipeline.open(config, try_out(config), "2.25.1")
        try:
            return [fill(config, opened, [path]) for path in paths]
        finally:
            opened.close()

    def assess(self, number: int, present: bool) -> None:
        """A reader says whether the first finding of a result is there."""
        assessments = Assessments(self.config.ledger_path)
        row = assessments.instance(number)
        assert row is not None
        said = row["findings"][0]
        verdict, reason = ("agree", "") if said["positive"] == present else ("disagree", "")
        if verdict == "disagree":
            reason = "missed" if present else "not_there"
        if verdict == "agree" and said["unsure"]:
            verdict, reason = "disagree", "missed" if present else "not_there"
        assessments.assess(number, "finding", said["label"], verdict, reason)  # type: ignore[arg-type]

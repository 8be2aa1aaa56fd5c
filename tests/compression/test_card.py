"""The card of a model whose report is older than the figures that a report has now."""

from __future__ import annotations

import json

from appliance import package, signature
from compression.card import write_card
from compression.recipe import read
from tests.running import CHECKOUT

FOLDER = CHECKOUT / "models" / "chest-pneumonia"


def test_a_report_from_before_has_a_card() -> None:
    (path,) = FOLDER.glob("*.scanside")
    manifest = package.read(path, signature.load_trusted_keys((signature.TRUSTED_KEYS,))).manifest
    report = json.loads((FOLDER / "report.json").read_text())
    for found in (report, *report["sets"].values()):
        for key in ("site_prevalence", "drop", "gaps", "operating_points"):
            found.pop(key, None)
    card = write_card(read(FOLDER / "recipe.toml"), manifest, report)
    assert "## How well it does" in card
    assert "What a result means" not in card

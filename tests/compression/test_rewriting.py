"""A shipped package under a later version: card and report say what today's recipe says, all else stays as it was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance import package, signature
from compression.cli import main
from tests.running import CHECKOUT

NOT_BLIND = "figures on the test and lungs-external are not blind"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of lungs, its recipe with a later version and other words; and a key."""
    folder = tmp_path / "lungs"
    shutil.copytree(CHECKOUT / "models" / "lungs", folder)
    changed(folder, f'version = "{shipped(folder).manifest.version}"', 'version = "1.99.0"')
    changed(folder, 'looked_at = ["lungs-external"]', 'looked_at = ["test", "lungs-external"]')
    assert CliRunner().invoke(main, ["keygen", str(tmp_path / "key.pem")]).exit_code == 0
    return folder


def changed(folder: Path, old: str, new: str) -> None:
    text = (folder / "recipe.toml").read_text()
    assert old in text
    (folder / "recipe.toml").write_text(text.replace(old, new, 1))


def shipped(folder: Path) -> package.Package:
    (path,) = (each for each in folder.glob("*.scanside") if "1.99.0" not in each.name)
    return package.read(path, signature.load_trusted_keys((signature.TRUSTED_KEYS,)))


def rewrite(folder: Path) -> Result:
    arguments = ["rewrite-card", str(folder / "recipe.toml"), str(shipped(folder).path)]
    return CliRunner().invoke(main, [*arguments, "--key", str(folder.parent / "key.pem")])


def test_the_words_are_made_anew_and_all_else_stays(folder: Path) -> None:
    before, report = shipped(folder), json.loads((folder / "report.json").read_text())
    assert NOT_BLIND not in before.card
    done = rewrite(folder)
    assert done.exit_code == 0, done.output
    after = package.read(folder / "lungs-1.99.0.scanside", signature.load_trusted_keys((folder.parent,)))
    card, page = (folder / "card.md").read_text(), (folder / "report.html").read_text()
    assert after.card == card
    for text in (card, page):
        assert NOT_BLIND in text and "1.99.0" in text
    kept = set(before.manifest.files) - {before.manifest.card}
    assert kept == set(after.manifest.files) - {after.manifest.card}
    assert all(after.file(name) == before.file(name) for name in kept)
    assert after.manifest.targets == before.manifest.targets
    origin = after.manifest.training["card_rewritten_of"]
    assert (origin["version"], origin["package_sha256"]) == (before.manifest.version, before.sha256)
    assert {**before.manifest.training, "card_rewritten_of": origin} == after.manifest.training
    assert json.loads((folder / "report.json").read_text())["sets"] == report["sets"]


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('version = "1.99.0"', 'version = "{version}"', "another version"),
        ('id = "lungs"', 'id = "lobes"', "the same id"),
        ('views = ["PA", "AP"]', 'views = ["PA"]', "package.accepts is not what lungs"),
        ('"diagnosis, or measuring', '"measuring', "package.intended_use is not what lungs"),
    ],
)
def test_a_recipe_that_says_more_otherwise_is_refused(old: str, new: str, word: str, folder: Path) -> None:
    changed(folder, old, new.replace("{version}", shipped(folder).manifest.version))
    refused_for(folder, word)


def test_figures_of_another_build_are_refused(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["sets"]["test"]["networks"]["pruned float"]["mean"]["dice"][0] += 0.001
    (folder / "report.json").write_text(json.dumps(report))
    refused_for(folder, "the figures of cpu in .*report.json are not those of lungs")


def test_a_report_that_lacks_what_is_told_today_or_is_not_there_is_named(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    del report["subgroup_margin"]
    (folder / "report.json").write_text(json.dumps(report))
    refused_for(folder, "report.json lacks 'subgroup_margin'.*build the package anew")
    (folder / "report.json").unlink()
    refused_for(folder, "report.json, of whose figures")


def refused_for(folder: Path, word: str) -> None:
    """And nothing was written."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused = rewrite(folder)
    assert refused.exit_code == 1
    assert re.search(word, refused.output), refused.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before

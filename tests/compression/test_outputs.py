"""What a command can't write is told in a sentence, before the work where that can be known."""

from __future__ import annotations

import resource
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from compression.cli import main
from compression.cli.options import Output
from tests.compression.test_recipe_and_data import RECIPE, write_data_set

READINGS = "image,reader,label\na,1,x\na,2,x\nb,1,y\nb,2,x\n"


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    (tmp_path / "readings.csv").write_text(READINGS)
    return tmp_path / "readings.csv"


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("readers FILE", "--out"),
        ("reader-study FILE --truth FILE --scores FILE", "--out"),
        ("check-data RECIPE", "--work"),
        ("check-data RECIPE", "--out"),
        ("contact-sheet RECIPE", "--out"),
        ("build RECIPE", "--work"),
        ("build RECIPE", "--trust"),
        ("add-reference RECIPE FILE --key FILE", "--work"),
        ("keygen", ""),
        ("keygen FOLDER/new.pem", "--trust"),
        ("import folder FOLDER", ""),
        ("deidentify FOLDER", ""),
    ],
)
def test_an_output_below_a_file_is_refused_before_any_work(command: str, output: str, readings: Path) -> None:
    named = {"FILE": str(readings), "RECIPE": str(RECIPE), "FOLDER": str(readings.parent)}
    words = [named.get(word, word.replace("FOLDER", named["FOLDER"])) for word in command.split()]
    target = readings / "below" / "new"
    refused = run(*words, *filter(None, [output]), target)
    assert refused.exit_code == 2
    assert f"{target} can't be written: {readings} is no folder; name another place" in refused.output
    assert sorted(readings.parent.iterdir()) == [readings]


def test_every_option_that_names_something_to_write_is_looked_at_first() -> None:
    """Options of these names; the keys are read, too, and say for themselves what is wrong."""
    outputs = {
        f"{name} {parameter.name}": parameter.type
        for name, command in main.commands.items()
        for parameter in command.params
        if parameter.name in ("out", "work", "trust", "target")
        and not isinstance(parameter.type, click.types.StringParamType)
    }
    assert len(outputs) == 12
    assert [name for name, kind in outputs.items() if not isinstance(kind, Output)] == []


def test_folders_above_an_output_are_made(readings: Path) -> None:
    out = readings.parent / "new" / "folder" / "labels.csv"
    assert run("readers", readings, "--out", out).exit_code == 0
    assert out.read_text().splitlines()[1] == "a,x,x 2"


def test_a_place_where_nothing_can_be_made_is_named(readings: Path) -> None:
    for out in ("/proc/labels.csv", "/proc/new/labels.csv"):
        refused = run("readers", readings, "--out", out)
        assert refused.exit_code != 0
        assert "/proc/" in refused.output
        assert "name" in refused.output


def test_a_disk_that_fills_up_is_told_with_the_file(readings: Path) -> None:
    out = readings.parent / "labels.csv"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        refused = run("readers", readings, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.exit_code == 1
    assert f"no room left on the disk for {out}; free some space and run the same command again" in refused.output


def test_a_default_folder_that_can_t_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=12)
    write_data_set(tmp_path / "data" / "chest-nih", patients=12)
    monkeypatch.chdir(tmp_path)
    Path(".build").touch()
    refused = run("contact-sheet", RECIPE, "--data", "data", "--images", "1", "--copies", "1")
    assert refused.exit_code == 1
    assert "Error: .build/chest-pneumonia: Not a directory; a file lies where a folder should be" in refused.output

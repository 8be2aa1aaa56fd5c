"""A file with several pages is no one image: it is refused, wherever pictures come in, and named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from compression import data, masks, sources
from compression.cli import main
from compression.problems import DataError
from compression.recipe import RecipeError, read
from tests.compression.test_check_data import DataSet
from tests.compression.test_recipe_and_data import RECIPE, make_build

SAID = "it has 2 pages; give each image a file of its own"


def pages(path: Path, values: np.ndarray, count: int = 2) -> Path:
    first, *others = (PillowImage.fromarray(values) for _ in range(count))
    first.save(path, save_all=True, append_images=others)
    return path


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    """Radiographs, the first of which is the first of two pages."""
    made = DataSet(tmp_path)
    pixels, made.rows[0]["file"] = made.pixels(0), "images/pages.tif"
    pages(made.path(0), pixels)
    return made


def test_check_data_counts_it_as_corrupt(data_set: DataSet) -> None:
    (found,) = data_set.report()["sets"]["chest-kermany"]["faults"]["corrupt image"]
    assert found["file"] == "images/pages.tif"
    assert SAID in found["what"]


def test_a_build_stops_at_its_first_stage(data_set: DataSet) -> None:
    data_set.write()
    build = make_build(read(RECIPE), data_set.root)
    build.folder("data").mkdir(parents=True)
    with pytest.raises(RecipeError, match=rf"pages\.tif can't be decoded: {SAID}"):
        data.run(build)


def test_an_import_stops_or_leaves_it_out(data_set: DataSet) -> None:
    data_set.write()
    target = data_set.root / "imported"
    arguments = ["import", "folder", str(data_set.folder), str(target)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert SAID in refused.output and "pages.tif" in refused.output and "--skip-corrupt" in refused.output
    done = CliRunner().invoke(main, [*arguments, "--skip-corrupt"])
    assert done.exit_code == 0, done.output
    assert len(json.loads((target / "import.json").read_text())["skipped"]["corrupt image"]) == 1


def test_a_mask_of_several_pages_is_refused_too(data_set: DataSet) -> None:
    mask = pages(data_set.folder / "mask.tif", np.ones((96, 96), dtype=np.uint8))
    with pytest.raises(DataError, match=rf"mask\.tif can't be decoded: {SAID}"):
        masks.read(mask, sources.read([data_set.path(1)]))
    for row in data_set.rows:
        row["mask"] = ""
    data_set.rows[1]["mask"] = mask.name
    (found,) = data_set.report()["sets"]["chest-kermany"]["faults"]["corrupt mask"]
    assert found["file"] == "mask.tif"
    assert SAID in found["what"]


@pytest.mark.parametrize("suffix", ["tif", "gif", "png"])
def test_one_page_is_an_image_whatever_its_form(suffix: str, tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(data.decode(pages(tmp_path / f"one.{suffix}", values, 1)), values)
    other = tmp_path / f"two.{suffix}"
    PillowImage.fromarray(values).save(
        other, save_all=True, append_images=[PillowImage.fromarray(np.ascontiguousarray(values.T))]
    )
    with pytest.raises(RecipeError, match=SAID):
        data.decode(other)

"""A package's drift reference: made by the device's own path, added without touching anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import package
from appliance.drift.measure import Space
from appliance.drift.reference import from_arrays
from appliance.drift.streams import Categories
from appliance.image import Image
from appliance.volume import Volume
from compression import reference
from compression.inference import EMBEDDING
from compression.segmentation import cases
from compression.segmentation import reference as segmented
from tests import fake_package
from tests.dicom_files import chest_pixels

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


def images(first: int, count: int) -> list[Image]:
    return [reference.plain(chest_pixels(120, 100, 8, seed)) for seed in range(first, first + count)]


def volume(number: int) -> Image | Volume:
    z, y, x = np.mgrid[-1:1:20j, -1:1:26j, -1:1:22j]
    pixels = 200 * np.exp(-4 * (z**2 + y**2 + x**2 * (1 + number / 9)))
    return segmented.as_read(cases.Source(pixels, np.zeros(pixels.shape, np.uint8), (1.0, 1.0, 1.0)))


def test_a_reference_is_made_added_and_read_by_the_device(tmp_path: Path) -> None:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    arrays, studies = reference.make(opened, lambda: images(0, 12), lambda: images(50, 9), ["cpu"])
    files = {name: opened.file(name) for name in opened.manifest.files if name != reference.FILE}
    added = reference.added(opened, files, arrays, studies)
    contents = {name: added.file(name) for name in (*files, reference.FILE)}
    package.write(tmp_path / "a.scanside", added.manifest, contents, Ed25519PrivateKey.generate())
    found = package.read(tmp_path / "a.scanside", None)
    assert found.manifest.drift == reference.spec(opened, 9)
    assert all(found.file(name) == content for name, content in files.items())
    usual = from_arrays(found.drift(), "cpu")
    assert usual is not None
    assert usual.studies == 9
    assert {"contrast", "distance", "novelty", "score", "positive"} <= set(usual.counts)
    assert not {"age", "kvp", "levels", "sharpness"} & set(usual.counts)
    assert usual.matrix(Categories()).sum(axis=1).max() == 9
    assert from_arrays(found.drift(), "openvino") is None
    assert Space.of_package(found.drift(), "openvino") is None


def test_a_segmentation_has_how_much_it_outlines_and_how_sure_it_is(tmp_path: Path) -> None:
    opened = package.read(fake_package.lungs(tmp_path), None)
    arrays, studies = reference.make(opened, lambda: images(0, 12), lambda: images(50, 9))
    usual = from_arrays(arrays, "cpu")
    assert usual is not None
    assert usual.studies == studies == 9
    assert {"outlined", "outline_doubt", "distance", "contrast"} <= set(usual.counts)
    assert not {"score", "positive", "sharpness", "age"} & set(usual.counts)


def test_a_volume_is_read_as_the_device_reads_it(tmp_path: Path) -> None:
    opened = package.read(fake_package.hippocampus(tmp_path), None)
    volumes = [volume(number) for number in range(9)]
    arrays, _ = reference.make(opened, lambda: volumes, lambda: volumes)
    usual = from_arrays(arrays, "cpu")
    assert usual is not None
    outlined = usual.counts["outlined"]
    assert isinstance(outlined, np.ndarray)
    assert outlined.sum() == 9
    assert outlined[0] == 0  # of each it is known


def test_training_images_lie_at_about_one_and_others_beyond() -> None:
    chance = np.random.default_rng(0)
    embeddings = chance.normal(2, 1, (300, 80)) * np.linspace(3, 0.1, 80)
    where = reference.space(embeddings)
    usual = [where.values(each) for each in embeddings]
    assert np.median([float(str(each["distance"])) for each in usual]) == pytest.approx(1, abs=0.2)
    assert np.median([float(str(each["novelty"])) for each in usual]) == pytest.approx(1, abs=0.2)
    odd = where.values(embeddings[0] + 30)
    assert float(str(odd["distance"])) > 3
    assert float(str(odd["novelty"])) > 3
    assert where.values(np.full(80, np.nan)) == where.values(np.zeros(7)) == {}


@pytest.mark.parametrize(("name", "most"), [("chest-pneumonia", 408), ("lungs", 277), ("hippocampus", 48)])
def test_the_bundled_reference_is_of_patients_that_it_was_not_trained_on(name: str, most: int) -> None:
    opened = package.read(package.bundled(name)[0], None)
    assert opened.manifest.drift is not None
    assert opened.manifest.drift.studies == most
    for target in opened.manifest.targets:
        usual, where = from_arrays(opened.drift(), target), Space.of_package(opened.drift(), target)
        assert usual is not None
        assert where is not None
        assert usual.studies == opened.manifest.drift.studies
    # The embedding is an output of every network, so that its distance costs a device nothing.
    source = images(0, 1)[0] if not opened.takes_volumes else volume(0)
    outputs = next(iter(reference.ask(opened, "cpu", [source]))).outputs
    assert outputs[EMBEDDING].shape == where.mean.shape

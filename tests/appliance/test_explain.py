"""Occlusion: what is covered, what is said of it, and in whose left and right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from appliance import occlusion, package
from appliance.occlusion import Occlusion
from appliance.orientation import side_at_left
from tests.dicom_files import make_radiograph
from tests.running import scanside


def found(whole: float, **thirds: float) -> Occlusion:
    """An occlusion whose named ninths (``lower_left``) have these probabilities, and the others the whole's."""
    table = np.full((3, 3), whole)
    for row, column in np.ndindex(3, 3):
        table[row, column] = thirds.get(occlusion.region(row, column).replace(" ", "_"), whole)
    return Occlusion(whole, table, np.zeros((6, 6)))


def test_only_the_covered_part_changes_and_each_once() -> None:
    chance = np.random.default_rng(0)
    tensor = chance.normal(size=(1, 1, 20, 31)).astype(np.float32)
    seen: list[np.ndarray] = []

    def probability(given: np.ndarray) -> float:
        seen.append(given)
        return float(np.isclose(given, tensor.mean()).mean())

    result = occlusion.occlude(tensor, probability)
    assert len(seen) == 1 + 9 + 36
    assert (seen[0] == tensor).all()
    for group, parts in ((seen[1:10], 3), (seen[10:], 6)):
        times = sum((given != tensor).astype(int) for given in group)
        assert (times == 1).all()
        assert len(group) == parts**2
    assert result.thirds.sum() == pytest.approx(1.0, abs=1e-6)
    assert (seen[7] != tensor)[0, 0, 13:, :10].all()  # lower left


LITTLE = "covering elsewhere changes it by less than one point at most."


@pytest.mark.parametrize(
    ("given", "at_left", "words"),
    [
        (found(0.93, lower_left=0.41), "R",
         "Covering the lower left of the image (the patient's right) lowers the probability of pneumonia from 93.0 % "
         f"to 41 %, below the threshold of 50 %; {LITTLE}"),
        (found(0.6, middle_right=0.9, upper_middle=0.75, center=0.58), "R",
         "Covering the middle right of the image (the patient's left) raises the probability of pneumonia from 60 % to "
         "90 %; covering the upper middle raises it to 75 %, and covering elsewhere changes it by 2 points at most."),
        (found(0.93, lower_left=0.6), "L",
         "Covering the lower left of the image (the patient's left) lowers the probability of pneumonia from 93.0 % to "
         f"60 %; {LITTLE}"),
        (found(0.8, lower_left=0.6), None,
         f"Covering the lower left of the image lowers the probability of pneumonia from 80 % to 60 %; {LITTLE}"),
        (found(0.999, center=0.96), "R",
         "Covering any ninth of the image changes the probability of pneumonia, 99.9 %, by 4 points at most: it hangs "
         "on no single region."),
    ],
)  # fmt: skip
def test_the_sentence_is_plain(given: Occlusion, at_left: Any, words: str) -> None:
    assert occlusion.sentence(given, "Pneumonia", 0.5, at_left) == words


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ({"PatientOrientation": ["L", "F"], "ViewPosition": "PA"}, ("R", True)),
        ({"PatientOrientation": ["R", "F"], "ViewPosition": "AP"}, ("L", True)),
        ({"PatientOrientation": ["A", "F"], "ViewPosition": "LL"}, (None, True)),
        ({"ViewPosition": "AP"}, ("R", False)),
        ({"ViewPosition": "LL"}, (None, False)),
        ({}, (None, False)),
    ],
)
def test_the_patients_sides_come_from_the_header(attributes: dict[str, Any], side: tuple[str | None, bool]) -> None:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    assert side_at_left(header) == side


@pytest.mark.long
@pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")
def test_the_command_covers_a_file_on_the_devices_own_backend(tmp_path: Path) -> None:
    golden = package.read(package.bundled()[0], None).golden()["images"]
    file = make_radiograph(tmp_path / "chest.dcm", pixels=golden[9], bits=8)
    config = tmp_path / "scanside.toml"
    config.write_text(f"data_dir = 'box'\n[models]\npackages = ['{package.bundled('chest-pneumonia')[0]}']\n")
    options = ("--config", config, "--backend", "onnxruntime")
    told = scanside("explain", file, "--json", *options, check=True).stdout
    answer = json.loads(told)
    (pneumonia,) = answer["findings"]
    assert answer["backend"] == "onnxruntime"
    assert (answer["patient_side_at_image_left"], answer["side_is_stated"]) == ("R", True)
    assert len(pneumonia["regions"]) == 9
    assert np.array(pneumonia["patches"]).shape == (6, 6)
    alone = json.loads(scanside("infer", file, "--json", *options, check=True).stdout)
    assert pneumonia["probability"] == pytest.approx(alone["findings"][0]["probability"], abs=1e-4)
    said = scanside("explain", file, *options, check=True).stdout
    assert pneumonia["sentence"] in said
    assert "not where a disease is" in said
    hand = make_radiograph(tmp_path / "hand.dcm", BodyPartExamined="HAND")
    refused = scanside("explain", hand, *options)
    assert refused.returncode == 1
    assert "HAND" in refused.stderr

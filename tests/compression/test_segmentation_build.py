"""A whole build of a segmentation on generated cases, in 2D and in 3D: signed, and proved by the device."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as PillowImage

from appliance import package, receipt, signature
from appliance.backend import Options
from compression.inference import RUNTIMES
from tests.compression.test_check_cases import for_other_volumes
from tests.running import CHECKOUT

pytestmark = pytest.mark.slow  # a minute or two each

CASES = 48


def write_radiographs(folder: Path) -> None:
    """Two dark ellipses on a brighter body, at places of their own, as ``lungs-kermany`` is laid out."""
    chance = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    grid = np.mgrid[0:100, 0:120]
    for number in range(CASES):
        center, size = chance.uniform(-6, 6, 2), chance.uniform(0.85, 1.15)
        mask = np.zeros((100, 120), bool)
        for side in (38, 82):
            place = (grid - np.array([50 + center[0], side + center[1]])[:, None, None]) / (np.array([30, 14]) * size)[
                :, None, None
            ]
            mask |= (place**2).sum(axis=0) < 1
        image = np.clip(np.where(mask, 70, 160) + chance.normal(0, 12, mask.shape), 0, 255).astype(np.uint8)
        names = f"images/{number}.png", f"masks/{number}.png"
        PillowImage.fromarray(image).save(folder / names[0])
        PillowImage.fromarray((mask * 255).astype(np.uint8)).save(folder / names[1])
        rows.append((*names, ("NORMAL", "PNEUMONIA")[number % 2], f"patient {number // 2}"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "mask", "label", "patient_id"))
        writer.writerows(rows)


def write_volumes(folder: Path) -> None:
    """A bright ball to the front and one to the back, as ``hippocampus`` is laid out."""
    chance = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    grid = np.mgrid[0:34, 0:46, 0:30]
    for number in range(CASES):
        labels = np.zeros((34, 46, 30), np.uint8)
        for label, middle in ((1, 31), (2, 15)):  # of RAS: more of the second axis is to the front
            place = grid - (np.array([17, middle, 15]) + chance.uniform(-2, 2, 3))[:, None, None, None]
            labels[(place**2).sum(axis=0) < (6.5 + chance.uniform(-1, 1)) ** 2] = label
        image = (labels > 0) * 60.0 + 40 + chance.normal(0, 2, labels.shape) + grid[1] * 0.4
        for kind, array in (("images", image.astype(np.float32)), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / kind / f"case-{number:02d}.nii.gz")


@pytest.mark.parametrize(
    ("model", "data_set", "write"),
    [("lungs", "lungs-kermany", write_radiographs), ("hippocampus", "hippocampus", write_volumes)],
)
def test_a_segmentation_is_built_and_every_target_proves_itself(model, data_set, write, tmp_path: Path) -> None:
    write(tmp_path / "data" / data_set)
    recipe, key = CHECKOUT / "models" / model / "recipe.toml", tmp_path / "key.pem"
    if model == "hippocampus":
        recipe = for_other_volumes(tmp_path)
    keygen = [sys.executable, "-m", "compression", "keygen", str(key), "--trust", str(tmp_path / "trusted")]
    subprocess.run(keygen, check=True, capture_output=True, cwd=CHECKOUT)
    command = [
        sys.executable, "-m", "compression", "build", str(recipe), "--quick", "--data", str(tmp_path / "data"),
        "--work", str(tmp_path / "work"), "--key", str(key),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    out = tmp_path / "work-quick"
    (path,) = out.glob("*.scanside")
    opened = package.read(path, signature.load_trusted_keys((tmp_path / "trusted",)))
    assert opened.manifest.task == "segmentation" and opened.takes_volumes == (model == "hippocampus")
    assert opened.manifest.drift is not None and opened.manifest.drift.studies > 0
    figures = json.loads((out / "report.json").read_text())["sets"]["test"]["networks"]
    drawn, average = (figures[name]["mean"]["dice"][0] for name in ("unpruned float", "no model: the average mask"))
    assert drawn > average  # it looks at the image
    unit, card = "mm" if model == "hippocampus" else "pixels", (out / "card.md").read_text()
    assert "| unpruned float |" in card and f"mean surface distance, {unit} | cases without |" in card
    page = (out / "report.html").read_text()
    assert f"mean surface distance, {unit}</th>" in page
    assert all("on test or external data." in each for each in (card, page))
    assert "No external set was measured" in page
    for target in ("cpu", "openvino"):
        backend = RUNTIMES[target].open(opened.artifact(target), Options(threads=1, device="CPU"))
        proved = receipt.prove(opened, RUNTIMES[target], backend, Options(threads=1, device="CPU"))
        assert proved.min_dice is not None and proved.min_dice >= opened.manifest.golden.smallest_dice
    again = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=300)
    assert again.stdout.count("kept") == 12

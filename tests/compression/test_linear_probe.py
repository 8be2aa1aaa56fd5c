"""The linear probe: whether features of initial weights carry over, told on patients that were not fitted on."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from sklearn.metrics import roc_auc_score

from compression import architectures, linear_probe, splits
from compression.recipe import Recipe, RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, changed, write_data_set
from tests.running import CHECKOUT


@pytest.fixture
def recipe() -> Recipe:
    """The shipped one on small images."""
    recipe = read(RECIPE)
    augment = tuple(step for step in recipe.augment if step.name == "RandomGamma")
    return replace(
        recipe,
        input=replace(recipe.input, rows=64, columns=64),
        augment=augment,
        train=replace(recipe.train, network="resnet18", weights="made.pt", batch=16),
    )


def save_weights(folder: Path) -> None:
    torch.manual_seed(9)
    network = architectures.new("resnet18", 0.0, None)
    state = {name.removeprefix("features."): value for name, value in network.state_dict().items()}
    torch.save(state, folder / "made.pt")


def test_a_line_through_features_is_judged_on_other_patients() -> None:
    chance = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 3).astype(str)
    labels = (np.arange(180) // 3) % 2 == 1
    folds = splits.folds_or_none(labels.astype(str), patients, 5)
    assert folds is not None
    knowing = np.stack([labels + chance.normal(0, 0.2, 180), chance.normal(size=180)], axis=1)
    assert roc_auc_score(labels, linear_probe.out_of_sample(knowing, labels, patients, folds)) > 0.98
    # Features that tell the patient and nothing else: in a split by image they would tell the label, too.
    of_patients = chance.normal(size=(60, 40))[np.arange(180) // 3]
    assert roc_auc_score(labels, linear_probe.out_of_sample(of_patients, labels, patients, folds)) < 0.75


def test_whole_patients_are_taken_from_the_training_side_alone(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "chest-kermany", patients=60)
    with (folder / "manifest.csv").open(newline="") as file:
        split = {row["patient_id"]: row["split"] for row in csv.DictReader(file)}
    images = linear_probe.take(recipe, tmp_path, 20)
    assert images.pixels.shape == (20, 64, 64)
    assert {split[patient] for patient in images.patients} == {"train"}
    assert set(np.unique(images.patients, return_counts=True)[1].tolist()) == {2}
    everything = linear_probe.take(recipe, tmp_path, 10_000)
    assert len(everything) == sum(2 for each in split.values() if each == "train")


@pytest.mark.long
def test_random_weights_do_not_carry_over(recipe: Recipe, tmp_path: Path) -> None:
    """Weights that are random themselves can't be better than random ones."""
    write_data_set(tmp_path / "chest-kermany", patients=60)
    save_weights(tmp_path)
    found = linear_probe.probe(recipe, tmp_path, tmp_path, 60, scratch=1, threads=1, augmented=True)
    assert found["images"] == 60
    value, low, high = found["pretrained"]
    assert low <= value <= high
    assert found["random"][0] == max(found["random_each"])
    assert found["gain"][1] <= 0.02
    assert found["scratch"]["held_out"] + found["scratch"]["trained_on"] == 60
    assert "1 epochs" in linear_probe.in_words(found)
    json.dumps(found)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ([0.1, 0.05, 0.15], "carry over: they gain by 0.100"),
        ([0.01, 0.005, 0.015], "carry over, but little"),
        ([-0.1, -0.15, -0.05], "are worse here"),
        ([0.1, -0.02, 0.2], "can't be told"),
    ],
)
def test_the_verdict_says_what_the_interval_says(gain: list[float], words: str) -> None:
    assert words in linear_probe.verdict({"gain": gain, "images": 100, "random": [0.7, 0.6, 0.8]})


def test_an_easy_set_is_pointed_out() -> None:
    words = linear_probe.verdict({"gain": [0.01, 0.005, 0.015], "images": 100, "random": [0.98, 0.97, 0.99]})
    assert "check-data" in words


def test_a_recipe_without_weights_has_nothing_to_probe(recipe: Recipe, tmp_path: Path) -> None:
    bare = replace(recipe, train=replace(recipe.train, weights=""))
    with pytest.raises(RecipeError, match=r"train\.weights"):
        linear_probe.probe(bare, tmp_path, tmp_path, 60, 0, 1)


def test_the_command_says_which_file_is_missing(tmp_path: Path) -> None:
    write_data_set(tmp_path / "chest-kermany", patients=60)
    path = changed(tmp_path, "mobilenet_v2_imagenet_folded.npz", "none.npz")
    options = [str(path), "--data", str(tmp_path), "--weights", str(tmp_path), "--images", "60"]
    done = subprocess.run([sys.executable, "-m", "compression", "linear-probe", *options],
                          capture_output=True, text=True, cwd=CHECKOUT, timeout=120)  # fmt: skip
    assert done.returncode == 1
    assert "none.npz" in done.stderr
    assert "--weights" in done.stderr

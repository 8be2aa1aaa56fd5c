"""A whole build on a small generated data set: every stage, cached, resumed, signed, and served by the device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from appliance import package, receipt, signature
from appliance.backends import onnxruntime
from appliance.preprocess import preprocess
from tests.compression.test_recipe_and_data import RECIPE, write_data_set
from tests.dicom_files import make_radiograph
from tests.running import CHECKOUT, scanside

WEIGHTS = CHECKOUT.parent / "shared" / "weights"
pytestmark = pytest.mark.skipif(
    not (WEIGHTS / "mobilenet_v2_imagenet_folded.npz").exists(),
    reason="the initial weights are not beside the checkout (shared/weights)",
)


def small_recipe(folder: Path) -> Path:
    """The real recipe with small numbers."""
    text = RECIPE.read_text()
    for old, new in {
        "rows = 224": "rows = 96", "columns = 224": "columns = 96", "size = [224, 224]": "size = [96, 96]",
        "epochs = 5": "epochs = 3", "batch = 32": "batch = 16", "average_decay = 0.998": "average_decay = 0.8",
        "images = 200": "images = 40", "augmented_copies = 3": "augmented_copies = 1", "count = 16": "count = 6",
        "components = 32": "components = 12", "bootstrap = 2000": "bootstrap = 50",
        'external = "chest-nih"  ': "#", 'id = "chest-pneumonia"': 'id = "small"',
        "probability_tolerance = 0.02": "probability_tolerance = 0.05",
    }.items():  # fmt: skip
        assert old in text, old
        text = text.replace(old, new, 1)
    text = re.sub(r"^external_note.*$", "", text, flags=re.MULTILINE)
    path = folder / "models" / "small" / "recipe.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def run(recipe: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "compression", "build", str(recipe), "--data", str(folder / "data"), "--weights",
        str(WEIGHTS), "--work", str(folder / "work"), "--key", str(folder / "key.pem"), "--trust",
        str(folder / "trusted"), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=600, env=dict(os.environ))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished build."""
    folder = tmp_path_factory.mktemp("build")
    write_data_set(folder / "data" / "chest-kermany", patients=120)
    done = run(small_recipe(folder), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def opened(built: Path) -> package.Package:
    trusted = signature.load_trusted_keys((built / "trusted",))
    return package.read(built / "models" / "small" / "small-1.0.0.scanside", trusted)


def test_the_package_is_signed_and_proves_itself(opened: package.Package) -> None:
    backend = onnxruntime.open(opened.artifact("cpu"))
    proof = receipt.prove(opened, onnxruntime, backend)
    assert proof.flips == 0
    assert proof.max_abs_dp < 1e-4  # the same machine, the same runtime


def test_the_network_is_int8_and_has_learned(opened: package.Package, built: Path) -> None:
    import onnx

    graph = onnx.load_from_string(opened.artifact("cpu")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") > 20
    assert {output.name for output in graph.output} == {"logits", "activation_map", "embedding"}
    backend = onnxruntime.open(opened.artifact("cpu"))
    with np.load(built / "work" / "data" / "test.npz") as test:
        tensors = (preprocess(image, opened.manifest.input.steps) for image in test["pixels"])
        logits = [backend.run({"image": tensor})["logits"][0, 0] for tensor in tensors]
        assert roc_auc_score(test["labels"], logits) > 0.9


def test_a_second_run_keeps_every_stage(built: Path) -> None:
    again = run(built / "models" / "small" / "recipe.toml", built)
    assert again.returncode == 0, again.stderr
    lines = [line for line in again.stdout.splitlines() if re.match(r"\w+ +(kept:|\d+ s:)", line)]
    assert len(lines) == 8
    assert all("kept:" in line for line in lines), again.stdout


def test_packing_again_gives_the_same_file(built: Path) -> None:
    path = built / "models" / "small" / "small-1.0.0.scanside"
    before = path.read_bytes()
    again = run(built / "models" / "small" / "recipe.toml", built, "--force", "pack")
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == before


def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=120)
    recipe = small_recipe(tmp_path)
    checkpoint = tmp_path / "work" / "train" / "checkpoint.pt"
    command = [
        sys.executable, "-m", "compression", "build", str(recipe), "--data", str(tmp_path / "data"), "--weights",
        str(WEIGHTS), "--work", str(tmp_path / "work"), "--key", str(tmp_path / "key.pem"), "--stage", "train",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not checkpoint.exists() and running.poll() is None:
            os.sched_yield()
        running.kill()
    assert checkpoint.exists()
    done = run(recipe, tmp_path, "--stage", "train")
    assert done.returncode == 0, done.stderr
    assert "epoch 2:" in done.stdout
    assert "epoch 0:" not in done.stdout + done.stderr


def test_the_device_serves_it_once_it_trusts_the_key(built: Path, tmp_path: Path) -> None:
    built_package = built / "models" / "small" / "small-1.0.0.scanside"
    source = make_radiograph(tmp_path / "a.dcm")
    refused = scanside("infer", source, "--json", "--package", built_package)
    assert refused.returncode != 0
    assert "does not trust" in refused.stderr
    config = tmp_path / "scanside.toml"
    config.write_text(f'[models]\ntrusted_keys = ["{built / "trusted"}"]\n')
    served = scanside("infer", source, "--json", "--package", built_package, "--config", config)
    assert served.returncode == 0, served.stderr
    assert '"package": "small"' in served.stdout

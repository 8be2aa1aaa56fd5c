"""A whole build on a small generated data set: every stage, cached, resumed, signed, and served by the device."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from PIL import Image as PillowImage
from sklearn.metrics import roc_auc_score

from appliance import package, signature
from appliance.errors import PackageError
from appliance.preprocess import preprocess
from appliance.probability import calibrated, spread
from compression import calibrate, card, evaluate, gate, pack, quick, report, report_clinical, rewriting
from compression.build import Build
from compression.cli import main
from compression.inference import RUNTIMES, open_network
from compression.quantize import aware, openvino
from compression.quantize.tensorrt import lint
from compression.recipe import RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, write_data_set
from tests.dicom_files import make_radiograph
from tests.running import CHECKOUT, scanside

WEIGHTS = CHECKOUT.parent / "shared" / "weights"
pytestmark = pytest.mark.skipif(
    not (WEIGHTS / "mobilenet_v2_imagenet_folded.npz").exists(),
    reason="the initial weights are not beside the checkout (shared/weights)",
)
TARGETS = ("cpu", "openvino", "tensorrt")
STAGES = 12


def command(folder: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "compression", "build", str(RECIPE), "--quick", "--data", str(folder / "data"),
        "--weights", str(WEIGHTS), "--work", str(folder / "work"), "--key", str(folder / "key.pem"), *options,
    ]  # fmt: skip


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *options), capture_output=True, text=True, cwd=CHECKOUT, timeout=900)


def here(*arguments: str) -> Result:
    """The same command in this process, which has imported all that takes seconds to import."""
    return CliRunner().invoke(main, arguments[arguments.index("compression") + 1 :])


def make_key(folder: Path) -> None:
    keygen = [
        sys.executable,
        "-m",
        "compression",
        "keygen",
        str(folder / "key.pem"),
        "--trust",
        str(folder / "trusted"),
    ]
    subprocess.run(keygen, check=True, capture_output=True, cwd=CHECKOUT)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signing key that nobody trusts."""
    folder = tmp_path_factory.mktemp("key")
    make_key(folder)
    return folder / "key.pem"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished build."""
    folder = tmp_path_factory.mktemp("build")
    write_data_set(folder / "data" / "chest-kermany", patients=120)
    make_key(folder)
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return folder


@pytest.fixture
def path(built: Path) -> Path:
    (found,) = (built / "work-quick").glob("chest-pneumonia-quick-*.scanside")
    return found


@pytest.fixture
def opened(built: Path, path: Path) -> package.Package:
    return package.read(path, signature.load_trusted_keys((built / "trusted",)))


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_proves_itself_on_its_own_golden_vectors(target: str, opened: package.Package) -> None:
    backend = open_network(opened.artifact(target), target)
    golden, calibration = opened.golden(), opened.target(target)
    for image, expected in zip(golden["images"], golden[f"{target}/logits"], strict=True):
        given = backend.run({"image": preprocess(image, opened.manifest.input.steps)})["logits"][0]
        before, after = (calibrated(each, calibration.temperature, calibration.bias) for each in (expected, given))
        assert np.abs(before - after).max() < 1e-4  # the same machine, the same runtime


def test_each_target_has_its_own_network_and_thresholds(opened: package.Package) -> None:
    assert set(opened.manifest.targets) == set(TARGETS)
    assert opened.manifest.training["libraries_of_kept_stages"] == {}
    assert len({opened.artifact_sha256(target) for target in TARGETS}) == 3
    for target in TARGETS:
        found = opened.target(target)
        assert found.conformal is not None
        assert 0 < found.conformal.coverage < 1
        assert found.why
        assert found.calibrated_with.startswith(RUNTIMES[target].NAME)
        assert {point.name for point in found.operating_points} == {
            "high_sensitivity",
            "balanced",
            "high_specificity",
        }


def test_each_target_has_heads_that_learned_from_its_own_embedding(opened: package.Package, built: Path) -> None:
    with np.load(built / "work-quick" / "data" / "test.npz") as test:
        tensors = [preprocess(image, opened.manifest.input.steps) for image in test["pixels"]]
        for target in TARGETS:
            ensemble, heads = opened.target(target).ensemble, opened.heads(target)
            assert ensemble is not None and heads is not None
            backend = open_network(opened.artifact(target), target)
            outputs = [backend.run({"image": each}) for each in tensors]
            embeddings, logits = (np.concatenate([each[name] for each in outputs]) for name in ("embedding", "logits"))
            point = opened.target(target)
            said = heads.probabilities(embeddings, logits, point.temperature, point.bias)[:, :, 0].T
            assert said.shape == (5, len(tensors))
            assert all(roc_auc_score(test["labels"], each) > 0.85 for each in said), target
            assert spread(said).max() > 0  # they are five, not one
            own = calibrated(logits[:, 0], point.temperature, point.bias)
            assert (said.min(axis=0) <= own).all() and (own <= said.max(axis=0)).all()
            assert 0 < ensemble.limit < 0.5


def test_the_network_has_learned(opened: package.Package, built: Path) -> None:
    with np.load(built / "work-quick" / "data" / "test.npz") as test:
        tensors = [preprocess(image, opened.manifest.input.steps) for image in test["pixels"]]
        for target in TARGETS:
            backend = open_network(opened.artifact(target), target)
            logits = [backend.run({"image": tensor})["logits"][0, 0] for tensor in tensors]
            assert roc_auc_score(test["labels"], logits) > 0.85, target


def test_the_tensorrt_artifact_is_in_form_and_the_linter_sees_what_is_not(opened: package.Package) -> None:
    model = onnx.load_from_string(opened.artifact("tensorrt"))
    assert lint(model) == []
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") > 20
    broken = onnx.load_from_string(opened.artifact("tensorrt"))
    zero = next(node.input[2] for node in broken.graph.node if node.op_type == "QuantizeLinear")
    tensor = next(each for each in broken.graph.initializer if each.name == zero)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(3, dtype=np.int8), zero))
    assert any("zero point" in fault for fault in lint(broken))
    assert lint(onnx.load_from_string(opened.artifact("cpu")))  # another runtime's form


def test_the_report_says_what_it_measured_and_names_no_image_it_may_not_show(built: Path) -> None:
    out = built / "work-quick"
    measured = json.loads((out / "report.json").read_text())
    assert {"unpruned float", "pruned float", *TARGETS} <= set(measured["networks"])
    assert [row["chosen"] for row in measured["prune"]].count(True) == 1
    page = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']https?:|url\((?!#)|@import""", page)  # it opens offline
    assert "data:image" not in page
    assert "<svg" in page
    for told in (
        "No external set was measured",
        "no model: always normal",
        "PPV at 20%",
        "Decision curve",
        "Hard cases",
        "Calibration on the validation images that it was fitted on",
        "Calibration on images that it was not fitted on",
    ):
        assert told in page
    for found in measured["sets"].values():
        always_normal = found["no_model"]["always normal"]["accuracy"]
        assert always_normal == pytest.approx(1 - found["positive"] / found["images"])
        for target in TARGETS:
            assert set(found["operating_points"][target]) == {"high_sensitivity", "balanced", "high_specificity"}
            at_default = found["operating_points"][target]["balanced"]
            assert at_default["sensitivity"] == found["networks"][target]["sensitivity"]


SETS = {"stated": 0.9, "all": 0.893, "absent": 0.8, "present": 0.949}  # balanced out, all would be within 2 %


def test_a_class_whose_prediction_sets_hold_the_truth_too_seldom_is_named() -> None:
    good = {"stated": 0.9, "all": 0.9, "absent": 0.89, "present": 0.91}
    missed = report.coverage_missed({"cpu": good, "openvino": SETS})
    assert [each.split(". ")[0] for each in missed] == [
        "openvino covers 80.0% instead of 90% where the finding is absent",
        "openvino covers 94.9% instead of 90% where the finding is present",
    ]


def test_the_card_tells_the_coverage_of_each_class() -> None:
    found = json.loads((RECIPE.parent / "report.json").read_text())
    found["sets"]["test"]["conformal_coverage"] = dict.fromkeys(TARGETS, SETS)
    found["drop"], recipe = {}, read(RECIPE)
    found["sets"] = {name: found["sets"][name] for name in ("validation", "test")}
    given: Any = SimpleNamespace(recipe=replace(recipe, data=replace(recipe.data, external=())))
    told = card.write_card(given, package.read(package.bundled("chest-pneumonia")[0], None).manifest, found)
    assert "The build chose nothing on test or external data." in told
    assert "| coverage, absent | coverage, present |" in told
    assert told.count("| 80.0% | 94.9% |") == len(TARGETS)


def test_card_and_report_tell_what_each_threshold_does_on_clean_validation_images(
    built: Path, opened: package.Package
) -> None:
    measured = json.loads((built / "work-quick" / "report.json").read_text())
    page = (built / "work-quick" / "report.html").read_text()
    assert report_clinical.CLEAN in opened.card and report_clinical.CLEAN in page
    for target in TARGETS:
        for point in opened.manifest.targets[target].operating_points:
            found = measured["sets"]["validation"]["operating_points"][target][point.name]
            clean = ["{:.3f} [{:.3f}, {:.3f}]".format(*found[name]) for name in ("sensitivity", "specificity")]
            assert f"| {point.chosen_on} | {clean[0]} | {clean[1]} |" in opened.card
            asked = next(each for each in read(RECIPE).calibrate.operating_points if each.name == point.name)
            row = (target, point.name, f"{point.threshold:.4f}", f"{asked.sensitivity:.1%}", *clean)
            assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" in page


def test_the_card_names_the_set_in_which_a_subgroup_does_worse() -> None:
    found = json.loads((RECIPE.parent / "report.json").read_text())
    found["drop"], recipe = {}, read(RECIPE)
    for name, subgroup in (("test", "sex: F"), ("validation", "age: 65 and older")):
        for target in TARGETS:
            found["sets"][name]["gaps"][target] = [{"subgroup": subgroup, "figure": "auc", "alarm": True}]
    given: Any = SimpleNamespace(recipe=replace(recipe, data=replace(recipe.data, external=())))
    found["sets"] = {name: found["sets"][name] for name in ("validation", "test")}
    told = card.write_card(given, package.read(package.bundled("chest-pneumonia")[0], None).manifest, found)
    assert f"Does worse than in the rest of {recipe.card.test}, see the report: sex: F (auc)." in told
    assert "Does worse than in the rest of Validation, see the report: age: 65 and older (auc)." in told


def test_the_report_tells_how_well_probabilities_hold_on_images_that_they_were_not_fitted_on() -> None:
    labels = np.arange(100) < 30
    measured = calibrate.measured(np.full(100, 0.5), labels)
    assert (measured["ece"], measured["in_the_large"]) == (0.2, 0.2)
    assert measured["reliability"] == ((0.5, 0.3, 100),)
    page = "".join(report.calibration_outside({"cpu": measured, "unpruned float": measured}, ("cpu",)))
    assert page.count("<td>0.200</td><td>+0.200</td>") == 2
    assert page.count("cpu: ECE 0.200") == 1


def test_a_second_run_keeps_every_stage(built: Path) -> None:
    again = run(built)
    assert again.returncode == 0, again.stderr
    lines = [line for line in again.stdout.splitlines() if re.match(r"\w+ +(kept:|\d+ s:)", line)]
    assert len(lines) == STAGES
    assert all("kept:" in line for line in lines), again.stdout


def test_a_second_build_in_the_same_folder_is_turned_away(built: Path) -> None:
    with (built / "work-quick" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        turned_away = here(*command(built))
    assert turned_away.exit_code == 1
    assert "another build runs in" in turned_away.output and "--work" in turned_away.output


def test_a_stage_that_another_build_has_is_refused(key: Path, tmp_path: Path) -> None:
    recipe = CHECKOUT / "models" / "lungs" / "recipe.toml"
    command = ("build", str(recipe), "--work", str(tmp_path / "work"), "--key", str(key), "--data", str(tmp_path))
    for option in ("--stage", "--force", "--adopt"):
        refused = CliRunner().invoke(main, [*command, option, "ensemble"])
        assert refused.exit_code == 1
        assert "no stage ensemble" in refused.output


def test_what_was_published_and_is_gone_or_changed_is_made_again(built: Path, path: Path) -> None:
    card, package = path.parent / "card.md", path.read_bytes()
    was = card.read_text()
    path.unlink()
    card.write_text("Signs of everything.")
    again = run(built)
    assert again.returncode == 0, again.stderr
    assert "pack       again: what it had published was changed or removed" in again.stdout
    assert (path.read_bytes(), card.read_text()) == (package, was)
    assert re.search(r"^report +kept:", again.stdout, re.MULTILINE)


def test_thresholds_of_a_kept_gate_are_said_to_be_of_the_runtime_that_they_were_fitted_on(
    built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built / "work-quick", tmp_path / "work-quick", symlinks=True)
    key, _ = signature.load_or_create_private_key(built / "key.pem")
    started = quick.shrink(Build(read(RECIPE), RECIPE, built / "data", WEIGHTS, tmp_path / "work", key, tmp_path))
    mark = started.folder("gate") / "done.json"
    done = json.loads(mark.read_text())
    mark.write_text(json.dumps({**done, "libraries": {**done["libraries"], "onnxruntime": "1.0.1"}}))
    started.keys.update(dict.fromkeys(("train", "gate", "pack"), ""))
    pack.run(started)
    report.run(started)
    (made,) = started.out.glob("*.scanside")
    manifest = package.read(made, signature.load_trusted_keys((built / "trusted",))).manifest
    assert manifest.targets["cpu"].calibrated_with == "onnxruntime 1.0.1, CPU"
    assert manifest.targets["openvino"].calibrated_with == f"openvino {metadata.version('openvino')}, CPU"
    assert manifest.training["libraries"]["onnxruntime"] == metadata.version("onnxruntime")
    assert manifest.training["libraries_of_kept_stages"] == {"gate": {"onnxruntime": "1.0.1"}}
    assert "onnxruntime 1.0.1, CPU" in (started.out / "report.html").read_text()


def test_card_and_report_are_rewritten_of_the_report_alone(
    built: Path, path: Path, opened: package.Package, tmp_path: Path
) -> None:
    recipe = read(RECIPE)
    named = replace(recipe.package, id=opened.manifest.id, version="9.0.0")
    seen = replace(
        recipe, package=named, data=replace(recipe.data, external=()), card=replace(recipe.card, looked_at=("test",))
    )
    shutil.copy(path.parent / "report.json", tmp_path)
    key, _ = signature.load_or_create_private_key(built / "key.pem")
    rewriting.of_classification(Build(seen, RECIPE, Path(), Path(), Path(), key, tmp_path), opened)
    (made,) = tmp_path.glob("*-9.0.0.scanside")
    after = package.read(made, signature.load_trusted_keys((built / "trusted",)))
    assert after.manifest.targets == opened.manifest.targets
    for text in (after.card, (tmp_path / "report.html").read_text()):
        assert "figures on the test are not blind" in text
    for target in TARGETS:
        assert opened.manifest.targets[target].why in (tmp_path / "report.html").read_text()


@pytest.mark.slow  # a whole build more
def test_two_builds_from_the_same_inputs_give_the_same_package(built: Path, path: Path, tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=120)
    (tmp_path / "key.pem").write_bytes((built / "key.pem").read_bytes())
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "work-quick" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.long
def test_other_hospitals_stand_beside_the_test_set_and_who_fares_worse_there_is_named(
    built: Path, tmp_path: Path
) -> None:
    """Elsewhere, the network's own images of women are shown with the labels turned round."""
    shutil.copytree(built / "work-quick", tmp_path / "work-quick", symlinks=True)
    far = write_data_set(tmp_path / "work-quick" / "data-set" / "chest-far", patients=80, seed=5000)
    with (far / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        number = int(row["patient_id"][1:])
        row |= {"sex": "F" if number % 4 < 2 else "M", "age": str(number), "view": "" if number % 8 < 4 else "AP"}
        if row["sex"] == "F":
            row["label"] = "NORMAL" if row["label"] == "PNEUMONIA" else "PNEUMONIA"
    for row in rows[::3]:  # hospitals have images of many sizes
        with PillowImage.open(far / row["file"]) as image:
            image.resize((120, 100)).save(far / row["file"])
    with (far / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    write_data_set(tmp_path / "work-quick" / "data-set" / "chest-near", patients=40, seed=9000)
    key, _ = signature.load_or_create_private_key(built / "key.pem")
    started = quick.shrink(Build(read(RECIPE), RECIPE, built / "data", WEIGHTS, tmp_path / "work", key, tmp_path))
    data = replace(started.recipe.data, external=("chest-far", "chest-near"))
    started = dataclasses.replace(started, recipe=replace(started.recipe, data=data))
    summary = evaluate.run(started)
    assert "external: chest-far: AUC" in summary and "external: chest-near: AUC" in summary
    assert "alarms: sex: F" in summary
    report.run(started)
    pack.run(started)
    found = json.loads((started.out / "report.json").read_text())
    for target in TARGETS:
        for outside, low in (("external: chest-far", 0.2), ("external: chest-near", -1.0)):
            lost, test, external = (
                found["drop"][outside][target]["auc"],
                *(found["sets"][name]["networks"][target]["auc"] for name in ("test", outside)),
            )
            assert lost["values"] == [test, external]
            assert lost["gap"][0] == pytest.approx(test[0] - external[0], abs=2e-4)
            assert lost["gap"][1] > low
        rows = found["sets"]["external: chest-far"]["gaps"][target]
        assert {"sex: F", "view: unknown", "age: 18 to 39"} <= {row["subgroup"] for row in rows}
        assert {row["subgroup"] for row in rows if row.get("alarm")} == {"sex: F"}
        hard = found["sets"]["external: chest-far"]["hard_cases"][target]
        assert ("missed", "sex: F") in {(row["group"], row["what"]) for row in hard["shared"]}
        assert all(row["columns"]["sex"] == "F" for row in hard["confidently_wrong"])
    page, card = (started.out / "report.html").read_text(), (started.out / "card.md").read_text()
    assert "cpu does worse outside, on chest-far: AUC by" in page
    assert "does worse outside, on chest-near" not in page
    assert "lost from test to chest-near" in page
    assert "cpu, sex: F: sensitivity" in page
    assert "too few patients to tell" in page
    assert re.search("cpu, lost from .* to chest-far: auc", card) and re.search("cpu, lost from .* to chest-near", card)
    assert "### chest-near: " in card and "### chest-far, view: AP: " in card
    assert re.search(r"Does worse than in the rest of chest-far, see the report: .*sex: F \(auc\)", card)


@pytest.mark.filterwarnings("default")  # of NNCF and torch
@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_where_the_gate_turns_all_away_costlier_ways_are_tried_before_the_build_stops(
    target: str, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = signature.load_or_create_private_key(built / "key.pem")
    whole = Build(read(RECIPE), RECIPE, built / "data", WEIGHTS, tmp_path / "work", key, tmp_path)
    shutil.copytree(built / "work-quick", tmp_path / "work-quick", symlinks=True)
    started = quick.shrink(whole)
    recipe = replace(
        started.recipe,
        gate=replace(started.recipe.gate, p99_probability=1e-9),
        quantize=replace(started.recipe.quantize, targets=(target,)),
    )
    with pytest.raises(RecipeError, match="no int8 candidate passes the gate") as refused:
        gate.run(dataclasses.replace(started, recipe=recipe))
    said = str(refused.value)
    assert aware.PRODUCER in said
    assert (openvino.ACCURACY_CONTROL in said) == (target == "openvino")
    assert said.count("p99_probability") == (5 if target == "openvino" else 2)
    assert "quantization-aware, epoch 1 of 1" in capsys.readouterr().out


@pytest.mark.slow  # test_loop does the same with a network that is trained in seconds
def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=120)
    make_key(tmp_path)
    checkpoint = tmp_path / "work-quick" / "train" / "checkpoint.pt"
    begun = command(tmp_path, "--stage", "train")
    with subprocess.Popen(begun, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not checkpoint.exists() and running.poll() is None:
            os.sched_yield()
        running.kill()
    assert checkpoint.exists()
    done = run(tmp_path, "--stage", "train")
    assert done.returncode == 0, done.stderr
    assert "epoch 3 of 3:" in done.stdout
    assert "epoch 1 of 3:" not in done.stdout + done.stderr


@pytest.mark.long
def test_the_device_serves_it_once_it_trusts_the_key(built: Path, path: Path, tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm")
    refused = scanside("infer", source, "--json", "--package", path)
    assert refused.returncode != 0
    assert "does not trust" in refused.stderr
    config = tmp_path / "scanside.toml"
    config.write_text(f'[models]\ntrusted_keys = ["{built / "trusted"}"]\n')
    served = scanside("infer", source, "--json", "--package", path, "--config", config)
    assert served.returncode == 0, served.stderr
    assert '"package": "chest-pneumonia-quick"' in served.stdout


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (",NORMAL,p2,", ",,p2,", "label is empty"),
        ("images/2-0.png", "images/none.png", "none.png is not there"),
        (",p2,train", ",p0,train", "patient p0 is in"),
        (",train", ",learn", "'learn'"),
        ("PNEUMONIA", "NORMAL", "both classes"),
        ("PNEUMONIA", "PNEUMONA", "holds 3 labels"),  # would teach that this pneumonia is none
    ],
)
def test_bad_data_is_named_before_any_long_work(old: str, new: str, word: str, key: Path, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=10)
    (tmp_path / "key.pem").write_bytes(key.read_bytes())
    listed = folder / "manifest.csv"
    text = listed.read_text()
    assert old in text
    listed.write_text(text.replace(old, new) if word == "both classes" else text.replace(old, new, 1))
    done = here(*(part for part in command(tmp_path) if part != "--quick"))
    assert done.exit_code == 1
    assert word in done.stderr
    assert "manifest.csv" in done.stderr
    assert not (tmp_path / "work" / "data").exists()


def test_a_release_refuses_a_missing_and_a_development_key(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = command(tmp_path, "--release")
    refused = here(*(part for part in release if part not in ("--key", str(tmp_path / "key.pem"))))
    assert refused.exit_code == 1
    assert "key of its own" in refused.stderr
    assert "keygen" in here(*release).stderr
    (tmp_path / ".build").mkdir()
    for copied in (tmp_path / "key.pem", tmp_path / ".build" / "development.pem"):
        copied.write_bytes(key.read_bytes())
    monkeypatch.chdir(tmp_path)
    development = here(*release)
    assert development.exit_code == 1
    assert "development key" in development.stderr


def test_a_damaged_package_of_three_targets_is_refused(built: Path, path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    (tmp_path / "a.scanside").write_bytes(data)
    with pytest.raises(PackageError):
        package.read(tmp_path / "a.scanside", signature.load_trusted_keys((built / "trusted",)))

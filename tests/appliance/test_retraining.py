"""A site's own cases go back to training: no header, labels by readers, balanced, and the lineage goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image as Picture

from appliance import package, signature
from compression import content
from compression.importers.folder import FolderImporter
from compression.importing import Options, run
from compression.problems import DataError
from tests.device import MODEL, Device
from tests.dicom_files import make_radiograph

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


@pytest.mark.long
def test_assessed_cases_become_a_data_set_of_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    device = Device(tmp_path, capfd)
    secret = {"PatientName": "Mustermann^Erika", "InstitutionName": "Klinikum Hinterwald", "PatientAge": "093Y"}
    paths = [
        make_radiograph(tmp_path / f"{seed}.dcm", seed=seed, PatientID=f"PAT-7391-{seed // 2}", **secret)
        for seed in range(5)
    ]
    burned = make_radiograph(tmp_path / "burned.dcm", seed=9, BurnedInAnnotation="YES", PatientID="PAT-9")
    numbers = device.read(*paths, burned)
    empty = device.call("retraining", "export", tmp_path / "none", "--model", MODEL, code=1)
    assert "assess" in empty
    assert not (tmp_path / "none").exists()
    for place, number in enumerate(numbers):
        device.assess(number, present=place in (0, 5))
    folder = tmp_path / "bundle"
    said = device.call("retraining", "export", folder, "--model", MODEL, "--present", "PNEUMONIA", "--absent", "NORMAL",
                       "--all")  # fmt: skip
    assert "1 PNEUMONIA" in said
    assert "1 (its pixels may show a name)" in said
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    assert len(rows) == 5
    assert len({row["patient_id"] for row in rows}) == 3  # whose images are several is one person still
    assert {row["age"] for row in rows} == {"89"}
    source = {tuple(np.asarray(Picture.open(folder / row["file"])).shape) for row in rows}
    assert all(len(shape) == 2 for shape in source)
    for path in folder.rglob("*"):
        if path.is_file():
            written = path.read_bytes()
            for word in (b"Mustermann", b"Erika", b"Hinterwald", b"PAT-", b"093Y", b"1.2.826"):
                assert word not in written, (path, word)
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["content"] == content.content_version(folder)
    assert lineage["package"]["version"] == "1.3.1"
    own, _ = signature.load_or_create_private_key(device.config.key_path)
    keys = {signature.key_id(own.public_key()): own.public_key()}
    signature.verify((folder / "lineage.sig").read_text(), (folder / "lineage.json").read_bytes(), keys, "lineage")

    public = tmp_path / "device.pub"
    device.call("telemetry", "key", public)
    asked = Options(labels=("PNEUMONIA", "NORMAL"), device_key=public)
    report = run(FolderImporter(), folder, tmp_path / "dataset", asked)
    assert report["labels"] == {"NORMAL": 4, "PNEUMONIA": 1}
    assert report["lineage"] == {**lineage, "signature_checked": True}
    balanced = device.call("retraining", "export", tmp_path / "balanced", "--model", MODEL)
    assert "1 no pneumonia, 1 pneumonia" in balanced
    assert "3 (more of one label than of the other)" in balanced
    again = {row["patient_id"] for row in csv.DictReader((tmp_path / "balanced" / "manifest.csv").open())}
    assert again <= {row["patient_id"] for row in rows}  # the same patient has the same pseudonym in each export

    written = (folder / "lineage.json").read_text()
    (folder / "lineage.json").write_text(written.replace('"version": "1.3.1"', '"version": "1.2.0"'))
    assert not run(FolderImporter(), folder, tmp_path / "unchecked", Options())["lineage"]["signature_checked"]
    with pytest.raises(DataError, match=r"not what the device of .* has signed: .* was changed after it was signed"):
        run(FolderImporter(), folder, tmp_path / "forged", asked)
    (folder / "lineage.json").write_text(written)
    public.write_bytes(signature.public_pem(Ed25519PrivateKey.generate()))
    with pytest.raises(DataError, match="not what the device of"):
        run(FolderImporter(), folder, tmp_path / "of another", asked)
    signed = (folder / "lineage.sig").rename(tmp_path / "lineage.sig")
    with pytest.raises(DataError, match=r"lineage\.sig.*export the bundle again"):
        run(FolderImporter(), folder, tmp_path / "unsigned", Options())
    signed.rename(folder / "lineage.sig")
    with (folder / "manifest.csv").open("a") as file:
        file.write("images/none.png,NORMAL,P,,,,,\n")
    with pytest.raises(DataError, match="changed since the device exported it"):
        run(FolderImporter(), folder, tmp_path / "changed", Options())


def test_a_final_diagnosis_counts_before_a_reader_and_the_lineage_says_which(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    device = Device(tmp_path, capfd)
    studies = [f"1.2.826.0.1.77.{number}" for number in range(6)]
    numbers = device.read(
        *(make_radiograph(tmp_path / f"{seed}.dcm", seed=seed, StudyInstanceUID=study, PatientID=f"P{seed}")
          for seed, study in enumerate(studies))
    )  # fmt: skip
    for number, present in zip(numbers[:4], (True, True, False, True), strict=True):
        device.assess(number, present)  # of the last two nobody has said anything
    said = tmp_path / "diagnoses.csv"
    lines = [
        f"{studies[0]},Pneumonia,yes",  # as the reader
        f"{studies[1]},Pneumonia,no",  # not as the reader
        f"{studies[3]},Pneumonia,yes",
        f"{studies[3]},Pneumonia,no",  # contradict each other
        f"{studies[4]},Pneumonia,no",  # nobody has read it
    ]
    said.write_text("\n".join(["study_instance_uid,finding,present", *lines]) + "\n")
    device.call("diagnoses", "import", said)
    told = device.call("retraining", "export", tmp_path / "bundle", "--model", MODEL, "--all")
    assert "1 where a reader and the diagnosis differ" in told
    assert "1 (final diagnoses contradict each other)" in told
    rows = list(csv.DictReader((tmp_path / "bundle" / "manifest.csv").open()))
    assert sorted((row["label"], row["labeled_by"]) for row in rows) == [
        ("no pneumonia", "diagnosis"), ("no pneumonia", "diagnosis"), ("no pneumonia", "reader"),
        ("pneumonia", "diagnosis"),
    ]  # fmt: skip
    lineage = json.loads((tmp_path / "bundle" / "lineage.json").read_text())
    assert (lineage["labeled_by"], lineage["contradicted"]) == ({"diagnosis": 3, "reader": 1}, 1)
    assert not any(
        study.encode() in path.read_bytes() for study in studies for path in (tmp_path / "bundle").rglob("*.*")
    )
    run(FolderImporter(), tmp_path / "bundle", tmp_path / "dataset", Options(labels=("pneumonia", "no pneumonia")))
    taken = list(csv.DictReader((tmp_path / "dataset" / "manifest.csv").open()))
    assert sorted(row["labeled_by"] for row in taken) == ["diagnosis", "diagnosis", "diagnosis", "reader"]

"""A second package on the same images: what is compared, that it disturbs nothing, and how it takes over."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click import BadParameter
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from appliance import package, roc, signature
from appliance.custody import Custody
from appliance.package import Promotion
from appliance.shadow import comparison
from appliance.shadow.runner import Runner
from appliance.shadow.store import ShadowStore
from appliance.store import Arrival, Store
from tests import fake_package
from tests.device import MODEL, Device
from tests.dicom_files import make_radiograph

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")

LENIENT = Promotion(
    least_pairs=4, least_present=1, least_absent=1, least_agreement=0.0, largest_auc_loss=1.0, largest_rate_loss=1.0,
    largest_failure_share=0.0,
)  # fmt: skip


@pytest.fixture
def device(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Device:
    return Device(tmp_path, capfd)


def _run(device: Device, readings: int, seconds: float = 60.0) -> None:
    """Let the shadow's process do its work here, until it has read so many."""
    ours, theirs = socket.socketpair()
    store = ShadowStore(device.config.ledger_path)

    def stop() -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            running = store.running()
            if running is None or len(store.readings(running["id"])) >= readings:
                break
            time.sleep(0.05)
        ours.close()

    watcher = threading.Thread(target=stop)
    watcher.start()
    theirs.setblocking(False)
    Runner(device.config, theirs).run()
    watcher.join()
    theirs.close()


def _approver(device: Device, name: str) -> Path:
    key = Ed25519PrivateKey.generate()
    device.config.approvers_path.mkdir(exist_ok=True)
    (device.config.approvers_path / f"{name}.pub").write_bytes(signature.public_pem(key))
    path = device.folder / f"{name}.pem"
    none = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none))
    return path


@pytest.mark.long
def test_a_package_reads_in_shadow_and_takes_over_with_a_signature(device: Device, tmp_path: Path) -> None:
    new = fake_package.version(device.folder / "better", "1.5.0", bias=0.3, promotion=LENIENT)
    device.call("shadow", "start", new, "--why", "retrained")
    numbers = device.read(*(make_radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(4)))
    before = Store(device.config.ledger_path, read_only=True).worklist(limit=10)
    _run(device, 4)
    after = Store(device.config.ledger_path, read_only=True).worklist(limit=10)
    assert after == before  # no result, no state and no event of an image is touched
    assert device.reads() == [str(fake_package.bundled())]
    key = _approver(device, "J. Smith")
    promote = ("shadow", "promote", "--by", "J. Smith", "--why", "as planned", "--key", key)
    assert "readers say present" in device.call(*promote, code=1)
    for place, number in enumerate(numbers):
        device.assess(number, present=place % 2 == 0)
    report = json.loads(device.call("shadow", "report", "--format", "json"))
    assert report["met"]
    (finding,) = report["compared"]["findings"].values()
    assert (finding["pairs"], finding["present"], finding["absent"]) == (4, 2, 2)
    assert finding["score_difference"][0] > 0
    assert finding["auc"][2][0] == 0.0  # moved by a constant, it ranks alike
    said = device.call("shadow", "report")
    assert "McNemar" in said
    assert "DeLong" in said
    device.call("shadow", "report", "--format", "html", "--to", tmp_path / "report.html")
    assert "All criteria are met" in (tmp_path / "report.html").read_text()

    _approver(device, "Eve")
    wrong = device.call(*promote[:-1], device.folder / "Eve.pem", code=1)
    assert "not the key of J. Smith" in wrong
    assert "may not approve" in device.call("shadow", "promote", "--by", "../x", "--why", "w", "--key", key, code=1)
    (device.config.approvers_path / "Jo.pub").write_text("no key")
    said = device.call("shadow", "promote", "--by", "Jo", "--why", "w", "--key", key, code=1)
    assert "Jo.pub is not a PEM public key" in said
    (device.config.approvers_path / "Jo.pub").unlink()
    with pytest.raises(BadParameter, match="can't be empty"):
        device.call("shadow", "promote", "--by", "J. Smith", "--why", " ", "--key", key)
    assert device.reads() == [str(fake_package.bundled())]

    said = device.call(*promote)
    assert device.reads() == [f"{MODEL} 1.5.0"]
    assert device.history()[0]["kind"] == "promotion"
    assert "shadow no longer" not in said
    assert ShadowStore(device.config.ledger_path).running() is None
    _check_evidence(Path(said.partition("evidence: ")[2].strip()), device, report)
    device.call("models", "rollback", MODEL, "--why", "second thoughts")
    assert device.reads() == [str(fake_package.bundled())]


def _check_evidence(path: Path, device: Device, report: dict[str, object]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    listed = dict(line.split("  ")[::-1] for line in members["SHA256SUMS"].decode().splitlines())
    assert set(members) - set(listed) == {"SHA256SUMS", "SHA256SUMS.sig", "device.pub"}
    assert all(hashlib.sha256(members[name]).hexdigest() == digest for name, digest in listed.items())
    device_key, _ = signature.load_or_create_private_key(device.config.key_path)
    own = {signature.key_id(device_key.public_key()): device_key.public_key()}
    signature.verify(members["SHA256SUMS.sig"].decode(), members["SHA256SUMS"], own, "sums")
    approvers = signature.load_trusted_keys((device.config.approvers_path,))
    signature.verify(
        members["approval/approval.sig"].decode(), members["approval/approval.json"], approvers, "approval"
    )
    approval = json.loads(members["approval/approval.json"])
    assert approval["statistics_sha256"] == hashlib.sha256(members["shadow/statistics.json"]).hexdigest()
    assert json.loads(members["shadow/statistics.json"])["compared"] == report["compared"]
    assert json.loads(members["packages/new/manifest.json"])["version"] == "1.5.0"
    assert json.loads(members["packages/former/manifest.json"])["version"] == "1.3.1"
    assert any(name.startswith("receipts/") for name in members)
    plan = members["plan.html"].decode()
    for heading in ("Description of modifications", "Modification protocol", "Impact assessment"):
        assert heading in plan


@pytest.mark.long
def test_it_reads_only_while_nothing_waits_and_counts_what_it_cannot_read(device: Device, tmp_path: Path) -> None:
    new = fake_package.version(device.folder / "better", "1.5.0")
    device.call("shadow", "start", new, "--why", "retrained")
    assert "already" in device.call("shadow", "start", new, "--why", "again", code=1)
    (number,) = device.read(make_radiograph(tmp_path / "a.dcm"))
    store = Store(device.config.ledger_path)
    waiting = store.receive(Arrival("1.2", "1.2", "d" * 64, "none.dcm", 1, "drop_folder", "x")).instance_id
    _run(device, 1, seconds=2.0)
    shadows = ShadowStore(device.config.ledger_path)
    (shadow,) = shadows.shadows()
    assert shadow["read"] == 0
    claim = store.claim("worker", 30)
    assert claim is not None
    store.reject(waiting, "worker", "not an image")
    for path in device.config.spool_path.rglob("*.dcm"):
        path.unlink()
    _run(device, 1)
    (reading,) = shadows.readings(shadow["id"])
    assert reading["instance_id"] == number
    assert "missing" in reading["failure"]
    assert "1 of them without an answer" in device.call("shadow", "report")
    device.call("shadow", "stop")
    assert "no package is in shadow" in device.call("shadow", "stop", code=1)


def test_a_shadow_ends_when_another_package_reads_than_it_is_compared_with(device: Device) -> None:
    device.call("shadow", "start", fake_package.version(device.folder / "better", "1.5.0"), "--why", "retrained")
    device.call("models", "install", fake_package.version(device.folder / "worse", "1.3.9"))
    device.call("models", "switch", MODEL, "1.3.9", "--why", "urgent")
    _run(device, 1, seconds=20.0)
    (shadow,) = ShadowStore(device.config.ledger_path).shadows()
    assert shadow["outcome"] == f"{MODEL} 1.3.9 reads now"


def test_nothing_of_a_shadow_is_left_out_of_the_ledgers_own_check(device: Device) -> None:
    assert list(Custody(device.config.ledger_path).contradictions()) == []


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 11), (40, 12), (7, 7)])
def test_mcnemars_test_is_the_exact_binomial_one(one: int, other: int) -> None:
    wanted = binomtest(min(one, other), one + other, 0.5).pvalue if one + other else 1.0
    assert roc.mcnemar(one, other) == pytest.approx(min(wanted, 1.0))


@pytest.mark.parametrize(("patients", "images"), [(60, 1), (40, 3)])
def test_a_paired_difference_holds_the_truth_as_often_as_stated(patients: int, images: int) -> None:
    chance, held = np.random.default_rng(7), 0
    names = np.repeat(np.arange(patients), images)
    for _ in range(1000):
        former = chance.beta(3.4, 0.6, patients)[names] > chance.random(
            len(names)
        )  # 0.85 on average, alike in a patient
        new = chance.beta(3.0, 1.0, patients)[names] > chance.random(len(names))
        new = np.where(chance.random(patients)[names] < 0.8, former, new)
        _, low, high = roc.paired_difference(new, former, names)
        held += low <= 0.2 * (0.75 - 0.85) <= high
    assert held >= 930


def test_copies_of_a_patients_images_are_no_evidence_for_a_rate() -> None:
    chance = np.random.default_rng(5)
    right, other, patients = chance.random(50) < 0.9, chance.random(50) < 0.8, np.arange(50)
    assert roc.rate(right, patients) == roc.wilson(int(right.sum()), 50)
    copied, shared = np.repeat(right, 4), np.repeat(patients, 4)
    assert roc.rate(copied, shared) == pytest.approx(roc.rate(right, patients))
    assert roc.rate(np.ones(100, bool), np.arange(100) // 10) == pytest.approx(roc.wilson(10, 10))
    assert roc.paired_difference(copied, np.repeat(other, 4), shared) == pytest.approx(
        roc.paired_difference(right, other, patients)
    )


def test_areas_that_say_nothing_of_how_sure_they_are_leave_doubt_about_their_difference() -> None:
    labels, chance = np.arange(50) < 25, np.random.default_rng(2)
    scores = labels + chance.normal(size=(2, 50))
    of_one = roc.delong(scores, labels, np.where(labels, 0, np.arange(50)))  # all positive images are of one patient
    _, low, high, p = roc.auc_difference(of_one, 0, 1)
    assert (of_one.positive, of_one.negative) == (1, 25)
    assert low < -0.3 < 0.3 < high
    assert p > 0.5
    apart = roc.delong(chance.random((2, 50)) + 2 * labels, labels, np.arange(50))
    gap, low, high, p = roc.auc_difference(apart, 0, 1)
    assert (gap, p) == (0.0, 1.0)
    assert low == -high < -0.05
    assert roc.auc_difference(roc.delong(np.stack([scores[0], -2.0 * labels]), labels, np.arange(50)), 0, 1)[3] < 0.001
    assert roc.wald(0.0, 0.0) == (0.0, -1.0, 1.0, 1.0)


def test_kappa_is_scikit_learns() -> None:
    chance = np.random.default_rng(1)
    one, other = (list(chance.choice(["present", "absent", "indeterminate"], 50)) for _ in range(2))
    assert comparison._kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))


class Drawn(ShadowStore):
    """Three hundred images of so many patients, half of them with the finding; the shadow is worse."""

    def __init__(self, patients: int) -> None:
        chance = np.random.default_rng(3)
        self.rows, self.known = [], []
        for number in range(300):
            side = 0.2 if number % 2 == 0 else -0.2
            former, new = (float(np.clip(0.5 + side + chance.normal(0, spread), 0, 1)) for spread in (0.15, 0.4))
            said = comparison.Said(former, _word(former), new, _word(new))
            both = comparison.Pair({"Finding": said}, {"Part": (1000, 1000 + number)}, (0.1, 0.2))
            self.rows.append(
                {"instance_id": number, "patient_id": f"P{number % patients}", "issuer_of_patient_id": "",
                 "failure": "", "pairs": msgspec.to_builtins(both)}
            )  # fmt: skip
            self.known.append(
                {"instance_id": number, "label": "Finding", "said": _word(0.5 + side), "verdict": "agree", "reason": ""}
            )

    def readings(self, shadow: int) -> list[dict[str, Any]]:
        return self.rows

    def assessments(self, shadow: int) -> list[dict[str, Any]]:
        return self.known


def _word(probability: float) -> str:
    return "present" if probability >= 0.5 else "absent"


def test_a_better_and_a_worse_package_are_told_apart() -> None:
    compared = comparison.compare(Drawn(patients=300), 1)
    found = compared.findings["Finding"]
    assert found.auc is not None
    assert found.auc[2][2] < 0
    assert found.p_right is not None
    assert found.p_right < 0.001
    lost = [each.what for each in comparison.criteria(compared, Promotion()) if not each.met]
    assert any("AUC" in each for each in lost)
    assert not any("patients" in each for each in lost)
    assert msgspec.json.decode(msgspec.json.encode(compared), type=comparison.Compared) == compared


def test_several_images_of_a_patient_are_no_independent_evidence() -> None:
    of_many, of_few = (comparison.compare(Drawn(patients), 1) for patients in (300, 10))
    many, few = of_many.findings["Finding"], of_few.findings["Finding"]
    assert (few.pairs, few.present, few.absent) == (many.pairs, many.present, many.absent) == (300, 150, 150)
    assert (few.present_patients, few.absent_patients) == (5, 5)
    assert many.sensitivity and many.specificity and few.sensitivity and few.specificity
    for one, other in (
        (many.agreement, few.agreement),
        (of_many.segments["Part"].agreement, of_few.segments["Part"].agreement),
        (many.sensitivity[2], few.sensitivity[2]),
        (many.specificity[2], few.specificity[2]),
    ):
        assert other[0] == pytest.approx(one[0])
        assert other[2] - other[1] > 1.5 * (one[2] - one[1])
    assert few.p_right is not None
    assert few.p_right >= 2 * 0.5**10  # ten patients can't say more
    lost = {each.what: each.found for each in comparison.criteria(of_few, Promotion()) if not each.met}
    assert lost["Finding: patients where readers say present"] == "5"
    assert lost["Finding: patients where readers say absent"] == "5"

"""Packages that are switched and rolled back while images come in; none is lost, and each result names its package."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation as RADIOGRAPH

from appliance.package_store import PackageStore
from tests import fake_package
from tests.device import MODEL
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance, scanside

BACKEND = '[inference]\nbackend = "onnxruntime"\n'


@dataclass
class Outcome:
    """What became of it; ``seconds`` of each command, from its call to the first image that could be read by it."""

    sent: int = 0
    lost: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    by_version: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    switches: list[float] = field(default_factory=list)
    rollbacks: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def appliance(folder: Path) -> RunningAppliance:
    """One that trusts the second package; not started."""
    other = fake_package.version(folder / "better", "1.4.1")
    models = f"[models]\npackages = {[str(fake_package.BUNDLED[0])]}\ntrusted_keys = ['{other.parent / 'trusted'}']\n"
    return RunningAppliance(folder / "appliance", extra=models + BACKEND)


def swap_under_load(running: RunningAppliance, folder: Path, changes: int, pause: float) -> Outcome:
    """Send images without end, switch and roll back meanwhile, then look at every row of the ledger.

    Parameters
    ----------
    pause
        Seconds between two images.
    """
    outcome, stop = Outcome(), threading.Event()
    config = ("--config", running.config_path)
    scanside("models", "install", folder / "better" / f"{MODEL}.scanside", *config, check=True)
    sent: list[str] = []
    sender = threading.Thread(target=_send, args=(running.port, folder, stop, pause, sent))
    sender.start()
    try:
        for change in range(changes):
            command = ("switch", MODEL, "1.4.1") if change % 2 == 0 else ("rollback", MODEL)
            done = scanside("models", *command, "--why", f"change {change}", *config, timeout=600)
            assert done.returncode == 0, done.stderr
            assert "reads with it" in done.stdout, done.stdout
            seconds = float(done.stdout.rpartition(" since ")[2].split()[0])
            (outcome.switches if change % 2 == 0 else outcome.rollbacks).append(seconds)
            time.sleep(pause)
    finally:
        stop.set()
        sender.join()
    _judge(running, outcome, sent)
    return outcome


def _send(port: int, folder: Path, stop: threading.Event, pause: float, sent: list[str]) -> None:
    dataset = pydicom.dcmread(make_radiograph(folder / "source.dcm"))
    entity = AE()
    entity.add_requested_context(RADIOGRAPH, dataset.file_meta.TransferSyntaxUID)
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="SCANSIDE")
    assert association.is_established
    pixels = bytearray(dataset.PixelData)
    while not stop.is_set():
        number = len(sent)
        pixels[number % len(pixels)] ^= 1  # so that no answer is taken from an earlier one
        dataset.PixelData = bytes(pixels)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.PatientID = f"P{number}"
        if association.send_c_store(dataset).Status == 0:
            sent.append(dataset.SOPInstanceUID)
        stop.wait(pause)
    association.release()


def _judge(running: RunningAppliance, outcome: Outcome, sent: list[str]) -> None:
    rows = {row["sop_instance_uid"]: row for row in running.wait_final(len(sent), timeout=300.0 + len(sent))}
    choices = sorted(PackageStore(running.data / "ledger.sqlite3", read_only=True).choices(), key=lambda row: row["id"])
    outcome.sent, outcome.changes = len(sent), len(choices)
    packages = {fake_package.bundled().sha256: "1.3.1", **{row["sha256"]: row["version"] for row in choices}}
    store = running.store()
    for uid in sent:
        row = rows.get(uid)
        if row is None or row["state"] != "delivered":
            outcome.lost.append(f"{uid}: {row['state'] if row else 'not in the ledger'}")
            continue
        made_by = row["provenance"]
        if packages.get(made_by["package_sha256"]) != made_by["version"]:
            outcome.unnamed.append(f"image {row['id']} by {made_by['package_sha256'][:12]}")
        outcome.by_version[made_by["version"]] += 1
        outcome.waits.append(row["made_at"] - row["received_at"])
        for item in store.objects(row["id"]):
            text = str(pydicom.dcmread(running.data / "results" / item["path"]))
            if made_by["version"] not in text:
                outcome.unnamed.append(f"{item['kind']} of image {row['id']}")
    store.close()
    verified = scanside("ledger", "verify", "--config", running.config_path)
    if verified.returncode:
        outcome.lost.append(verified.stdout + verified.stderr)


def as_json(outcome: Outcome) -> str:
    return json.dumps(
        {
            "sent": outcome.sent,
            "lost": outcome.lost,
            "results_that_do_not_name_their_package": outcome.unnamed,
            "by_version": dict(outcome.by_version),
            "changes": outcome.changes,
            "switch_seconds": outcome.switches,
            "rollback_seconds": outcome.rollbacks,
            "longest_wait_of_an_image": max(outcome.waits, default=0.0),
        },
        indent=1,
    )

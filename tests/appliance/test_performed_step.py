"""A modality's Performed Procedure Step is evidence of what its series are to have (PS3.4 annex F.7)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from appliance.completeness import Performed, Ready, Slice, Transfer, Waiting, judge
from appliance.config import Series
from appliance.custody import Custody
from appliance.step_store import StepStore
from tests.appliance.test_series import Bench
from tests.dicom_files import make_series
from tests.peers import wait_until

# --- the judgment ---------------------------------------------------------------------------------------------------

_RELEASED = [Transfer("storage_scp", 0.0, 9.0, "released", 3)]
_OPEN = [Transfer("storage_scp", 0.0, None, "", 3)]


def _slices(*places: int) -> list[Slice]:
    return [Slice(instance_number=place + 1, position=float(place), normal=(0.0, 0.0, 1.0)) for place in places]


@pytest.mark.parametrize(
    ("slices", "transfers", "performed", "reason", "missing"),
    [
        ((0, 1, 2), _OPEN, Performed("COMPLETED", 3, 0),
         "all 3 images are here that its performed procedure step names, which is COMPLETED", ""),
        ((0, 2), _RELEASED, Performed("COMPLETED", 2, 0),
         "all 2 images are here that its performed procedure step names, which is COMPLETED (instance number 2 "
         "missing)", "instance number 2 missing"),
        ((0, 2), _RELEASED, Performed("DISCONTINUED", 2, 0),
         "all 2 images are here that its performed procedure step names, which is DISCONTINUED (instance "
         "number 2 missing)", "instance number 2 missing"),
        ((0, 1, 2), _RELEASED, Performed("DISCONTINUED", 3, 0),
         "all 3 images are here that its performed procedure step names, which is DISCONTINUED",
         "its performed procedure step was discontinued"),
        ((0, 1, 2), _RELEASED, Performed("COMPLETED", 0, 0), "3 slices without a gap, association released", ""),
        ((0, 1, 2), _RELEASED, None, "3 slices without a gap, association released", ""),
    ],
)  # fmt: skip
def test_it_is_read(
    slices: Sequence[int], transfers: list[Transfer], performed: Performed | None, reason: str, missing: str
) -> None:
    """A step proves that nothing more comes, not that nothing is missing."""
    assert judge(_slices(*slices), transfers, 9.0, 9.6, 10.0, performed) == Ready(reason, missing)


@pytest.mark.parametrize(
    ("performed", "reason"),
    [
        (Performed("COMPLETED", 5, 2), "its performed procedure step names 5 images, 2 of them have not come"),
        (Performed("IN PROGRESS", 4, 1), "its performed procedure step names 4 images, 1 of them has not come"),
        (Performed("IN PROGRESS", 3, 0), "its performed procedure step is in progress"),
    ],
)
def test_it_waits(performed: Performed, reason: str) -> None:
    waiting = judge(_slices(0, 1, 2), _RELEASED, 9.0, 9.6, 10.0, performed)
    assert isinstance(waiting, Waiting)
    assert waiting.reason.startswith(f"{reason}: waiting until ")
    assert judge(_slices(0, 1, 2), _RELEASED, 9.0, 19.0, 10.0, performed) == Ready(f"quiet for 10 s: {reason}", reason)


# --- from a modality ------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    found.reader._config = msgspec.structs.replace(found.reader._config, series=Series(quiet_seconds=20))
    yield found
    found.scp.stop()
    found.store.close()


@pytest.fixture
def modality(bench: Bench) -> Iterator[Association]:
    entity = AE("MR1")
    entity.add_requested_context(ModalityPerformedProcedureStep)
    association = entity.associate("127.0.0.1", bench.port)
    yield association
    association.release()


def _create(modality: Association, uid: str, status: str = "IN PROGRESS", **more: Any) -> int:
    step = Dataset()
    step.PerformedProcedureStepStatus, step.PerformedSeriesSequence = status, []
    step.update(more)
    answer, _ = modality.send_n_create(step, ModalityPerformedProcedureStep, uid)
    return int(answer.Status)


def _set(modality: Association, uid: str, status: str, files: Sequence[Path] = ()) -> int:
    step = Dataset()
    step.PerformedProcedureStepStatus = status
    if files:
        series = Dataset()
        series.ReferencedImageSequence = []
        for path in files:
            header, image = pydicom.dcmread(path, stop_before_pixels=True), Dataset()
            image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
            series.SeriesInstanceUID = header.SeriesInstanceUID
            series.ReferencedImageSequence.append(image)
        step.PerformedSeriesSequence = [series]
    answer, _ = modality.send_n_set(step, ModalityPerformedProcedureStep, uid)
    return int(answer.Status)


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    """In the order of their positions."""
    folder = tmp_path / "slices"
    folder.mkdir()
    paths = make_series(folder, np.arange(6 * 8 * 8, dtype=np.uint16).reshape(6, 8, 8))
    return sorted(paths, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def _waits(bench: Bench, words: str) -> None:
    def waits() -> bool:
        bench.reader.work(0.1)
        return any(row["why"].startswith(words) for row in bench.store.gathered())

    wait_until(waits, words)
    assert bench.read() == []


def test_what_the_modality_names_is_waited_for_and_is_enough(
    bench: Bench, modality: Association, slices: list[Path]
) -> None:
    """Five slices without a gap look complete; the step names a sixth."""
    uid = generate_uid()
    assert _create(modality, uid) == 0
    assert _set(modality, uid, "COMPLETED", slices) == 0
    bench.send(*slices[:5])
    bench.ended()
    _waits(bench, "its performed procedure step names 6 images, 1 of them has not come: waiting")
    bench.send(slices[5])
    bench.ended()
    bench.reader.work()
    ((lead, read),) = bench.read()
    assert len(read) == 6
    row = bench.store.instance(lead)
    assert row is not None
    assert row["why"] == "all 6 images are here that its performed procedure step names, which is COMPLETED"


def test_a_discontinued_series_is_read_when_the_modality_says_so(
    bench: Bench, modality: Association, slices: list[Path]
) -> None:
    """It would wait for the quiet timer otherwise: each image states a count that is never reached."""
    uid = generate_uid()
    _create(modality, uid)
    for path in slices:
        dataset = pydicom.dcmread(path)
        dataset.NumberOfSeriesRelatedInstances = 6
        dataset.save_as(path)
    bench.send(*slices[:4])
    bench.ended()
    _waits(bench, "says 6 images, 4 are here")
    assert _set(modality, uid, "DISCONTINUED", slices[:4]) == 0
    bench.reader.work()
    ((lead, read),) = bench.read()
    assert len(read) == 4
    row = bench.store.instance(lead)
    assert row is not None
    assert row["why"] == (
        "all 4 images are here that its performed procedure step names, which is DISCONTINUED (says 6 images, "
        "4 are here)"
    )
    assert bench.store.cautions(lead) == ("Images of the series may be missing: says 6 images, 4 are here.",)


def test_what_the_standard_refuses_is_refused(bench: Bench, modality: Association, slices: list[Path]) -> None:
    uid = generate_uid()
    assert _create(modality, uid, "COMPLETED") == 0x0106
    assert _create(modality, uid) == 0
    assert _create(modality, uid) == 0x0111
    assert _set(modality, generate_uid(), "COMPLETED") == 0x0112
    assert _set(modality, uid, "FINISHED") == 0x0106
    assert _set(modality, uid, "COMPLETED", slices) == 0
    assert _set(modality, uid, "DISCONTINUED") == 0x0110
    assert modality.is_established


def test_steps_are_forgotten_and_a_flood_of_them_is_bounded(
    bench: Bench, modality: Association, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.step_store.MOST_STEPS", 2)
    uids = [generate_uid() for _ in range(3)]
    assert [_create(modality, uid) for uid in uids] == [0, 0, 0x0213]
    assert _set(modality, uids[0], "COMPLETED", slices) == 0
    custody = Custody(bench.data / "ledger.sqlite3")
    assert custody.prune_steps(time.time() - 60) == 0
    assert custody.prune_steps(time.time() + 60) == 2
    custody.close()
    steps = StepStore(bench.data / "ledger.sqlite3")
    assert steps.update(uids[0], "COMPLETED", None) == "unknown"
    assert steps.create(uids[0], "MR1", {}) == ""
    steps.close()


def test_a_step_that_would_cost_much_is_refused_before_it_is_read(bench: Bench, modality: Association) -> None:
    nested = Dataset()
    for _ in range(100):
        inner, nested = nested, Dataset()
        nested.PerformedSeriesSequence = [inner]
    nested.PerformedProcedureStepStatus = "IN PROGRESS"
    answer, _ = modality.send_n_create(nested, ModalityPerformedProcedureStep, generate_uid())
    assert answer.Status == 0x0106

"""The running appliance when its inference breaks: nothing is lost, nothing is doubled, and the page says what was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import package
from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import chest_pixels, make_radiograph
from tests.running import RunningAppliance, scanside

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANSIDE_FAKE_BACKEND", "1")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [make_radiograph(tmp_path / "images" / f"{number}.dcm", seed=number) for number in range(4)]


class Boxes:
    """Starts appliances on fake packages, and stops them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[RunningAppliance] = []

    def start(self, backend: str = "auto", keep: tuple[str, ...] = (), **behavior: Any) -> RunningAppliance:
        path = fake_package.make(self._folder / "package", keep, **behavior)
        models = f"[models]\npackages = ['{path}']\ntrusted_keys = ['{path.parent / 'trusted'}']\n"
        inference = f"[inference]\nbackend = '{backend}'\ndeadline_seconds = 1.0\n"
        appliance = RunningAppliance(self._folder / "appliance", models + inference)
        appliance.start()
        self._running.append(appliance)
        return appliance

    def stop(self) -> None:
        for appliance in self._running:
            appliance.stop()


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Boxes]:
    found = Boxes(tmp_path)
    yield found
    found.stop()


def send(appliance: RunningAppliance, *files: Path) -> None:
    for sent in send_files(files, Destination("SCANSIDE", "127.0.0.1", appliance.port), "TEST", {}, associations=1):
        assert sent.ok, sent.error


def by_uid(rows: list[dict[str, Any]], files: list[Path]) -> list[dict[str, Any]]:
    import pydicom

    found = {row["sop_instance_uid"]: row for row in rows}
    return [found[str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)] for file in files]


def page(appliance: RunningAppliance, path: str) -> str:
    with urllib.request.urlopen(appliance.url + path, timeout=10) as answer:
        return str(answer.read().decode())


def inference(appliance: RunningAppliance) -> dict[str, Any]:
    found: dict[str, Any] = appliance.status()["components"]
    said = found.get("inference", {})
    return {"backend": None, "pid": None, **said, **(said.get("serves") or [{}])[0], "worker": found["worker"]}


def wait_until(appliance: RunningAppliance, what: str, true: Any, seconds: float = 20.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = inference(appliance)
        if true(found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: {inference(appliance)}\n{appliance.log}")


def test_an_image_that_crashes_the_backend_is_read_by_the_next(boxes: Boxes, images: list[Path]) -> None:
    appliance = boxes.start(keep=("cpu",), crash=(fake_package.input_digest(images[1]),))
    send(appliance, *images)
    rows = by_uid(appliance.wait_final(4), images)
    assert [row["state"] for row in rows] == ["delivered"] * 4
    store = appliance.store()
    ran_on = [store.instance(row["id"])["provenance"]["backend"] for row in rows]  # type: ignore[index]
    assert ran_on == ["fake", "onnxruntime", "fake", "fake"]
    events = [event["detail"] for event in store.events(rows[1]["id"]) if "SIGSEGV" in event["detail"]]
    assert len(events) == 2
    found = wait_until(appliance, "restarts", lambda each: each.get("stops") == {"fake": 2})
    assert found["worker"]["state"] == "ready"
    assert "SIGSEGV" in page(appliance, "device")
    assert "onnxruntime" in page(appliance, f"study/{rows[1]['id']}")


def test_an_image_that_kills_twice_is_quarantined_where_there_is_no_other(boxes: Boxes, images: list[Path]) -> None:
    appliance = boxes.start(
        "fake", crash=(fake_package.input_digest(images[0]),), hang=(fake_package.input_digest(images[2]),)
    )
    send(appliance, *images)
    rows = by_uid(appliance.wait_final(4), images)
    assert [row["state"] for row in rows] == ["quarantined", "delivered", "quarantined", "delivered"]
    for row, word in ((rows[0], "SIGSEGV"), (rows[2], "no answer within 1 s")):
        assert row["crashes"] == 2
        assert row["reason"].startswith("It stopped the process that reads images 2 times")
        assert word in row["reason"]
        assert word in page(appliance, f"study/{row['id']}")
    # Sent again it is the same instance: it doesn't get to kill once more.
    send(appliance, images[0])
    assert by_uid(appliance.wait_final(4), images)[0]["copies"] == 2
    assert "worker stopped" not in appliance.log  # the worker itself was never touched


def test_no_numbers_are_no_result(boxes: Boxes, images: list[Path]) -> None:
    appliance = boxes.start("fake", nan=(fake_package.input_digest(images[0]),))
    send(appliance, *images[:2])
    rows = by_uid(appliance.wait_final(2), images[:2])
    assert [row["state"] for row in rows] == ["failed", "delivered"]
    assert "no numbers" in rows[0]["reason"]


def test_a_backend_that_sleeps_for_ever_is_replaced(boxes: Boxes, images: list[Path], tmp_path: Path) -> None:
    flag = tmp_path / "asleep"
    appliance = boxes.start(keep=("cpu",), hang_file=str(flag))
    send(appliance, images[0])
    appliance.wait_final(1)
    flag.touch()
    send(appliance, *images[1:])
    rows = by_uid(appliance.wait_final(4, timeout=30), images)
    store = appliance.store()
    backends = [store.instance(row["id"])["provenance"]["backend"] for row in rows]  # type: ignore[index]
    assert backends == ["fake", "onnxruntime", "onnxruntime", "onnxruntime"]
    found = wait_until(appliance, "dropped", lambda each: each["backend"] == "onnxruntime")
    trials = {each["backend"]: each for each in found["worker"]["trials"]}
    assert "no answer" in trials["fake"]["reason"]
    assert "not used" in page(appliance, "device")
    flag.unlink()  # mended: it is asked to prove itself, and serves again, since it is the fastest
    again = scanside("receipt", "--json", "--config", appliance.config_path)
    assert again.returncode == 0, again.stderr
    assert {each["backend"]: bool(each["receipt"]) for each in json.loads(again.stdout)}["fake"]
    wait_until(appliance, "back", lambda each: each["backend"] == "fake")


def test_a_stop_does_not_wait_for_a_proof(boxes: Boxes, tmp_path: Path) -> None:
    flag = tmp_path / "asleep"
    flag.touch()
    appliance = boxes.start("fake", hang_file=str(flag))
    deadline = time.monotonic() + 20
    while "the backends prove themselves" not in appliance.log and time.monotonic() < deadline:
        time.sleep(0.05)
    assert appliance.stop() == 0
    assert "asked to stop while packages are proved" in appliance.log
    assert "did not stop" not in appliance.log


@pytest.mark.slow  # tests.benchmarks.inference_kills does it 100 times
def test_killed_again_and_again_under_load_it_loses_and_doubles_nothing(boxes: Boxes, tmp_path: Path) -> None:
    appliance = boxes.start("onnxruntime", keep=("cpu",))
    files = [make_radiograph(tmp_path / "many" / f"{number}.dcm", seed=100 + number) for number in range(60)]
    kills = 10
    send(appliance, *files)
    killed: set[int] = set()
    deadline = time.monotonic() + 60
    while len(killed) < kills and time.monotonic() < deadline:
        pid = inference(appliance).get("pid")
        if pid and pid not in killed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(0.05)
    assert len(killed) == kills
    rows = appliance.wait_final(len(files))
    assert Counter(row["state"] for row in rows) == {"delivered": len(files)}
    assert len({row["sop_instance_uid"] for row in rows}) == len(files)
    assert len(list((appliance.data / "results").glob("*/structured_report.dcm"))) == len(files)
    wait_until(appliance, "counted", lambda each: each["stops"] == {"onnxruntime": kills})


@pytest.mark.slow
def test_a_network_is_compiled_in_the_background_while_another_backend_serves(boxes: Boxes, images: list[Path]) -> None:
    appliance = boxes.start(keep=("cpu",), prepare_seconds=6.0)
    found = wait_until(appliance, "serving", lambda each: each["worker"]["state"] == "ready")
    assert found["backend"] == "onnxruntime"
    seen = wait_until(
        appliance,
        "progress",
        lambda each: any(0 < (trial["progress"] or 0) < 1 for trial in each["worker"]["trials"]),
    )
    assert any("being compiled" in trial["reason"] for trial in seen["worker"]["trials"])
    assert "<progress" in page(appliance, "device")
    send(appliance, images[0])
    appliance.wait_final(1, timeout=5)
    wait_until(appliance, "compiled", lambda each: each.get("backend") == "fake" and each["worker"]["state"] == "ready")
    send(appliance, images[1])
    rows = by_uid(appliance.wait_final(2), images[:2])
    store = appliance.store()
    backends = [store.instance(row["id"])["provenance"]["backend"] for row in rows]  # type: ignore[index]
    assert backends == ["onnxruntime", "fake"]


def test_the_same_pixels_are_answered_once(boxes: Boxes, tmp_path: Path) -> None:
    appliance = boxes.start("fake")
    pixels = chest_pixels(256, 224, 12, 5)
    files = [make_radiograph(tmp_path / "same" / f"{number}.dcm", pixels=pixels, seed=number) for number in range(2)]
    send(appliance, files[0])
    appliance.wait_final(1)
    send(appliance, files[1])
    rows = by_uid(appliance.wait_final(2), files)
    assert rows[0]["findings"] == rows[1]["findings"]
    notes = [event["detail"] for event in appliance.store().events(rows[1]["id"]) if event["what"] == "note"]
    assert notes == ["the answer to the same pixels was taken again"]
    assert not [event for event in appliance.store().events(rows[0]["id"]) if event["what"] == "note"]
    wait_until(appliance, "counted", lambda each: each.get("reused") == 1)


def test_images_are_read_together_where_the_receipt_shows_a_gain(boxes: Boxes, tmp_path: Path) -> None:
    appliance = boxes.start("fake", seconds=0.2, batches=(1, 4))
    files = [make_radiograph(tmp_path / "many" / f"{number}.dcm", seed=200 + number) for number in range(9)]
    wait_until(appliance, "ready", lambda each: each.get("batch") == 4)
    send(appliance, *files)
    rows = appliance.wait_final(len(files))
    assert Counter(row["state"] for row in rows) == {"delivered": len(files)}
    store = appliance.store()
    taken = sorted(store.instance(row["id"])["seconds"]["infer"] for row in rows)  # type: ignore[index]
    assert taken[3] < 0.1  # most answers were there already, from a batch
    assert taken[-1] > 0.2


def test_one_that_kills_in_a_group_takes_no_other_with_it(boxes: Boxes, tmp_path: Path) -> None:
    files = [make_radiograph(tmp_path / "many" / f"{number}.dcm", seed=300 + number) for number in range(9)]
    appliance = boxes.start("fake", seconds=0.2, batches=(1, 4), crash=(fake_package.input_digest(files[5]),))
    wait_until(appliance, "ready", lambda each: each.get("batch") == 4)
    send(appliance, *files)
    rows = by_uid(appliance.wait_final(len(files)), files)
    assert [row["state"] for row in rows] == ["delivered"] * 5 + ["quarantined"] + ["delivered"] * 3
    assert [row["crashes"] for row in rows] == [0] * 5 + [2] + [0] * 3


def test_a_configured_backend_that_can_not_serve_is_refused_and_images_wait(
    boxes: Boxes, images: list[Path], tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    appliance = boxes.start("fake", keep=("cpu",), crash_file=str(flag))
    send(appliance, images[0])
    found = wait_until(appliance, "waiting", lambda each: each["worker"]["state"] == "waiting")
    assert "fake" in found["worker"]["reason"]
    assert "SIGSEGV" in page(appliance, "")
    assert found["state"] == "waiting"
    assert "nothing at the moment" in page(appliance, "device")
    refused = scanside("receipt", "--backend", "onnxruntime", "--config", appliance.config_path)
    assert "configured not to use onnxruntime" in refused.stderr
    time.sleep(0.5)
    assert appliance.status()["counts"]["received"] == 1  # not by onnxruntime, which nobody configured
    flag.unlink()
    assert scanside("receipt", "--config", appliance.config_path).returncode == 0
    (row,) = appliance.wait_final(1)
    assert row["state"] == "delivered"


@pytest.mark.slow  # test_backends damages it in every way, without a whole appliance around
def test_a_damaged_compiled_network_does_not_stop_the_start(boxes: Boxes, images: list[Path]) -> None:
    appliance = boxes.start("fake", prepare_seconds=0.5)
    wait_until(appliance, "ready", lambda each: each["worker"]["state"] == "ready")
    appliance.stop()
    shutil.rmtree(appliance.data / "engines")
    appliance.start()
    wait_until(appliance, "ready", lambda each: each["worker"]["state"] == "ready")
    send(appliance, images[0])
    (row,) = appliance.wait_final(1)
    assert row["state"] == "delivered"

"""The worker where one package of several can't be served: it keeps back its own images only, and comes back."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import doctor, image, installed, package, problems, readiness
from appliance.config import Config, Inference, Models, Series
from appliance.health import health
from appliance.in_service import Engine
from appliance.machine import Clock
from appliance.package_store import Choice, PackageStore
from appliance.pipeline import Pipeline
from appliance.problems import Problem
from appliance.store import Arrival, Store
from appliance.worker import Worker
from tests import fake_package
from tests.device import MODEL
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.running import scanside
from tests.shared_sandbox import sandbox

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


class Box:
    """A worker on a data folder, turn by turn."""

    def __init__(self, folder: Path, *packages: Path, backend: str = "auto") -> None:
        self.folder = folder
        self.config = Config(
            data_dir=str(folder / "box"),
            models=Models(
                packages=tuple(map(str, packages)),
                trusted_keys=tuple(
                    str(each.parent / "trusted") for each in packages if (each.parent / "trusted").exists()
                ),
            ),
            inference=Inference(backend=backend),
            series=Series(quiet_seconds=0.2),
        )
        self.config.spool_path.mkdir(parents=True)
        self.store = Store(self.config.ledger_path)
        self.choices = PackageStore(self.config.ledger_path)
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.worker = Worker(self.config, theirs)
        self.worker._sandbox = sandbox()

    def receive(self, *paths: Path) -> int:
        """The number of the first."""
        numbers = []
        for path in paths:
            digest, said = hashlib.sha256(path.read_bytes()).hexdigest(), image.read_header(path)
            shutil.copy(path, self.config.spool_path / f"{digest}.dcm")
            arrival = Arrival(str(said.SOPInstanceUID), str(said.SOPClassUID), digest, f"{digest}.dcm",
                              path.stat().st_size, "upload", path.name)  # fmt: skip
            numbers.append(self.store.receive(arrival).instance_id)
        return numbers[0]

    def look(self) -> Pipeline:
        opened = self.worker._readiness.look_after()
        assert opened is not None
        return opened

    def turns(self, true: Callable[[], bool], seconds: float = 20.0) -> None:
        """Of the worker's loop, until something holds."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.store.worklist()
            opened = self.look()
            self.worker._start_series()
            if claim := self.worker._claim():
                self.worker._process(opened, claim)
            else:
                time.sleep(0.05)

    def row(self, number: int) -> dict[str, Any]:
        row = self.store.instance(number)
        assert row is not None
        return row

    def state(self, number: int) -> str:
        return str(self.row(number)["state"])

    def waits(self, number: int) -> bool:
        return bool(self.row(number)["reason"].startswith("Waiting: "))

    def alarms(self) -> list[Problem]:
        found = {**health(self.config, self.store), "running": True}
        return [each for each in problems.find(found, Clock("", True), [], None) if each.name.startswith("unserved_")]

    def close(self) -> None:
        self.worker._readiness.close()


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_package.hippocampus(tmp_path_factory.mktemp("hippocampus"))


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with which the network `chest` kills its process."""
    monkeypatch.setenv("SCANSIDE_FAKE_BACKEND", "1")
    monkeypatch.setattr(readiness, "_AGAIN_SECONDS", 0.5)
    monkeypatch.setattr(readiness, "_AGAIN_TIMES", 0.0)
    path = tmp_path / "broken"
    path.touch()
    return path


@pytest.fixture
def chest(tmp_path: Path, flag: Path) -> Path:
    return fake_package.make(tmp_path / "chest", crash_file=str(flag))


@pytest.fixture
def boxes() -> Iterator[Callable[..., Box]]:
    made: list[Box] = []

    def make(*arguments: Any, **keys: Any) -> Box:
        made.append(Box(*arguments, **keys))
        return made[-1]

    yield make
    for each in made:
        each.close()


def damaged(content: bytes, name: str) -> bytes:
    """A package of which the bytes of one file were changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(name)
    place = info.header_offset + 30 + len(name) + info.compress_size // 2
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def served_by(opened: Pipeline, model: str) -> Engine:
    return next(each for each in opened.engines if each.package.manifest.id == model)


def pid(opened: Pipeline, model: str) -> int:
    process = served_by(opened, model).server.process
    assert process is not None
    return process.pid


def test_its_images_wait_and_are_read_when_it_comes_into_service(
    boxes: Callable[..., Box], tmp_path: Path, hippocampus: Path, chest: Path, flag: Path
) -> None:
    box = boxes(tmp_path, chest, hippocampus)
    before = box.look()
    process, receipts = pid(before, "hippocampus"), {row["id"] for row in box.store.receipts()}
    (alarm,) = box.alarms()  # before any image waits
    assert alarm.what.startswith("fake 1.3.1 can't be served. ")
    assert "SIGSEGV" in alarm.detail
    radiograph = box.receive(make_radiograph(tmp_path / "chest.dcm"))
    volume = box.receive(*make_series(tmp_path / "series", hippocampus_pixels(18, 30, 24)))
    box.turns(lambda: box.state(volume) == "delivered" and box.waits(radiograph))
    assert box.state(radiograph) == "received"
    assert box.row(radiograph)["reason"].startswith("Waiting: fake 1.3.1 can't be served: no inference backend can be")
    claimed = [event for event in box.store.events(radiograph) if event["what"] == "claimed"]
    (held,) = box.store._rows("SELECT not_before FROM instance WHERE id = :id", id=radiograph)
    assert held["not_before"] > time.time() + 600  # nor is it looked at each moment
    time.sleep(0.6)  # it is tried again, and fails again
    box.look()
    box.look()
    assert [event for event in box.store.events(radiograph) if event["what"] == "claimed"] == claimed
    flag.unlink()
    box.turns(lambda: box.state(radiograph) == "delivered")
    after = box.look()
    assert after is before
    assert pid(after, "hippocampus") == process
    assert receipts < {row["id"] for row in box.store.receipts()}  # nothing else was proved anew
    assert box.alarms() == []


@pytest.mark.long
def test_one_that_breaks_in_service_stops_no_other(
    boxes: Callable[..., Box], tmp_path: Path, hippocampus: Path, chest: Path, flag: Path
) -> None:
    flag.unlink()
    box = boxes(tmp_path, chest, hippocampus)
    opened = box.look()
    process, former = pid(opened, "hippocampus"), pid(opened, "fake")
    flag.touch()
    os.kill(former, signal.SIGKILL)
    assert served_by(opened, "fake").server.process is not None
    time.sleep(0.2)
    assert [str(each.package) for each in box.look().unserved] == ["fake 1.3.1"]
    assert pid(box.look(), "hippocampus") == process
    assert [each.name for each in box.alarms()] == ["unserved_fake"]
    flag.unlink()
    box.turns(lambda: not box.look().unserved)
    assert (pid(box.look(), "hippocampus"), box.alarms()) == (process, [])
    assert box.store.components()["inference"]["stops"]["fake"] >= 1  # what was counted stays


def test_a_damaged_package_keeps_back_what_its_manifest_says_until_it_is_whole(
    boxes: Callable[..., Box], tmp_path: Path, hippocampus: Path, chest: Path, flag: Path
) -> None:
    flag.unlink()
    copy = Path(shutil.copytree(hippocampus.parent, tmp_path / "copy")) / hippocampus.name
    whole = copy.read_bytes()
    copy.write_bytes(damaged(whole, "cpu.onnx"))
    box = boxes(tmp_path, chest, copy)
    radiograph = box.receive(make_radiograph(tmp_path / "chest.dcm"))
    volume = box.receive(*make_series(tmp_path / "series", hippocampus_pixels(18, 30, 24)))
    box.turns(lambda: box.state(radiograph) == "delivered" and box.waits(volume))
    process = pid(box.look(), "fake")
    assert (box.state(volume), box.row(volume)["images"]) == ("received", 18)
    assert "is damaged" in box.row(volume)["reason"]
    assert [each.name for each in box.alarms()] == ["unserved_hippocampus"]
    checks = [(each.what, each.outcome) for each in doctor.examine(box.config)]
    assert {("model package", "fail"), ("model package", "ok"), ("inference", "ok")} <= set(checks)
    copy.write_bytes(whole)
    box.turns(lambda: box.state(volume) == "delivered")
    assert (pid(box.look(), "fake"), box.alarms()) == (process, [])


def test_a_try_that_took_long_is_not_soon_repeated_but_when_somebody_asks(
    boxes: Callable[..., Box],
    tmp_path: Path,
    hippocampus: Path,
    chest: Path,
    flag: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(readiness, "_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(readiness, "_AGAIN_TIMES", 100.0)
    box = boxes(tmp_path, chest, hippocampus)
    with caplog.at_level(logging.INFO):
        before = box.look()
        flag.unlink()
        time.sleep(0.2)
        assert box.look() is before
        assert box.look().unserved
        assert "is tried again in" in caplog.text
        assert "fake 1.3.1 is tried again\n" not in caplog.text
    box.config.receipt_request_path.touch()
    assert not box.look().unserved


@pytest.mark.parametrize("target", ["openvino", "cpu"], ids=["no receipt", "damaged"])
def test_what_read_before_reads_again_while_the_others_go_on(
    boxes: Callable[..., Box], tmp_path: Path, hippocampus: Path, target: str
) -> None:
    newer, former = fake_package.version(tmp_path / "newer", "1.4.1", keep=(target,)), fake_package.bundled()
    copy = Path(shutil.copytree(hippocampus.parent, tmp_path / "copy")) / hippocampus.name
    shutil.copytree(newer.parent / "trusted", copy.parent / "trusted", dirs_exist_ok=True)
    box = boxes(tmp_path, fake_package.BUNDLED[0], copy, backend="onnxruntime")
    kept = installed.install(box.config, box.choices, newer, "Jo")
    box.choices.choose(Choice(MODEL, "1.4.1", kept.sha256, former.sha256, "switch", "Jo", "elsewhere"))
    if target == "cpu":
        kept.path.write_bytes(damaged(kept.path.read_bytes(), kept.manifest.targets["cpu"].artifact))
    first = box.look()
    process = pid(first, "hippocampus")
    second = box.look()
    assert second is first
    assert str(served_by(second, MODEL).package) == str(former)
    assert pid(second, "hippocampus") == process
    latest = box.choices.in_force()[MODEL]
    assert (latest["kind"], latest["version"]) == ("fallback", former.manifest.version)
    assert ("no inference backend can be used" if target == "openvino" else "damaged") in latest["why"]


def test_another_choice_takes_nothing_back_that_merely_waits(
    boxes: Callable[..., Box], tmp_path: Path, hippocampus: Path, chest: Path
) -> None:
    lungs = fake_package.lungs(tmp_path / "lungs")
    box = boxes(tmp_path, chest, hippocampus, lungs)
    broken = package.read(chest, None).sha256
    box.choices.choose(Choice("fake", "1.3.1", broken, "", "switch", "Jo", "confirmed"))
    assert [str(each.package) for each in box.look().unserved] == ["fake 1.3.1"]
    gone = package.read(lungs, None)
    box.choices.choose(Choice("lungs", "", "", gone.sha256, "switch", "Jo", "nothing outlines lungs"))
    after = box.look()
    assert [each.package.manifest.id for each in after.places] == ["fake", "hippocampus"]
    assert box.choices.in_force()["fake"]["kind"] == "switch"
    assert len(box.choices.choices()) == 2


def test_a_companion_that_can_not_be_served_costs_nobody_the_findings(
    boxes: Callable[..., Box], tmp_path: Path
) -> None:
    never = fake_package.lungs(tmp_path / "lungs", smallest_dice=2.0)
    box = boxes(tmp_path, fake_package.BUNDLED[0], never, backend="onnxruntime")
    number = box.receive(make_radiograph(tmp_path / "chest.dcm"))
    box.turns(lambda: box.state(number) == "delivered")
    warning = "The outline of the lungs failed, so what is shown was not checked against it."
    assert warning in box.row(number)["warnings"]
    assert [each.name for each in box.alarms()] == ["unserved_lungs"]


def test_infer_reads_the_others_and_says_why_not_this_one(tmp_path: Path, hippocampus: Path, chest: Path) -> None:
    folders = [str(each.parent / "trusted") for each in (chest, hippocampus)]
    path = tmp_path / "scanside.toml"
    path.write_text(f"[models]\npackages = {[str(chest), str(hippocampus)]}\ntrusted_keys = {folders}\n")
    radiograph = make_radiograph(tmp_path / "chest.dcm")
    make_series(tmp_path / "series", hippocampus_pixels(18, 30, 24))
    done = scanside("infer", radiograph, tmp_path / "series", "--json", "--config", path)
    answers = {each["files"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert answers[18]["status"] == "resulted", done.stderr
    assert answers[1]["status"] == "failed"
    assert answers[1]["reason"].startswith("fake 1.3.1 can't be served: no inference backend can be used: ")

"""A backend in a process of its own: right answers through shared memory, and no fault of it reaches the parent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from appliance import backends, package
from appliance.backend import Options
from appliance.config import Config
from appliance.errors import BackendError, InferenceStoppedError, NotServedError
from appliance.inference import InferenceProcess
from appliance.pipeline import Pipeline
from appliance.preparation import Preparation
from appliance.preprocess import preprocess
from appliance.proof import Trial
from appliance.receipt import Batch, Receipt
from appliance.serving import Server, best_batch
from tests import fake_package

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
USABLE = [name for name in ("onnxruntime", "openvino") if backends.missing(name) is None]


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANSIDE_FAKE_BACKEND", "1")


def inputs(opened: package.Package) -> list[dict[str, np.ndarray]]:
    """Like the golden vectors, but others: those a backend must answer to have a receipt."""
    spec = opened.manifest.input
    return [{spec.name: preprocess(image, spec.steps) * np.float32(0.9)} for image in opened.golden()["images"]]


def digest(opened: package.Package, number: int) -> str:
    """How the fake's artifact names one of them."""
    return backends.fake.digest(inputs(opened)[number][opened.manifest.input.name][0])  # type: ignore[attr-defined]


def fake(folder: Path, **behavior: Any) -> package.Package:
    return package.read(fake_package.make(folder, **behavior), None)


def started(
    opened: package.Package, name: str, options: Options | None = None, prove: bool = False
) -> InferenceProcess:
    process = InferenceProcess(opened, name, options or Options(device=backends.device(name)), prove)
    answer = process.wait_until_started()
    assert answer.reason == ""
    assert (answer.receipt is not None) == prove
    return process


@pytest.mark.long
@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("lanes", [1, 2])
def test_answers_are_the_backends_own_and_in_order(name: str, lanes: int) -> None:
    opened = fake_package.bundled()
    module, options = backends.module(name), Options(device="CPU", lanes=lanes)
    backend = module.open(opened.artifact(module.TARGET), options)
    wanted = [backend.run(each) for each in inputs(opened)]
    process = started(opened, name, options)
    for given in (
        process.run(inputs(opened), 10.0),
        [process.run([each], 10.0)[0] for each in inputs(opened)],
    ):
        assert len(given) == len(wanted)
        for output, expected in zip(given, wanted, strict=True):
            assert all(np.array_equal(output.arrays[key], value[0]) for key, value in expected.items())
            assert output.seconds > 0
    process.close()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9, 16])
def test_batches_of_any_number_of_images(count: int, tmp_path: Path) -> None:
    opened = fake(tmp_path, batches=(1, 4))
    process = started(opened, "fake", Options(batch=4, lanes=2))
    alone = started(opened, "fake")
    images = inputs(opened)[:count]
    together = process.run(images, 10.0)
    assert len(together) == count
    for output, image in zip(together, images, strict=True):
        (single,) = alone.run([image], 10.0)
        assert all(np.array_equal(output.arrays[name], single.arrays[name]) for name in single.arrays)
    process.close()
    alone.close()


def test_what_the_caller_keeps_is_not_overwritten_by_the_next_image() -> None:
    opened = fake_package.bundled()
    process = started(opened, "onnxruntime")
    (first,) = process.run(inputs(opened)[:1], 10.0)
    kept = {name: value.copy() for name, value in first.arrays.items()}
    process.run(inputs(opened), 10.0)
    assert all(np.array_equal(first.arrays[name], kept[name]) for name in kept)
    process.close()


def test_a_crash_a_hang_and_a_kill_are_reasons(tmp_path: Path) -> None:
    plain = fake(tmp_path / "plain")
    opened = fake(tmp_path / "fake", crash=(digest(plain, 1),), hang=(digest(plain, 2),))
    images = inputs(opened)
    process = started(opened, "fake")
    with pytest.raises(InferenceStoppedError, match="SIGSEGV"):
        process.run([images[1]], 10.0)
    assert not process.is_alive()
    process = started(opened, "fake")
    with pytest.raises(InferenceStoppedError, match=r"no answer within 0\.5 s"):
        process.run([images[2]], 0.5)
    assert not process.is_alive()
    process = started(opened, "fake")
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InferenceStoppedError, match="SIGKILL"):
        process.run([images[3]], 10.0)


def test_an_image_that_is_refused_leaves_the_process_alive(tmp_path: Path) -> None:
    plain = fake(tmp_path / "plain")
    opened = fake(tmp_path / "fake", error=(digest(plain, 1),))
    process = started(opened, "fake", Options(lanes=2))
    images = inputs(opened)
    for group in ([images[1]], images):
        with pytest.raises(BackendError, match="refuses this image") as caught:
            process.run(group, 10.0)
        assert not isinstance(caught.value, InferenceStoppedError)
        assert len(process.run(images[2:6], 10.0)) == 4
    with pytest.raises(BackendError, match="can't run"):
        process.run([{opened.manifest.input.name: np.zeros((1, 1, 8, 8), np.float32)}], 10.0)
    assert len(process.run(images[2:3], 10.0)) == 1
    process.close()


def test_no_answer_is_ever_taken_for_that_of_another_image() -> None:
    opened = fake_package.bundled()
    process = started(opened, "onnxruntime", Options(lanes=2))
    images = inputs(opened)
    wanted = [output.arrays["logits"] for output in process.run(images, 10.0)]
    wrong = {opened.manifest.input.name: np.zeros((1, 1, 8, 8), np.float32)}
    for place in range(8):
        with pytest.raises(BackendError, match="can't run"):
            process.run([*images[:place], wrong, *images[place:]], 10.0)
        with pytest.raises(BackendError, match="can't run"):
            process.run([*images[:place], {"picture": images[0]["image"]}], 10.0)
        (output,) = process.run([images[place]], 10.0)
        assert np.array_equal(output.arrays["logits"], wanted[place])
    process.close()


def test_a_stop_of_the_whole_service_does_not_take_it_from_its_parent(tmp_path: Path) -> None:
    process = started(fake(tmp_path), "fake")
    os.kill(process.pid, signal.SIGTERM)
    assert len(process.run(inputs(fake_package.bundled())[:1], 10.0)) == 1
    process.close()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    opened = fake(tmp_path)
    started(opened, "fake").close()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        process = started(opened, "fake")
        process.run(inputs(opened), 10.0)
        process.close()
        process.close()  # once more does no harm
        assert not Path(f"/proc/{process.pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_network_that_must_be_compiled_first_says_so(tmp_path: Path) -> None:
    opened = fake(tmp_path / "package", prepare_seconds=0.2)
    options = Options(cache=tmp_path / "engines")
    answer = InferenceProcess(opened, "fake", options).wait_until_started()
    assert answer.unprepared
    assert "not been compiled" in answer.reason


def test_compiling_reports_its_progress_and_what_became_of_it(tmp_path: Path) -> None:
    opened = fake(tmp_path / "package", prepare_seconds=0.5)
    preparation = Preparation(opened, "fake", Options(lanes=2, cache=tmp_path / "engines"))
    seen = set()
    while not preparation.wait(0.02):
        seen.add(preparation.step.share)
    assert preparation.step.failed == ""
    assert len(seen) > 3
    process = started(opened, "fake", Options(lanes=2, cache=tmp_path / "engines"))
    process.close()
    (tmp_path / "file").touch()
    preparation = Preparation(opened, "fake", Options(cache=tmp_path / "file"))
    assert preparation.wait()
    assert "could not be kept" in preparation.step.failed
    preparation = Preparation(fake(tmp_path / "other"), "onnxruntime", Options())
    assert preparation.wait()
    assert preparation.step.failed == ""  # it needs none


# --- what an image may cost ------------------------------------------------------------------------------------------


def receipt_of(opened: package.Package, name: str) -> Receipt:
    process = InferenceProcess(opened, name, Options(device=backends.device(name)), prove=True)
    answer = process.wait_until_started()
    process.close()
    assert answer.receipt is not None, answer.reason
    return answer.receipt


def served(opened: package.Package, *names: str, deadline: float = 1.0) -> Server:
    server = Server(opened, [receipt_of(opened, name) for name in names], Options(), deadline)
    server.keep_alive()
    return server


@pytest.mark.long
def test_an_image_that_kills_the_process_twice_goes_to_the_next_backend(tmp_path: Path) -> None:
    plain = fake(tmp_path / "plain")
    opened = fake(tmp_path / "fake", keep=("cpu",), crash=(digest(plain, 1),), hang=(digest(plain, 2),))
    server = served(opened, "fake", "onnxruntime")
    images, stops = inputs(opened), []
    for number in (1, 2):
        stops.clear()
        answer = server.run(images[number], on_stop=stops.append)
        assert answer.receipt.backend == "onnxruntime"
        assert len(stops) == 2
    assert server.run(images[3]).receipt.backend == "fake"  # which is in order: it was the image
    assert server.stops == {"fake": 4}
    assert server.backend == "fake"
    server.close()


def test_where_no_other_backend_is_left_the_reasons_are_told(tmp_path: Path) -> None:
    plain = fake(tmp_path / "plain")
    opened = fake(tmp_path / "fake", crash=(digest(plain, 1),), nan=(digest(plain, 4),), error=(digest(plain, 5),))
    server = served(opened, "fake")
    images, stops = inputs(opened), []
    with pytest.raises(BackendError, match="SIGSEGV"):
        server.run(images[1], on_stop=stops.append)
    assert len(stops) == 2
    with pytest.raises(BackendError, match="SIGSEGV"):
        server.run(images[1], tries=1, on_stop=stops.append)  # it had killed the reader before
    assert len(stops) == 3
    with pytest.raises(BackendError, match="no numbers"):
        server.run(images[4], on_stop=stops.append)
    with pytest.raises(BackendError, match="refuses this image"):
        server.run(images[5], on_stop=stops.append)
    assert len(stops) == 3
    assert server.run(images[6]).receipt.backend == "fake"
    server.close()


@pytest.mark.long
def test_a_backend_that_broke_for_good_is_dropped_and_the_next_serves(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    opened = fake(tmp_path / "fake", keep=("cpu",), hang_file=str(flag))
    server = served(opened, "fake", "onnxruntime")
    images = inputs(opened)
    assert server.run(images[0]).receipt.backend == "fake"
    flag.touch()  # its process hangs on this image and, started again, on the golden vector, too
    assert server.run(images[1]).receipt.backend == "onnxruntime"
    assert server.backend == "onnxruntime"
    assert "no answer" in server.dropped["fake"]
    server.close()


def test_a_process_that_ended_by_itself_is_no_images_fault(tmp_path: Path) -> None:
    server = served(fake(tmp_path), "fake")
    for _ in range(3):
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGKILL)
        server.process._process.wait()  # type: ignore[union-attr]
        stops: list[str] = []
        assert server.run(inputs(server.package)[0], on_stop=stops.append).receipt.backend == "fake"
        assert stops == []
    assert server.stops == {"fake": 3}
    server.close()


def test_an_image_that_no_backend_could_try_is_not_to_blame(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    server = served(fake(tmp_path, crash_file=str(flag)), "fake")
    assert server.process is not None
    flag.touch()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process._process.wait()  # type: ignore[union-attr]
    stops: list[str] = []
    for _ in range(2):
        with pytest.raises(NotServedError, match="no inference backend is left"):
            server.run(inputs(server.package)[0], on_stop=stops.append)
    assert stops == []
    with pytest.raises(NotServedError):
        server.keep_alive()


def test_no_try_goes_on_when_its_time_is_over(tmp_path: Path) -> None:
    plain = fake(tmp_path / "plain")
    opened = fake(tmp_path / "fake", keep=("cpu",), hang=(digest(plain, 1),))
    server = served(opened, "fake", "onnxruntime", deadline=30.0)
    begin = time.monotonic()
    with pytest.raises(BackendError, match="no time is left"):
        server.run(inputs(opened)[1], until=begin + 1.0)
    assert time.monotonic() - begin < 20.0  # and not the deadline's 30
    # Nor is a backend dropped because there was no time left to start it.
    assert server.process is None
    with pytest.raises(NotServedError, match="no answer within"):
        server.run(inputs(opened)[0], until=time.monotonic() + 0.02)
    assert server.dropped == {}
    assert server.run(inputs(opened)[0]).receipt.backend == "fake"
    server.close()


def test_a_network_that_is_known_to_be_slow_gets_its_time_and_no_more(tmp_path: Path) -> None:
    opened = fake(tmp_path, seconds=0.3, hang_file=str(tmp_path / "hang"))
    server = served(opened, "fake", deadline=0.1)
    begin = time.monotonic()
    assert server.run(inputs(opened)[0]).receipt.backend == "fake"
    (tmp_path / "hang").touch()
    with pytest.raises(BackendError, match=r"gave no answer within [1-9][.\d]* s"):
        server.run(inputs(opened)[0], tries=1)
    assert time.monotonic() - begin < 20
    server.close()


def test_a_device_that_has_not_proved_itself_does_not_serve(tmp_path: Path) -> None:
    opened = fake(tmp_path)
    proof = msgspec.structs.replace(receipt_of(opened, "fake"), device="ANOTHER")
    server = Server(opened, [proof], Options(), 1.0)
    with pytest.raises(NotServedError, match="runs on FAKE now, but has proved itself on ANOTHER"):
        server.keep_alive()


def test_only_where_no_package_can_be_served_there_is_no_pipeline(tmp_path: Path) -> None:
    good, bad = fake_package.bundled(), fake(tmp_path)
    broken = (bad, (Trial("fake", "fake", None, "no"),))
    config = Config(data_dir=str(tmp_path))
    with pytest.raises(BackendError, match="fake: no"):
        Pipeline.open(config, [broken], "1.2.3")
    before = set(psutil.Process().children())
    tried = [broken, (good, (Trial("onnxruntime", "cpu", receipt_of(good, "onnxruntime"), ""),))]
    opened = Pipeline.open(config, tried, "1.2.3")
    try:
        assert [each.package for each in opened.engines] == [good]
        assert [each.package for each in opened.unserved] == [bad]
        assert opened.packages == [bad, good]  # as they were given: who takes an image does not hang on who serves
    finally:
        opened.close()
    assert set(psutil.Process().children()) <= before


def test_several_at_once_and_what_happens_when_one_of_them_kills(tmp_path: Path) -> None:
    plain = fake(tmp_path / "plain")
    opened = fake(tmp_path / "fake", crash=(digest(plain, 1),))
    server = served(opened, "fake")
    images = inputs(opened)
    assert len(server.run_together(images[2:8])) == 6
    with pytest.raises(InferenceStoppedError):
        server.run_together(images[:3])
    assert server.run(images[0]).receipt.backend == "fake"
    server.close()


def test_batches_are_used_only_where_the_receipt_shows_a_gain(tmp_path: Path) -> None:
    receipt = receipt_of(fake(tmp_path, seconds=0.02, batches=(1, 4, 8)), "fake")
    assert [batch.size for batch in receipt.batches] == [4, 8]
    assert best_batch(receipt) == 8
    slow = receipt_of(fake(tmp_path, seconds_per_image=0.01, batches=(1, 4)), "fake")
    assert [batch.size for batch in slow.batches] == [4]
    assert best_batch(slow) == 1
    assert isinstance(receipt.batches[0], Batch)

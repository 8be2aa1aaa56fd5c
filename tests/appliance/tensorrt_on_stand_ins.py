"""The backend ``tensorrt`` on stand-ins of TensorRT and of CUDA. `test_tensorrt.py` runs this in an own process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt as trt
from onnx import TensorProto, helper

from appliance import backends, package
from appliance.backend import Options
from appliance.backends import tensorrt
from appliance.errors import BackendError
from appliance.preprocess import preprocess
from tests import stand_ins

OPENED = package.read(package.bundled("chest-pneumonia")[0], None)
ARTIFACT = OPENED.artifact("tensorrt")
OUTPUTS = OPENED.manifest.outputs
Progress = list[tuple[float, str]]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    trt._journal.clear()
    return Options(device="GPU", cache=tmp_path / "engines")


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_device() -> Iterator[None]:
    yield
    assert ctypes.CDLL("libcuda.so.1").stand_in_left() == 0


@pytest.fixture
def backend(options: Options) -> Iterator[tensorrt.TensorRtBackend]:
    opened = ready(ARTIFACT, options)
    yield opened
    opened.close()


def prepare(artifact: bytes, options: Options) -> Progress:
    told: Progress = []
    tensorrt.prepare(artifact, options, lambda share, what: told.append((share, what)))
    return told


def ready(artifact: bytes, options: Options) -> tensorrt.TensorRtBackend:
    prepare(artifact, options)
    return tensorrt.open(artifact, options)


def tensor(number: int) -> dict[str, np.ndarray]:
    manifest = OPENED.manifest
    return {manifest.input.name: preprocess(OPENED.golden()["images"][number], manifest.input.steps)}


def expected(artifact: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.x64quantprecision", "1")  # exact on every processor, as the backend is
    session = onnxruntime.InferenceSession(artifact, settings, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def network(nodes: list[onnx.NodeProto], batch: int | str = 1, shape: tuple[int | str, ...] = (1, 8, 8)) -> bytes:
    """From ``image`` to ``logits``, both of this shape."""
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name in ("image", "logits")
    )
    graph = helper.make_graph(nodes, "network", [image], [logits])
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    content: bytes = helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()
    return content


def relu(batch: int | str = 1, shape: tuple[int | str, ...] = (1, 8, 8)) -> bytes:
    return network([helper.make_node("Relu", ["image"], ["logits"], name="clip")], batch, shape)


def engines(options: Options) -> dict[str, bytes]:
    assert options.cache is not None
    return {path.name: path.read_bytes() for path in options.cache.iterdir()}


def builds() -> list[int]:
    """The timings that each build had before."""
    return [int(str(event[1])) for event in trt._journal if event[0] == "build"]


# As every backend, see test_backends.py.


def test_it_can_be_used_and_says_what_it_is(backend: tensorrt.TensorRtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "missing", lambda name: None)  # the kernel shows no GPU
    assert backends.probe("tensorrt") is None
    assert backends.module("tensorrt") is tensorrt
    assert backends.preparing(backends.module("tensorrt")) is tensorrt
    assert backends.device("tensorrt") in tensorrt.DEVICES
    assert (backend.name, backend.device) == ("tensorrt", "Stand-in GPU")
    assert tensorrt.versions("GPU")["tensorrt"] == trt.__version__


def test_answers_are_those_of_the_network_and_stay_what_they_were(backend: tensorrt.TensorRtBackend) -> None:
    first = backend.run(tensor(0))
    kept = {name: value.copy() for name, value in first.items()}
    other = backend.run(tensor(1))
    assert set(first) == {OUTPUTS.logits, OUTPUTS.activation_map, OUTPUTS.embedding}
    for number, answers in ((0, first), (1, other)):
        for name, value in expected(ARTIFACT, tensor(number)).items():
            np.testing.assert_array_equal(answers[name], value)
            assert answers[name].dtype == np.float32
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    assert not np.array_equal(first[OUTPUTS.embedding], other[OUTPUTS.embedding])


def test_the_golden_vectors_are_met(backend: tensorrt.TensorRtBackend) -> None:
    golden = OPENED.golden()
    for number in range(len(golden["images"])):
        logits = backend.run(tensor(number))[OUTPUTS.logits][0]
        np.testing.assert_allclose(logits, golden["tensorrt/logits"][number], atol=0.05)


def test_inputs_that_do_not_lie_in_one_piece_are_read_and_not_written_to(backend: tensorrt.TensorRtBackend) -> None:
    (name, image), *_ = tensor(0).items()
    turned = np.ascontiguousarray(image.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    turned.flags.writeable = False
    answers = backend.run({name: turned})
    assert np.array_equal(answers[OUTPUTS.logits], backend.run({name: image})[OUTPUTS.logits])


def test_lanes_take_images_at_once_and_do_not_mix_them_up(options: Options) -> None:
    backend = ready(ARTIFACT, replace(options, lanes=2))
    inputs = [tensor(number) for number in range(4)]
    alone = [backend.run(each)[OUTPUTS.logits] for each in inputs]
    found: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def lane(number: int) -> None:
        for _ in range(10):
            found[number] += [backend.run(each)[OUTPUTS.logits] for each in inputs[number::2]]

    threads = [threading.Thread(target=lane, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in found.items():
        assert len(answers) == 20
        assert all(np.array_equal(answer, alone[number + 2 * (place % 2)]) for place, answer in enumerate(answers))
    backend.close()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"image": np.zeros((1, 1, 96, 96), np.float32)}, r"image float32 \(1, 1, 96, 96\), not image float32 \(1, 1,"),
        ({"image": np.zeros((2, 1, 224, 224), np.float32)}, r"\(2, 1, 224, 224\), not"),
        ({"image": np.zeros((224, 224), np.float32)}, r"\(224, 224\), not"),
        ({"image": np.zeros((1, 1, 224, 224), np.float64)}, r"image float64 .*, not image float32"),
        ({"picture": np.zeros((1, 1, 224, 224), np.float32)}, r"picture .*, not image"),
        ({}, "given nothing, not image"),
    ],
    ids=["rows", "batch", "rank", "type", "name", "none"],
)
def test_a_wrong_input_is_an_error_and_the_next_image_is_answered(
    inputs: dict[str, np.ndarray], words: str, backend: tensorrt.TensorRtBackend
) -> None:
    with pytest.raises(BackendError, match=f"TensorRT can't run the network: .*{words}"):
        backend.run(inputs)
    assert np.isfinite(backend.run(tensor(0))[OUTPUTS.logits]).all()


@pytest.mark.parametrize(
    "artifact",
    [b"", b"not a network", OPENED.artifact("cpu"), OPENED.artifact("openvino"), ARTIFACT[:-1000]],
    ids=["empty", "text", "cpu", "openvino", "cut short"],
)
def test_what_is_no_network_of_its_kind_is_neither_built_nor_opened(artifact: bytes, options: Options) -> None:
    for call in (prepare, tensorrt.open):
        with pytest.raises(BackendError, match="TensorRT can't open the network: "):
            call(artifact, options)
    assert not tensorrt.is_prepared(artifact, options)


# Building.


def test_an_engine_is_built_with_progress_and_then_kept(options: Options) -> None:
    assert not tensorrt.is_prepared(ARTIFACT, options)
    with pytest.raises(BackendError, match="has not been built on this device yet"):
        tensorrt.open(ARTIFACT, options)
    told = prepare(ARTIFACT, options)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert told[0] == (0.0, "reading the network")
    assert shares[-1] > 0.98
    assert {"Optimizing", "Timing graph nodes"} <= {what for _, what in told}
    assert 20 < len(told) <= 101
    assert tensorrt.is_prepared(ARTIFACT, options)
    for _ in range(2):
        tensorrt.open(ARTIFACT, options).close()
    assert trt._journal == [("build", 0, set())]  # without TF32


def test_timings_are_kept_for_the_next_network(options: Options) -> None:
    for artifact in (ARTIFACT, relu(), relu()):
        prepare(artifact, options)
    assert builds() == [0, 1, 2]


def test_what_an_engine_depends_on_is_part_of_its_name(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(relu(), options)
    assert tensorrt.is_prepared(relu(), replace(options, lanes=2, threads=4))
    assert not tensorrt.is_prepared(relu(), replace(options, batch=2))
    assert not tensorrt.is_prepared(relu("batch"), options)
    with monkeypatch.context() as changed:
        changed.setenv("STAND_IN_GPU", "another GPU")
        assert not tensorrt.is_prepared(relu(), options)
    with monkeypatch.context() as changed:
        changed.setenv("STAND_IN_CUDA", "13010")
        assert not tensorrt.is_prepared(relu(), options)
        prepare(relu(), options)
        assert builds() == [0, 0]  # nor are timings taken over
        assert len(engines(options)) == 4
    assert tensorrt.is_prepared(relu(), options)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        (
            "nvidia",
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC\nGCC version: 12\n",
        ),
        (
            "jetson_linux",
            "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13\n",
            "# R38 (release), REVISION: 2.1, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13\n",
        ),
    ],
)
def test_the_driver_and_tensorrt_are_part_of_its_name(
    file: str, before: str, after: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tensorrt._DRIVERS, file, (tmp_path / file, tensorrt._DRIVERS[file][1]))
    (tmp_path / file).write_text(before)
    prepare(relu(), options)
    assert tensorrt.is_prepared(relu(), options)
    seen = tensorrt.versions("GPU")[file]
    assert seen in ("540.4.0", "R36 (release), REVISION: 4.0")
    (tmp_path / file).write_text(after)
    assert tensorrt.versions("GPU")[file] in ("535.129.03", "R38 (release), REVISION: 2.1")
    assert not tensorrt.is_prepared(relu(), options)
    (tmp_path / file).write_text(before)
    monkeypatch.syspath_prepend(stand_ins.installed(tmp_path, "10.17.0"))
    assert tensorrt.versions("GPU")["tensorrt"] == "10.17.0"
    assert not tensorrt.is_prepared(relu(), options)


def test_a_damaged_engine_is_removed_and_built_again(options: Options) -> None:
    prepare(relu(), options)
    assert options.cache is not None
    for path in options.cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BackendError, match="has not been built"):
        tensorrt.open(relu(), options)
    assert not tensorrt.is_prepared(relu(), options)
    ready(relu(), options).close()
    assert builds() == [0, 0]


def test_an_engine_that_tensorrt_turns_down_is_removed_and_built_again(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "_here", lambda: "a version that writes another form")
    prepare(relu(), options)
    monkeypatch.undo()
    with pytest.raises(BackendError, match=r"removed and to be built again: .*not compatible with this version"):
        tensorrt.open(relu(), options)
    assert not tensorrt.is_prepared(relu(), options)
    ready(relu(), options).close()
    assert [event[0] for event in trt._journal] == ["build", "refused timings", "build"]


def test_an_unknown_operator_is_named(options: Options) -> None:
    odd = network([helper.make_node("Abracadabra", ["image"], ["logits"], name="magic", domain="nowhere")])
    with pytest.raises(BackendError, match=r"can't open the network: Abracadabra magic: Plugin not found") as caught:
        prepare(odd, options)
    assert "While parsing" not in caught.value.message  # what the log has on it once more


def test_a_build_that_fails_says_why_in_the_words_of_tensorrt(options: Options) -> None:
    with pytest.raises(BackendError, match=r"can't be built: .*image has dynamic dimensions"):
        prepare(relu(1, (1, "rows", 8)), options)


def test_a_batch_is_the_files_or_left_open_by_it(options: Options) -> None:
    with pytest.raises(BackendError, match="can't open the network: it takes 1 images at a time, not 4"):
        prepare(ARTIFACT, replace(options, batch=4))
    for batch in (1, 4):
        backend = ready(relu("batch"), replace(options, batch=batch))
        image = np.random.default_rng(0).normal(size=(batch, 1, 8, 8)).astype(np.float32)
        np.testing.assert_array_equal(backend.run({"image": image})["logits"], np.maximum(image, 0))
        with pytest.raises(BackendError, match="can't run"):
            backend.run({"image": image[:0]})
        backend.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, BrokenPipeError])
def test_an_interrupt_ends_the_build(interrupt: type[BaseException], options: Options) -> None:
    shares = []

    def progress(share: float, what: str) -> None:
        shares.append(share)
        if share > 0.2:
            raise interrupt

    with pytest.raises(interrupt if interrupt is KeyboardInterrupt else BackendError):
        tensorrt.prepare(ARTIFACT, options, progress)
    assert shares[-1] < 0.3
    assert not tensorrt.is_prepared(ARTIFACT, options)


def test_an_engine_that_can_not_be_kept_is_an_error(options: Options, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for cache in (tmp_path / "file", None):
        with pytest.raises(BackendError, match="can't be kept"):
            prepare(relu(), replace(options, cache=cache))
        with pytest.raises(BackendError, match="has not been built"):
            tensorrt.open(relu(), replace(options, cache=cache))


# The device.


def test_memory_that_runs_out_is_an_error_and_given_back(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(ARTIFACT, options)
    with monkeypatch.context() as changed:
        changed.setenv("STAND_IN_MEMORY", "300000")  # enough for one lane
        with pytest.raises(BackendError, match="can't open the network: cuMemAlloc_v2 gave 2, out of memory"):
            tensorrt.open(ARTIFACT, replace(options, lanes=2))
        tensorrt.open(ARTIFACT, options).close()
    with monkeypatch.context() as changed:
        changed.setenv("STAND_IN_NO_CONTEXT", "1")
        with pytest.raises(BackendError, match="no memory for an execution context: CUDA out of memory"):
            tensorrt.open(ARTIFACT, options)


def test_an_execution_that_fails_says_why_and_the_next_image_is_answered(
    backend: tensorrt.TensorRtBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("STAND_IN_FAILS", "1")
        with pytest.raises(BackendError, match=r"can't run the network: the execution failed: .*misaligned address"):
            backend.run(tensor(0))
    assert np.isfinite(backend.run(tensor(0))[OUTPUTS.logits]).all()


def test_an_output_whose_shape_depends_on_the_image_is_turned_down(options: Options) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    found = helper.make_tensor_value_info("found", TensorProto.INT64, [4, None])
    graph = helper.make_graph([helper.make_node("NonZero", ["image"], ["found"])], "network", [image], [found])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(BackendError, match="the shape of found depends on the image"):
        ready(model.SerializeToString(), options)


def test_closing_waits_for_what_is_under_way(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ready(ARTIFACT, replace(options, lanes=2))
    begun, go_on, answers = threading.Semaphore(0), threading.Event(), []
    execute = trt.IExecutionContext.execute_async_v3

    def slow(context: trt.IExecutionContext, stream_handle: int) -> bool:
        begun.release()
        assert go_on.wait(20)
        return bool(execute(context, stream_handle))

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", slow)
    threads = [threading.Thread(target=lambda: answers.append(backend.run(tensor(0)))) for _ in range(2)]
    threads.append(threading.Thread(target=backend.close))
    for thread in threads[:2]:
        thread.start()
        assert begun.acquire(timeout=20)
    threads[2].start()
    threads[2].join(0.2)
    assert threads[2].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 2

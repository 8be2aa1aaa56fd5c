"""One contract for every backend; one that can't be used here is skipped with its own probe's reason."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from onnx import TensorProto, helper

from appliance import backends, package, processor, receipt
from appliance.backend import BackendModule, Options, cores
from appliance.engine_cache import EngineCache
from appliance.errors import BackendError
from appliance.preprocess import preprocess
from tests import fake_package
from tests.running import CHECKOUT

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


@pytest.fixture(params=(*backends.names(), "fake"))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SCANSIDE_FAKE_BACKEND", "1")
    if reason := backends.probe(request.param):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def module(name: str) -> BackendModule:
    return backends.module(name)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def options(name: str, module: BackendModule, opened: package.Package, engines: Path) -> Options:
    """With whatever has to be compiled first compiled."""
    options = Options(device=backends.device(name), cache=engines)
    artifact, preparing = opened.artifact(module.TARGET), backends.preparing(module)
    if preparing is not None and not preparing.is_prepared(artifact, options):
        preparing.prepare(artifact, options, lambda share, what: None)
        assert preparing.is_prepared(artifact, options)
    return options


@pytest.fixture(scope="module")
def with_fake(tmp_path_factory: pytest.TempPathFactory) -> package.Package:
    path = fake_package.make(tmp_path_factory.mktemp("package"), keep=fake_package.TARGETS)
    return package.read(path, None)


@pytest.fixture
def opened(name: str, with_fake: package.Package) -> package.Package:
    return with_fake if name == "fake" else fake_package.bundled()


def tensor(opened: package.Package, number: int) -> dict[str, np.ndarray]:
    manifest = opened.manifest
    return {manifest.input.name: preprocess(opened.golden()["images"][number], manifest.input.steps)}


def test_it_says_what_it_is(name: str, module: BackendModule, options: Options, opened: package.Package) -> None:
    backend = module.open(opened.artifact(module.TARGET), options)
    assert backend.name == name
    assert backend.device
    assert all(module.versions(options.device).values())
    backend.close()


def test_the_same_image_gives_the_same_answer_however_often_and_on_more_threads(
    module: BackendModule, options: Options, opened: package.Package
) -> None:
    answers = []
    for threads in (1, cores()):
        backend = module.open(opened.artifact(module.TARGET), replace(options, threads=threads))
        first = backend.run(tensor(opened, 0))
        other = backend.run(tensor(opened, 1))
        again = backend.run(tensor(opened, 0))
        outputs = opened.manifest.outputs
        assert set(first) == {outputs.logits, outputs.activation_map, outputs.embedding}
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert not np.array_equal(first[outputs.embedding], other[outputs.embedding])
        assert all(value.dtype == np.float32 for value in first.values())
        answers.append(first[outputs.logits])
    np.testing.assert_allclose(answers[0], answers[1], atol=0.05)


def test_lanes_take_images_at_once_and_do_not_mix_them_up(
    module: BackendModule, options: Options, opened: package.Package
) -> None:
    backend = module.open(opened.artifact(module.TARGET), replace(options, lanes=2))
    inputs = [tensor(opened, number) for number in range(4)]
    alone = [backend.run(each)[opened.manifest.outputs.logits] for each in inputs]
    found: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def lane(number: int) -> None:
        for _ in range(10):
            found[number] += [backend.run(each)[opened.manifest.outputs.logits] for each in inputs[number::2]]

    threads = [Thread(target=lane, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in found.items():
        assert len(answers) == 20
        assert all(np.array_equal(answer, alone[number + 2 * (place % 2)]) for place, answer in enumerate(answers))


def test_answers_stay_what_they_were_when_the_next_image_is_run(
    module: BackendModule, options: Options, opened: package.Package
) -> None:
    backend = module.open(opened.artifact(module.TARGET), options)
    first = backend.run(tensor(opened, 0))
    kept = {name: value.copy() for name, value in first.items()}
    backend.run(tensor(opened, 1))
    assert all(np.array_equal(first[name], kept[name]) for name in first)


@pytest.mark.parametrize("shape", [(1, 1, 96, 96), (2, 1, 224, 224), (1, 3, 224, 224), (224, 224)])
def test_a_wrong_shape_is_an_error_and_the_next_image_is_answered(
    shape: tuple[int, ...], module: BackendModule, options: Options, opened: package.Package
) -> None:
    backend = module.open(opened.artifact(module.TARGET), options)
    with pytest.raises(BackendError, match="can't run"):
        backend.run({opened.manifest.input.name: np.zeros(shape, dtype=np.float32)})
    assert np.isfinite(backend.run(tensor(opened, 0))[opened.manifest.outputs.logits]).all()


def test_a_wrong_name_is_an_error(module: BackendModule, options: Options, opened: package.Package) -> None:
    backend = module.open(opened.artifact(module.TARGET), options)
    with pytest.raises(BackendError, match="can't run"):
        backend.run({"picture": np.zeros((1, 1, 224, 224), dtype=np.float32)})


def test_a_batch_answers_as_its_images_do_alone_or_is_refused(
    module: BackendModule, options: Options, opened: package.Package
) -> None:
    artifact, inputs = opened.artifact(module.TARGET), [tensor(opened, number) for number in range(4)]
    try:
        batched = module.open(artifact, replace(options, batch=4))
    except BackendError as error:
        assert "can't open" in error.message
        assert "1 image" in error.message or "4 images" in error.message
        return
    single = module.open(artifact, options)
    given = batched.run({name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]})
    for number, each in enumerate(inputs):
        for name, value in single.run(each).items():
            np.testing.assert_allclose(given[name][number], value[0], atol=1e-3)


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


@pytest.mark.parametrize("artifact", [b"", b"not a network", empty_zip(), "another target's", "cut short"])
def test_what_is_no_network_of_its_kind_is_not_opened(
    artifact: bytes | str, module: BackendModule, options: Options, opened: package.Package
) -> None:
    if artifact == "another target's":
        other = next(name for name in ("cpu", "openvino") if name != module.TARGET)
        artifact = fake_package.bundled().artifact(other)
    elif artifact == "cut short":
        artifact = opened.artifact(module.TARGET)[:-1000]
    assert isinstance(artifact, bytes)
    with pytest.raises(BackendError, match="can't open"):
        module.open(artifact, options)


def test_a_network_with_an_unknown_operator_is_not_opened() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1])
    node = helper.make_node("Abracadabra", ["image"], ["logits"], domain="nowhere")
    graph = helper.make_graph([node], "odd", [image], [logits])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)], ir_version=9
    )
    with pytest.raises(BackendError, match="Abracadabra"):
        backends.module("onnxruntime").open(model.SerializeToString(), Options())


def test_a_compiled_network_is_used_again_and_gives_the_same_answers(tmp_path: Path) -> None:
    if reason := backends.probe("openvino"):
        pytest.skip(reason)
    module, opened = backends.module("openvino"), fake_package.bundled()
    options = Options(device="CPU", cache=tmp_path / "engines")
    answers = [module.open(opened.artifact("openvino"), options).run(tensor(opened, 0)) for _ in range(2)]
    (file,) = options.cache.iterdir() if options.cache else ()
    assert all(np.array_equal(answers[0][name], answers[1][name]) for name in answers[0])
    module.open(opened.artifact("openvino"), replace(options, threads=2))
    module.open(opened.artifact("openvino"), replace(options, batch=4))
    assert len(list(file.parent.iterdir())) == 3  # what it was compiled for is part of its name


SIGNALED = """
import gc, os, signal, sys
from pathlib import Path
from appliance.backend import Options
from appliance.backends import openvino
from tests import fake_package

signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
opened = fake_package.bundled()
backends = [openvino.open(opened.artifact("openvino"), Options(device="CPU")) for _ in range(3)]
while backends:
    backends.pop(0).close()
    gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_is_handled_after_backends_came_and_went() -> None:
    if reason := backends.probe("openvino"):
        pytest.skip(reason)
    run = subprocess.run([sys.executable, "-c", SIGNALED], cwd=CHECKOUT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_a_damaged_compiled_network_is_compiled_again(tmp_path: Path) -> None:
    if reason := backends.probe("openvino"):
        pytest.skip(reason)
    module, opened = backends.module("openvino"), fake_package.bundled()
    options = Options(device="CPU", cache=tmp_path / "engines")
    first = module.open(opened.artifact("openvino"), options).run(tensor(opened, 0))
    (file,) = (tmp_path / "engines").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole[:1000] + b"\xff" * 8 + whole[1008:]):
        file.write_bytes(damaged)
        again = module.open(opened.artifact("openvino"), options).run(tensor(opened, 0))
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert file.read_bytes() != damaged


def test_the_cache_tells_keys_apart_and_does_without_a_folder(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(b"one", "a", "b")
    assert cache.get("a", "b") == b"one"
    assert cache.get("ab") is None
    assert not cache.has("a")
    nowhere = EngineCache(None)
    nowhere.put(b"one", "a")
    assert nowhere.get("a") is None


def test_a_probe_survives_a_driver_that_crashes_hangs_or_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for source, words in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise ImportError('libze_loader.so.1: wrong ELF class')", "wrong ELF class"),
        ("import time; time.sleep(600)", "no answer within 1 s"),
    ):
        (tmp_path / "openvino" / "__init__.py").write_text(source)
        assert words in str(backends.probe("openvino", deadline=1.0 if "sleep" in source else 20.0))


def test_what_is_missing_is_named_with_how_to_get_it() -> None:
    for name in ("openvino:GPU", "openvino:NPU"):
        reason = backends.probe(name)
        assert reason is None or "install" in reason
    with pytest.raises(BackendError, match="there is no backend 'abacus'"):
        backends.module("abacus")
    with pytest.raises(BackendError, match="there is no backend 'onnxruntime:GPU'"):
        backends.module("onnxruntime:GPU")
    assert "fake" not in backends.names()


@pytest.mark.parametrize("model", ["chest-pneumonia", "lungs"])
def test_openvino_gives_the_packages_answers_where_int8_overflows(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AVX2 and without VNNI, whichever this is. ONNX Runtime sees to it itself."""
    if reason := backends.probe("openvino"):
        pytest.skip(reason)
    module = backends.module("openvino")
    monkeypatch.setattr(module, "int8_overflows", lambda: True)
    opened = package.read(package.bundled(model)[0], None)
    for lanes in (1, 2):
        options = Options(device="CPU", lanes=lanes)
        backend = module.open(opened.artifact("openvino"), options)
        assert receipt.prove(opened, module, backend, options).flips == 0


@pytest.mark.parametrize(
    ("machine", "flags", "overflows"),
    [
        ("x86_64", "fpu sse4_1 ssse3", True),
        ("x86_64", "avx2 fma bmi2", True),
        ("x86_64", "avx2 avx512f avx512bw", True),
        ("x86_64", "avx2 avx_vnni", False),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("x86_64", "", False),
        ("aarch64", "asimd asimddp i8mm", False),
    ],
)
def test_where_int8_overflows_is_told_by_the_processors_flags(
    machine: str, flags: str, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"model name\t: some processor\n{'Features' if machine == 'aarch64' else 'flags'}\t\t: {flags}\n"
    monkeypatch.setattr(processor.Path, "read_text", lambda _: told)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    processor.processor.cache_clear()
    try:
        assert processor.processor()[0] == "some processor"
        assert processor.int8_overflows() == overflows
    finally:
        processor.processor.cache_clear()

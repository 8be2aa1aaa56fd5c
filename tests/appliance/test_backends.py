"""One contract for every backend; one that can't be used here is skipped with its own probe's reason."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from appliance import backends, package
from appliance.backend import BackendModule
from appliance.errors import BackendError
from appliance.preprocess import preprocess

pytestmark = pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")


@pytest.fixture(scope="module")
def bundled() -> package.Package:
    return package.read(package.bundled()[0], None)


@pytest.fixture(params=backends.NAMES)
def module(request: pytest.FixtureRequest) -> BackendModule:
    found = backends.module(request.param)
    if reason := found.probe():
        pytest.skip(reason)
    return found


def tensor(opened: package.Package, number: int) -> dict[str, np.ndarray]:
    manifest = opened.manifest
    return {manifest.input.name: preprocess(opened.golden()["images"][number], manifest.input.steps)}


def test_it_says_what_it_is(module: BackendModule, bundled: package.Package) -> None:
    backend = module.open(bundled.artifact(module.TARGET), threads=1)
    assert backend.name == module.NAME
    assert backend.device
    assert all(module.versions().values())
    backend.close()


def test_the_same_image_gives_the_same_answer_however_often_and_on_more_threads(
    module: BackendModule, bundled: package.Package
) -> None:
    answers = []
    for threads in (1, 2):
        backend = module.open(bundled.artifact(module.TARGET), threads=threads)
        first = backend.run(tensor(bundled, 0))
        other = backend.run(tensor(bundled, 1))
        again = backend.run(tensor(bundled, 0))
        outputs = bundled.manifest.outputs
        assert set(first) == {outputs.logits, outputs.activation_map, outputs.embedding}
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert not np.array_equal(first[outputs.embedding], other[outputs.embedding])
        assert all(value.dtype == np.float32 for value in first.values())
        answers.append(first[outputs.logits])
    np.testing.assert_allclose(answers[0], answers[1], atol=0.05)


def test_answers_stay_what_they_were_when_the_next_image_is_run(
    module: BackendModule, bundled: package.Package
) -> None:
    backend = module.open(bundled.artifact(module.TARGET), threads=1)
    first = backend.run(tensor(bundled, 0))
    kept = {name: value.copy() for name, value in first.items()}
    backend.run(tensor(bundled, 1))
    assert all(np.array_equal(first[name], kept[name]) for name in first)


@pytest.mark.parametrize("shape", [(1, 1, 96, 96), (2, 1, 224, 224), (1, 3, 224, 224), (224, 224)])
def test_a_wrong_shape_is_an_error_and_the_next_image_is_answered(
    shape: tuple[int, ...], module: BackendModule, bundled: package.Package
) -> None:
    backend = module.open(bundled.artifact(module.TARGET), threads=1)
    with pytest.raises(BackendError, match="can't run"):
        backend.run({bundled.manifest.input.name: np.zeros(shape, dtype=np.float32)})
    assert np.isfinite(backend.run(tensor(bundled, 0))[bundled.manifest.outputs.logits]).all()


def test_a_wrong_name_is_an_error(module: BackendModule, bundled: package.Package) -> None:
    backend = module.open(bundled.artifact(module.TARGET), threads=1)
    with pytest.raises(BackendError, match="can't run"):
        backend.run({"picture": np.zeros((1, 1, 224, 224), dtype=np.float32)})


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


@pytest.mark.parametrize("artifact", [b"", b"not a network", empty_zip(), "another target's", "cut short"])
def test_what_is_no_network_of_its_kind_is_not_opened(
    artifact: bytes | str, module: BackendModule, bundled: package.Package
) -> None:
    if artifact == "another target's":
        other = next(name for name in ("cpu", "openvino") if name != module.TARGET)
        artifact = bundled.artifact(other)
    elif artifact == "cut short":
        artifact = bundled.artifact(module.TARGET)[:-1000]
    assert isinstance(artifact, bytes)
    with pytest.raises(BackendError, match="can't open"):
        module.open(artifact, threads=1)

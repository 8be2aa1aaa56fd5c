"""Packages and receipts: what was changed is refused, and a backend that gives other answers does not serve."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import manifests, package, receipt, signature
from appliance.backend import Options
from appliance.backends import onnxruntime
from appliance.errors import BackendError, PackageError, ReceiptError, SignatureError
from appliance.preprocess import preprocess
from appliance.probability import calibrated
from tests.running import CHECKOUT

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
TRUSTED = signature.load_trusted_keys((signature.TRUSTED_KEYS,))


@pytest.fixture(scope="module")
def bundled() -> package.Package:
    return package.read(package.bundled("chest-pneumonia")[0], TRUSTED)


def contents(opened: package.Package) -> dict[str, bytes]:
    return {name: opened.file(name) for name in opened.manifest.files}


@contextmanager
def within(most: int) -> Iterator[None]:
    """What is done takes no more bytes of memory at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def rewritten(path: Path, target: Path, **changes: bytes | None) -> Path:
    """A copy of a package's zip with some members replaced, added or left out."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in source.namelist():
            if name not in changes:
                copy.writestr(name, source.read(name))
        for name, data in changes.items():
            if data is not None:
                copy.writestr(name, data)
    return target


def test_the_bundled_package_is_signed_by_a_key_that_comes_along(bundled: package.Package) -> None:
    assert bundled.signed_by in TRUSTED
    assert bundled.path.resolve().is_relative_to(CHECKOUT)
    assert bundled.path.stat().st_size < 5_000_000


def test_the_same_contents_and_key_give_the_same_bytes(bundled: package.Package, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    for name in ("a", "b"):
        package.write(tmp_path / name, bundled.manifest, contents(bundled), key)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_package_of_an_unknown_publisher_is_refused(bundled: package.Package, tmp_path: Path) -> None:
    package.write(tmp_path / "a.scanside", bundled.manifest, contents(bundled), Ed25519PrivateKey.generate())
    with pytest.raises(SignatureError, match="does not trust"):
        package.read(tmp_path / "a.scanside", TRUSTED)


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz", "card.md"])
def test_a_changed_member_is_refused(name: str, bundled: package.Package, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundled.path) as archive:
        data = archive.read(name)
    changed = rewritten(bundled.path, tmp_path / "a.scanside", **{name: data[:-20] + bytes(20)})
    with pytest.raises(PackageError, match=r"changed|damaged"):
        package.read(changed, TRUSTED)


def test_a_threshold_that_was_changed_is_refused(bundled: package.Package, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundled.path) as archive:
        manifest = archive.read("manifest.json").decode()
    point = bundled.target("cpu").operating_point()
    assert f'"threshold": {point.threshold}' in manifest
    changed = manifest.replace(f'"threshold": {point.threshold}', '"threshold": 0.99').encode()
    with pytest.raises(SignatureError, match="changed after it was signed"):
        package.read(rewritten(bundled.path, tmp_path / "a.scanside", **{"manifest.json": changed}), TRUSTED)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"extra.bin": b"1"}, "extra.bin"),
        ({"card.md": None}, "card.md"),
        ({"manifest.sig": None}, "no manifest.sig"),
        ({"manifest.json": None}, "no manifest.json"),
    ],
)
def test_missing_and_added_members_are_named(
    changes: dict[str, bytes | None], word: str, bundled: package.Package, tmp_path: Path
) -> None:
    with pytest.raises(PackageError, match=word):
        package.read(rewritten(bundled.path, tmp_path / "a.scanside", **changes), TRUSTED)


@settings(max_examples=80, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), end=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_any_flipped_or_missing_byte_is_noticed(
    at: float, value: int, end: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = package.bundled("chest-pneumonia")[0]
    data = bytearray(original.read_bytes())
    data[int(at * len(data))] ^= value
    path = tmp_path_factory.getbasetemp() / "damaged.scanside"
    path.write_bytes(bytes(data[: round(len(data) * end)]))
    try:
        opened = package.read(path, TRUSTED)
    except PackageError as error:
        assert "damaged.scanside" in str(error)
    else:  # a byte that means nothing, such as a date in the zip: what is read is still what was signed
        assert contents(opened) == contents(package.read(original, TRUSTED))


def test_nothing_is_unpickled(bundled: package.Package, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([{"a": 1}], dtype=object))
    files = {**contents(bundled), "golden.npz": buffer.getvalue()}
    package.write(tmp_path / "a.scanside", bundled.manifest, files, Ed25519PrivateKey.generate())
    with pytest.raises(PackageError, match=r"golden\.npz can't be read"):
        package.read(tmp_path / "a.scanside", None).golden()


def test_a_receipt_is_proof_of_this_package_on_this_machine(bundled: package.Package) -> None:
    backend = onnxruntime.open(bundled.artifact("cpu"), Options())
    proof = receipt.prove(bundled, onnxruntime, backend, Options())
    assert proof.flips == 0
    assert proof.max_abs_dp <= bundled.manifest.golden.probability_tolerance
    assert proof.count == bundled.manifest.golden.count
    assert proof.artifact_sha256 == bundled.artifact_sha256("cpu")
    assert proof.device == "CPU"


class Wrong(onnxruntime.OnnxRuntimeBackend):
    """A runtime whose arithmetic is off."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = super().run(inputs)
        with np.errstate(invalid="ignore"):
            outputs[self.output] = outputs[self.output] * np.float32(self.factor)
        return outputs

    factor, output = 1.0, "logits"


@pytest.mark.parametrize("factor", [0.5, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("output", ["logits", "activation_map"])
def test_a_backend_with_other_answers_gets_no_receipt(factor: float, output: str, bundled: package.Package) -> None:
    backend = Wrong(bundled.artifact("cpu"), Options())
    backend.factor, backend.output = factor, output
    words = "does not reproduce" if np.isfinite(factor) else "no numbers"
    with pytest.raises(ReceiptError, match=words):
        receipt.prove(bundled, onnxruntime, backend, Options())
    if output == "logits" or not np.isfinite(factor):
        with pytest.raises(ReceiptError, match=words):
            receipt.check(bundled, onnxruntime, backend)


def test_a_broken_network_is_a_backend_error() -> None:
    with pytest.raises(BackendError, match="can't open"):
        onnxruntime.open(b"not a network", Options())


def test_golden_images_are_the_devices_own_and_span_both_decisions(bundled: package.Package) -> None:
    golden, target = bundled.golden(), bundled.target("cpu")
    probabilities = calibrated(golden["cpu/logits"][:, 0], target.temperature, target.bias)
    positive = probabilities >= target.operating_point().threshold
    assert 0 < positive.sum() < len(positive)
    assert golden["images"].dtype == np.uint8
    assert golden["images"].shape[1:] != bundled.manifest.input.shape[2:]  # the resize step is proved, too


def test_the_activation_map_explains_the_logit(bundled: package.Package) -> None:
    """Its mean and the classifier's bias are the logit, in int8 too: the picture shows this very answer's evidence."""
    backend = onnxruntime.open(bundled.artifact("cpu"), Options())
    offsets = []
    for image in bundled.golden()["images"]:
        out = backend.run({"image": preprocess(image, bundled.manifest.input.steps)})
        offsets.append(float(out["logits"][0, 0] - out["activation_map"][0, 0].mean()))
    assert np.ptp(offsets) < 0.1


def test_a_trusted_key_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pub").write_text("hello")
    with pytest.raises(SignatureError, match=r"bad\.pub"):
        signature.load_trusted_keys((tmp_path,))


def test_a_private_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    key, new = signature.load_or_create_private_key(tmp_path / "keys" / "a.pem")
    again, newer = signature.load_or_create_private_key(tmp_path / "keys" / "a.pem")
    assert (new, newer) == (True, False)
    assert signature.key_id(key.public_key()) == signature.key_id(again.public_key())
    assert (tmp_path / "keys" / "a.pem").stat().st_mode & 0o077 == 0
    (tmp_path / "keys" / "a.pem").write_bytes(b"")
    with pytest.raises(SignatureError, match=r"a\.pem"):
        signature.load_or_create_private_key(tmp_path / "keys" / "a.pem")


def test_a_manifest_with_an_unknown_key_is_refused(bundled: package.Package) -> None:
    manifest = {**msgspec.to_builtins(bundled.manifest), "surprise": 1}
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        msgspec.json.decode(msgspec.json.encode(manifest), type=package.Manifest)


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "a/../../b", "C:\\windows\\x", "..\\x"])
def test_a_name_that_leaves_the_package_is_refused(name: str, bundled: package.Package, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="points out of the package"):
        package.read(rewritten(bundled.path, tmp_path / "a.scanside", **{name: b"x"}), TRUSTED)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    bundled: package.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_BYTES", 50_000_000)
    with zipfile.ZipFile(tmp_path / "a.scanside", "w", zipfile.ZIP_DEFLATED) as bomb:
        for number in range(6):
            bomb.writestr(f"{number}.bin", bytes(10_000_000))
    assert (tmp_path / "a.scanside").stat().st_size < 100_000
    with pytest.raises(PackageError, match="would unpack to"):
        package.read(tmp_path / "a.scanside", TRUSTED)


def test_a_large_file_that_is_no_package_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.scanside").open("wb") as file:
        file.truncate(package.MAX_BYTES + 1)
    with (
        within(1_000_000),
        pytest.raises(PackageError, match="536,870,913 bytes, and a model package has 536,870,912 at most"),
    ):
        package.read(tmp_path / "a.scanside", TRUSTED)


@pytest.mark.parametrize("signed_by", ["another publisher", "nobody", "a signature of any length"])
def test_no_more_is_unpacked_of_a_package_than_tells_that_nobody_trusted_has_signed_it(
    signed_by: str, bundled: package.Package, tmp_path: Path
) -> None:
    path = tmp_path / "a.scanside"
    files = {**contents(bundled), bundled.manifest.card: bytes(50_000_000)}
    package.write(path, bundled.manifest, files, Ed25519PrivateKey.generate())
    if signed_by != "another publisher":
        sig = b"0" if signed_by == "nobody" else bytes(50_000_000)
        path = rewritten(path, tmp_path / "b.scanside", **{"manifest.sig": sig})
    with within(20_000_000), pytest.raises(PackageError):
        package.read(path, TRUSTED)


def test_a_member_that_says_it_is_small_is_not_unpacked_in_full(bundled: package.Package, tmp_path: Path) -> None:
    path = rewritten(bundled.path, tmp_path / "a.scanside", **{"manifest.json": bytes(50_000_000)})
    path.write_bytes(path.read_bytes().replace((50_000_000).to_bytes(4, "little"), (9).to_bytes(4, "little")))
    with within(20_000_000), pytest.raises(PackageError, match="damaged"):
        package.read(path, TRUSTED)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("validation", "external", "test"), ("images from elsewhere",)),
        (("external: chest-nih", "test", "external: other"),
         ("images from elsewhere (chest-nih)", "images from elsewhere (other)")),
    ],
)  # fmt: skip
def test_figures_of_every_external_set_are_told(
    named: tuple[str, ...], told: tuple[str, ...], bundled: package.Package
) -> None:
    target = bundled.target("cpu")
    figures = {"figures": {"sensitivity": [0.9, 0.8, 0.95], "specificity": [0.7, 0.6, 0.8]}}
    target = msgspec.structs.replace(target, measured={"sets": dict.fromkeys(named, figures)})
    manifest = msgspec.structs.replace(bundled.manifest, targets={"cpu": target})
    found = manifests.measured(manifest, "cpu", target.default_operating_point)
    assert [words for words, _ in found] == ["images of the same hospital, kept apart", *told]
    assert [value for _, lines in found for _, value, _, _ in lines] == [0.9, 0.7] * len(found)

"""Model packages for tests: the bundled one's manifest with a fake network, and segmentations by a threshold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import package, signature
from appliance.backend import Options
from appliance.backends import fake
from appliance.backends.fake import Behavior
from appliance.image import load
from appliance.package import (
    FORMAT,
    Accepts,
    Ensemble,
    GoldenSpec,
    InputSpec,
    IntendedUse,
    Manifest,
    OutputSpec,
    Promotion,
    SegmentSpec,
    Target,
)
from appliance.preprocess import Step, preprocess
from appliance.probability import Heads
from appliance.result import Code

TARGETS = ("cpu", "openvino")


BUNDLED = package.bundled("chest-pneumonia")


def bundled() -> package.Package:
    return package.read(BUNDLED[0], None)


def input_digest(file: Path) -> str:
    """How the fake's artifact names a DICOM file: by what the network is given of it."""
    return fake.digest(preprocess(load(file).pixels, bundled().manifest.input.steps)[0])


def make(folder: Path, keep: tuple[str, ...] = (), heads: Heads | None = None, **behavior: object) -> Path:
    """A package with the target ``fake``, and those of the bundled one that are to be kept.

    ``heads``, of 8 features, are the fake's ensemble. Its public key lies in ``folder/trusted``.
    """
    opened = bundled()
    spec, golden = opened.manifest.input, opened.golden()
    findings = len(opened.manifest.findings)
    network = Behavior(
        input_name=spec.name,
        input=spec.shape,
        outputs={"logits": (1, findings), "activation_map": (1, findings, 7, 7), "embedding": (1, 8)},
    )
    well = msgspec.json.encode(network)
    backend = fake.FakeBackend(well, Options())
    answers = [backend.run({spec.name: preprocess(image, spec.steps)}) for image in golden["images"]]
    arrays = {name: array for name, array in golden.items() if name.partition("/")[0] in ("images", *keep)}
    for name in ("logits", "activation_map"):
        arrays[f"fake/{name}"] = np.concatenate([answer[name] for answer in answers])
    ensemble = None
    if heads is not None:
        ensemble = Ensemble("fake.npz", 0.1, 0.95)
        calibration = opened.target("cpu")
        arrays["fake/heads"] = heads.probabilities(
            np.concatenate([answer["embedding"] for answer in answers]),
            np.concatenate([answer["logits"] for answer in answers]),
            calibration.temperature,
            calibration.bias,
        )
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "golden.npz", **arrays)
    like = opened.target("cpu")
    target = msgspec.structs.replace(
        like, artifact="fake.json", precision="none", calibrated_with="fake 1", ensemble=ensemble
    )
    targets: dict[str, Target] = {"fake": target, **{name: opened.target(name) for name in keep}}
    files = {
        "fake.json": msgspec.json.encode(msgspec.structs.replace(network, **behavior)),
        "golden.npz": (folder / "golden.npz").read_bytes(),
        "card.md": b"# For tests",
        **{each.artifact: opened.file(each.artifact) for name, each in targets.items() if name != "fake"},
        **{
            each.ensemble.file: opened.file(each.ensemble.file)
            for name, each in targets.items()
            if name != "fake" and each.ensemble
        },
    }
    if heads is not None:
        np.savez(folder / "fake.npz", **{"fake/weights": heads.weights, "fake/bias": heads.bias})
        files["fake.npz"] = (folder / "fake.npz").read_bytes()
    manifest = msgspec.structs.replace(
        opened.manifest,
        id="fake",
        targets=targets,
        card="card.md",
        drift=None,
        golden=GoldenSpec("golden.npz", len(golden["images"]), opened.manifest.golden.probability_tolerance),
    )
    return _written(folder, manifest, files)


def version(
    folder: Path,
    number: str,
    bias: float = 0.0,
    keep: tuple[str, ...] = TARGETS,
    promotion: Promotion | None = None,
) -> Path:
    """The bundled package under another version, with its calibration moved by ``bias``; its key is in ``trusted``.

    It has no ensemble and no conformal quantiles, so that it is always sure.
    """
    opened = bundled()
    moved = {
        name: msgspec.structs.replace(like, bias=like.bias + bias, conformal=None, ensemble=None)
        for name, like in opened.manifest.targets.items()
        if name in keep
    }
    manifest = msgspec.structs.replace(opened.manifest, version=number, targets=moved, promotion=promotion)
    used = {manifest.golden.file, manifest.card, *(each.artifact for each in moved.values())}
    used |= {manifest.drift.file} if manifest.drift else set()
    return _written(folder, manifest, {name: opened.file(name) for name in used})


def _written(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """The package, signed by a key that lies in ``folder/trusted``."""
    key = Ed25519PrivateKey.generate()
    trusted = folder / "trusted"
    trusted.mkdir(parents=True, exist_ok=True)
    (trusted / f"{manifest.id}.pub").write_bytes(signature.public_pem(key))
    path = folder / f"{manifest.id}.scanside"
    package.write(path, manifest, files, key)
    return path


# --- segmentations --------------------------------------------------------------------------------------------------

_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
LUNG = Code("39607008", "SCT", "Lung")
HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
_ANTERIOR, _POSTERIOR = Code("255549009", "SCT", "Anterior"), Code("255551008", "SCT", "Posterior")
LUNGS_GRID, HIPPOCAMPUS_GRID = (64, 64), (24, 32, 28)
SHARPNESS = 24.0  # of the logits, so that few pixels are uncertain
_USE = IntendedUse("Research use only. For tests.", ("diagnosis",), "Generated images")


def lungs(folder: Path, threshold: float = 0.55, smallest_dice: float = 0.97, flip: bool = False) -> Path:
    """Calls whatever is darker than a share of the image's range lungs (``flip``: what is brighter)."""
    spec = InputSpec(
        "image",
        (1, 1, *LUNGS_GRID),
        (
            Step("resize", {"rows": LUNGS_GRID[0], "columns": LUNGS_GRID[1]}),
            Step("percentile_stretch", {"low": 1.0, "high": 99.0}),
        ),
    )
    sign = 1.0 if flip else -1.0
    weights = sign * np.ones((1, 1, 1, 1), np.float32)
    network = _threshold(spec, weights, np.full((1, 1, 1, 1), -sign * threshold, np.float32))
    accepts = Accepts(
        sop_classes=("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"),
        modalities=("CR", "DX"),
        body_parts=("CHEST", "THORAX"),
        views=("PA", "AP"),
    )
    from tests.dicom_files import chest_pixels

    images = np.stack([chest_pixels(96, 88, 8, seed) for seed in range(3)])
    segments = (SegmentSpec("Lungs", _STRUCTURE, LUNG, (70, 170, 255)),)
    return _segmentation(folder, "lungs", accepts, spec, segments, network, images, LUNG, smallest_dice)


def hippocampus(folder: Path, threshold: float = 0.5, smallest_dice: float = 0.97) -> Path:
    """Calls whatever is bright in a volume hippocampus, anterior in the front half of its grid."""
    spec = InputSpec(
        "image",
        (1, 1, *HIPPOCAMPUS_GRID),
        (
            Step("resample", {"millimeters": 1.0}),
            Step("percentile_stretch", {"low": 1.0, "high": 99.5}),
            Step("pad_or_crop", {"size": list(HIPPOCAMPUS_GRID)}),
        ),
    )
    front = np.where(np.arange(HIPPOCAMPUS_GRID[1]) < HIPPOCAMPUS_GRID[1] // 2, 0.0, -4.0).astype(np.float32)
    offsets = np.stack([front, -4.0 - front]).reshape(1, 2, 1, -1, 1) - np.float32(threshold)
    network = _threshold(spec, np.ones((1, 2, 1, 1, 1), np.float32), offsets)
    accepts = Accepts(
        sop_classes=("1.2.840.10008.5.1.4.1.1.4",),
        modalities=("MR",),
        body_parts=("HIPPOCAMPUS", "HIPPOCROP"),
        views=(),
        photometric_interpretations=("MONOCHROME2",),
    )
    z, y, x = np.mgrid[-1:1:20j, -1:1:26j, -1:1:22j]
    images = np.stack([np.exp(-4 * (z**2 + y**2 + x**2 * (1 + n))) * 200 for n in range(3)]).astype(np.float32)
    segments = (
        SegmentSpec("Anterior hippocampus", _STRUCTURE, HIPPOCAMPUS, (255, 170, 60), _ANTERIOR),
        SegmentSpec("Posterior hippocampus", _STRUCTURE, HIPPOCAMPUS, (70, 170, 255), _POSTERIOR),
    )
    return _segmentation(folder, "hippocampus", accepts, spec, segments, network, images, HIPPOCAMPUS, smallest_dice)


def _threshold(spec: InputSpec, weights: np.ndarray, offsets: np.ndarray) -> bytes:
    """ONNX: logits 0 for the background and ``SHARPNESS * (weights * x + offsets)`` for the segments; an embedding."""
    helper, constants = onnx.helper, onnx.numpy_helper.from_array
    shape, count = list(spec.shape), weights.shape[1]
    axes = list(range(2, len(shape)))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["image", "weights"], ["weighted"]),
            helper.make_node("Add", ["weighted", "offsets"], ["segments"]),
            helper.make_node("Mul", ["image", "nothing"], ["background"]),
            helper.make_node("Concat", ["background", "segments"], ["logits"], axis=1),
            helper.make_node("ReduceMean", ["logits"], ["embedding"], axes=axes, keepdims=0),
        ],
        "threshold",
        [info("image", onnx.TensorProto.FLOAT, shape)],
        [
            info("logits", onnx.TensorProto.FLOAT, [1, 1 + count, *shape[2:]]),
            info("embedding", onnx.TensorProto.FLOAT, [1, 1 + count]),
        ],
        [
            constants((SHARPNESS * weights).astype(np.float32), "weights"),
            constants((SHARPNESS * offsets).astype(np.float32), "offsets"),
            constants(np.zeros((), np.float32), "nothing"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _segmentation(
    folder: Path,
    identifier: str,
    accepts: Accepts,
    spec: InputSpec,
    segments: tuple[SegmentSpec, ...],
    network: bytes,
    images: np.ndarray,
    site: Code,
    smallest_dice: float,
) -> Path:
    from appliance.backends import onnxruntime

    backend = onnxruntime.open(network, Options())
    spacing = (1.0,) * (images.ndim - 1)
    logits = [backend.run({spec.name: preprocess(image, spec.steps, spacing)})["logits"][0] for image in images]
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.stack([each.argmax(axis=0) for each in logits]).astype(np.uint8)
    np.savez(folder / "golden.npz", images=images, **{"cpu/labels": labels})
    files = {
        "cpu.onnx": network,
        "golden.npz": (folder / "golden.npz").read_bytes(),
        "card.md": b"# For tests",
    }
    target = Target("cpu.onnx", "float32", "onnx.helper", "onnxruntime", 1.0, 1.0, (), "", {})
    manifest = Manifest(
        format=FORMAT,
        id=identifier,
        version="0.0.1",
        title=f"Outline of the {identifier}, by a threshold",
        task="segmentation",
        intended_use=_USE,
        accepts=accepts,
        input=spec,
        outputs=OutputSpec("logits", "", "embedding"),
        findings=(),
        finding_site=site,
        targets={"cpu": target},
        golden=GoldenSpec("golden.npz", len(images), 0.0, smallest_dice),
        training={},
        card="card.md",
        files={},
        segments=segments,
    )
    return _written(folder, manifest, files)


def breakable(folder: Path, like: Path, **behavior: object) -> Path:
    """A package that draws, on the fake backend alone, which draws at random."""
    opened = package.read(like, None)
    spec, images = opened.manifest.input, opened.golden()["images"]
    logits = (1, 1 + len(opened.manifest.segments), *spec.shape[2:])
    network = Behavior(input_name=spec.name, input=spec.shape, outputs={"logits": logits, "embedding": (1, 3)})
    backend = fake.FakeBackend(msgspec.json.encode(network), Options())
    spacing = (1.0,) * (images.ndim - 1)
    drawn = [backend.run({spec.name: preprocess(image, spec.steps, spacing)})["logits"][0] for image in images]
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.stack([each.argmax(axis=0) for each in drawn]).astype(np.uint8)
    np.savez(folder / "golden.npz", images=images, **{"fake/labels": labels})
    target = msgspec.structs.replace(opened.target("cpu"), artifact="fake.json", calibrated_with="fake 1")
    files = {
        "fake.json": msgspec.json.encode(msgspec.structs.replace(network, **behavior)),
        "golden.npz": (folder / "golden.npz").read_bytes(),
        "card.md": b"# For tests",
    }
    return _written(folder, msgspec.structs.replace(opened.manifest, targets={"fake": target}), files)

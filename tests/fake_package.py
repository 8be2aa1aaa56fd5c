"""Model packages for the fake backend: the bundled one's manifest with a network that behaves as a test wants."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import package, signature
from appliance.backend import Options
from appliance.backends import fake
from appliance.backends.fake import Behavior
from appliance.image import load
from appliance.package import GoldenSpec, Target
from appliance.preprocess import preprocess

TARGETS = ("cpu", "openvino")


def bundled() -> package.Package:
    return package.read(package.bundled()[0], None)


def input_digest(file: Path) -> str:
    """How the fake's artifact names a DICOM file: by what the network is given of it."""
    return fake.digest(preprocess(load(file).pixels, bundled().manifest.input.steps)[0])


def make(folder: Path, keep: tuple[str, ...] = (), **behavior: object) -> Path:
    """A package with the target ``fake``, and those of the bundled one that are to be kept.

    Its public key lies in ``folder/trusted``.
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
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "golden.npz", **arrays)
    like = opened.target("cpu")
    target = msgspec.structs.replace(like, artifact="fake.json", precision="none", calibrated_with="fake 1")
    targets: dict[str, Target] = {"fake": target, **{name: opened.target(name) for name in keep}}
    files = {
        "fake.json": msgspec.json.encode(msgspec.structs.replace(network, **behavior)),
        "golden.npz": (folder / "golden.npz").read_bytes(),
        "card.md": b"# For tests",
        **{each.artifact: opened.file(each.artifact) for name, each in targets.items() if name != "fake"},
    }
    manifest = msgspec.structs.replace(
        opened.manifest,
        id="fake",
        targets=targets,
        card="card.md",
        golden=GoldenSpec("golden.npz", len(golden["images"]), opened.manifest.golden.probability_tolerance),
    )
    key = Ed25519PrivateKey.generate()
    trusted = folder / "trusted"
    trusted.mkdir(exist_ok=True)
    (trusted / "test.pub").write_bytes(signature.public_pem(key))
    path = folder / "fake.scanside"
    package.write(path, manifest, files, key)
    return path

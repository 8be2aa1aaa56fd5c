"""A backend for tests: it answers at once, late, wrongly or never, as its artifact says.

The artifact is JSON, see `Behavior`. Inputs are told apart by the SHA-256 of their bytes. It is there only where the
environment has SCANSIDE_FAKE_BACKEND.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import msgspec
import numpy as np

from appliance.backend import Options, Progress
from appliance.engine_cache import EngineCache
from appliance.errors import BackendError

NAME = "fake"
TARGET = "fake"
DEVICES = ("",)
REQUIRES = "appliance"
INSTALL = "it is for tests"
DEVICE_FILES: dict[str, tuple[tuple[str, ...], str]] = {}


class Behavior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the network is like.

    ``input`` is its shape for one image and ``outputs`` those of its outputs, which are drawn from a generator seeded
    by the input. A call takes ``seconds`` plus ``seconds_per_image``. ``crash``, ``hang``, ``nan`` and ``error`` list
    inputs (hex SHA-256 of an image's bytes) that end the process, never come back, give no numbers, or are refused;
    ``hang_file`` and ``crash_file`` do so for every input while a file of that name exists. ``prepare_seconds`` is what
    compiling takes; ``batches`` are the batch sizes it can be opened with.
    """

    input_name: str
    input: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    seconds: float = 0.0
    seconds_per_image: float = 0.0
    crash: tuple[str, ...] = ()
    hang: tuple[str, ...] = ()
    nan: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    hang_file: str = ""
    crash_file: str = ""
    prepare_seconds: float = 0.0
    batches: tuple[int, ...] = (1,)


def probe(device: str) -> str | None:  # noqa: ARG001 (there is but one)
    return None


def versions(device: str) -> dict[str, str]:  # noqa: ARG001
    return {"fake": "1"}


def digest(image: np.ndarray) -> str:
    """How an artifact names an input: SHA-256 of one image's float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.float32).tobytes()).hexdigest()


class FakeBackend:
    """See `appliance.backend.Backend`."""

    name = NAME
    device = "FAKE"

    def __init__(self, artifact: bytes, options: Options) -> None:
        self._behavior = _behavior(artifact)
        if options.batch not in self._behavior.batches:
            raise BackendError(f"the fake can't open the network: it does not take {options.batch} images at a time")
        self._shape = (options.batch, *self._behavior.input[1:])

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        behavior = self._behavior
        if set(inputs) != {behavior.input_name} or inputs[behavior.input_name].shape != self._shape:
            given = {name: value.shape for name, value in inputs.items()}
            raise BackendError(f"the fake can't run the network: {given}, not {behavior.input_name} {self._shape}")
        images = inputs[behavior.input_name]
        time.sleep(behavior.seconds + behavior.seconds_per_image * len(images))
        answers = [self._answer(image) for image in images]
        return {name: np.stack([answer[name] for answer in answers]) for name in behavior.outputs}

    def _answer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        behavior, name = self._behavior, digest(image)
        if name in behavior.crash or (behavior.crash_file and Path(behavior.crash_file).exists()):
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)  # the signal may reach another thread first, and this one must give no answer
        while name in behavior.hang or (behavior.hang_file and Path(behavior.hang_file).exists()):
            time.sleep(0.05)
        if name in behavior.error:
            raise BackendError("the fake can't run the network: it refuses this image")
        drawn = np.random.default_rng(int(name[:16], 16))
        outputs = {
            output: drawn.normal(size=shape[1:]).astype(np.float32) for output, shape in behavior.outputs.items()
        }
        if name in behavior.nan:
            outputs = {output: np.full_like(value, np.nan) for output, value in outputs.items()}
        return outputs

    def close(self) -> None:
        pass


def open(artifact: bytes, options: Options) -> FakeBackend:  # noqa: A001 (the protocol's name)
    if not is_prepared(artifact, options):
        raise BackendError("the fake can't open the network: it is not compiled yet")
    return FakeBackend(artifact, options)


def is_prepared(artifact: bytes, options: Options) -> bool:
    return _behavior(artifact).prepare_seconds == 0 or EngineCache(options.cache).has(artifact, options)


def prepare(artifact: bytes, options: Options, progress: Progress) -> None:
    if options.batch not in _behavior(artifact).batches:
        raise BackendError(f"the fake can't compile the network for {options.batch} images at a time")
    steps = 20
    for step in range(steps):
        progress(step / steps, "pretending")
        time.sleep(_behavior(artifact).prepare_seconds / steps)
    EngineCache(options.cache).put(b"engine", artifact, options)


def _behavior(artifact: bytes) -> Behavior:
    try:
        return msgspec.json.decode(artifact, type=Behavior)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BackendError(f"the fake can't open the network: {error}") from error

"""The answers that a network gave lately, so that the same pixels are read once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from appliance.receipt import Receipt
from appliance.serving import Answer

Key = tuple[bytes, str, str]  # the pixels' digest, the package's SHA-256, the backend
_MOST = 256
_MOST_BYTES = 64 << 20  # a classification takes a few KB, the logits of a volume some MB


def digest(pixels: np.ndarray, spacing: tuple[float, ...] | None) -> bytes:
    """SHA-256 of the type, shape and values of an image or a volume, and of its spacing where that decides, too."""
    found = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}{spacing or ''}".encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.digest()


def key(digest: bytes, receipt: Receipt) -> Key:
    return digest, receipt.package_sha256, receipt.backend


class Answers:
    """The latest ones, as many as fit."""

    def __init__(self) -> None:
        self._held: OrderedDict[Key, Answer] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> Answer | None:
        return self._held.get(key)

    def put(self, key: Key, answer: Answer) -> None:
        """Keep an answer, the oldest ones making room."""
        if key in self._held:
            self._bytes -= _size(self._held.pop(key))
        self._held[key] = answer
        self._bytes += _size(answer)
        while len(self._held) > _MOST or self._bytes > _MOST_BYTES:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(answer: Answer) -> int:
    return sum(array.nbytes for array in answer.outputs.values())

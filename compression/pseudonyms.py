"""Pseudonyms that are the same for the same patient or UID, and tell nothing without a secret key."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from compression.problems import DataError

_BYTES = 32
_DICOM_ROOT = "1.2.840.10008."  # UIDs of the standard itself: the same for everyone


class Pseudonyms:
    """HMAC-SHA256 of what is replaced, under a key: with it, and only with it, a later run gives the same ones."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._uids: dict[str, str] = {}

    @property
    def key_id(self) -> str:
        """Tells keys apart, and nothing else."""
        return self._digest("key id", "")[:8]

    def patient(self, patient_id: str) -> str:
        """For Patient ID and Patient's Name, at most 64 characters.

        The issuer does not count: objects of one patient may state it or not, and two patients under one pseudonym
        leak nothing between splits.
        """
        return f"P-{self._digest('patient', patient_id)[:20]}"

    def uid(self, uid: str) -> str:
        """A UID of the root 2.25 (PS3.5 section B.2); those of the standard stay."""
        if not uid or uid.startswith(_DICOM_ROOT):
            return uid
        if uid not in self._uids:
            self._uids[uid] = f"2.25.{int(self._digest('uid', uid)[:32], 16)}"
        return self._uids[uid]

    def _digest(self, kind: str, value: str) -> str:
        return hmac.new(self._key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()


def load_or_create_key(path: Path, target: Path) -> tuple[bytes, bool]:
    """The key in a file, made where there is none, and whether it is new.

    Raises
    ------
    DataError
        It is no key, can't be written, or would lie in the target and be passed on with it.
    """
    if path.resolve().is_relative_to(target.resolve()):
        raise DataError(f"{path} lies in {target}: whoever gets the data would get the key; put it elsewhere")
    try:
        if path.exists():
            key = bytes.fromhex(path.read_text(encoding="ascii").strip())
            if len(key) != _BYTES:
                raise DataError(f"{path} is no key of {_BYTES} bytes in hexadecimal")
            return key, False
        path.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_bytes(_BYTES)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key.hex()}\n")
        return key, True
    except ValueError as error:
        raise DataError(f"{path} is no key of {_BYTES} bytes in hexadecimal") from error
    except OSError as error:
        raise DataError(f"the key {path} can't be read or made: {error.strerror}") from error

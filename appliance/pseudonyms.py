"""Pseudonyms that are the same for the same patient or UID, and tell nothing without a secret key."""

from __future__ import annotations

import hashlib
import hmac

BYTES = 32  # of a key
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

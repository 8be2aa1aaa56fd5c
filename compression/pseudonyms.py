"""The key of pseudonyms in a file, which must not lie with the data; the pseudonyms are `appliance.pseudonyms`."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from appliance.pseudonyms import BYTES, Pseudonyms
from compression.problems import DataError

__all__ = ["Pseudonyms", "load_or_create_key"]


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
            if len(key) != BYTES:
                raise DataError(f"{path} is no key of {BYTES} bytes in hexadecimal")
            return key, False
        path.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_bytes(BYTES)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key.hex()}\n")
        return key, True
    except ValueError as error:
        raise DataError(f"{path} is no key of {BYTES} bytes in hexadecimal") from error
    except OSError as error:
        raise DataError(f"the key {path} can't be read or made: {error.strerror}") from error

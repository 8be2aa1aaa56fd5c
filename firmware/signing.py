"""Ed25519 signatures (RFC 8032) beside files: image manifests, configurations, service tokens."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError


def signature_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def sign(content: bytes, key: Path, purpose: str) -> bytes:
    """The signature in base64; ``purpose`` is part of what is signed, so that none counts for something else."""
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise FirmwareError(
            f"the key {key} can't be read: {error}", hint="make a set: scanside-firmware keys"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise FirmwareError(f"{key} is no Ed25519 key")
    return base64.b64encode(private.sign(_message(content, purpose)))


def sign_file(path: Path, key: Path, purpose: str) -> Path:
    """Write the signature beside a file."""
    Files().write(signature_of(path), sign(path.read_bytes(), key, purpose))
    return signature_of(path)


def verify(content: bytes, signature: bytes, trusted: Iterable[Path], purpose: str, what: str) -> None:
    """Whether one of the trusted keys has signed it.

    Raises
    ------
    RefusedError
        None has.
    """
    keys = list(trusted)
    for path in keys:
        try:
            public = serialization.load_pem_public_key(path.read_bytes())
        except (OSError, ValueError) as error:
            raise FirmwareError(f"the public key {path} can't be read: {error}") from error
        if not isinstance(public, Ed25519PublicKey):
            raise FirmwareError(f"{path} is no Ed25519 key")
        try:
            public.verify(base64.b64decode(signature, validate=True), _message(content, purpose))
        except (InvalidSignature, ValueError):
            continue
        return
    theirs = ", ".join(path.name for path in keys)
    raise RefusedError(
        f"{what} was not signed by a key that is trusted here, or was changed after it was signed",
        hint=f"copy it again from its publisher, who signs it with the key of {theirs}"
        if keys
        else "name the publisher's public key with --key",
    )


def verify_file(path: Path, trusted: Iterable[Path], purpose: str) -> bytes:
    """The content of a file whose signature lies beside it."""
    try:
        content, signature = path.read_bytes(), signature_of(path).read_bytes()
    except FileNotFoundError as error:
        raise RefusedError(
            f"{error.filename} is missing", hint="a file and its .sig come together; copy both again"
        ) from error
    verify(content, signature, trusted, purpose, path.name)
    return content


def _message(content: bytes, purpose: str) -> bytes:
    return f"scanside {purpose}\n".encode() + content

"""Ed25519 signatures (RFC 8032) over packages and receipts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.errors import SignatureError
from appliance.spool import write_durably

TRUSTED_KEYS = Path(__file__).parent / "trusted_keys"


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the raw public key."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def load_or_create_private_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The PEM private key at ``path``, made (readable by its owner only) where there is none.

    Returns the key and whether it is new.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise SignatureError(f"{path} is not a PEM private key: {error}") from error
    else:
        if not isinstance(key, Ed25519PrivateKey):
            raise SignatureError(f"{path} holds a {type(key).__name__}, not an Ed25519 key")
        return key, False
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(path, pem)
    return key, True


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(path: Path) -> Ed25519PublicKey:
    """Of a PEM file; raises `SignatureError` where it holds none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SignatureError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise SignatureError(f"{path} is not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} holds a {type(key).__name__}, not an Ed25519 key")
    return key


def load_trusted_keys(folders: tuple[Path, ...]) -> dict[str, Ed25519PublicKey]:
    """Every ``*.pub`` PEM file of the folders, by key id."""
    keys = {}
    for folder in folders:
        for path in sorted(folder.glob("*.pub")):
            key = public_key(path)
            keys[key_id(key)] = key
    return keys


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """``<key id>:<signature in hex>``."""
    return f"{key_id(key.public_key())}:{key.sign(message).hex()}"


def verify(signature: str, message: bytes, keys: dict[str, Ed25519PublicKey], what: str) -> str:
    """The id of the key that signed ``message``; raises `SignatureError`, which names ``what``."""
    identifier, _, digits = signature.strip().partition(":")
    key = keys.get(identifier)
    if key is None:
        raise SignatureError(
            f"{what} is signed by key {identifier[:16]!r}, which this device does not trust",
            hint="put the publisher's .pub file into a folder of models.trusted_keys, or use a trusted package",
        )
    try:
        key.verify(bytes.fromhex(digits), message)
    except (InvalidSignature, ValueError):
        raise SignatureError(
            f"{what} was changed after it was signed", hint="copy it again from its publisher"
        ) from None
    return identifier

"""Whether the audit trail is what was written: its chain, its head, and what the ledger remembers of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance import signature
from appliance.audit import FIRST, Record, decode, digest, signed
from appliance.audit_store import AuditStore
from appliance.errors import ApplianceError, SignatureError, SpoolError

_MOST_FAULTS = 100
COMPONENT = "audit"  # under which the ledger remembers the head


class Outcome(msgspec.Struct):
    """What a look through the trail has found.

    Attributes
    ----------
    faults
        What is wrong, each with the number of the record where it shows.
    key
        The id of the key that has signed the head, '' where none has.
    """

    records: int = 0
    faults: list[str] = []
    first_at: float | None = None
    last_at: float | None = None
    key: str = ""
    head: dict[str, Any] | None = None

    def blame(self, what: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(what)


def verify(path: Path, key: Path, *remembered: dict[str, Any] | None) -> Outcome:
    """Follow the chain from the first record to the signed head.

    Parameters
    ----------
    key
        The device's.
    remembered
        Heads that were noted elsewhere: the trail must still hold them.

    Raises
    ------
    SpoolError
        There is no trail, or it can't be read.
    """
    known = {head["number"]: head for head in remembered if head}
    if not path.exists():
        noted = max(known) if known else 0
        hint = f"it had {noted} records: it was removed" if noted else "start the appliance there first"
        raise SpoolError(f"there is no audit trail {path}", hint=hint)
    store, outcome = AuditStore(path, read_only=True), Outcome()
    try:
        last = _follow(store, outcome, known)
        _check_head(store, key, outcome, last)
    except SpoolError as error:
        outcome.blame(error.message)
    finally:
        store.close()
    for number, head in sorted(known.items()):
        if number > outcome.records:
            outcome.blame(f"the end is cut off: record {number}, {head['digest'][:16]}..., was there once")
    return outcome


def _follow(store: AuditStore, outcome: Outcome, known: dict[int, dict[str, Any]]) -> str:
    number, last = 0, FIRST
    for row in store.records():
        expected, number = number + 1, row["number"]
        if number != expected:
            missing = f"record {expected} is" if number == expected + 1 else f"records {expected} to {number - 1} are"
            outcome.blame(f"{missing} missing")
        if row["previous"] != last:
            outcome.blame(f"the chain breaks at record {number}: record {number - 1} is not what it was")
        last = digest(number, row["previous"], row["content"])
        if number in known and known[number]["digest"] != last:
            outcome.blame(f"record {number} is not the one that was noted elsewhere")
        try:
            at = decode(row["content"]).at
        except msgspec.DecodeError:
            outcome.blame(f"record {number} can't be read")
        else:
            outcome.first_at = outcome.first_at if outcome.first_at is not None else at
            outcome.last_at = at
        outcome.records = number
    return last


def _check_head(store: AuditStore, key: Path, outcome: Outcome, last: str) -> None:
    head = store.head()
    if head is None:
        if outcome.records:
            outcome.blame("the signed head is missing")
        return
    outcome.head = head
    if head["number"] > outcome.records:
        outcome.blame(f"the end is cut off: the head names record {head['number']}, the last one is {outcome.records}")
    elif head["number"] < outcome.records:
        outcome.blame(f"records were put in at the end: the head names record {head['number']} as the last one")
    elif head["digest"] != last:
        outcome.blame(f"the last record, {head['number']}, is not what it was")
    try:
        public = public_key(key)
        outcome.key = signature.verify(
            head["signature"], signed(head["number"], head["digest"]), {signature.key_id(public): public}, "the head"
        )
    except SignatureError as error:
        outcome.blame(f"the head is not signed by this device: {error.message}")
    except OSError as error:
        outcome.blame(f"the device's key {key} can't be read: {error.strerror}")


def public_key(path: Path) -> Ed25519PublicKey:
    """Of the device; raises `OSError`, `SignatureError`."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise SignatureError(f"{path} is not a PEM private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path} holds no Ed25519 key")
    return key.public_key()


def read_head(path: Path) -> dict[str, Any]:
    """A head that `scanside audit head` has printed; raises `ApplianceError`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return {"number": int(found["number"]), "digest": str(found["digest"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApplianceError(f"{path} is no head of an audit trail", hint="`scanside audit head` prints one") from error


def described(row: dict[str, Any]) -> tuple[int, Record]:
    """A row as its number and what it says."""
    return row["number"], decode(row["content"])

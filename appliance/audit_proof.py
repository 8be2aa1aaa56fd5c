"""Whether the audit trail is what was written: its chain, its head, and what the ledger remembers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance import signature
from appliance.audit import FIRST, REMOVAL, Record, anchored, decode, digest, signed
from appliance.audit_export import Export
from appliance.audit_store import AuditStore
from appliance.errors import ApplianceError, SignatureError, SpoolError

_MOST_FAULTS = 100
COMPONENT = "audit"  # under which the ledger remembers the head


class Outcome(msgspec.Struct):
    """What a look through the trail has found.

    Attributes
    ----------
    records
        The number of the last one.
    first
        The number of the first one that is proven, in the trail or in an export; 0 where there is none.
    removed
        The number of the last one that retention has removed; 0 where it has removed none.
    faults
        What is wrong, each with the number of the record where it shows.
    key
        The id of the key that has signed the head, '' where none has.
    """

    records: int = 0
    first: int = 0
    removed: int = 0
    faults: list[str] = []
    first_at: float | None = None
    last_at: float | None = None
    key: str = ""
    head: dict[str, Any] | None = None

    def blame(self, what: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(what)


def verify(
    path: Path,
    key: Path,
    *noted: dict[str, Any] | None,
    remembered: dict[str, Any] | None = None,
    exports: Sequence[Path] = (),
) -> Outcome:
    """Follow the chain from the first record, or from the signed anchor of what was removed, to the signed head.

    Parameters
    ----------
    key
        The device's.
    noted
        Heads that people have kept elsewhere: trail or exports must hold them.
    remembered
        The head in the ledger; what was removed since need not hold it.
    exports
        Files of `appliance.audit_export`: each must be a part of this trail's chain.

    Raises
    ------
    SpoolError
        There is no trail, or it can't be read.
    ApplianceError
        An export can't be read.
    """
    known = [head for head in (*noted, remembered) if head]
    if not path.exists():
        last = max((head["number"] for head in known), default=0)
        hint = f"it had {last} records: it was removed" if last else "start the appliance there first"
        raise SpoolError(f"there is no audit trail {path}", hint=hint)
    files = sorted(map(Export.open, exports), key=lambda each: each.last, reverse=True)
    proof = _Proof(key, {head["number"] for head in known} | {n for each in files for n in (each.first - 1, each.last)})
    outcome = proof.outcome
    store = AuditStore(path, read_only=True)
    try:
        with store.snapshot():
            proof.of_trail(store)
    except SpoolError as error:
        outcome.blame(error.message)
    finally:
        store.close()
    for each in files:
        proof.of_export(each)
    for head in sorted(known, key=lambda head: int(head["number"])):
        if head is not remembered or head["number"] > outcome.removed:
            proof.of_head(head)
    return outcome


class _Proof:
    """Follows chains, each from a digest that is proven.

    Parameters
    ----------
    wanted
        Numbers of records whose digests are compared: ``sure`` has them once they are proven.
    """

    def __init__(self, key: Path, wanted: set[int]) -> None:
        self.outcome = Outcome()
        self._key, self._wanted = key, wanted
        self._sure: dict[int, str] = {}

    def of_trail(self, store: AuditStore) -> None:
        outcome, anchor = self.outcome, store.anchor()
        number, last = (anchor["number"], anchor["digest"]) if anchor else (0, FIRST)
        outcome.removed = number
        removals: dict[str, str] = {}
        last = self._follow(store.records(), number, last, self._sure, removals)
        if anchor is not None:
            self._check_signature(anchor, anchored, "what was removed")
            if removals.get(f"records up to {number}") != anchor["digest"]:
                outcome.blame(f"no record says that those up to {number} were removed")
        self._check_head(store.head(), last)

    def of_export(self, export: Export) -> None:
        """One that is a part of what is proven by now is proven as far as it goes back."""
        found: dict[int, str] = {}
        before = self.outcome
        self.outcome = Outcome()  # of this file alone
        self._follow(export.rows(), export.first - 1, export.previous, found)
        faults, first_at, self.outcome = self.outcome.faults, self.outcome.first_at, before
        for fault in faults:
            before.blame(f"{export.path.name}: {fault}")
        if export.last > before.records:
            before.blame(f"the end is cut off: {export.path.name} has record {export.last}")
            return
        shared = sorted(found.keys() & self._sure.keys())
        for number in shared:
            if found[number] != self._sure[number]:
                before.blame(f"{export.path.name}: record {number} is not the one of this trail")
                return
        if not shared:
            before.blame(f"{export.path.name} proves nothing without the export that has record {export.last + 1}")
        elif not faults:
            self._sure |= found
            if export.first < before.first or not before.first:
                before.first, before.first_at = export.first, first_at

    def of_head(self, head: dict[str, Any]) -> None:
        number = head["number"]
        if number > self.outcome.records:
            self.outcome.blame(f"the end is cut off: record {number}, {head['digest'][:16]}..., was there once")
        elif number not in self._sure:
            self.outcome.blame(
                f"record {number}, which was noted elsewhere, was removed since: its export must prove it"
            )
        elif self._sure[number] != head["digest"]:
            self.outcome.blame(f"record {number} is not the one that was noted elsewhere")

    def _follow(
        self,
        rows: Iterator[dict[str, Any]],
        number: int,
        last: str,
        found: dict[int, str],
        removals: dict[str, str] | None = None,
    ) -> str:
        """From a number and its digest on; the last one's digest. ``found`` gets the digests that are wanted."""
        outcome, first = self.outcome, True
        outcome.records, found[number] = number, last
        for row in rows:
            expected, number = number + 1, row["number"]
            if number != expected:
                missing = (
                    f"record {expected} is" if number == expected + 1 else f"records {expected} to {number - 1} are"
                )
                outcome.blame(f"{missing} missing")
            if row["previous"] != last:
                outcome.blame(f"the chain breaks at record {number}: record {number - 1} is not what it was")
            last = digest(number, row["previous"], row["content"])
            if number in self._wanted:
                found[number] = last
            try:
                record = decode(row["content"])
            except msgspec.DecodeError:
                outcome.blame(f"record {number} can't be read")
            else:
                outcome.first_at = record.at if outcome.first_at is None else outcome.first_at
                outcome.last_at = record.at
                if removals is not None and record.action == REMOVAL:
                    removals[record.target] = record.detail
            outcome.first = number if first else outcome.first
            outcome.records, first = number, False
        return last

    def _check_head(self, head: dict[str, Any] | None, last: str) -> None:
        outcome = self.outcome
        if head is None:
            if outcome.records:
                outcome.blame("the signed head is missing")
            return
        outcome.head = head
        if head["number"] > outcome.records:
            outcome.blame(
                f"the end is cut off: the head names record {head['number']}, the last one is {outcome.records}"
            )
        elif head["number"] < outcome.records:
            outcome.blame(f"records were put in at the end: the head names record {head['number']} as the last one")
        elif head["digest"] != last:
            outcome.blame(f"the last record, {head['number']}, is not what it was")
        outcome.key = self._check_signature(head, signed, "the head")

    def _check_signature(self, row: dict[str, Any], message: Callable[[int, str], bytes], what: str) -> str:
        """The id of the device's key, '' where it has not signed this."""
        try:
            public = public_key(self._key)
            trusted = {signature.key_id(public): public}
            return signature.verify(row["signature"], message(row["number"], row["digest"]), trusted, what)
        except SignatureError as error:
            self.outcome.blame(f"{what} is not signed by this device: {error.message}")
        except OSError as error:
            self.outcome.blame(f"the device's key {self._key} can't be read: {error.strerror}")
        return ""


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

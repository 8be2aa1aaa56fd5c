"""The ledger's receipts: signed by this device's key, and believed only if they are. And ``scanside receipt``."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import backends, proof, signature
from appliance.backend import Options, Progress
from appliance.config import Config
from appliance.errors import ApplianceError, SignatureError
from appliance.health import is_running
from appliance.package import Package
from appliance.preparation import Preparation
from appliance.proof import Trial
from appliance.receipt import Receipt
from appliance.store import Store

log = logging.getLogger("scanside.receipts")

_POLL_SECONDS = 0.2
_LONGEST_SECONDS = 600.0


def known(store: Store, key: Ed25519PrivateKey) -> list[Receipt]:
    """The receipts in the ledger that this device signed and this version understands, newest first."""
    trusted, found = {signature.key_id(key.public_key()): key.public_key()}, []
    for row in store.receipts():
        try:
            signature.verify(row["signature"], row["content"].encode(), trusted, f"receipt {row['id']}")
            found.append(msgspec.json.decode(row["content"], type=Receipt))
        except (SignatureError, msgspec.DecodeError) as error:
            log.warning("receipt %s does not count: %s", row["id"], error)
    return found


def keep(store: Store, key: Ed25519PrivateKey, trials: Sequence[Trial], old: Sequence[Receipt] = ()) -> None:
    """Sign and store the trials' receipts, but for those that are there."""
    for receipt in (trial.receipt for trial in trials):
        if receipt is not None and receipt not in old:
            content = receipt.to_json()
            store.add_receipt(receipt.identifier, content.decode(), signature.sign(key, content))


def prove_now(
    config: Config,
    opened: Package,
    backend: str,
    progress: Progress,
    known: Sequence[Receipt] = (),
    since: datetime | None = None,
) -> list[Trial]:
    """Replay the golden vectors on one backend or, with ``auto``, on all of them; compile what has to be, first.

    The receipts are kept where there is a ledger. Beside an appliance that reads with this package, `ask` that one.

    Parameters
    ----------
    known, since
        As of `appliance.proof.trials`.
    """
    options = proof.options(config)
    tried = list(proof.trials(backend, opened, options, known, since))
    for place, trial in enumerate(tried):
        if trial.unprepared:
            failed = _compile(opened, trial.backend, options, progress)
            again = proof.trials(trial.backend, opened, options)
            tried[place] = replace(trial, reason=failed) if failed else next(again)
    if config.ledger_path.exists():
        key, _ = signature.load_or_create_private_key(config.key_path)
        keep(Store(config.ledger_path), key, tried, known)
    return tried


def _compile(opened: Package, backend: str, options: Options, progress: Progress) -> str:
    """Why it failed, empty where it did not."""
    preparation = Preparation(opened, backend, replace(options, device=backends.device(backend)))
    try:
        while not preparation.wait(_POLL_SECONDS):
            progress(preparation.step.share, f"{backend}: {preparation.step.what}")
    finally:
        preparation.stop()
    return preparation.step.failed


def ask(config: Config) -> list[tuple[str, Trial]]:
    """Have the appliance that runs on this data folder prove its backends anew, and wait for what comes of it.

    Returns
    -------
    Package and trial, for each package and each backend that the appliance may use.

    Raises
    ------
    ApplianceError
        It stopped, or gave no answer within ten minutes.
    """
    store, asked_at = Store(config.ledger_path, read_only=True), time.time()
    config.receipt_request_path.touch()
    while time.time() - asked_at < _LONGEST_SECONDS:
        worker = store.components().get("worker", {})
        if worker.get("state") in ("ready", "waiting") and (worker.get("proved_at") or 0) >= int(asked_at):
            receipts = {row["id"]: msgspec.json.decode(row["content"], type=Receipt) for row in store.receipts()}
            return [
                (each["package"], Trial(each["backend"], each["target"], receipts.get(each["receipt"]), each["reason"]))
                for each in worker["trials"]
            ]
        if not is_running(config):
            raise ApplianceError("the appliance stopped before its backends had proved themselves", hint="start it")
        time.sleep(_POLL_SECONDS)
    raise ApplianceError(
        f"the appliance gave no answer within {_LONGEST_SECONDS / 60:.0f} min", hint="look at `scanside status`"
    )

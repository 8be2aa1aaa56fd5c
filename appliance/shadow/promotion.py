"""A package that has read in shadow takes over: criteria met, signed by a named person, and the evidence kept.

The evidence is one zip, in the order of a predetermined change control plan (FDA, "Marketing Submission Recommendations
for a Predetermined Change Control Plan for Artificial Intelligence-Enabled Device Software Functions", 2024).
"""

from __future__ import annotations

import hashlib
import io
import re
import time
import zipfile
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import __version__, installed, pages, signature, switching
from appliance.backend import Progress
from appliance.config import Config
from appliance.errors import ApplianceError, SignatureError
from appliance.package import Package
from appliance.shadow import report as reports
from appliance.shadow.report import Report, moment
from appliance.shadow.store import ShadowStore
from appliance.spool import write_durably
from appliance.switching import Ready, Switched


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person signs: this package may take over from that one, on this evidence.

    ``statistics_sha256`` is of the report's JSON; ``at`` is ISO 8601; ``key`` is the id of the key that signs.
    """

    model: str
    former_sha256: str
    version: str
    sha256: str
    statistics_sha256: str
    by: str
    why: str
    at: str
    key: str


def promote(config: Config, by: str, why: str, key_path: Path, progress: Progress) -> tuple[Switched, Path]:
    """Have the package in shadow read from now on; what was put in force, and where the evidence lies.

    Parameters
    ----------
    by
        The person who approves it; ``BY.pub`` must lie in the approvers' folder.
    key_path
        That person's private key, a PEM file.

    Raises
    ------
    ApplianceError
        No package is in shadow, it does not meet the criteria, or a case regressed.
    SignatureError
        The key is not that person's.
    BackendError
        No backend has a receipt for it.
    """
    store = ShadowStore(config.ledger_path)
    shadow = store.running()
    if shadow is None:
        raise ApplianceError("no package is in shadow", hint="scanside shadow start FILE --why ...")
    key = _approver(config, by, key_path)
    report = reports.make(config, store, shadow["id"])
    if not report.met:
        short = "; ".join(f"{each.what}: {each.found} ({each.needed})" for each in report.criteria if not each.met)
        raise ApplianceError(
            f"{shadow['model']} {shadow['version']} does not meet the criteria yet: {short}",
            hint="let it read on, and have readers assess results; `scanside shadow report` shows where it stands",
        )
    opened = installed.with_sha256(config, shadow["sha256"], f"{shadow['model']} {shadow['version']}")
    ready = switching.prepare(config, opened, by, why, progress, kind="promotion")
    if ready.choice.former != shadow["against"]:
        raise ApplianceError("another package reads now than the one that it was compared with", hint="start again")
    statistics = report.to_json()
    approval = Approval(
        model=shadow["model"],
        former_sha256=shadow["against"],
        version=shadow["version"],
        sha256=shadow["sha256"],
        statistics_sha256=hashlib.sha256(statistics).hexdigest(),
        by=by,
        why=why,
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        key=signature.key_id(key.public_key()),
    )
    path = _keep_evidence(config, report, statistics, ready, approval, key)
    switched = switching.put_in_force(config, ready)
    store.end(shadow["id"], by, "promoted")
    return switched, path


def _approver(config: Config, by: str, key_path: Path) -> Ed25519PrivateKey:
    """The private key in a file, once it is known to be this person's."""
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except OSError as error:
        raise SignatureError(f"{key_path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise SignatureError(f"{key_path} is no PEM private key without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{key_path} holds a {type(key).__name__}, not an Ed25519 key")
    public = config.approvers_path / f"{by}.pub"
    if not re.fullmatch(r"[\w. -]+", by) or not public.is_file():
        raise SignatureError(
            f"{by} may not approve here: {public} is not there",
            hint="whoever administers the device puts the approver's public key there",
        )
    if signature.public_key(public).public_bytes(*_RAW) != key.public_key().public_bytes(*_RAW):
        raise SignatureError(f"{key_path} is not the key of {by}: {public} is another one")
    return key


_RAW = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


def _keep_evidence(
    config: Config, report: Report, statistics: bytes, ready: Ready, approval: Approval, key: Ed25519PrivateKey
) -> Path:
    """The bundle, whose list of contents is signed by this device; where it lies."""
    approved = msgspec.json.format(msgspec.json.encode(approval), indent=1)
    device, _ = signature.load_or_create_private_key(config.key_path)
    members = {
        "plan.html": _plan(config, report, ready, approval).encode(),
        "shadow/report.html": reports.html(report).encode(),
        "shadow/statistics.json": statistics,
        "must-not-regress.json": msgspec.json.format(msgspec.json.encode(ready.cases), indent=1),
        "approval/approval.json": approved,
        "approval/approval.sig": signature.sign(key, approved).encode(),
        "approval/approver.pub": signature.public_pem(key),
        **_manifest("packages/new", ready.opened),
        **(_manifest("packages/former", ready.former) if ready.former is not None else {}),
    }
    for trial in ready.trials:
        if trial.receipt is not None:
            content = trial.receipt.to_json()
            members[f"receipts/{trial.receipt.identifier}.json"] = content
            members[f"receipts/{trial.receipt.identifier}.sig"] = signature.sign(device, content).encode()
    listed = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(members.items()))
    members["SHA256SUMS"] = listed.encode()
    members["SHA256SUMS.sig"] = signature.sign(device, listed.encode()).encode()
    members["device.pub"] = signature.public_pem(device)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    path = config.evidence_path / f"{approval.model}-{approval.version}-{stamp}.zip"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    write_durably(path, file.getvalue())
    return path


def _manifest(folder: str, opened: Package) -> dict[str, bytes]:
    """As it was signed, with the signature."""
    with zipfile.ZipFile(opened.path) as archive:
        return {f"{folder}/{name}": archive.read(name) for name in ("manifest.json", "manifest.sig")}


def _plan(config: Config, report: Report, ready: Ready, approval: Approval) -> str:
    return pages.render(
        "plan.html",
        report=report,
        ready=ready,
        approval=approval,
        new=ready.opened.manifest,
        former=ready.former.manifest if ready.former is not None else None,
        receipts=[trial.receipt for trial in ready.trials if trial.receipt is not None],
        device=signature.key_id(signature.load_or_create_private_key(config.key_path)[0].public_key()),
        software=__version__,
        moment=moment,
    )

"""Commissioning: a site's configuration, the box's own key and certificate, and the way back.

A configuration is one TOML file (`firmware.site_toml`) and the files that go with it (`firmware.site_files`), signed;
the first ones may have been entered on the page instead. Each one that was applied is kept; an older one comes back by
its number. All that is made of one, and what was kept, lies in one folder, which is made beside and exchanged in one
step.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firmware import health, network, signing, site_files
from firmware.boot import refuse_on_trial
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError
from firmware.firewall import page_port
from firmware.policy import MOVE_CLOCK
from firmware.site_toml import parse

PURPOSE = "site configuration 1"
_NOTED = "in-force.json"
_LARGEST_ENTERED = 64 << 10  # bytes
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# At a start: opening data, which this is a part of, has a limit of its own.
_at_a_start = functools.partial(health.scanside, seconds=120)


def apply(box: Box, path: Path, ask: health.Ask = health.scanside, allow_older: bool = False) -> int:
    """Take a site's configuration, where it is signed, for this box, and right; its number.

    Raises
    ------
    RefusedError
        It is not signed, for another box, or older than what is there; or the system that runs is on trial.
    FirmwareError
        A table or key is wrong; nothing was changed.
    """
    refuse_on_trial(box.boot())
    content = signing.verify_file(path, [box.trust / "site.pub"], PURPOSE)
    tables = parse(content.decode(), path.name)
    site = tables["site"]
    if site.get("box") not in (None, box.identity()):
        raise RefusedError(f"{path.name} is for box {site['box']}, and this is {box.identity()}", hint="take its own")
    newest = max((each["version"] for each in history(box) if not each["entered"]), default=0)
    if site["version"] < newest and not allow_older:
        raise RefusedError(
            f"{path.name} has version {site['version']}, and version {newest} was applied here",
            hint="raise the version and sign it again, or ask for the older one with --allow-older",
        )
    files = site_files.read(path.parent / site_files.FOLDER, tables)
    return _take(box, path.name, content, tables, files, ask)


def may_enter(box: Box) -> bool:
    """Whether a configuration may be entered on the page: until the first signed one was taken."""
    folder = box.configuration.parent
    return all(_mark_of_entered(folder, int(path.stem)).exists() for path in _kept(box))


def entered(box: Box) -> bool:
    """Whether the one in force was."""
    number = number_in_force(box)
    return number is not None and _mark_of_entered(box.configuration.parent, number).exists()


def enter(box: Box, path: Path, ask: health.Ask = health.scanside) -> int:
    """Take what an administrator has entered on the page; its number.

    It counts without a signature, since the page lets in nobody before the code of the first account, which stands on
    the box's own console. The file is JSON, the tables of a site.toml without a version, and names who entered it
    (``by``).

    Raises
    ------
    RefusedError
        A signed configuration was taken here, or the system that runs is on trial.
    FirmwareError
        A table or key is wrong; nothing was changed.
    """
    refuse_on_trial(box.boot())
    if not may_enter(box):
        raise RefusedError(
            "this box has taken a signed configuration, and takes none without a signature any more",
            hint="change site.toml, raise its version, and sign it: scanside-firmware provision sign site.toml",
        )
    name = "the form"
    try:
        if path.stat().st_size > _LARGEST_ENTERED:
            raise ValueError(f"it has more than {_LARGEST_ENTERED >> 10} KiB")
        tables = json.loads(path.read_bytes())
        by = str(tables.pop("by", ""))[:64]
        if "files" in tables:
            raise ValueError("files come with a signed one only")
        content = toml({**tables, "site": {**tables["site"], "version": _next_number(box)}}).encode()
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise FirmwareError(f"{name} can't be read: {error}", hint="enter it again on the page") from error
    return _take(box, name, content, parse(content.decode(), name), {}, ask, entered_by=by)


def _take(
    box: Box,
    name: str,
    content: bytes,
    tables: dict[str, Any],
    files: Mapping[str, bytes],
    ask: health.Ask,
    entered_by: str | None = None,
) -> int:
    """Under the next number; ``entered_by`` is None for what was signed."""
    site = tables["site"]
    network.check_ports(box, tables.get("network", {}), name)
    number, now = _next_number(box), _in_force(box)
    noted = {"number": number, "again": False, "before": now.get("before", now.get("number"))}
    _use(box, content, tables, files, ask, noted, is_entered=entered_by is not None)
    by = {} if entered_by is None else {"entered_by": entered_by}
    box.remember_if_possible("configured", number=number, version=site["version"], site=site["name"], **by)
    return number


def known(box: Box, path: Path) -> str:
    """Why a file is not applied again: it is in force, or was left for an earlier one; else empty."""
    now, content = _in_force(box), path.read_bytes()
    if not box.configuration.exists() or not now:
        return ""
    same = [int(kept.stem) for kept in _kept(box) if kept.read_bytes() == content]
    if now["number"] in same:
        return f"configuration {now['number']} is in place already"
    if same and same[-1] == now.get("did_not_start"):
        return (
            f"configuration {same[-1]} was left for {now['number']}, since the appliance did not start with it; "
            "mend it, raise its version, and sign it again"
        )
    if same and now["again"]:
        return (
            f"configuration {same[-1]} was left for {now['number']} at the box, which stays; "
            f"`scanside-firmware provision back {same[-1]}` takes it again"
        )
    return ""


def number_in_force(box: Box) -> int | None:
    """None before the first one."""
    now = _in_force(box)
    return int(now["number"]) if now else None


def is_untried(box: Box) -> bool:
    """Whether nobody has seen yet that the appliance starts with the one in force, such as after a cut."""
    return "before" in _in_force(box)


def number_before(box: Box) -> int | None:
    """Of the one with which the appliance ran before the one that is untried; None where none did, or none is."""
    return _in_force(box).get("before")


def has_served(box: Box) -> None:
    """The appliance has started with the one in force."""
    now = _in_force(box)
    noted = json.dumps({"number": now["number"], "again": now["again"]})
    Files().write(box.configuration.with_name(_NOTED), noted.encode())


def _in_force(box: Box) -> dict[str, Any]:
    """What was noted of the configuration in force; empty before the first one.

    ``number``; ``again``, where it was gone back to; ``before`` until the appliance has started with it: the number of
    the one with which it did, or None; ``did_not_start``, the number of the one that was left for it.
    """
    path = box.configuration.with_name(_NOTED)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def go_back(box: Box, number: int, ask: health.Ask = health.scanside, did_not_start: int | None = None) -> None:
    """Use an earlier configuration again; ``did_not_start`` is the number of one that is left for that reason."""
    refuse_on_trial(box.boot())
    path = box.configuration.parent / _kept_name(number)
    if not path.exists():
        known = ", ".join(str(each["number"]) for each in history(box)) or "none"
        raise FirmwareError(f"there is no configuration {number}", hint=f"there are: {known}")
    content = path.read_bytes()
    tables = parse(content.decode(), path.name)
    files = site_files.read(_files_of(box.configuration.parent, number), tables)
    why = {} if did_not_start is None else {"did_not_start": did_not_start}
    _use(box, content, tables, files, ask, {"number": number, "again": True, **why})
    box.remember_if_possible("configured", number=number, again=True, **why)


def renew(box: Box, ask: health.Ask = _at_a_start) -> str:
    """At a start: what this image makes of the configuration in force, where another image has made it otherwise.

    Returns what was done, as a sentence, or why what is there stays; empty where there was nothing to do.
    """
    try:
        return _renew(box, ask)
    except (FirmwareError, OSError, ValueError, LookupError) as error:
        box.remember_if_possible("not_renewed", why=str(error))
        return f"the configuration stays as another image has made it: {error}"


def _renew(box: Box, ask: health.Ask) -> str:
    folder = box.configuration.parent
    now = _in_force(box)
    if not now:
        default = (box.root / "usr/lib/scanside/default.toml").read_bytes()
        # One that was applied by a version which did not note its number stays as it is.
        if _kept(box) or box.configuration.read_bytes() == default:
            return ""
        Files().write(box.configuration, default)
        return "this image's own default configuration is in place"
    number = int(now["number"])
    content = (folder / _kept_name(number)).read_bytes()
    tables = parse(content.decode(), _kept_name(number))
    made = _derived(box, number, tables)
    if all((folder / name).exists() and (folder / name).read_bytes() == each for name, each in made.items()):
        return ""
    files = site_files.read(_files_of(folder, number), tables)
    _use(box, content, tables, files, ask, now)
    box.remember_if_possible("configured", number=number, made_by=box.release().version)
    return f"configuration {number} is in place as this image makes it"


def check(site: Path, ask: health.Ask = health.scanside) -> str:
    """The text of a site.toml as it may be signed: with its files, and taken by the appliance that is installed here.

    Raises
    ------
    FirmwareError
        A table or key is wrong, a file that it names is not there, or nobody could make the accounts that it has.
    """
    text = site_files.listed(site)
    tables = parse(text, site.name)
    site_files.check_named(tables, site.name)
    with tempfile.TemporaryDirectory() as root:
        box = Box(Path(root))
        appliance = dict(tables.get("appliance", {}))
        if isinstance(models := appliance.get("models"), dict):  # packages are on the box, if anywhere
            appliance["models"] = {key: value for key, value in models.items() if key != "packages"}
        folder = box.configuration.parent
        files, theirs = site_files.read(site.parent / site_files.FOLDER, tables), _files_of(folder, 1)
        site_files.write(theirs, files, like=Path(root))
        _write(box, folder, 1, {**tables, "appliance": appliance})
        try:
            _judge(box, box.configuration, ask)
        except FirmwareError as error:
            why = error.message.replace(str(box.configuration), "[appliance]").replace(str(theirs), site_files.FOLDER)
            raise FirmwareError(f"{site.name}: {why}", hint="mend it; it was not signed") from error
    if tables.get("accounts") and page_port(appliance) is None:
        raise FirmwareError(
            f"{site.name}: [[accounts]] are made on the page, which nobody but the box itself would reach",
            hint='write host = "0.0.0.0" in [appliance.web], or leave [[accounts]] out; it was not signed',
        )
    return text


def people(box: Box) -> list[dict[str, str]]:
    """Whom the configuration names: ``name`` and ``role``."""
    path = box.configuration.parent / "accounts.json"
    named: list[dict[str, str]] = json.loads(path.read_text()) if path.exists() else []
    return named


def history(box: Box) -> list[dict[str, Any]]:
    """All that were applied, the oldest first: ``number``, ``version``, ``name``, ``entered`` (on the page)."""
    found = []
    for path in _kept(box):
        site, number = tomllib.loads(path.read_text())["site"], int(path.stem)
        is_entered = _mark_of_entered(box.configuration.parent, number).exists()
        found.append({"number": number, "version": site["version"], "name": site["name"], "entered": is_entered})
    return found


def _use(
    box: Box,
    content: bytes,
    tables: dict[str, Any],
    files: Mapping[str, bytes],
    ask: health.Ask,
    noted: Mapping[str, Any],
    is_entered: bool = False,
) -> None:
    """Made whole beside what is in force and judged by the appliance itself, then exchanged for it.

    ``noted`` is what `_in_force` says of it then.
    """
    number, folder = int(noted["number"]), box.configuration.parent
    coming, theirs = folder.with_name(f"{folder.name}.next"), _files_of(folder, number)
    shutil.rmtree(coming, ignore_errors=True)  # a cut left it
    is_new = not (folder / _kept_name(number)).exists()
    if is_new:
        shutil.rmtree(theirs, ignore_errors=True)  # of one that a cut kept from being taken: its number is given again
    try:
        # The configuration names its files where they will be, and is judged with them; nothing else names them yet.
        site_files.write(theirs, files, like=box.data)
        shutil.copytree(folder, coming, copy_function=os.link)
        Files().write(coming / _kept_name(number), content)
        if is_entered:
            Files().write(_mark_of_entered(coming, number), b"")
        Files().write(coming / _NOTED, json.dumps(noted).encode())
        _write(box, coming, number, tables)
        _judge(box, coming / box.configuration.name, ask)
        Files().exchange(coming, folder)
    except Exception:
        shutil.rmtree(coming, ignore_errors=True)
        if is_new:
            shutil.rmtree(theirs, ignore_errors=True)
        raise
    shutil.rmtree(coming, ignore_errors=True)


def _write(box: Box, folder: Path, number: int, tables: dict[str, Any]) -> None:
    for name, content in _derived(box, number, tables).items():
        Files().write(folder / name, content)


def _derived(box: Box, number: int, tables: dict[str, Any]) -> dict[str, bytes]:
    """What the system and the appliance read of a configuration: files by name."""
    appliance = site_files.placed(tables.get("appliance", {}), _files_of(box.configuration.parent, number))
    appliance = {**appliance, "data_dir": str(box.data), "box": {"report": str(box.report)}}
    models = appliance.get("models", {})
    trusted = models.get("trusted_keys", []) if isinstance(models, dict) else None
    if isinstance(trusted, list):  # otherwise the appliance says what is wrong
        appliance["models"] = {**models, "trusted_keys": [*trusted, str(box.trust / "models")]}
    site = tables["site"]
    servers = " ".join(site.get("ntp_servers", ()))
    texts = {
        box.configuration.name: toml(appliance),
        "network/50-site.network": network.file(tables.get("network", {})),
        "network/60-other-ports.network": network.OTHER_PORTS,
        "timesyncd.conf": f"[Time]\nNTP={servers}\n",
        "environment": f"TZ={site.get('time_zone', 'UTC')}\n",
        "site.json": json.dumps(site),
        "accounts.json": json.dumps(tables.get("accounts", [])),
    }
    return {name: text.encode() for name, text in texts.items()}


def _judge(box: Box, configuration: Path, ask: health.Ask) -> None:
    box.runtime.mkdir(parents=True, exist_ok=True)
    done = ask(("conformance", "--config", str(configuration), "--to", str(box.runtime / "conformance.md")))
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        why = said[0].removeprefix("scanside: ") if said else "no reason given"
        raise FirmwareError(
            f"the appliance does not take its tables: {why}",
            hint="mend the file, sign it again; what was configured before is still in place",
        )
    own = {str(path) for path in (_key_file(box), box.data / "keys" / "scp.pem")}
    for each in health.certificates(configuration, ask):
        asked_for = each["path"] in own and not Path(each["path"]).exists()  # the request comes back on the stick
        if each["problem"] and not asked_for:
            raise FirmwareError(
                f"the appliance could not use {each['path']} ({each['what']}): {each['problem']}",
                hint="name a file that is there and fits; what was configured before is still in place",
            )


def toml(tables: dict[str, Any], prefix: str = "") -> str:
    """TOML of plain tables, lists and values."""
    plain = {key: value for key, value in tables.items() if not _is_table(value)}
    text = "".join(f"{_key(key)} = {_value(value)}\n" for key, value in plain.items())
    for key, value in tables.items():
        path = f"{prefix}{_key(key)}"
        if isinstance(value, dict):
            text += f"\n[{path}]\n" + toml(value, f"{path}.")
        elif _is_table(value):
            text += "".join(f"\n[[{path}]]\n" + toml(each, f"{path}.") for each in value)
    return text


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(e, dict) for e in value)
    )


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


# --- the box's own key ---


def request(box: Box, common_name: str, addresses: tuple[str, ...] = ()) -> bytes:
    """A certificate signing request (PKCS #10, PEM). The key is made on the box and never leaves it.

    Raises
    ------
    FirmwareError
        A name or an address can't be in one; no key was made for it. Or the key that is there can't be used.
    """
    if not _HOST.fullmatch(common_name):
        raise FirmwareError(
            f"{common_name[:80]!r} can't be a box's name in the network",
            hint="use up to 64 letters a-z, digits and . - _, as in ai1.example",
        )
    try:
        named = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    except ValueError as error:
        raise FirmwareError(f"{error}", hint="write it as in 192.0.2.5; a name goes to --name") from error
    path, key = _key_file(box), _own_key(box)
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        Files().write(path, pem, mode=0o600)
    _same_owner(box, path)
    names: list[x509.GeneralName] = [x509.DNSName(common_name), *named]
    built = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    return (
        built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _key_file(box: Box) -> Path:
    return box.data / "keys" / "scp.key"


def _own_key(box: Box) -> ec.EllipticCurvePrivateKey | None:
    """None where there is none yet; an empty file was left by a cut in an earlier version.

    Raises
    ------
    FirmwareError
        It can't be used. The folder is the appliance's own, so anything may lie there.
    """
    path = _key_file(box)
    pem = path.read_bytes() if path.exists() else b""
    if not pem:
        return None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
        why = "it is not of the kind that a box makes"
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a passphrase
        why = str(error)
    raise FirmwareError(
        f"the box's key {path} can't be used: {why}",
        hint="remove it; the next request (csr) makes another one, which the hospital has to sign",
    )


def take_certificate(box: Box, path: Path) -> tuple[str, bool]:
    """The hospital's answer to the request: put in place where it fits the box's key and counts today.

    Returns
    -------
    What it is, in words, and whether another one was in place.
    """
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError as error:
        raise FirmwareError(f"{path} is missing", hint="name the file that the hospital sent") from error
    except ValueError as error:
        raise FirmwareError(f"{path} is no PEM certificate: {error}", hint="ask for it as PEM (Base64)") from error
    key = _own_key(box)
    if key is None:
        raise FirmwareError("this box has no key yet", hint="the request (csr) makes it; have that signed")
    mine = next((each for each in chain if _is_of(each, key)), None)
    if mine is None:
        raise RefusedError(f"{path.name} is not for this box's key", hint="send the hospital this box's request (csr)")
    now = time.time()
    if not mine.not_valid_before_utc.timestamp() <= now <= mine.not_valid_after_utc.timestamp():
        raise RefusedError(
            f"{path.name} counts from {mine.not_valid_before_utc:%Y-%m-%d} to {mine.not_valid_after_utc:%Y-%m-%d}, "
            f"and the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}",
            hint=f"where the clock is right, ask for a new certificate; where it is not, {MOVE_CLOCK}",
        )
    # TLS wants the box's own first; authorities send them in any order.
    content = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in sorted(chain, key=lambda x: x != mine))
    target = box.data / "keys" / "scp.pem"
    said = f"{mine.subject.rfc4514_string()}, until {mine.not_valid_after_utc:%Y-%m-%d}"
    if target.exists() and target.read_bytes() == content:
        return f"{said}: in place already", False
    Files().write(target, content)
    _same_owner(box, target)
    box.remember_if_possible(
        "certificate", serial=f"{mine.serial_number:x}", until=f"{mine.not_valid_after_utc:%Y-%m-%d}"
    )
    return said, True


def _is_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (UnsupportedAlgorithm, ValueError):  # an authority's, of a kind that is not known here
        return False


def _kept(box: Box) -> list[Path]:
    """Each configuration that was applied, as it came, by its number."""
    return sorted((box.configuration.parent / "versions").glob("[0-9]*.toml"))


def _next_number(box: Box) -> int:
    return 1 + max((int(path.stem) for path in _kept(box)), default=0)


def _files_of(folder: Path, number: int) -> Path:
    """Where what goes with a configuration lies."""
    return folder / "versions" / f"{number:04}.files"


def _mark_of_entered(folder: Path, number: int) -> Path:
    """Says that a configuration was entered on the page; all others were signed."""
    return folder / "versions" / f"{number:04}.entered"


def _kept_name(number: int) -> str:
    return f"versions/{number:04}.toml"


def _same_owner(box: Box, path: Path) -> None:
    if os.geteuid() == 0:
        known = box.data.stat()
        for each in (path, path.parent):  # the appliance's own folder: it may have laid a link there
            os.chown(each, known.st_uid, known.st_gid, follow_symlinks=False)

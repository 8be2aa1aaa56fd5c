"""Files that go with a site's configuration: authorities, a login's password or token, approvers' keys, a logo.

They lie in ``files/`` beside site.toml, which lists each with its SHA-256, so that its signature covers them:

    [[files]]
    name = "pacs-ca.pem"
    sha256 = "..."

[appliance] names one as "files/pacs-ca.pem", and the folder as "files/". On a box they lie beside the configuration of
that number, for the appliance's user alone, and come and go with it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError

FOLDER = "files"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}\.(pem|pub|txt|png|svg)")
_NAMES = "up to 64 letters a-z, digits, spaces and . _ -, and then .pem, .pub, .txt, .png or .svg"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENTRY = '[[files]]\nname = "{name}"\nsha256 = "{sha256}"\n'
_ENTRIES = re.compile(r'\n?^\[\[files\]\]\nname = "[^"\n]*"\nsha256 = "[0-9a-f]{64}"\n', re.MULTILINE)
_NAMING = ("ca", "key", "certificate", "password_file", "token_file", "logo")  # keys of the appliance that name a file
_TAKEN = ("certificate.pem",)  # on the page all files are chosen together, whatever folder they lie in
_THE_BOXS_OWN = ("keys/scp.key", "keys/scp.pem")
_LARGEST = 1 << 20  # bytes


def check(tables: Mapping[str, Any], name: str) -> None:
    """Whether each entry of [[files]], which has its keys, can be meant, and has all that [appliance] names."""
    listed = [each["name"] for each in tables.get("files", ())]
    for each in tables.get("files", ()):
        if not NAME.fullmatch(each["name"]):
            raise FirmwareError(f"{name}: {each['name'][:80]!r} can't be a file's name", hint=f"use {_NAMES}")
        if each["name"] in _TAKEN:
            raise FirmwareError(
                f"{name}: a box's page would take {FOLDER}/{each['name']} for the hospital's answer to its request",
                hint="give it another name, as in pacs-certificate.pem",
            )
        if not _SHA256.fullmatch(each["sha256"]):
            raise FirmwareError(f"{name}: the sha256 of {each['name']} is none: 64 digits 0-9 and a-f")
        if listed.count(each["name"]) > 1:
            raise FirmwareError(f"{name}: {each['name']} is listed twice in [[files]]")
    for key, value in _strings(tables.get("appliance", {})):
        named = value.removeprefix(f"{FOLDER}/")
        if named not in (value, "", *listed):
            raise FirmwareError(
                f"{name}: {key} names {value}, which is not listed",
                hint=f"put it into {FOLDER}/ beside {name}; `scanside-firmware provision sign` lists it",
            )


def read(folder: Path, tables: Mapping[str, Any]) -> dict[str, bytes]:
    """The content of each file that a configuration lists, by name.

    Raises
    ------
    RefusedError
        One is missing, too large, or not the one that was there when it was signed.
    """
    found = {}
    for each in tables.get("files", ()):
        path = folder / each["name"]
        if not path.is_file():
            raise RefusedError(f"{FOLDER}/{path.name} is missing", hint="it goes with site.toml; copy all again")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise RefusedError(f"{FOLDER}/{path.name} is larger than {_LARGEST >> 20} MiB")
        if hashlib.sha256(content).hexdigest() != each["sha256"]:
            raise RefusedError(
                f"{FOLDER}/{path.name} is not the one that was signed with site.toml", hint="copy all again, or sign it"
            )
        found[path.name] = content
    return found


def write(folder: Path, content: Mapping[str, bytes], like: Path) -> None:
    """Put them into a folder for the user whom ``like`` belongs to alone."""
    owner = like.stat()
    for name, each in content.items():
        Files().write(folder / name, each, mode=0o600)
        if os.geteuid() == 0:
            os.chown(folder / name, owner.st_uid, owner.st_gid)


def placed(value: Any, folder: Path) -> Any:
    """The appliance's tables with each "files/NAME" where it lies on the box."""
    if isinstance(value, dict):
        return {key: placed(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [placed(each, folder) for each in value]
    if isinstance(value, str) and value.startswith(f"{FOLDER}/"):
        return str(folder / value.removeprefix(f"{FOLDER}/"))
    return value


def listed(path: Path) -> str:
    """The text of a site.toml with [[files]] as they lie beside it now; entries in another form than this one's stay.

    Raises
    ------
    FirmwareError
        A file can't go with it.
    """
    text, folder = _ENTRIES.sub("", _text(path)), path.parent / FOLDER
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        if each.name.startswith("."):
            continue
        if not NAME.fullmatch(each.name) or not each.is_file():
            raise FirmwareError(f"{each} can't go with {path.name}", hint=f"its name must be {_NAMES}")
        if not re.search(rf'^name = "{re.escape(each.name)}"$', text, re.MULTILINE):
            digest = hashlib.sha256(each.read_bytes()).hexdigest()
            text = text.rstrip("\n") + "\n\n" + _ENTRY.format(name=each.name, sha256=digest)
    return text


def _text(path: Path) -> str:
    """Without the mark of its encoding that some editors begin a file with, and TOML does not know."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FirmwareError(f"{path} is no text in UTF-8: {error}", hint="save it as UTF-8") from error


def check_named(tables: Mapping[str, Any], name: str) -> None:
    """Whether [appliance] names only files that can be on a box: those that come along, its own, absolute ones."""
    for key, value in _strings(tables.get("appliance", {})):
        here = value.startswith((f"{FOLDER}/", "/")) or value in (*_THE_BOXS_OWN, "")
        if key.split(".")[-1] in _NAMING and not here:
            raise FirmwareError(
                f"{name}: {key} names {value}, which nothing brings to a box",
                hint=f"put it into {FOLDER}/ beside {name} and write {FOLDER}/{Path(value).name}; the box's own are "
                f"{' and '.join(_THE_BOXS_OWN)}",
            )


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each string in tables, with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _strings(each, f"{key}.{name}" if key else name)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _strings(each, key)

"""The packages on this device: those of the configuration, those that were installed, and which of them read.

Installed packages lie in the data folder. Which one reads a model's images is what the ledger says last
(`appliance.package_store`), and without its word the one that is configured or comes along.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance import package, signature
from appliance.config import Config
from appliance.errors import PackageError
from appliance.package import SUFFIX, Package
from appliance.package_store import PackageStore
from appliance.spool import write_durably

log = logging.getLogger("scanside.installed")


def trusted(config: Config) -> dict[str, Ed25519PublicKey]:
    """The keys whose packages this device takes, by id."""
    folders = (signature.TRUSTED_KEYS, *(config.data / folder for folder in config.models.trusted_keys))
    return signature.load_trusted_keys(folders)


def files(config: Config) -> tuple[Path, ...]:
    """Every package file on this device: the configured or bundled ones, then those that were installed."""
    return (*_configured(config), *sorted(config.packages_path.glob(f"*{SUFFIX}")))


def _configured(config: Config) -> tuple[Path, ...]:
    return tuple(config.data / path for path in config.models.packages) or package.bundled()


def verified(config: Config) -> Iterator[Package]:
    """Every package on this device that can be verified; of the others the log says why not."""
    keys = trusted(config)
    for path in files(config):
        try:
            yield package.read(path, keys)
        except PackageError as error:
            log.warning("a package is left out: %s", error)


@dataclass(frozen=True)
class InForce:
    """What reads a model's images.

    Attributes
    ----------
    choice
        The ledger's row that says so; None where the configuration does, or the package comes along.
    opened
        The package, verified; None where it can't be, and where nobody has left anything of the model to read.
    problem
        Why it can't be opened.
    damaged
        What it would take, where its signed manifest still tells; it can't be served.
    """

    model: str
    choice: dict[str, Any] | None
    opened: Package | None
    problem: PackageError | None = None
    damaged: Package | None = None


def each_in_force(config: Config) -> Iterator[InForce]:
    """What is in force of every model, whether or not it can be opened: configured, coming along, or chosen."""
    chosen, keys = in_force(config), trusted(config)
    for path in _configured(config):
        try:
            opened, problem = package.read(path, keys), None
        except PackageError as error:
            opened, problem = None, error
        damaged = None if opened is not None else package.damaged(path, keys)
        known = opened or damaged
        model = known.manifest.id if known is not None else _model(path)
        choice = chosen.pop(model, None)
        if choice is None or (opened is not None and choice["sha256"] == opened.sha256):
            yield InForce(model, choice, opened, problem, damaged)
            continue
        if problem is not None:
            log.warning("another package reads instead of one that can't: %s", problem)
        yield _chosen(config, choice)
    for choice in chosen.values():  # of models that the configuration has not
        yield _chosen(config, choice)


def _chosen(config: Config, choice: dict[str, Any]) -> InForce:
    if not choice["sha256"]:
        return InForce(choice["model"], choice, None)
    try:
        return InForce(choice["model"], choice, chosen_one(config, choice))
    except PackageError as error:
        names = {row["sha256"]: row["file"] for row in _kept(config)}
        path = config.packages_path / names.get(choice["sha256"], "")
        return InForce(choice["model"], choice, None, error, package.damaged(path, trusted(config), choice["sha256"]))


def _kept(config: Config) -> list[dict[str, Any]]:
    store = PackageStore(config.ledger_path, read_only=True)
    try:
        return store.installed()
    finally:
        store.close()


def packages(config: Config) -> Iterator[Package]:
    """The packages that read, verified: of each model the one in force.

    Raises
    ------
    PackageError
        There is none, or one of them is missing, damaged or not trusted.
    """
    for opened, problem in with_damaged(config):
        if problem is not None:
            raise problem
        yield opened


def with_damaged(config: Config) -> Iterator[tuple[Package, PackageError | None]]:
    """The packages that read, as of `packages`; those that are damaged, too, with the reason, where their manifests
    still tell what they take."""
    found = False
    for each in each_in_force(config):
        if each.problem is not None and each.damaged is None:
            raise each.problem
        opened = each.opened or each.damaged
        if opened is not None:
            found = True
            yield opened, each.problem
    if not found:
        raise PackageError("no model package is installed", hint="set models.packages in the configuration")


def _model(path: Path) -> str:
    """Which model a file is of that can't be verified: by its manifest, or else by its name."""
    try:
        return package.read(path, None).manifest.id
    except PackageError:
        return re.split(r"-(?=\d)", path.name)[0]


def in_force(config: Config) -> dict[str, dict[str, Any]]:
    """Model -> the ledger's latest choice; none where the configuration decides alone, or there is no ledger."""
    if not config.models.switches or not config.ledger_path.exists():
        return {}
    store = PackageStore(config.ledger_path, read_only=True)
    try:
        return store.in_force()
    finally:
        store.close()


def chosen_one(config: Config, choice: dict[str, Any]) -> Package:
    """The package that a choice names; raises `PackageError` where it is not here any more."""
    return with_sha256(config, choice["sha256"], f"{choice['model']} {choice['version']}")


def instead_of(config: Config, choice: dict[str, Any]) -> Iterator[Package]:
    """What may read where the package that a choice names can't: what read before it, the latest first, then the one
    that is configured or comes along. What can't be opened is left out."""
    store = PackageStore(config.ledger_path, read_only=True)
    before = store.before(choice["model"])
    store.close()
    here, come_along = list(verified(config)), _configured(config)
    bundled = [each.sha256 for each in here if each.manifest.id == choice["model"] and each.path in come_along]
    by_sha256 = {each.sha256: each for each in here}
    for sha256 in dict.fromkeys((*before, *bundled)):
        if sha256 in by_sha256 and sha256 != choice["sha256"]:
            yield by_sha256[sha256]


def with_sha256(config: Config, sha256: str, name: str) -> Package:
    """The package file of this SHA-256, verified; raises `PackageError` where it is not on this device."""
    for path in files(config):
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return package.read(path, trusted(config))
    raise PackageError(
        f"the file of {name} (SHA-256 {sha256[:12]}) is not in {config.packages_path}, or is damaged",
        hint="install it again, or `scanside models switch` to another version",
    )


def find(config: Config, model: str, version: str) -> Package:
    """The package of that id and version, verified; raises `PackageError` with those that are there."""
    there = []
    for found in verified(config):
        if (found.manifest.id, found.manifest.version) == (model, version):
            return found
        there.append(str(found))
    raise PackageError(
        f"{model} {version} is not on this device (there are {', '.join(dict.fromkeys(there))})",
        hint="scanside models install FILE",
    )


def install(config: Config, store: PackageStore, path: Path, by: str) -> Package:
    """Keep a package file in the data folder, once its signature is verified; it does not read before a switch.

    Raises
    ------
    PackageError, SignatureError
        It is damaged, or not signed by a trusted key; nothing is kept then.
    DiskFullError, SpoolError
    """
    opened = package.read(path, trusted(config))
    return keep(config, store, opened, by)


def keep(config: Config, store: PackageStore, opened: Package, by: str) -> Package:
    """A copy of a verified package in the data folder, which stays whatever becomes of the file that it was read from.

    Raises
    ------
    PackageError
        Another package of this id and version is there, or the file has changed since it was read.
    """
    manifest = opened.manifest
    for row in store.installed():
        if (row["model"], row["version"]) == (manifest.id, manifest.version) and row["sha256"] != opened.sha256:
            raise PackageError(
                f"another {opened} is installed (SHA-256 {row['sha256'][:12]}, this one has {opened.sha256[:12]})",
                hint="a changed package needs a version of its own",
            )
    content = opened.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != opened.sha256:
        raise PackageError(f"{opened.path} was changed meanwhile", hint="install it again")
    name = re.sub(r"[^\w.-]", "_", f"{manifest.id}-{manifest.version}-{opened.sha256[:12]}{SUFFIX}", flags=re.ASCII)
    write_durably(config.packages_path / name, content)
    store.install(opened.sha256, manifest.id, manifest.version, name, opened.signed_by or "", by)
    return package.read(config.packages_path / name, trusted(config))

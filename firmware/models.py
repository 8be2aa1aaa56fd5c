"""Model packages, apart from the system: by their own keys, checked, proved and kept by the appliance itself."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firmware import health
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError
from firmware.incoming import own_copy
from firmware.policy import Release

_SECONDS_TO_START = 300.0  # on a first start the ledger is only being made


def install(box: Box, path: Path) -> str:
    """Have a model package read in place of the one of its id, while those of other ids go on; what came of it.

    The appliance trusts the keys of its ``models.trusted_keys``, its publisher's, and those of the image in
    ``/usr/lib/scanside/trust/models``. Its ledger says which package reads, so a later ``site.toml`` leaves that as it
    is. A package that read here before is left, since a stick is still there after a restart, and another one was
    chosen since: by a person, or by what was handed over.

    Raises
    ------
    RefusedError
        The appliance does not take it; what read before goes on.
    FirmwareError
        There is no room for it.
    """
    asked = functools.partial(_asked, box, path.name)
    with own_copy(box, path) as mine:
        with mine.open("rb") as file:  # of any size, until the appliance has looked at it
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        here = _listed(asked, digest)
        if not here.get("reads") and not here.get("installed_at"):
            asked("status", seconds=_SECONDS_TO_START)
            asked("models", "install", str(mine))
            here = _listed(asked, digest)
    model, version = here["model"], here["version"]
    if here["reads"]:
        return f"{model} {version} is in force already"
    choices = json.loads(asked("models", "history", model, "--json"))
    if any(digest in (row["sha256"], row["former"]) for row in choices):
        return (
            f"{model} {version} read here before, and another one was chosen since, which stays; "
            "the page Models can have it read again"
        )
    said = asked("models", "switch", model, version, "--by", "the box", "--why", f"{path.name} was handed over")
    box.remember("model", package=path.name, model=model, version=version, sha256=digest)
    return said.splitlines()[0]


class Packages:
    """The model packages of a folder, such as a stick's: of several versions of one model the highest alone is taken.

    Attributes
    ----------
    paths
        In the order of their names.
    """

    def __init__(self, box: Box, folder: Path) -> None:
        self.paths = sorted(folder.glob("[!.]*.scanside"))  # macOS lays a ._NAME beside each file
        self._box = box

    def install(self, path: Path) -> str:
        """As of `install`, or why it is passed over."""
        if path in self._releases:
            model, mine = self._releases[path]
            beside = {each: release for each, (of, release) in self._releases.items() if of == model}
            highest = max(beside, key=lambda each: beside[each].key())
            if beside[highest].key() > mine.key():
                return f"passed over: {highest.name} beside it is {model} {beside[highest].version}, which is higher"
        return install(self._box, path)

    @functools.cached_property
    def _releases(self) -> dict[Path, tuple[str, Release]]:
        """Model and release of each package that the appliance trusts; of one that is alone nobody has to know."""
        found = {}
        for path in self.paths if len(self.paths) > 1 else ():
            # Whatever is wrong with it, `install` says.
            with contextlib.suppress(FirmwareError, OSError), own_copy(self._box, path) as mine:
                model, version = _asked(self._box, path.name, "package", "verify", str(mine)).split()[:2]
                release = Release(version, 0)
                release.key()
                found[path] = model, release
        return found


def _listed(asked: Callable[..., str], digest: str) -> dict[str, Any]:
    """What the appliance says of a package that is on this device; empty where it is not."""
    rows = json.loads(asked("models", "list", "--json"))
    return next((row for row in rows if row["sha256"] == digest), {})


def _asked(box: Box, name: str, *arguments: str, seconds: float = 0.0) -> str:
    """What a command of the appliance prints, which may take some tries; its refusal is the package's."""
    command, deadline = (*arguments, "--config", str(box.configuration)), time.monotonic() + seconds
    while (done := health.scanside(command, owner=box.data)).returncode and time.monotonic() < deadline:
        time.sleep(2.0)
    if done.returncode:
        silent = "no reason given" if done.returncode > 0 else "looking at it was ended, as where memory runs out"
        lines = (done.stderr or done.stdout).strip().splitlines() or [silent]
        why = next((line for line in lines if line.startswith("scanside: ")), lines[-1])
        raise RefusedError(f"{name} is not taken: {why.removeprefix('scanside: ')}", hint="what read before goes on")
    return done.stdout

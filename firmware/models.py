"""Model packages, apart from the system: by their own keys, checked, proved and kept by the appliance itself."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firmware import health
from firmware.box import Box
from firmware.errors import RefusedError
from firmware.incoming import own_copy

_SECONDS_TO_START = 300.0  # on a first start the ledger is only being made


def install(box: Box, path: Path) -> str:
    """Have a model package read in place of the one of its id, while those of other ids go on; what came of it.

    The appliance trusts the keys of its ``models.trusted_keys``, its publisher's, and those of the image in
    ``/usr/lib/scanside/trust/models``. Its ledger says which package reads, so a later ``site.toml`` leaves that as it
    is. The same package is not taken twice in a row, since a stick is still there after a restart, and a person
    may have gone back.

    Raises
    ------
    RefusedError
        The appliance does not take it; what read before goes on.
    FirmwareError
        There is no room for it.
    """
    asked = functools.partial(_asked, box, path.name)
    with own_copy(box, path) as mine:
        digest = hashlib.sha256(mine.read_bytes()).hexdigest()
        here = _listed(asked, digest)
        if not here.get("reads") and not here.get("installed_at"):
            asked("status", seconds=_SECONDS_TO_START)
            asked("models", "install", str(mine))
            here = _listed(asked, digest)
    model, version = here["model"], here["version"]
    if here["reads"]:
        return f"{model} {version} is in force already"
    taken = [line for line in box.history() if line["event"] == "model" and line.get("model") == model]
    if here["installed_at"] and taken and taken[-1]["sha256"] == digest:
        return f"{model} {version} was taken before, and another one was chosen since, which stays"
    said = asked("models", "switch", model, version, "--by", "the box", "--why", f"{path.name} was handed over")
    box.remember("model", package=path.name, model=model, version=version, sha256=digest)
    return said.splitlines()[0]


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
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        why = next((line for line in lines if line.startswith("scanside: ")), lines[-1])
        raise RefusedError(f"{name} is not taken: {why.removeprefix('scanside: ')}", hint="what read before goes on")
    return done.stdout

"""Model packages, apart from the system: by their own keys, checked by the appliance itself, kept on data."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

from firmware import health
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError
from firmware.provisioning import toml


def install(box: Box, path: Path, ask: health.Ask = health.scanside) -> str:
    """Put a model package beside those that are there, in place of an earlier version of the same.

    The appliance trusts the keys of its ``models.trusted_keys`` and its publisher's; the image adds
    ``/usr/lib/scanside/trust/models``. It takes the package up at its next start.
    """
    tables = tomllib.loads(box.configuration.read_text())
    models = tables.setdefault("models", {})
    trusted = str(box.trust / "models")
    models["trusted_keys"] = [*(each for each in models.get("trusted_keys", []) if each != trusted), trusted]
    copy = box.data / "models" / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}-{path.name}"
    Files().copy(path, copy)
    trial = box.configuration.with_name("trial.toml")
    earlier = [each for each in models.get("packages", []) if not each.endswith(f"-{path.name}")]
    models["packages"] = [*earlier, str(copy.relative_to(box.data))]
    Files().write(trial, toml(tables).encode())
    # The copy is what is judged: a stick may answer otherwise the second time.
    done = ask(("package", "verify", str(copy), "--config", str(trial)))
    if done.returncode:
        trial.unlink()
        copy.unlink()
        why = (done.stderr or done.stdout).strip().splitlines()
        raise RefusedError(
            f"{path.name} is not taken: {why[0].removeprefix('scanside: ') if why else 'no reason given'}",
            hint="take it from its publisher",
        )
    if shutil.disk_usage(box.data).free < 64 << 20:
        copy.unlink()
        trial.unlink()
        raise FirmwareError("the data partition is too full for another model", hint="remove old results first")
    Files().rename(trial, box.configuration)
    box.remember("model", package=path.name, sha256=copy.name.split("-")[0])
    return done.stdout.strip() or f"{path.name} is installed"

"""What a box tells of itself where it does not work as it should: journal, history, state, for whoever mends it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from firmware import health
from firmware.boot import SLOTS
from firmware.box import Box
from firmware.durable import Files

_SECONDS_FOR_JOURNAL = 120
_CODE = re.compile(r"\b[A-Z2-9]{4}(-[A-Z2-9]{4}){3}\b")  # one of the appliance's that makes an account


def export(box: Box, target: Path, ask: health.Ask = health.scanside) -> list[Path]:
    """The journal of two weeks, the history, how the appliance is and whether its ledger counts.

    Nothing of a patient is in them: of the recount only counts are kept, since its faults name files, and of the
    appliance what it tells its vendor. Nor is a one-time code, with which an account is made, such as that of the first
    one in the journal.
    """
    target.mkdir(parents=True, exist_ok=True)
    boot = box.boot()
    slots = {slot: boot.state(slot) for slot in SLOTS}
    where = ("--config", str(box.configuration))
    files = {
        "history.json": json.dumps({"image": box.image(), "slots": slots, "history": box.history()}, indent=1),
        "status.json": ask(("status", "--for-vendor", *where)).stdout,
        # Quick, since somebody waits at the stick: each image is hashed by the appliance itself each night.
        "recount.json": _recount(ask(("ledger", "verify", "--quick", "--json", *where))),
        "journal.txt": _CODE.sub("(code left out)", _journal()),  # by far the largest
    }
    for name, text in files.items():
        Files().write(target / name, text.encode())
    return [target / name for name in files]


def _journal() -> str:
    command = ["journalctl", "--no-pager", "--output=short-iso", "--since=-14d"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS_FOR_JOURNAL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the journal can't be read: {error}\n"
    return done.stdout or done.stderr


def _recount(done: subprocess.CompletedProcess[str]) -> str:
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return json.dumps({"failed": done.stderr.strip()[:300]})
    kept = {name: said[name] for name in ("kind", "counts", "files")}
    return json.dumps({**kept, "faults": len(said["faults"])})

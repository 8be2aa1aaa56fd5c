"""What systemd calls once one of the box's own units has ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from firmware.box import Box
from firmware.cli.boxing import ROOT

# As systemd.exec(5) has $SERVICE_RESULT.
_WHY = {"oom-kill": "memory ran out", "timeout": "it took too long"}


@click.command("inbox-ended", hidden=True)
@ROOT
def inbox_ended(root: Path) -> None:
    """Called once what takes the page's files has ended: where it was cut short, the page would wait for it forever."""
    from firmware.inbox import write_report

    box = Box(root)
    report = json.loads(box.report.read_text()) if box.report.exists() else {}
    if report.get("working"):
        result = os.environ.get("SERVICE_RESULT", "")
        why = _WHY.get(result, result or "the journal says why")
        write_report(
            box, said=[*report["said"], f"taking it was cut short: {why}; hand over again what is not told here"]
        )

"""``scanside replay``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from appliance.cli.options import JSON, configured
from appliance.config_file import load
from appliance.database import existing_ledger


@click.command("replay")
@click.argument("result_id", type=int)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the objects.")
@click.option("--package", "packages", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A package file besides those that are installed; may be repeated.")  # fmt: skip
@JSON
@configured
def replay_result(
    result_id: int,
    out: Path | None,
    packages: tuple[Path, ...],
    as_json: bool,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Make the objects of a result again, and say whether they are the same, byte for byte.

    RESULT_ID is the number on the page (/study/NUMBER). The received files, the package and the backend that made the
    result must still be there; where one is not, the command says which. What was found and when comes from the ledger;
    the network runs again. Nothing is sent and nothing in the data folder is changed; it may run beside the appliance.

    An object that comes out otherwise (another version of the software, another setting of [hl7]) is written with a UID
    of its own, and its differences are named. Exit code 1 then.
    """
    from appliance import log, replay

    config = load(config_path, data_dir)
    log.set_up("warning")
    existing_ledger(config)
    replayed = replay.replay(config, result_id, packages)
    paths = replay.save(out, replayed) if out is not None else [None] * len(replayed)
    if as_json:
        rows = [
            {
                "kind": each.kind,
                "sop_instance_uid": each.sop_instance_uid,
                "identical": each.identical,
                "differences": list(each.differences),
                "file": str(path) if path is not None else None,
            }
            for each, path in zip(replayed, paths, strict=True)
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        for each in replayed:
            click.echo(f"{each.kind}: {'identical' if each.identical else 'CHANGED'}")
            for difference in each.differences:
                click.echo(f"  {difference}")
    sys.exit(0 if all(each.identical for each in replayed) else 1)

"""Commands that run the appliance and say how it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from appliance.cli.options import JSON, configured, moment, print_checks, table
from appliance.config_file import load
from appliance.database import existing_ledger

_WAITS = {"to_commit": "not committed yet", "waiting": "waiting", "undelivered": "UNDELIVERED"}


@click.command()
@configured
def run(config_path: Path | None, data_dir: Path | None) -> None:
    """Start all parts in the foreground: Storage SCP, drop folder, worker, delivery, page.

    Prints a line with "ready:" on standard error once the ports answer. Stop it with Ctrl-C or SIGTERM; nothing that
    was acknowledged is lost by stopping or killing it.
    """
    from appliance import log
    from appliance.run import run as run_appliance

    config = load(config_path, data_dir)
    log.set_up(config.log.level)
    run_appliance(config)


@click.command()
@JSON
@click.option(
    "--for-vendor",
    is_flag=True,
    help="Print the JSON of a support bundle: no file's name, no peer's words, no patient's.",
)
@configured
def status(as_json: bool, for_vendor: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show the counts by state and the health of the device, whether or not the appliance runs."""
    from appliance import certificates
    from appliance.health import health
    from appliance.store import Store

    config = load(config_path, data_dir)
    if for_vendor:
        from appliance.support_bundle import told_health

        existing_ledger(config)
        click.echo(json.dumps(told_health(config), indent=1))
        return
    found = health(config, Store(existing_ledger(config), read_only=True))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"appliance   {'running' if found['running'] else 'not running'}, data in {config.data}")
    worker = found["components"].get("worker", {})
    if worker:
        click.echo(f"worker      {worker['state']} {worker.get('backend', '')} {worker.get('reason', '')}".rstrip())
    for each in worker.get("unserved", ()) if found["running"] else ():
        click.echo(f"not served  {each['package']}, what it reads waits: {each['reason']}")
    for name in ("storage_scp", "diagnoses") if found["running"] else ():
        if (part := found["components"].get(name, {})).get("state") == "closed":
            click.echo(f"{name:<11} does NOT LISTEN: {part['problem']}")
    for each in certificates.found(config):
        if each.trouble:
            click.echo(f"certificate {each.path} ({each.what}): {each.trouble}")
    if found["running"] and found["components"].get("page", {}).get("state") == "waiting":
        click.echo("page        does NOT answer yet, and is started again by itself; the log says why")
    for each in found["fallbacks"]:
        click.echo(f"fell back   {each['model']}: {each['version'] or 'nothing'} reads. {each['why']}")
    for state, count in found["counts"].items():
        click.echo(f"{state:<11} {count}")
    if held := found["held_up"]["count"]:
        click.echo(f"held up     {held} images could not be read to the end: {found['held_up']['reason']}")
    if unmade := found["unmade"]["count"]:
        click.echo(f"no message  {unmade} results that nobody has reviewed yet: {found['unmade']['reason']}")
    for row in found["destinations"]:
        delivered = row["sent"] - row["to_commit"]
        waits = "".join(f", {row[key]} {words}" for key, words in _WAITS.items() if row[key])
        click.echo(f"delivery    {row['destination']}: {delivered} delivered{waits}")
        if row["waiting"] and row["last_error"]:
            click.echo(f"            {row['last_error']}")
        if not row["configured"] and (waits := row["waiting"] + row["to_commit"] + row["undelivered"]):
            click.echo(
                f"            {waits} results wait for {row['destination']}, which is NOT CONFIGURED: "
                f"`scanside deliveries move {row['destination']} NAME` sends them elsewhere"
            )
    if any(row["undelivered"] for row in found["destinations"]):
        click.echo("            `scanside deliveries list` shows what is undelivered, and why")
    if (said := found["diagnoses"]) is not None:
        click.echo(
            f"diagnoses   in 24 h by HL7: {said['messages']} messages, {said['taken']} taken, {said['repeated']} there "
            f"already, {said['others']} about other findings, {said['not_final']} not final, {said['refused']} refused"
        )
    for each in found["components"].get("silence", {}).get("silent", ()):
        click.echo(f"silent      {each['ae_title']}: nothing since {moment(each['last'])}")
    for each in found["components"].get("storage_commitment", {}).get("peers", ()):
        counts = f"{each['waiting']} reports waiting, {each['given_up']} given up"
        click.echo(f"commitment  {each['ae_title']}: {counts}{': ' if each['last_error'] else ''}{each['last_error']}")
    drop = found["components"].get("drop_folder", {})
    if drop.get("watch_problem"):
        click.echo(f"drop folder is only looked through now and then: {drop['watch_problem']}")
    for path, reason in drop.get("problems", {}).items():
        click.echo(f"dropped     {path}: {reason}")
    for series in found["series"]:
        kind = " ".join(filter(None, (series["modality"], series["body_part"])))
        click.echo(f"series      image {series['instance']}, {kind}, {series['images']} images: {series['waits_for']}")


@click.command("certificates")
@JSON
@configured
def show_certificates(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show the certificates and keys of the configuration, and until when they count. Exit code 1: one does not serve.

    It works whether or not the appliance runs, and before it ever did.
    """
    from appliance import certificates

    every = certificates.found(load(config_path, data_dir))
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in every], indent=1))
    else:
        table(
            ("for", "file", "counts until", "trouble"),
            ((each.what, each.path.name, each.until, each.trouble or "none") for each in every),
        )
    sys.exit(1 if any(each.trouble for each in every) else 0)


@click.command()
@JSON
@configured
def doctor(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Check this installation and say what to mend. Exit code 1 where something must be mended."""
    from appliance import log
    from appliance.doctor import examine

    log.set_up("error")
    checks = []
    for check in examine(load(config_path, data_dir)):
        checks.append(check)
        if not as_json:
            print_checks([check])
    if as_json:
        click.echo(json.dumps([check.to_dict() for check in checks], indent=1))
    sys.exit(1 if any(check.outcome == "fail" for check in checks) else 0)


@click.command("support-bundle")
@click.argument("file", type=click.Path(path_type=Path))
@configured
def support_bundle(file: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Write all that a vendor needs to help into one zip FILE, without anything of a patient.

    Versions, the configuration without secrets, receipts, health, history, the proof of the ledger, log lines, and what
    scanside doctor says. Nothing is sent anywhere. It works whether or not the appliance runs.
    """
    from appliance import log
    from appliance.support_bundle import write

    log.set_up("error")
    config = load(config_path, data_dir)
    existing_ledger(config)
    members = write(config, file)
    click.echo(f"{file}: {', '.join(members)}")
    click.echo("It holds no patient data: README.txt in it says how that is made sure. Look at it before you send it.")


@click.command()
@click.option(
    "--samples", type=click.Path(exists=True, path_type=Path), help="Folder of PNG, JPEG or DICOM files to send."
)
@click.option("--count", default=6, show_default=True, type=click.IntRange(1, 500), help="How many samples to send.")
@click.option("--once", is_flag=True, help="Stop after the results instead of going on serving.")
def demo(samples: Path | None, count: int, once: bool) -> None:
    """Start an appliance on a fresh folder, send it images over DICOM, and print what it says.

    Without --samples it sends the generated images of the bundled model package. It always sends a few that must be
    turned away, too.
    """
    from appliance.demo import demonstrate

    sys.exit(demonstrate(samples, count, once))

"""Commands about performance: diagnoses in, figures and retraining tickets out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.options import JSON, acting, configured, operator, reason, table
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.errors import DiagnosisError

if TYPE_CHECKING:
    from appliance.measures import Calibration, Estimate
    from appliance.truth_store import Form, TruthStore

_MOST_FAULTS = 20


@click.group()
def diagnoses() -> None:
    """Take in what findings turned out to be, and see what could not be matched.

    \b
      scanside diagnoses import november.csv
      scanside diagnoses import report.hl7 bundle.json
      scanside diagnoses left-out
    """


@diagnoses.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--form", type=click.Choice(["csv", "hl7", "fhir"]), help="What the files are.  [default: as they begin]")
@JSON
@configured
def import_files(
    files: tuple[Path, ...], form: Form | None, as_json: bool, config_path: Path | None, data_dir: Path | None
) -> None:
    """Take final diagnoses from files: CSV, HL7 v2 ORU^R01, FHIR R4.

    A CSV file begins with the line study_instance_uid,accession_number,finding,present,date,status; one of the first
    two will do, and the last two may be left out. A status of "corrected" takes the place of what was said before.
    What is preliminary, or was made by an algorithm, is not taken. The same again changes nothing. Studies that are
    not known yet are matched once they have a result. Exit code 1 where something could not be read; the rest is taken.
    """
    from appliance import performance
    from appliance.audit import Trail
    from appliance.diagnoses import Findings, parse
    from appliance.truth_store import TruthStore

    config = load(config_path, data_dir)
    store, known = TruthStore(existing_ledger(config)), Findings.of(config)
    said: list[dict[str, Any]] = []
    for file in files:
        try:
            parsed = parse(file.read_bytes(), known, form)
        except DiagnosisError as error:
            raise DiagnosisError(f"{file}: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise DiagnosisError(f"{file} can't be read: {error.strerror}") from error
        with acting(config, "diagnoses import", f"{len(parsed.diagnoses)} diagnoses"):
            row = store.add(
                parsed.form, operator(), parsed.diagnoses, len(parsed.faults), parsed.others, parsed.not_final
            )
        said.append(
            {"file": str(file), "form": parsed.form, "taken": row["taken"], "repeated": row["repeated"],
             "other_findings": parsed.others, "not_final": parsed.not_final, "faults": parsed.faults}
        )  # fmt: skip
    trail = Trail(config.audit_path, config.key_path)
    opened = performance.look(config, store, trail)
    trail.close()
    if as_json:
        click.echo(json.dumps({"files": said, "tickets": opened}, indent=1))
    else:
        _tell(said, opened, store)
    sys.exit(1 if any(each["faults"] for each in said) else 0)


def _tell(said: list[dict[str, Any]], opened: list[int], store: TruthStore) -> None:
    from appliance import performance

    for each in said:
        click.echo(
            f"{each['file']} ({each['form']}): {each['taken']} taken, {each['repeated']} there already, "
            f"{each['other_findings']} about other findings, {each['not_final']} not final, "
            f"{len(each['faults'])} not readable"
        )
        for fault in each["faults"][:_MOST_FAULTS]:
            click.secho(f"  {fault}", fg="red", err=True)
        if (more := len(each["faults"]) - _MOST_FAULTS) > 0:
            click.echo(f"  and {more} more", err=True)
    found, troubles = performance.cases_of(store)
    unmatched = sum(each.kind == "unmatched" for each in troubles)
    click.echo(f"{len(found)} cases with a truth; {unmatched} diagnoses of studies that have no result here")
    for number in opened:
        click.secho(f"retraining ticket {number} was opened: scanside performance show", fg="red")


@diagnoses.command("left-out")
@JSON
@configured
def left_out(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List diagnoses that count for nothing, or not alone, and why."""
    from dataclasses import asdict

    from appliance import performance
    from appliance.truth import TROUBLES
    from appliance.truth_store import TruthStore

    config = load(config_path, data_dir)
    _, troubles = performance.cases_of(TruthStore(existing_ledger(config), read_only=True))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in troubles], indent=1))
        return
    for kind, words in TROUBLES.items():
        some = [each for each in troubles if each.kind == kind]
        click.echo(f"{len(some):>6}  {words}")
        for each in some:
            where = each.study_instance_uid or f"accession number {each.accession_number}"
            click.echo(f"        {each.finding}: {where}{f', image {each.instance}' if each.instance else ''}")


@click.group()
def performance() -> None:
    """How good the models are here, and retraining tickets.

    \b
      scanside performance show
      scanside performance close 2 --why "threshold kept, retraining in January"
    """


@performance.command()
@JSON
@configured
def show(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show sensitivity, specificity, AUC and calibration with 95 % intervals, and open tickets."""
    import msgspec

    from appliance import performance
    from appliance.safe_mode import ticket_words
    from appliance.truth_store import TruthStore

    config = load(config_path, data_dir)
    store = TruthStore(existing_ledger(config), read_only=True)
    found = performance.measure(config, store)
    tickets = store.tickets(only_open=True)
    if as_json:
        said = performance.as_json(found)
        said["tickets"] = [{**each, "evidence": json.loads(each["evidence"])} for each in tickets]
        click.echo(json.dumps(msgspec.to_builtins(said), indent=1))
        return
    if found.latest is None:
        click.echo(f"Nothing is known yet; {found.unknown} answers of the last 90 days have no truth.")
    else:
        age = (time.time() - found.latest) / 86400
        click.echo(f"{found.cases} cases; the latest truth is {age:.0f} days old; {found.unknown} answers have none.")
    for report in found.reports:
        click.echo(f"\n{report.finding}, {report.name}: {report.figures.n} cases, {report.figures.present} with it")
        table(
            ("", "value", "95 % interval", "n"),
            [
                _row("sensitivity", report.figures.sensitivity),
                _row("specificity", report.figures.specificity),
                _row("AUC", report.figures.auc),
                *_calibration(report.calibration),
            ],
        )
        if report.coverage.one_sided:
            click.secho("The truth is one-sided: few negative answers are verified, so sensitivity looks too good.",
                        fg="yellow")  # fmt: skip
        for name, test in report.tests.items():
            verdict = "below it" if test.by != "none" else "nothing speaks against it enough"
            click.echo(f"{name} against its floor of {test.floor:.0%}: {verdict} ({test.right} of {test.cases} right)")
    for ticket in tickets:
        click.secho(f"OPEN: {ticket_words(ticket)}", fg="red")


@performance.command()
@click.argument("ticket", type=click.IntRange(1, 2**63 - 1))
@click.option("--why", callback=reason, required=True, help="What was decided.")
@click.option("--by", default=None, help="Who decided.  [default: the user of the operating system]")
@configured
def close(ticket: int, why: str, by: str | None, config_path: Path | None, data_dir: Path | None) -> None:
    """Close a retraining ticket. The test begins anew with what becomes known from now on."""
    from appliance.truth_store import TruthStore

    config = load(config_path, data_dir)
    store = TruthStore(existing_ledger(config))
    with acting(config, "performance close", f"retraining ticket {ticket}"):
        store.close_ticket(ticket, by or operator(), why)
    click.echo(f"retraining ticket {ticket} is closed")


def _calibration(found: Calibration | None) -> list[tuple[str, str, str, str]]:
    if found is None:
        return []
    large = found.in_the_large
    return [
        ("calibration error (ECE)", f"{found.ece:.3f}", "", str(large.n)),
        ("there more often than said", f"{large.value:+.3f}", f"{large.low:+.3f} to {large.high:+.3f}", str(large.n)),
    ]


def _row(name: str, each: Estimate | None) -> tuple[str, str, str, str]:
    if each is None:
        return name, "-", "", "0"
    return name, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}", str(each.n)

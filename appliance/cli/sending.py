"""Commands that play the scanner, and find out why one gets no answer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from appliance.cli.options import JSON, configured, files_of, print_checks
from appliance.config import Priority
from appliance.config_file import load
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.delivery.storage_scu import Tls
    from appliance.patients import TestPatient
    from appliance.tls_client import TlsFiles

F = TypeVar("F", bound=Callable[..., Any])

_WORKLIST_SECONDS = 30.0

_TLS_OPTIONS = (
    click.option("--tls", is_flag=True, help="DICOM over TLS."),
    click.option("--ca", type=click.Path(path_type=Path), help="Authority of the peer's certificate (PEM).  "
                 "[default: the system's]"),
    click.option("--cert", type=click.Path(path_type=Path), help="Certificate to show (PEM)."),
    click.option("--key", type=click.Path(path_type=Path), help="Its key (PEM, without a password)."),
    click.option("--tls-name", help="Name in the peer's certificate.  [default: the host that is called]"),
)  # fmt: skip


def _with_tls(command: F) -> F:
    for option in reversed(_TLS_OPTIONS):
        command = option(command)
    return command


def _tls_files(
    tls: bool, ca: Path | None, cert: Path | None, key: Path | None, tls_name: str | None
) -> TlsFiles | None:
    from appliance.tls_client import TlsFiles

    if not tls and (ca or cert or key or tls_name):
        raise ApplianceError("--ca, --cert, --key and --tls-name are for TLS", hint="add --tls")
    return TlsFiles(ca, cert, key, tls_name) if tls else None


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@click.option("--to", "destination", required=True, metavar="AET@HOST:PORT", help="The Storage SCP to send to.")
@click.option("--from", "calling_ae_title", default="SCANNER", show_default=True, help="Calling AE title.")
@click.option(
    "--set", "attributes", multiple=True, metavar="Keyword=value",
    help="A DICOM attribute of wrapped PNG and JPEG files, such as PatientAge=004Y or ViewPosition=LL. Repeatable.",
)  # fmt: skip
@click.option("--associations", default=1, show_default=True, type=click.IntRange(1, 64), help="How many at once.")
@click.option("--per-association", type=click.IntRange(1), help="Images on an association, then another is made.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Images a second.  [default: as fast as it goes]")
@click.option("--abort-every", type=click.IntRange(1), metavar="N",
              help="Abort the association within every Nth image, then send that again.")  # fmt: skip
@click.option("--patients", type=click.IntRange(1), metavar="N", help="Send all files for each of N test patients.")
@click.option("--worklist", metavar="AET@HOST:PORT", help="Send all files for each patient of this modality worklist; "
              "it is asked over TLS, too, with --tls.")  # fmt: skip
@click.option(
    "--priority", default="routine", show_default=True, type=click.Choice(get_args(Priority)),
    help="C-STORE Priority: HIGH, MEDIUM or LOW.",
)  # fmt: skip
@_with_tls
@JSON
def send(
    paths: tuple[Path, ...],
    destination: str,
    calling_ae_title: str,
    attributes: tuple[str, ...],
    associations: int,
    per_association: int | None,
    rate: float | None,
    abort_every: int | None,
    patients: int | None,
    worklist: str | None,
    priority: Priority,
    as_json: bool,
    **tls: Any,
) -> None:
    """Play a scanner: send DICOM files, folders, and PNG or JPEG pictures (wrapped as CR) by C-STORE.

    \b
    An afternoon of a busy scanner, whose network breaks now and then:
      scanside send chest.dcm --to SCANSIDE@127.0.0.1:11112 --patients 200 --rate 0.5 --abort-every 20

    Test patients get UIDs of their own, so that the same files are new images each time. A summary goes to standard
    error. Exit code 1 where any image was not taken.
    """
    from appliance.scanner import Manner
    from appliance.send import parse_destination, send_files

    pairs = dict(attribute.partition("=")[::2] for attribute in attributes)
    to, files = parse_destination(destination), _tls_files(**tls)
    examined = _patients(patients, worklist, calling_ae_title, files)
    manner = Manner(
        per_association=per_association, images_per_second=rate, abort_every=abort_every, tls=_secure(files, to.host)
    )
    aborts: list[None] = []
    begin, count, taken = time.monotonic(), 0, 0
    outcomes = send_files(
        files_of(paths), to, calling_ae_title, pairs, associations, priority, examined, manner,
        lambda: aborts.append(None),
    )  # fmt: skip
    for sent in outcomes:
        count, taken = count + 1, taken + sent.ok
        if as_json:
            answer = {"file": str(sent.path), **vars(sent)}
            del answer["path"]
            click.echo(json.dumps(answer))
        else:
            said = f"0x{sent.status:04X}" if sent.status is not None else "not sent"
            click.echo(f"{said}  {sent.seconds:.3f} s  {sent.path}  {sent.error}".rstrip())
    if count > 1:
        seconds = time.monotonic() - begin
        broken = f", {len(aborts)} associations aborted" if abort_every else ""
        click.echo(f"{taken} of {count} images taken in {seconds:.1f} s, {taken / seconds:.1f}/s{broken}", err=True)
    sys.exit(1 if taken < count else 0)


def _secure(files: TlsFiles | None, host: str) -> Tls | None:
    """How a host is called with these files, None for in the clear."""
    from appliance.tls_client import client_context

    return (client_context(files), files.name or host) if files else None


def _patients(
    count: int | None, worklist: str | None, calling_ae_title: str, files: TlsFiles | None
) -> list[TestPatient]:
    from appliance.delivery.storage_scu import Peer
    from appliance.patients import by_number, from_worklist
    from appliance.send import parse_destination

    if worklist is None:
        return list(by_number(count or 0))
    to = parse_destination(worklist)
    found = from_worklist(
        Peer(to.host, to.port, to.ae_title, calling_ae_title, _WORKLIST_SECONDS, _secure(files, to.host))
    )
    if not found:
        raise ApplianceError(f"the worklist {to} has nobody", hint="schedule someone there, or use --patients N")
    return found[:count]


@click.command("test-connection")
@click.argument("peer", required=False, metavar="[AET@HOST:PORT | NAME]")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[FILE...]")
@click.option("--from", "calling_ae_title", help="Calling AE title.  [default: delivery.calling_ae_title]")
@click.option("--timeout", default=5.0, show_default=True, type=click.FloatRange(0.1, 120), help="Seconds an answer.")
@_with_tls
@JSON
@configured
def check_connection(
    peer: str | None,
    files: tuple[Path, ...],
    calling_ae_title: str | None,
    timeout: float,
    as_json: bool,
    config_path: Path | None,
    data_dir: Path | None,
    **tls: Any,
) -> None:
    """Find out what fails between here and a DICOM peer, and what to do next: network, TLS, AE titles, objects.

    \b
    Without a peer: this appliance's own Storage SCP (with [storage_scp.tls], over TLS with its own certificate), and
    each configured destination.
      scanside test-connection
      scanside test-connection pacs                          one of the configured destinations
      scanside test-connection ORTHANC@192.0.2.10:104        any other
      scanside test-connection ORTHANC@192.0.2.10:104 a.dcm  would it take this file?
      scanside test-connection PACS@pacs.example:2762 --tls --ca ca.pem --cert me.pem --key me.key

    Exit code 1 where one of them can't be used.
    """
    from appliance import log
    from appliance.connection import examine, needed_for
    from appliance.connection.asked import questions

    log.set_up("error")
    config = load(config_path, data_dir)
    asked = questions(config, peer, needed_for(files) if files else None, calling_ae_title, timeout, _tls_files(**tls))
    failed, answers = False, []
    for title, question in asked:
        if not as_json:
            click.echo(f"{title}, called by {question.calling_ae_title}:")
        checks = []
        for check in examine(question):
            checks.append(check)
            failed |= check.outcome == "fail"
            if not as_json:
                print_checks([check])
        answers.append({"peer": title, "checks": [check.to_dict() for check in checks]})
    if as_json:
        click.echo(json.dumps(answers, indent=1))
    sys.exit(1 if failed else 0)

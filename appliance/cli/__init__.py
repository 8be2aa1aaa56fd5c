"""The command line: ``scanside``. Each command loads only what it needs, so that ``--help`` answers at once."""

from __future__ import annotations

from typing import Any

import click

from appliance import __version__
from appliance.cli import (
    assessing,
    auditing,
    backends,
    deliveries,
    drift,
    ledger,
    models,
    packages,
    people,
    performing,
    quarantine,
    reading,
    replaying,
    retrainings,
    safety,
    sending,
    serving,
    shadows,
    stating,
    studies,
    telemetries,
)
from appliance.errors import ApplianceError


class _Commands(click.Group):
    """Commands in the order of their use; an error of the appliance, or of a file, becomes a line or two and code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ApplianceError as error:
            click.secho(f"scanside: {error.message}", err=True, fg="red")
            if error.hint:
                click.echo(f"          {error.hint}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.filename is None:  # no file's; a pipe that nobody reads any more, for one, which click knows
                raise
            click.secho(f"scanside: {error.filename}: {error.strerror}", err=True, fg="red")
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scanside")
def main() -> None:
    """An inference appliance that stands beside a scanner.

    It receives radiographs over DICOM or from a folder, reads each within a second on the CPU, writes the result as
    DICOM objects, and shows it on a local page. Research use only: not for diagnosis.

    \b
    Try it:
      scanside doctor                              is this machine ready?
      scanside run --data ./box                    start all parts
      scanside send image.png --to SCANSIDE@127.0.0.1:11112
      scanside infer image.dcm --json              one file, without a server
    """


for command in (
    serving.run,
    reading.infer,
    reading.explain_file,
    replaying.replay_result,
    serving.status,
    deliveries.deliveries,
    quarantine.quarantine,
    drift.drift,
    safety.safe_mode,
    performing.diagnoses,
    performing.performance,
    ledger.ledger,
    ledger.retention,
    people.accounts,
    people.tokens,
    auditing.audit,
    sending.send,
    sending.check_connection,
    serving.doctor,
    serving.show_certificates,
    serving.support_bundle,
    backends.show_backends,
    backends.prove,
    backends.bench,
    packages.package,
    models.models,
    shadows.shadow,
    stating.conformance,
    stating.openapi,
    studies.study,
    assessing.assessments,
    telemetries.telemetry,
    telemetries.fleet,
    retrainings.retraining,
    serving.demo,
):
    main.add_command(command)

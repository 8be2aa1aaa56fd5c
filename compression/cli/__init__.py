"""The command line of the training side."""

from __future__ import annotations

from typing import Any

import click

from appliance.errors import ApplianceError
from compression.cli import bringing_in, building, checking, options, reading
from compression.recipe import RecipeError


class _Commands(click.Group):
    """Commands in the order of their use; an error of recipe, data, package or file becomes a line and code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RecipeError, ApplianceError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if not (said := options.in_words(error)):
                raise
            raise click.ClickException(said) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build model packages for Scanside: train, prune, quantize, calibrate, evaluate, report, sign."""


for command in (
    bringing_in.import_command,
    bringing_in.deidentify,
    checking.check_data,
    checking.linear_probe,
    checking.cross_validate,
    checking.contact_sheet,
    building.build,
    building.add_reference,
    building.rewrite_card,
    building.keygen,
    checking.sample_size,
    reading.readers,
    reading.explain,
    reading.reader_study,
):
    main.add_command(command)

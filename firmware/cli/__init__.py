"""The command line: ``scanside-firmware``. Each command loads only what it needs."""

from __future__ import annotations

import json
import sys
import tomllib
from typing import Any

import click

from firmware.cli import boxing, commissioning, flashing, publishing
from firmware.errors import FirmwareError


class _Commands(click.Group):
    """Commands in the order of their use; an error of this package, or of a file, becomes two lines and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FirmwareError as error:
            said = error
        except OSError as error:
            if error.filename is None:  # no file's; a pipe that nobody reads any more, for one, which click knows
                raise
            said = FirmwareError(f"{error.filename}: {error.strerror}")
        except (UnicodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
            said = FirmwareError(f"a file holds something else than its name says: {error}", hint="copy it again")
        if "--json" in sys.argv:
            click.echo(json.dumps({"event": "error", "message": said.message, "hint": said.hint}))
        click.secho(f"scanside-firmware: {said.message}", err=True, fg="red")
        if said.hint:
            click.echo(f"                   {said.hint}", err=True)
        return ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The box around the appliance: build its image, flash it, commission it, update it signed.

    \b
    At a publisher:
      scanside-firmware keys ~/keys                          a development set of keys and certificates
      scanside-firmware build --board x86-efi --keys ~/keys --to ./out
    On a field engineer's machine:
      scanside-firmware list                                 which disks there are, and which may be flashed
      scanside-firmware flash out/manifest.json /dev/sdX --board x86-efi --key image.pub
    On the box:
      scanside-firmware update install BUNDLE                into the other slot; falls back by itself
    """


for command in (
    publishing.make_keys,
    publishing.build,
    publishing.bundle_group,
    publishing.lock,
    flashing.list_disks,
    flashing.flash,
    flashing.verify,
    flashing.record,
    boxing.update,
    boxing.data,
    commissioning.provision,
    commissioning.stick,
    commissioning.inbox,
    commissioning.inbox_ended,
    commissioning.export_logs,
    commissioning.factory_reset,
    commissioning.service_token,
    boxing.firewall,
):
    main.add_command(command)

"""Commands about who may use the page and its interfaces: accounts of people, tokens of systems."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from appliance.cli.options import JSON, acting, configured, moment, operator, table
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.errors import ApplianceError

_ROLES = ("viewer", "clinician", "engineer", "administrator")
_SCOPES = ("see", "assess", "operate", "send", "administer")
_NAME = click.argument("name")
_STDIN = click.option("--password-stdin", is_flag=True, help="Read it from standard input instead of asking for it.")


@click.group()
def accounts() -> None:
    """Manage who may log in to the page, and as what.

    \b
    viewer          sees results
    clinician       sees results, and says whether they are right
    engineer        sees results, looks after the device, sends images
    administrator   all of that, and makes accounts and tokens

    As soon as there is one account, everybody has to log in. Passwords are asked for, never given as an argument, which
    other users of this machine could read.
    """


@accounts.command("list")
@JSON
@configured
def list_accounts(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List all accounts: role, state, last login."""
    import time

    from appliance.accounts import Accounts

    known = Accounts(existing_ledger(load(config_path, data_dir)), read_only=True).store
    said = [
        {
            "name": row["name"],
            "role": row["role"],
            "state": "disabled" if row["disabled_at"] else "locked" if row["locked_until"] > time.time() else "enabled",
            "sessions": row["sessions"],
            "created": moment(row["created_at"]),
            "last_login": _when(row["last_login_at"]),
        }
        for row in known.accounts()
    ]
    said += [
        {
            "name": row["name"],
            "role": row["role"],
            "state": "invited",
            "sessions": 0,
            "created": None,
            "last_login": None,
        }
        for row in known.invitations()
    ]
    if as_json:
        click.echo(json.dumps(said, indent=1))
    elif not said:
        click.echo("There is no account.")
    else:
        table(said[0], [[str(value or "-") for value in each.values()] for each in said])


@accounts.command()
@_NAME
@click.option("--role", type=click.Choice(_ROLES), required=True)
@_STDIN
@configured
def add(name: str, role: str, password_stdin: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Make an account. The first one must be an administrator's."""
    from appliance.accounts import Accounts

    config = load(config_path, data_dir)
    made = Accounts(existing_ledger(config))
    password = _password(password_stdin)
    with acting(config, "add_account", f"account {name}"):
        made.add(name, role, password)  # type: ignore[arg-type]
    click.echo(f"{name} may log in as {role}")


@accounts.command()
@_NAME
@click.argument("new_role", type=click.Choice(_ROLES), metavar="ROLE")
@configured
def role(name: str, new_role: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Give an account another role; it counts at once."""
    from appliance.accounts import Accounts

    config = load(config_path, data_dir)
    with acting(config, "set_role", f"account {name}"):
        Accounts(existing_ledger(config)).set_role(name, new_role)  # type: ignore[arg-type]
    click.echo(f"{name} is {new_role} now")


@accounts.command()
@_NAME
@_STDIN
@configured
def password(name: str, password_stdin: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Give an account another password; its sessions end."""
    from appliance.accounts import Accounts

    config = load(config_path, data_dir)
    known = Accounts(existing_ledger(config))
    known.known(name)
    new = _password(password_stdin)
    with acting(config, "set_password", f"account {name}"):
        known.set_password(name, new)
    click.echo(f"{name} has another password")


def _simple(what: str, action: str, words: str, said: str) -> click.Command:
    """A command that does one thing to a name; ``action`` is what the audit trail calls it."""

    @click.command(what, help=words)
    @_NAME
    @configured
    def command(name: str, config_path: Path | None, data_dir: Path | None) -> None:
        from appliance.accounts import Accounts

        config = load(config_path, data_dir)
        with acting(config, action, f"account {name}"):
            getattr(Accounts(existing_ledger(config)), what)(name)
        click.echo(f"{name} {said}")

    return command


for _command in (
    _simple("disable", "disable_account", "Let an account in no more; its sessions end.", "may not log in any more"),
    _simple("enable", "enable_account", "Let an account in again.", "may log in again"),
    _simple("unlock", "unlock_account", "Let somebody try again at once after wrong passwords.", "may try again"),
    _simple("withdraw", "withdraw_invitation", "Let the code with which NAME was invited count no more.",
            "is not invited any more"),
):  # fmt: skip
    accounts.add_command(_command)


@accounts.command()
@_NAME
@click.option("--role", type=click.Choice(_ROLES), required=True)
@configured
def invite(name: str, role: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Print a one-time code, with which NAME makes the account at /enrol of the page, and chooses the password.

    It counts for 14 days. An earlier one for that name counts no more.
    """
    from appliance.accounts import Accounts

    config = load(config_path, data_dir)
    with acting(config, "invite_account", f"account {name}"):
        code = Accounts(existing_ledger(config)).invite(name, role)  # type: ignore[arg-type]
    click.echo(code)
    click.echo(f"{name} enters it at /enrol of the device's page.", err=True)


@accounts.command()
@configured
def enrol(config_path: Path | None, data_dir: Path | None) -> None:
    """Print a one-time code, with which the page makes the first account. An earlier one counts no more."""
    from appliance.accounts import Accounts

    config = load(config_path, data_dir)
    with acting(config, "new_enrolment_code", ""):
        code = Accounts(existing_ledger(config)).new_code()
    click.echo(code)
    click.echo("Enter it at /enrol of the device's page.", err=True)


# --- tokens ------------------------------------------------------------------------------------------------------


@click.group()
def tokens() -> None:
    """Manage the tokens with which systems use the page's interfaces.

    A token is sent as "Authorization: Bearer ..." to /api/, /metrics and /dicom-web/, and may do what its scopes say.
    """


@tokens.command("add")
@_NAME
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(_SCOPES),
              help="What it may do; repeat it for more.")  # fmt: skip
@click.option("--expires", default="90d", show_default=True, metavar="PERIOD", help="90d, 12h, 4w, or never.")
@configured
def add_token(
    name: str, scopes: tuple[str, ...], expires: str, config_path: Path | None, data_dir: Path | None
) -> None:
    """Make a token for the system NAME, and print it: only its hash is kept, so it is shown this once.

    \b
      scanside tokens add prometheus --scope see --expires 365d
      scanside tokens add pacs --scope send
    """
    from appliance.tokens import Tokens, period

    config = load(config_path, data_dir)
    with acting(config, "add_token", f"token {name}"):
        text = Tokens(existing_ledger(config)).add(name, scopes, period(expires), operator())
    click.echo(text)


@tokens.command("list")
@JSON
@configured
def list_tokens(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List all tokens: what they may, until when, when they were used last."""
    from appliance.tokens import Tokens

    said = [
        {
            "name": row["name"],
            "scopes": " ".join(row["scopes"]),
            "state": row["state"],
            "expires": _when(row["expires_at"]),
            "last_used": _when(row["used_at"]),
            "made": moment(row["made_at"]),
            "by": row["made_by"],
        }
        for row in Tokens(existing_ledger(load(config_path, data_dir)), read_only=True).rows()
    ]
    if as_json:
        click.echo(json.dumps(said, indent=1))
    elif not said:
        click.echo("There is no token.")
    else:
        table(said[0], [[str(value or "-") for value in each.values()] for each in said])


@tokens.command()
@_NAME
@configured
def revoke(name: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Let the token of the system NAME count no more, from the next request on."""
    from appliance.tokens import Tokens

    config = load(config_path, data_dir)
    with acting(config, "revoke_token", f"token {name}"):
        Tokens(existing_ledger(config)).revoke(name)
    click.echo(f"the token {name} is revoked")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise ApplianceError("there is no terminal to ask for the password", hint="give --password-stdin, and pipe it")
    given: str = click.prompt("Password", hide_input=True, confirmation_prompt="The same again")
    return given


def _when(seconds: float | None) -> str | None:
    return moment(seconds) if seconds else None

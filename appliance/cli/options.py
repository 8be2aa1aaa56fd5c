"""What several commands share: options, tables, times, files, and who acts."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from appliance.checks import Check
from appliance.config import Config

_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "fail": ("FAIL", "red")}

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="SCANSIDE_CONFIG",
    help="TOML file; scanside.toml in the sources lists every key. Without one, all defaults.",
)
DATA = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    envvar="SCANSIDE_DATA",
    help="Folder of the ledger, the spool and the results.  [default: data_dir of the configuration]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
BACKEND = click.option(
    "--backend", help="auto for all, or one of them.  [default: inference.backend of the configuration]"
)


def reason(_: click.Context, __: click.Parameter, value: str) -> str:
    """The callback of an option for words that are kept for good: some at the least."""
    if not value.strip():
        raise click.BadParameter("it is kept, so it can't be empty")
    return value.strip()


def configured(command: F) -> F:
    return CONFIG(DATA(command))


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Files as they are given; those of a folder to its bottom, in order of their names."""
    return [
        file
        for path in paths
        for file in (sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path])
    ]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Columns as wide as their content, up to 60 characters."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [min(max(len(row[column]) for row in lines), 60) for column in range(len(lines[0]))]
    for row in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def moment(seconds: float) -> str:
    """A time (seconds since 1970) as every command prints it: this device's own, so that outputs can be compared."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def print_checks(checks: Iterable[Check]) -> None:
    for check in checks:
        mark, color = _MARKS[check.outcome]
        click.echo(f"{click.style(mark, fg=color)}  {check.what}: {check.detail}")
        if check.hint:
            click.echo(f"      -> {check.hint}")


def operator() -> str:
    """Who calls: the user of the operating system, before sudo."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):  # no entry for the user id
        return str(os.getuid())


@contextmanager
def acting(config: Config, action: str, target: str) -> Iterator[None]:
    """Record in the audit trail what is done within it, and how it ended."""
    from appliance.audit import Trail, recorded

    trail = Trail(config.audit_path, config.key_path)
    try:
        with recorded(trail, event="command", action=action, target=target, person=operator(), how="shell"):
            yield
    finally:
        trail.close()

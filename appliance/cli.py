"""The command line: ``scanside``. Each command loads only what it needs, so that ``--help`` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from appliance import __version__
from appliance.config import Config, Priority, load
from appliance.errors import ApplianceError, SignatureError

F = TypeVar("F", bound=Callable[..., Any])

_CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="SCANSIDE_CONFIG",
    help="TOML file; scanside.toml in the sources lists every key. Without one, all defaults.",
)
_DATA = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    envvar="SCANSIDE_DATA",
    help="Folder of the ledger, the spool and the results.  [default: data_dir of the configuration]",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def _configured(command: F) -> F:
    return _CONFIG(_DATA(command))


class _Commands(click.Group):
    """Commands in the order of their use; an error of the appliance becomes two lines and exit code 1."""

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


@main.command()
@_configured
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


@main.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE_OR_FOLDER..."
)
@_JSON
@click.option("--backend", help="Inference backend.  [default: inference.backend of the configuration]")
@click.option("--package", "package_path", type=click.Path(exists=True, path_type=Path), help="Model package to use.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the DICOM result objects into this folder.")
@_configured
def infer(
    paths: tuple[Path, ...],
    as_json: bool,
    backend: str | None,
    package_path: Path | None,
    out: Path | None,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Read single files or whole folders, without a server and without a ledger.

    With --json one object a line: file, sop_instance_uid, status (resulted, rejected or failed), reason, package,
    version, backend, device, findings, seconds. Exit code 1 where a file failed; a rejected one is no failure.
    """
    from appliance import log
    from appliance.infer import infer_files, override

    config = override(load(config_path, data_dir), backend, package_path)
    log.set_up("warning")
    failed = False
    lines, warnings = [], []
    for answer in infer_files(config, paths, out):
        failed |= answer["status"] == "failed"
        if as_json:
            click.echo(json.dumps(answer))
        else:
            lines.append(
                (answer["file"], answer["status"], *_finding_cells(answer), f"{answer['seconds']['total']:.3f}")
            )
            warnings += [f"{answer['file']}: {warning}" for warning in answer["warnings"]]
    if not as_json:
        _table(("file", "status", "finding", "probability", "seconds"), lines)
        click.echo("\n".join([*warnings, "AI results for research use only: not for diagnosis."]))
    sys.exit(1 if failed else 0)


def _finding_cells(answer: dict[str, Any]) -> tuple[str, str]:
    if not answer["findings"]:
        return answer["reason"], ""
    finding = answer["findings"][0]
    said = "positive" if finding["positive"] else "unsure" if finding["unsure"] else "negative"
    return f"{finding['label']}: {said}", f"{finding['probability']:.3f}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Columns as wide as their content, up to 60 characters."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [min(max(len(row[column]) for row in table), 60) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@main.command()
@_JSON
@_configured
def status(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show the counts by state and the health of the device, whether or not the appliance runs."""
    from appliance.health import health
    from appliance.store import Store

    config = load(config_path, data_dir)
    if not config.ledger_path.exists():
        raise ApplianceError(
            f"there is no ledger in {config.data}",
            hint="start the appliance there first, or name its folder with --data",
        )
    found = health(config, Store(config.ledger_path, read_only=True))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"appliance   {'running' if found['running'] else 'not running'}, data in {config.data}")
    worker = found["components"].get("worker", {})
    if worker:
        click.echo(f"worker      {worker['state']} {worker.get('backend', '')} {worker.get('reason', '')}".rstrip())
    for state, count in found["counts"].items():
        click.echo(f"{state:<11} {count}")


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@click.option("--to", "destination", required=True, metavar="AET@HOST:PORT", help="The Storage SCP to send to.")
@click.option("--from", "calling_ae_title", default="SCANNER", show_default=True, help="Calling AE title.")
@click.option(
    "--set", "attributes", multiple=True, metavar="Keyword=value",
    help="A DICOM attribute of wrapped PNG and JPEG files, such as PatientAge=004Y or ViewPosition=LL. Repeatable.",
)  # fmt: skip
@click.option("--associations", default=1, show_default=True, type=click.IntRange(1, 64), help="How many at once.")
@click.option(
    "--priority", default="routine", show_default=True, type=click.Choice(get_args(Priority)),
    help="C-STORE Priority: HIGH, MEDIUM or LOW.",
)  # fmt: skip
@_JSON
def send(
    paths: tuple[Path, ...],
    destination: str,
    calling_ae_title: str,
    attributes: tuple[str, ...],
    associations: int,
    priority: Priority,
    as_json: bool,
) -> None:
    """Play a scanner: send DICOM files, folders, and PNG or JPEG pictures (wrapped as CR) by C-STORE.

    Exit code 1 where any file was not taken.
    """
    from appliance.send import parse_destination, send_files

    pairs = dict(attribute.partition("=")[::2] for attribute in attributes)
    failed = False
    to = parse_destination(destination)
    for sent in send_files(paths, to, calling_ae_title, pairs, associations, priority):
        failed |= not sent.ok
        if as_json:
            answer = {"file": str(sent.path), **vars(sent)}
            del answer["path"]
            click.echo(json.dumps(answer))
        else:
            said = f"0x{sent.status:04X}" if sent.status is not None else "not sent"
            click.echo(f"{said}  {sent.seconds:.3f} s  {sent.path}  {sent.error}".rstrip())
    sys.exit(1 if failed else 0)


@main.command()
@_JSON
@_configured
def doctor(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Check this installation and say what to mend. Exit code 1 where something must be mended."""
    from appliance import log
    from appliance.doctor import examine

    log.set_up("error")
    checks = examine(load(config_path, data_dir))
    if as_json:
        click.echo(json.dumps([check.to_dict() for check in checks], indent=1))
    else:
        for check in checks:
            mark, color = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "fail": ("FAIL", "red")}[
                check.outcome
            ]
            click.echo(f"{click.style(mark, fg=color)}  {check.what}: {check.detail}")
            if check.hint:
                click.echo(f"      -> {check.hint}")
    sys.exit(1 if any(check.outcome == "fail" for check in checks) else 0)


_BACKEND = click.option(
    "--backend", help="auto for all, or one of them.  [default: inference.backend of the configuration]"
)


@main.command("backends")
@_JSON
@_configured
def show_backends(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List the inference backends: which can be used here, what the others lack and how to get it.

    Each is probed in a process of its own, so a broken driver is a line in the table.
    """
    from appliance import backends, pipeline, proof

    opened = list(pipeline.packages(load(config_path, data_dir)))
    rows: list[dict[str, Any]] = []
    for name in backends.names():
        module = backends.module(name)
        reason = backends.probe(name) or "; ".join(filter(None, (proof.unusable(name, each) for each in opened)))
        versions = {} if backends.missing(name) else module.versions(backends.device(name))
        rows.append({"backend": name, "target": module.TARGET, "versions": versions, "reason": reason})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        _table(
            ("backend", "target", "version", "can be used"),
            (
                (row["backend"], row["target"], " ".join(row["versions"].values()), row["reason"] or "yes")
                for row in rows
            ),
        )
        click.echo("Whether one gives the right answers on this device: scanside receipt")


@main.command("receipt")
@_BACKEND
@_JSON
@_configured
def prove(backend: str | None, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Replay the golden vectors now: does each backend give the package's answers on this very device?

    Each runs in a process of its own; one whose network must be compiled on this device (TensorRT) is compiled first.
    The receipts are signed and kept in the ledger of the data folder, where there is one. Where an appliance runs on
    it, that one is asked, and goes on with whatever is fastest then. Exit code 1 where no backend has a valid receipt.
    """
    from appliance import log, pipeline, proof, receipts
    from appliance.health import is_running
    from appliance.infer import override

    config = override(load(config_path, data_dir), backend, None)
    log.set_up("error")
    wanted = config.inference.backend
    proof.options(config)  # says so where there is no backend of that name
    if is_running(config):
        rows = [(name, trial) for name, trial in receipts.ask(config) if wanted in ("auto", trial.backend)]
        if not rows:
            raise ApplianceError(
                f"the running appliance is configured not to use {wanted}",
                hint="stop it and ask again, or set inference.backend",
            )
    else:
        rows = []
        with click.progressbar(length=100, label="proving", file=sys.stderr, hidden=not sys.stderr.isatty(),
                               item_show_func=lambda what: what) as bar:  # fmt: skip
            for opened in pipeline.packages(config):
                tried = receipts.prove_now(
                    config, opened, wanted, lambda at, what: bar.update(int(100 * at) - bar.pos, what)
                )
                rows += [(str(opened), trial) for trial in tried]
    proved = {name for name, trial in rows if trial.receipt}
    valid = all(name in proved for name, _ in rows)
    if as_json:
        click.echo(json.dumps([{"package": name, **trial.to_dict()} for name, trial in rows], indent=1))
    else:
        for name, trial in rows:
            mark = click.style("valid  ", fg="green") if trial.receipt else click.style("none   ", fg="yellow")
            click.echo(f"{mark}  {name}  {trial.backend}: {trial.receipt.summary() if trial.receipt else trial.reason}")
    sys.exit(0 if valid else 1)


@main.command()
@_BACKEND
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 600), help="How long each runs.")
@_JSON
@_configured
def bench(backend: str | None, seconds: float, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Measure each backend that proves itself on this device: latency, images a second, memory.

    As it serves: in a process of its own, fed through shared memory, without decoding and preprocessing. Keep what it
    prints with the device's papers. Stop the appliance first: it would share the cores.
    """
    from appliance import bench as benches
    from appliance import log, pipeline, proof
    from appliance.infer import override

    config = override(load(config_path, data_dir), backend, None)
    log.set_up("error")
    measured, options = [], proof.options(config)
    for opened in pipeline.packages(config):
        tried = list(proof.trials(config.inference.backend, opened, options))
        proof.ranked(tried)  # says why where there is none
        with click.progressbar(benches.measure(opened, tried, options, seconds), label="measuring", file=sys.stderr,
                               length=sum(len(benches.variants(trial, options)) for trial in tried),
                               hidden=not sys.stderr.isatty()) as found:  # fmt: skip
            measured += [(str(opened), each) for each in found]
    if as_json:
        click.echo(json.dumps([{"package": name, **each.to_dict()} for name, each in measured], indent=1))
    else:
        header = (
            "package",
            "backend",
            "device",
            "threads",
            "lanes",
            "batch",
            "p50",
            "p95",
            "network",
            "images/s",
            "memory",
        )
        _table(header, ((name, *_bench_cells(each)) for name, each in measured))
        click.echo("p50, p95: one image, from giving it to its answer. network: of that, in the network alone.")


def _bench_cells(row: Any) -> tuple[str, ...]:
    variant = (row.backend, row.device, str(row.threads), str(row.lanes), str(row.batch))
    if row.reason:
        return (*variant, row.reason, "", "", "", "")
    times = (f"{seconds * 1000:.2f} ms" for seconds in (row.latency_p50, row.latency_p95, row.inference_p50))
    return (*variant, *times, f"{row.images_per_second:.0f}", f"{row.memory_mb} MB")


@main.group()
def package() -> None:
    """Look into a model package."""


def _open_package(path: Path, config: Config, verified: bool) -> Any:
    from appliance import package as packages
    from appliance import signature

    folders = (signature.TRUSTED_KEYS, *(config.data / folder for folder in config.models.trusted_keys))
    return packages.read(path, signature.load_trusted_keys(folders) if verified else None)


@package.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@_JSON
@_configured
def show(path: Path, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Print what a package is, who signed it, what runs it on this device, and its card.

    A package that this device doesn't trust is shown, too, and said so.
    """
    import msgspec

    from appliance.describe import describe

    config = load(config_path, data_dir)
    try:
        found = _open_package(path, config, verified=True)
        said = f"by key {found.signed_by}, which this device trusts"
    except SignatureError as error:
        found, said = _open_package(path, config, verified=False), f"NOT TRUSTED: {error}"
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found.manifest), indent=1).decode())
    else:
        click.echo(describe(found, said))


@package.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@_configured
def verify(path: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Check that a package is whole, unchanged, and signed by a key that this device trusts."""
    found = _open_package(path, load(config_path, data_dir), verified=True)
    targets = ", ".join(sorted(found.manifest.targets))
    click.echo(f"{found} is whole and signed by trusted key {found.signed_by}; targets: {targets}")


@main.command("hash-password")
@click.password_option(help="Asked for where it is not given.")
def hash_password(password: str) -> None:
    """Make the password_hash for [web.login] of the configuration."""
    from werkzeug.security import generate_password_hash

    click.echo(generate_password_hash(password))


@main.command()
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

"""Commands about inference backends: which there are, whether they are right, how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.options import BACKEND, JSON, configured, table
from appliance.config_file import load
from appliance.errors import ApplianceError


@click.command("backends")
@JSON
@configured
def show_backends(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List the inference backends: which can be used here, what the others lack and how to get it.

    Each is probed in a process of its own, so a broken driver is a line in the table.
    """
    from appliance import backends, installed, proof

    opened = list(installed.packages(load(config_path, data_dir)))
    rows: list[dict[str, Any]] = []
    for name in backends.names():
        module = backends.module(name)
        reason = backends.probe(name) or "; ".join(filter(None, (proof.unusable(name, each) for each in opened)))
        versions = {} if backends.missing(name) else module.versions(backends.device(name))
        rows.append({"backend": name, "target": module.TARGET, "versions": versions, "reason": reason})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        table(
            ("backend", "target", "version", "can be used"),
            (
                (row["backend"], row["target"], " ".join(row["versions"].values()), row["reason"] or "yes")
                for row in rows
            ),
        )
        click.echo("Whether one gives the right answers on this device: scanside receipt")


@click.command("receipt")
@BACKEND
@JSON
@configured
def prove(backend: str | None, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Replay the golden vectors now: does each backend give the package's answers on this very device?

    Each runs in a process of its own; one whose network must be compiled on this device (TensorRT) is compiled first.
    The receipts are signed and kept in the ledger of the data folder, where there is one. Where an appliance runs on
    it, that one is asked, and goes on with whatever is fastest then. Exit code 1 where no backend has a valid receipt.
    """
    from appliance import installed, log, proof, receipts
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
            for opened in installed.packages(config):
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


@click.command()
@BACKEND
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 600), help="How long each runs.")
@JSON
@configured
def bench(backend: str | None, seconds: float, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Measure each backend that proves itself on this device: latency, images a second, memory.

    As it serves: in a process of its own, fed through shared memory, without decoding and preprocessing. Keep what it
    prints with the device's papers. Stop the appliance first: it would share the cores.
    """
    from appliance import bench as benches
    from appliance import installed, log, proof
    from appliance.infer import override

    config = override(load(config_path, data_dir), backend, None)
    log.set_up("error")
    measured, options = [], proof.options(config)
    for opened in installed.packages(config):
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
        table(header, ((name, *_bench_cells(each)) for name, each in measured))
        click.echo("p50, p95: one image, from giving it to its answer. network: of that, in the network alone.")


def _bench_cells(row: Any) -> tuple[str, ...]:
    variant = (row.backend, row.device, str(row.threads), str(row.lanes), str(row.batch))
    if row.reason:
        return (*variant, row.reason, "", "", "", "")
    times = (f"{seconds * 1000:.2f} ms" for seconds in (row.latency_p50, row.latency_p95, row.inference_p50))
    return (*variant, *times, f"{row.images_per_second:.0f}", f"{row.memory_mb} MB")

"""``scanside demo``: a real appliance, a real C-STORE, a table of what came out."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from PIL import Image as PillowImage
from pydicom.data import get_testdata_file

from appliance import package
from appliance.config import Config
from appliance.config_file import load
from appliance.delivery.storage_scu import Outcome
from appliance.send import Destination, send_files
from appliance.store import FINAL_STATES, Store

_READY_SECONDS = 30.0
_RESULT_SECONDS = 60.0
_PICTURES = (".png", ".jpg", ".jpeg", ".dcm")
_MODEL = "chest-pneumonia"  # whose generated images are sent
_AGE = "004Y"  # of the generated and the wrapped samples: within the bundled model's validated use


def demonstrate(samples: Path | None, count: int, once: bool) -> int:
    """Run the demonstration; the exit code: 0 where every sample ended as it should."""
    with tempfile.TemporaryDirectory(prefix="scanside-demo-") as folder:
        root = Path(folder)
        config_path = _write_config(root)
        config = load(config_path)
        pictures, origin = _samples(samples, count, root / "samples")
        misfits = _misfits()
        click.echo(f"Samples: {origin}, and {len(misfits) + 1} files that must be turned away.")
        for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the appliance ends, and its folder goes
            signal.signal(number, signal.default_int_handler)
        appliance = _start(config_path)
        try:
            _wait_for_the_reader(config)
            destination = Destination(config.storage_scp.ae_title, "127.0.0.1", config.storage_scp.port)
            sent = list(send_files(pictures, destination, "SCANNER", {"PatientAge": _AGE}, associations=1))
            sent += send_files(misfits, destination, "SCANNER", {}, associations=1)
            lateral = {"PatientAge": _AGE, "ViewPosition": "LL"}
            sent += send_files(pictures[:1], destination, "SCANNER", lateral, associations=1)
            good = _report(config, sent, expected=len(pictures))
            url = f"http://{config.web.host}:{config.web.port}/"
            click.echo(f"\nThe page: {url}")
            click.echo("AI results for research use only: not for diagnosis.")
            if not once:
                click.echo(f"Serving; send more with: scanside send FILE --to {destination}   (Ctrl-C stops)")
                appliance.wait()
            return 0 if good else 1
        except KeyboardInterrupt:
            return 0
        finally:
            appliance.send_signal(signal.SIGTERM)
            appliance.wait()


def _write_config(root: Path) -> Path:
    defaults = Config()
    scp, web = _port(defaults.storage_scp.port), _port(defaults.web.port)
    path = root / "scanside.toml"
    path.write_text(
        f'data_dir = "box"\n[storage_scp]\nhost = "127.0.0.1"\nport = {scp}\n[web]\nport = {web}\nshow_patient = true\n'
        '[log]\nlevel = "warning"\n'
    )
    return path


def _port(wanted: int) -> int:
    """The usual port, or where that is taken, a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what just ended there is no hindrance
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port == 0:
                click.echo(f"Port {wanted} is in use; this demonstration takes {probe.getsockname()[1]}.")
            return int(probe.getsockname()[1])
    raise click.ClickException("no free port on the loopback interface")


def _start(config_path: Path) -> subprocess.Popen[bytes]:
    start = time.monotonic()
    appliance = subprocess.Popen([sys.executable, "-m", "appliance", "run", "--config", str(config_path)])
    config = load(config_path)
    while not _answers(config.storage_scp.port) or not _answers(config.web.port):
        if appliance.poll() is not None:
            raise click.ClickException(f"the appliance did not start (exit code {appliance.returncode})")
        if time.monotonic() - start > _READY_SECONDS:
            appliance.kill()
            raise click.ClickException(f"the appliance was not ready within {_READY_SECONDS:.0f} s")
        time.sleep(0.05)
    click.echo(f"The appliance answers after {time.monotonic() - start:.1f} s.")
    return appliance


def _wait_for_the_reader(config: Config) -> None:
    """Until a backend has proved itself: what comes before is kept and waits, which would count as its time."""
    start = time.monotonic()
    store = Store(config.ledger_path, read_only=True)
    while store.components().get("worker", {}).get("state") != "ready" and time.monotonic() - start < _READY_SECONDS:
        time.sleep(0.05)
    store.close()
    click.echo(f"Its models have proved themselves on this machine {time.monotonic() - start:.1f} s later.")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _samples(samples: Path | None, count: int, folder: Path) -> tuple[list[Path], str]:
    """Pictures to send, in a fixed random order, and what they are, in words."""
    if samples is not None:
        found = sorted(path for path in samples.rglob("*") if path.suffix.lower() in _PICTURES)
        if not found:
            raise click.ClickException(f"{samples} holds no PNG, JPEG or DICOM file")
        chosen = random.Random(0).sample(found, min(count, len(found)))
        return chosen, f"{len(chosen)} radiographs of {samples}, wrapped as DICOM"
    folder.mkdir()
    images = package.read(package.bundled(_MODEL)[0], None).golden()["images"]
    paths = []
    for index, pixels in enumerate(images[:count]):
        path = folder / f"generated-{index:02d}.png"
        PillowImage.fromarray(pixels).save(path)
        paths.append(path)
    return paths, f"{len(paths)} GENERATED images that look like radiographs (no real ones were given with --samples)"


def _misfits() -> Sequence[Path]:
    """Files that come with pydicom and are no chest radiographs."""
    paths = []
    for name in ("CT_small.dcm", "MR_small.dcm", "SC_rgb_rle.dcm"):
        found = get_testdata_file(name, download=False)
        if found:
            paths.append(Path(str(found)))
    return paths


def _report(config: Config, sent: Sequence[Outcome], expected: int) -> bool:
    """Wait for every instance's final state and print the table; whether all went as it should."""
    store = Store(config.ledger_path, read_only=True)
    deadline = time.monotonic() + _RESULT_SECONDS
    rows: dict[str, dict[str, Any]] = {}
    while time.monotonic() < deadline:
        rows = {row["sop_instance_uid"]: row for row in store.worklist(limit=1000) if row["state"] in FINAL_STATES}
        if all(item.sop_instance_uid in rows for item in sent if item.ok):
            break
        time.sleep(0.1)
    click.echo(f"\n{'file':<34}{'finding':<38}{'probability':>12}{'seconds from send to result':>29}")
    resulted = 0
    for item in sent:
        row = rows.get(item.sop_instance_uid) if item.ok else None
        name = item.path.name
        if row is None:
            click.secho(f"{name:<34}{item.error or 'no final state in time'}", fg="red")
        elif row["findings"]:
            resulted += 1
            for finding in row["findings"]:
                seconds = row["finished_at"] - item.answered_at
                click.echo(
                    f"{name:<34}{finding['words'][:36]:<38}{finding['probability']:>12.3f}{max(seconds, 0):>29.3f}"
                )
        else:
            click.echo(f"{name:<34}{row['state']}: {row['reason']}")
    store.close()
    turned_away = sum(1 for item in sent if item.ok and rows.get(item.sop_instance_uid, {}).get("state") == "rejected")
    return resulted == expected and resulted + turned_away == len(sent)

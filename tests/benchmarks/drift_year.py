"""What drift costs: time and memory for a study, room for a year of 1,500 studies a day, time of its page.

.venv-dev/bin/python -m tests.benchmarks.drift_year
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path

import click
import msgspec
import numpy as np
from pydicom import Dataset

from appliance import package
from appliance.config import Config
from appliance.drift.store import DriftStore, pack
from appliance.drift.streams import BY_NAME, INDEX, MOST_BINS, STREAMS
from appliance.drift.watch import Watch
from appliance.image import Image
from appliance.result import Code, Finding, Prediction
from appliance.web.app import create_app

PER_DAY, DAYS = 1500, 365
_MODELS = ("DX-1", "DX-1", "DX-1", "Mobile 2")


def verdict(what: str, good: bool) -> None:
    click.echo(f"{'ok  ' if good else 'FAIL'} {what}")


def study(number: int, chance: np.random.Generator, rows: int, columns: int, adult: bool = False) -> Image:
    header = Dataset()
    header.StudyInstanceUID = f"1.2.3.{number}"
    header.Manufacturer, header.ManufacturerModelName = "ACME", _MODELS[number % 4]
    header.DetectorID = f"D{number % 4}"
    header.PatientAge = f"{chance.integers(18, 80) if adult else chance.integers(1, 6):03d}Y"
    header.PatientSex, header.KVP = "FM"[number % 2], str(60 + int(chance.integers(0, 9)))
    header.AcquisitionDate, header.AcquisitionTime = "20260101", f"{8 + number % 9:02d}3000"
    header.ViewPosition, header.BodyPartExamined = "AP", "CHEST"
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    pixels = 3000 * np.exp(-2 * (x**2 + y**2)) + chance.normal(0, 40, (rows, columns))
    return Image(np.clip(pixels, 0, 4095).astype(np.uint16), header, (0.14, 0.14))


def answer(chance: np.random.Generator) -> Prediction:
    p = float(chance.beta(0.4, 0.6))
    code = Code("233604007", "SCT", "Pneumonia")
    said: tuple[str, ...] = ("present",) if p > 0.9 else ("absent",) if p < 0.4 else ()
    finding = Finding("Pneumonia", code, p, 0.9, "balanced", p > 0.9, True, "", not said, prediction_set=said)  # type: ignore[arg-type]
    return Prediction((finding,), {}, chance.normal(1.5, 1, 272).astype(np.float32))


def cost(watch: Watch, opened: package.Package) -> None:
    chance, seconds = np.random.default_rng(3), []
    image = study(0, chance, 2500, 2048)
    for number in range(60):
        image.header.StudyInstanceUID = f"1.2.4.{number}"
        start = time.perf_counter()
        watch.observe(opened, "cpu", number, image, answer(chance), 0.3)
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    image.header.StudyInstanceUID = "1.2.4.1000"
    watch.observe(opened, "cpu", 60, image, answer(chance), 0.3)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    middle = 1000 * statistics.median(seconds)
    click.echo(
        f"a study of 2500 x 2048 pixels: {middle:.1f} ms (longest {1000 * max(seconds):.0f}), {peak:.1f} MB at most"
    )
    verdict(f"{middle:.1f} ms <= 40 ms, {peak:.1f} MB <= 20 MB", middle <= 40 and peak <= 20)


def fill_year(store: DriftStore, opened: package.Package) -> None:
    """A year of days, and the rows of the latest 90 of them, written as the watch writes them."""
    chance = np.random.default_rng(4)
    now = time.time()
    names = {name: store.categories().names(name) for name in BY_NAME}
    centers = [chance.uniform(0.3, 0.7) * (stream.bins - 1) for stream in STREAMS]
    for day in range(DAYS):
        bins = np.zeros((PER_DAY, len(STREAMS)), np.int64)
        for number, stream in enumerate(STREAMS):
            if stream.numeric:
                drawn = chance.normal(centers[number] + 3 * (day > 300), stream.bins / 12, PER_DAY)
                bins[:, number] = np.clip(drawn, 1, stream.bins - 1)
            else:
                bins[:, number] = chance.integers(1, max(len(names[stream.name]), 1) + 1, PER_DAY)
        counts = np.zeros((len(STREAMS), MOST_BINS), np.int64)
        for number in range(len(STREAMS)):
            counts[number] = np.bincount(bins[:, number], minlength=MOST_BINS)
        at = now - (DAYS - day) * 86400
        with store._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO drift_day VALUES (?, ?, ?, ?, ?, ?)",
                (opened.sha256, time.strftime("%Y-%m-%d", time.localtime(at)), PER_DAY, pack(counts),
                 float(chance.normal(-1, 1)), float(chance.normal(-1, 1))),
            )  # fmt: skip
            if day >= DAYS - 90:
                connection.executemany(
                    "INSERT INTO drift_study (package, study, instance_id, at, bins) VALUES (?, ?, ?, ?, ?)",
                    [
                        (opened.sha256, hashlib.sha256(f"{day} {each}".encode()).digest()[:8], each, at,
                         row.astype(np.uint8).tobytes())
                        for each, row in enumerate(bins)
                    ],
                )  # fmt: skip


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Leave the ledger here, to look at its page.")
def main(keep: Path | None) -> None:
    """Print figures and verdicts."""
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    folder = keep or Path(tempfile.mkdtemp())
    config = msgspec.structs.replace(Config(), data_dir=str(folder.absolute()))
    store = DriftStore(config.ledger_path)
    cost(Watch(config, store), opened)
    store._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = config.ledger_path.stat().st_size
    fill_year(store, opened)
    watch, chance = Watch(config, store), np.random.default_rng(5)
    for number in range(1400):
        watch.observe(opened, "cpu", number, study(number + 5000, chance, 128, 128, number > 1340 and number % 3 == 0),
                      answer(chance), float(chance.lognormal(-1, 0.3)))  # fmt: skip
    store._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (config.ledger_path.stat().st_size - before) / 1e6
    verdict(f"a year of {PER_DAY:,} studies a day: {size:.0f} MB <= 200 MB", size <= 200)
    client, seconds = create_app(config).test_client(), []
    for _ in range(7):
        start = time.perf_counter()
        page = client.get("/drift?days=366")
        seconds.append(time.perf_counter() - start)
    assert page.status_code == 200, page.status_code
    middle = 1000 * statistics.median(seconds)
    click.echo(
        f"the page of a year: {middle:.0f} ms, {len(page.data) / 1000:.0f} kB, {page.data.count(b'<svg class')} charts"
    )
    verdict(f"{middle:.0f} ms <= 300 ms", middle <= 300)
    click.echo(f"{len(INDEX)} streams")


if __name__ == "__main__":
    main()

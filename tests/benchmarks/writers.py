"""How long the writers take for one radiograph, object and file together, on one core.

``python -m tests.benchmarks.writers [--rows 2500 --columns 2048 --repeat 40]``

Times are the process's own (CPU), since all of it is on one thread, beside those of the clock. The radiograph has a
finding with its heat map and two outlined lungs; all kinds are made in each round.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from appliance import writer
from appliance.config import Results
from appliance.image import Image, load
from appliance.result import Code, Finding, Prediction, Provenance, Segment
from appliance.writers import WRITERS
from tests.dicom_files import make_radiograph

_LUNG = Code("39607008", "SCT", "Lung")


def predicted(image: Image) -> Prediction:
    rows, columns = image.pixels.shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    likely = np.exp(-((((np.abs(x) - 0.45) / 0.3) ** 2 + (y / 0.6) ** 2) ** 2)).astype(np.float32)
    mask = (likely > 0.5).astype(np.uint8)
    finding = Finding(
        "Pneumonia", Code("233604007", "SCT", "Pneumonia"), 0.93, 0.4, "balanced", True, True,
        "Signs of pneumonia are likely.", prediction_set=("present",), coverage=0.9,
    )  # fmt: skip
    structure = Code("91723000", "SCT", "Anatomical Structure")
    lungs = Segment("Lungs", structure, _LUNG, (70, 170, 255), int(mask.sum()), 0.93, 0.08, area_share=0.25)
    coarse = np.zeros((7, 7), np.float32)
    coarse[4, 1] = 1.0
    return Prediction(
        (finding,), {"Pneumonia": coarse}, np.zeros(3, np.float32), ("Outside validated use: the patient is 40.",),
        (lungs,), mask[np.newaxis], likely[np.newaxis, np.newaxis],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = make_radiograph(
            Path(folder) / "r.dcm", rows=options.rows, columns=options.columns, ImagerPixelSpacing=[0.15, 0.15]
        )
        image = load(path)
    said = predicted(image)
    provenance = Provenance(
        "chest-pneumonia", "1.0.0", "ab" * 32, "cd" * 32, "cpu", "onnxruntime", "CPU", "0123456789abcdef", "0.1.0",
        "2026-01-02T10:00:00+00:00", "", (), writer.derived_uid("a device"), _LUNG,
    )  # fmt: skip
    settings = writer.Settings(tuple(WRITERS))
    seconds = {kind: np.zeros((options.repeat, 2)) for kind in WRITERS}
    sizes = {}
    for turn in range(-1, options.repeat):  # the first one loads what is loaded once
        made = dataclasses.replace(image)
        for kind, one in WRITERS.items():
            begin = time.process_time(), time.perf_counter()
            sizes[kind] = sum(len(writer.to_bytes(each)) for each in one.write([made], said, provenance, settings))
            if turn >= 0:
                seconds[kind][turn] = time.process_time() - begin[0], time.perf_counter() - begin[1]
    usual = Results().kinds
    rows = {**seconds, "those by default": sum(seconds[kind] for kind in usual), "all": sum(seconds.values())}
    print(f"{options.rows} x {options.columns}, {options.repeat} rounds; milliseconds")
    print(f"{'':26}{'CPU median':>12}{'CPU p95':>10}{'clock median':>14}{'clock p95':>11}{'bytes':>12}")
    for name, each in rows.items():
        cpu, clock = (np.percentile(each[:, column], [50, 95]) * 1000 for column in (0, 1))
        size = f"{sizes[name]:12,}" if name in sizes else ""
        print(f"{name:26}{cpu[0]:12.1f}{cpu[1]:10.1f}{clock[0]:14.1f}{clock[1]:11.1f}{size}")


if __name__ == "__main__":
    main()

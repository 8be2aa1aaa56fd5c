"""The bundled package through ``scanside infer``, as installed: the official test's open half, and another hospital.

Also the images that it gets wrong with the most confidence, and what they may share.

``python -m tests.benchmarks.accuracy [DATA]``; DATA holds chest-kermany and chest-nih, by default beside the checkout.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from appliance import package
from appliance.send import wrap_image
from compression import hard_cases
from compression.data import read_manifest
from compression.evaluate import figures
from compression.subgroups import Sample
from tests.running import CHECKOUT, scanside

RESAMPLES = 2000


def main(data: Path) -> None:
    kermany = [
        row for row in read_manifest(data / "chest-kermany") if row["split"] == "test" and not row["exact_duplicate_of"]
    ]
    _report("Kermany official test, open half", data / "chest-kermany", kermany, {"PatientAge": "004Y"})
    nih = read_manifest(data / "chest-nih")
    for view in ("AP", "PA"):
        _report(f"chest-nih, {view}", data / "chest-nih", [row for row in nih if row["view"] == view], {})


def _report(name: str, folder: Path, rows: list[dict[str, str]], attributes: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as work:
        for number, row in enumerate(rows):
            own = attributes or {"PatientAge": f"{int(row['age']):03d}Y", "ViewPosition": row["view"]}
            wrap_image(folder / row["file"], own).save_as(Path(work) / f"{number:05d}.dcm", enforce_file_format=True)
        chest = package.bundled("chest-pneumonia")[0]
        done = scanside("infer", Path(work), "--json", "--package", chest, timeout=900, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    unread = [answer["reason"] for answer in answers if answer["status"] != "resulted"]
    assert not unread, unread[:3]
    findings = [answer["findings"][0] for answer in answers]
    sample = Sample(
        np.array([finding["probability"] for finding in findings]),
        np.array([finding["positive"] for finding in findings]),
        np.array([row["label"] == "PNEUMONIA" for row in rows]),
        np.array([row["patient_id"] for row in rows]),
    )
    measured = figures(sample, RESAMPLES)
    print(f"{name}: {len(rows)} images, {answers[0]['package']} {answers[0]['version']} on {answers[0]['backend']}")
    for figure, (value, low, high) in measured.items():
        print(f"  {figure:<12} {value:.4f} [{low:.4f}, {high:.4f}]")
    files = [row["file"] for row in rows]
    hard = hard_cases.find(sample, findings[0]["threshold"], files, hard_cases.columns(rows))
    print(f"  {hard['wrong']} wrong, the most confident: ", end="")
    print(", ".join(f"{row['file']} {row['score']:.3f}" for row in hard["confidently_wrong"][:3]))
    print(f"  what hard cases share: {len(hard['shared'])} of {hard['tests']} comparisons stand out")
    for row in hard["shared"]:
        print(f"    {row['group']}, {row['what']}: {row['hard']:g}, others {row['others']:g}, p {row['p_holm']:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT.parent / "shared" / "data")

"""The build: stages one after another, each kept until something that shapes it changes.

A stage is a module with ``run(build) -> str`` (a line that says what came out) and ``SECTIONS``, the recipe's tables
that it reads. Its key is a hash of those tables, of the sources of the stage, of its ``fingerprint(build)`` where it
reads other files, and of the keys of all stages before it; while the key stays the same, its folder is used as it is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import preprocess
from compression import (
    architectures,
    augment,
    calibrate,
    card,
    choose,
    data,
    decision_curve,
    decisions,
    evaluate,
    export,
    gate,
    golden,
    pack,
    page,
    preflight,
    prune,
    quantize,
    rates,
    report,
    report_clinical,
    roc,
    statistics,
    subgroups,
    timing,
    train,
)
from compression.quantize import aware, cpu, openvino, pt2e, qdq, static, tensorrt
from compression.recipe import Recipe

STAGES: tuple[tuple[str, ModuleType], ...] = (
    ("data", data),
    ("train", train),
    ("prune", prune),
    ("choose", choose),
    ("export", export),
    ("quantize", quantize),
    ("gate", gate),
    ("golden", golden),
    ("evaluate", evaluate),
    ("report", report),
    ("pack", pack),
)
# How long each stage takes, in percent of a build.
_SHARES = {
    "data": 1, "train": 20, "prune": 62, "choose": 0.1, "export": 1, "quantize": 2, "gate": 3, "golden": 1,
    "evaluate": 9, "report": 0.5, "pack": 0.5,
}  # fmt: skip
_TELLING_SHARE = 3
# Sources that shape a stage besides its own.
_SHARED_SOURCES: dict[str, tuple[ModuleType, ...]] = {
    "train": (architectures, augment, preprocess),
    "prune": (statistics,),
    "choose": (calibrate,),
    "quantize": (aware, cpu, openvino, pt2e, qdq, static, tensorrt, preprocess),
    "gate": (calibrate, augment, preprocess, timing),
    "golden": (preprocess,),
    "evaluate": (statistics, timing, roc, rates, decision_curve, decisions, subgroups),
    "report": (page, report_clinical),
    "pack": (card,),
}


@dataclass
class Build:
    """What a stage may use.

    Attributes
    ----------
    recipe, recipe_path
        The recipe and its file.
    data_root, weights_root
        Folders of the data sets and of the initial weights.
    work
        Folder of the stages' results.
    key
        Signs the package.
    out
        Folder of the package, its card and its report.
    """

    recipe: Recipe
    recipe_path: Path
    data_root: Path
    weights_root: Path
    work: Path
    key: Ed25519PrivateKey
    out: Path
    keys: dict[str, str] = field(default_factory=dict)

    def folder(self, stage: str) -> Path:
        return self.work / stage


def run(build: Build, last: str | None, force: Sequence[str]) -> None:
    """Run the stages up to ``last``; those in ``force`` even where their key is unchanged."""
    preflight.check(build)
    key = ""
    for name, module in STAGES:
        key = _key(build, name, module, key)
        build.keys[name] = key
        folder, mark = build.folder(name), build.folder(name) / "done.json"
        if name not in force and mark.exists() and (done := json.loads(mark.read_text()))["key"] == key:
            click.echo(f"{name:<10} kept: {done['summary']}")
        else:
            # What an interrupted run with the same key left is taken up again, anything else is thrown away.
            begun = folder / "begun"
            if folder.exists() and (not begun.exists() or begun.read_text() != key or name in force):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            begun.write_text(key)
            start = time.monotonic()
            summary = module.run(build)
            mark.write_text(json.dumps({"key": key, "summary": summary}))
            click.echo(f"{name:<10} {time.monotonic() - start:.0f} s: {summary}")
            _say_what_is_left(name, time.monotonic() - start)
        if name == last:
            return


def _say_what_is_left(stage: str, seconds: float) -> None:
    """An estimate from this stage's time, as all stages of chest-pneumonia took theirs."""
    names = list(_SHARES)
    left = sum(_SHARES[name] for name in names[names.index(stage) + 1 :]) / _SHARES[stage] * seconds
    if _SHARES[stage] >= _TELLING_SHARE and left > 60:
        click.echo(f"{'':<10} about {left / 60:.0f} min to go")


def _key(build: Build, name: str, module: ModuleType, before: str) -> str:
    digest = hashlib.sha256(before.encode())
    for section in module.SECTIONS:
        digest.update(msgspec.json.encode(getattr(build.recipe, section), order="deterministic"))
    for source in (module, *_SHARED_SOURCES.get(name, ())):
        digest.update(Path(str(source.__file__)).read_bytes())
    if hasattr(module, "fingerprint"):  # of what it reads besides the recipe
        digest.update(module.fingerprint(build))
    return digest.hexdigest()

"""The appliance's environment on a box: from locked wheels, each by its SHA-256, and nothing that is built there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from firmware.durable import Files
from firmware.errors import FirmwareError
from firmware.image.boards import AARCH64, X86_64, Board

MANYLINUX = {
    X86_64: ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010"),
    AARCH64: ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"),
}
BUILD_LOCK = Path(__file__).with_name("build.lock")  # what makes the project's own wheel
_WHEELS_ALONE = "--only-binary=:all:"
_SOURCES = ("appliance", "compression", "firmware", "pyproject.toml", "README.md", "LICENSE")


def lock_of(board: Board, machine: str = "") -> Path:
    """A board's lock file; that of another machine than the board's is for containers."""
    return Path(__file__).with_name(
        f"{board.name}-{machine}.lock" if machine not in ("", board.machine) else f"{board.name}.lock"
    )


def lock(project: Path, board: Board, machine: str = "") -> str:
    """What the project's device needs, resolved for the board's system on such a machine: pinned, with hashes."""
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    extras = (each for extra in board.extras for each in table["optional-dependencies"][extra])
    machine = machine or board.machine
    what = f"What a device runs on, for Python {board.python} on {machine}"
    return _resolved(what, *_target(board, machine), *table["dependencies"], *extras)


def _resolved(what: str, *wanted: str) -> str:
    report = _pip("install", "--dry-run", "--quiet", "--ignore-installed", "--no-cache-dir", "--report", "-", *wanted)
    lines = [
        f"# {what}. Made by: scanside-firmware lock. Do not edit.",
        *sorted(
            f"{item['metadata']['name'].lower()}=={item['metadata']['version']}"
            f" --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}"
            for item in json.loads(report)["install"]
        ),
    ]
    return "\n".join(lines) + "\n"


def write_lock(project: Path, board: Board, machine: str = "") -> tuple[Path, Path]:
    """A board's, and that of what makes the project's own wheel."""
    path = lock_of(board, machine)
    Files().write(path, lock(project, board, machine).encode())
    needed = tomllib.loads((project / "pyproject.toml").read_text())["build-system"]["requires"]
    Files().write(BUILD_LOCK, _resolved("What makes the project's own wheel", _WHEELS_ALONE, *needed).encode())
    return path, BUILD_LOCK


def locked(board: Board, machine: str = "") -> dict[str, tuple[str, str]]:
    """Name -> version and SHA-256, of a lock file."""
    lines = lock_of(board, machine).read_text().splitlines()
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    return {
        normal(pin.split("==")[0]): (pin.split("==")[1], digest.removeprefix("--hash=sha256:")) for pin, digest in rows
    }


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install(project: Path, board: Board, target: Path, cache: Path) -> None:
    """Fill ``target`` (a site-packages folder) with the locked wheels and with the project itself."""
    cache.mkdir(parents=True, exist_ok=True)
    _install_locked(lock_of(board), target, cache, *_target(board, board.machine))
    with tempfile.TemporaryDirectory() as folder:
        # From a copy: what an earlier build left in build/ would get into the wheel. By its name, not by its path,
        # which pip would write down in the image.
        copy = copy_sources(project, Path(folder) / "project")
        tools = Path(folder) / "tools"
        _install_locked(BUILD_LOCK, tools, cache, _WHEELS_ALONE)
        _pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, str(copy), beside=tools)
        _pip("install", "--quiet", "--no-deps", "--no-index", "--find-links", folder, "--no-compile",
             "--target", str(target), "scanside")  # fmt: skip


def _install_locked(lock: Path, target: Path, cache: Path, *wanted: str) -> None:
    _pip("download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(cache), "--find-links", str(cache),
         *wanted, "--requirement", str(lock))  # fmt: skip
    _pip("install", "--quiet", "--no-deps", "--require-hashes", "--no-index", "--find-links", str(cache),
         "--no-compile", "--target", str(target), *wanted, "--requirement", str(lock))  # fmt: skip


def copy_sources(project: Path, target: Path) -> Path:
    """What the project's own wheel is made of, into a new folder."""
    target.mkdir()
    for name in _SOURCES:
        copy = shutil.copytree if (project / name).is_dir() else shutil.copy
        copy(project / name, target / name)
    return target


def _target(board: Board, machine: str) -> list[str]:
    platforms = [argument for each in MANYLINUX[machine] for argument in ("--platform", f"{each}_{machine}")]
    return [_WHEELS_ALONE, "--python-version", board.python, "--implementation", "cp", *platforms]


def _pip(*arguments: str, beside: Path | None = None) -> str:
    """Run pip; what it starts finds the packages in ``beside`` first."""
    if "--dry-run" in arguments:
        arguments = (*arguments, "--target", "/nonexistent")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True, text=True, timeout=1800, check=False,
        env={**os.environ, "PYTHONPATH": str(beside)} if beside else None,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-3:]
        raise FirmwareError(
            f"pip {arguments[0]} failed: {' '.join(lines)[:600]}", hint="is the package index reachable?"
        )
    return done.stdout

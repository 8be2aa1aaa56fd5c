"""``scanside doctor``: is this machine ready, and if not, what to mend?"""

from __future__ import annotations

import platform
import shutil
import socket
from collections.abc import Iterator

import msgspec

from appliance import brand, certificates, decode, installed, listening, proof, spool
from appliance.checks import Check
from appliance.config import Config, Destination
from appliance.delivery import way_to
from appliance.errors import ApplianceError
from appliance.health import is_running
from appliance.package import Package

_LOW_DISK_BYTES = 2 * 1024**3


def examine(config: Config) -> Iterator[Check]:
    """Every check as it comes, in the order in which one would mend what they find."""
    running = is_running(config)
    yield Check("python", "ok", platform.python_version())
    yield _data_folder(config)
    yield _disk(config)
    yield _brand(config)
    yield from _decoders()
    yield from certificates.examine(config)
    yield from _packages(config)
    for name, table in (
        ("Storage SCP", config.storage_scp), ("page", config.web), ("diagnoses by HL7", config.diagnoses),
    ):  # fmt: skip
        if table.enabled:
            yield _port(name, table.host, table.port, running)
    for destination in config.destinations:
        yield reach(config, destination)


def _brand(config: Config) -> Check:
    try:
        return Check("page's name and look", "ok", brand.load(config).name)
    except ApplianceError as error:
        return Check("page's name and look", "fail", error.message, error.hint or "")


def _data_folder(config: Config) -> Check:
    probe = config.data / "doctor.probe"
    try:
        spool.write_durably(probe, b"scanside")
        probe.unlink()
    except (ApplianceError, OSError) as error:
        return Check("data folder", "fail", str(error), "make it writable, or choose another with --data")
    return Check("data folder", "ok", f"{config.data} can be written")


def _disk(config: Config) -> Check:
    folder = next(each for each in (config.data, *config.data.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1024**3:.1f} GiB free"
    if free < _LOW_DISK_BYTES:
        return Check("disk", "warning", detail, "a radiograph takes about 10 MB: free some space soon")
    return Check("disk", "ok", detail)


def _decoders() -> Iterator[Check]:
    missing = decode.missing_decoders()
    if missing:
        yield Check("decoders", "fail", "; ".join(missing), "install the appliance again with its dependencies")
    else:
        yield Check("decoders", "ok", "every supported transfer syntax has its decoder")


def _packages(config: Config) -> Iterator[Check]:
    try:
        for opened, problem in installed.with_damaged(config):
            if problem is not None:
                yield Check("model package", "fail", problem.message, problem.hint or "")
                continue
            yield Check("model package", "ok", f"{opened}, signed by {opened.signed_by}")
            yield from _backends(opened, config)
    except ApplianceError as error:
        yield Check("model package", "fail", error.message, error.hint or "")


def _backends(opened: Package, config: Config) -> Iterator[Check]:
    """A check for each backend; one that can't be used matters only where no other can."""
    tried = list(proof.trials(config.inference.backend, opened, proof.options(config)))
    for trial in tried:
        if trial.receipt is None:
            yield Check(f"backend {trial.backend}", "ok", f"not used: {trial.reason}")
        else:
            yield Check(f"backend {trial.backend}", "ok", trial.receipt.summary())
    try:
        chosen = proof.ranked(tried)[0]
    except ApplianceError as error:
        hint = "mend one of them, or install a package that was built for this device"
        yield Check("inference", "fail", error.message, hint)
    else:
        yield Check("inference", "ok", f"{opened} runs on {chosen.backend} {chosen.device} ({chosen.cpu})")


def _port(name: str, host: str, port: int, running: bool) -> Check:
    what = f"{name} port"
    if port == 0:
        return Check(what, "ok", "a free one is taken at the start")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if running:
                return Check(what, "ok", f"{host}:{port} is held by the appliance that runs on this data folder")
            hint = listening.hint(error, port, "stop what uses it, or set another port in the configuration")
            return Check(what, "fail", f"{host}:{port}: {error.strerror}", hint)
    return Check(what, "ok", f"{host}:{port} is free")


def reach(config: Config, destination: Destination) -> Check:
    """Whether a destination answers."""
    what = f"destination {destination.name}"
    where = destination.peer
    soon = msgspec.structs.replace(config.delivery, timeout_seconds=5.0)
    try:
        way_to(destination, msgspec.structs.replace(config, delivery=soon)).check()
    except ApplianceError as error:
        hint = f"{error.hint or 'check its address'}; results wait and are sent once it answers"
        detail = error.message if error.message.startswith(where) else f"{where}: {error.message}"
        return Check(what, "warning", detail, hint)
    return Check(what, "ok", f"{where} {'can be written' if destination.path else 'answers'}")

"""The container's image, built from its Containerfile and run the way its manifests say, on the machine's own kernel.

By hand, as root: ``pytest -m container``. buildah builds, on a Debian base that mmdebstrap makes, since no registry is
asked; a root file system that is read-only, a network and mounts of its own, user 950 and no capabilities stand for the
engine, which is not there. arm64 runs where qemu-user is registered, and takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dicom_files import make_radiograph
from tests.firmware.test_container import FOLDER, probes
from tests.running import CHECKOUT, PYTHON

_NEEDED = ("buildah", "mmdebstrap", "unshare", "nsenter", "setpriv", "ip", "storescp")
_MISSING = [program for program in _NEEDED if shutil.which(program) is None]
_MIRROR = "http://deb.debian.org/debian"
_HERE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
_START = """
set -e
root=$1 data=$2 config=$3
shift 3
ip link set lo up
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$data" "$root/data"
mount --bind "$config" "$root/etc/scanside/scanside.toml"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" /usr/bin/setpriv --reuid 950 --regid 950 --clear-groups --no-new-privs --bounding-set=-all \\
    --inh-caps=-all env -i PATH=/usr/bin:/bin PYTHONUNBUFFERED=1 "$@"
"""

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(bool(_MISSING) or os.geteuid() != 0, reason=f"needs root and: {', '.join(_MISSING)}"),
]


@pytest.fixture(params=["amd64", "arm64"])
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    emulated = Path("/proc/sys/fs/binfmt_misc") / {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}[name]
    if name != _HERE and not emulated.exists():
        pytest.skip(f"{emulated} is not registered (Debian packages qemu-user-static and binfmt-support)")
    return name


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A call of buildah, with storage of its own."""
    store = ["--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]

    def run(*arguments: str | Path) -> str:
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        command = ["buildah", *store, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout.strip()

    yield run
    run("rm", "--all")


def base_of(buildah: Callable[..., str], machine: str, folder: Path) -> None:
    """Debian under the name that the Containerfile asks a registry for."""
    archive = folder / "base.tar"
    command = ["mmdebstrap", "--variant=minbase", f"--architectures={machine}", "trixie", str(archive), _MIRROR]
    subprocess.run(command, check=True, capture_output=True, timeout=3600)
    made = buildah("from", "--arch", machine, "scratch")
    buildah("add", made, archive, "/")
    settings = ["--arch", machine, "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    if certificates := os.environ.get("PIP_CERT"):  # of a package index behind an authority of its own
        buildah("copy", made, certificates, "/etc/ssl/certs/of-the-index.crt")
        settings += ["--env", "PIP_CERT=/etc/ssl/certs/of-the-index.crt"]
    buildah("config", *settings, made)
    buildah("commit", made, "docker.io/library/debian:trixie-slim")


def test_it_is_built_and_reads_a_radiograph(machine: str, buildah: Callable[..., str], tmp_path: Path) -> None:
    base_of(buildah, machine, tmp_path)
    sources = tmp_path / "sources"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(sources)], check=True)
    buildah("bud", "--pull-never", "--platform", f"linux/{machine}", "--file",
            sources / "firmware" / "container" / "Containerfile", "--tag", "scanside", sources)  # fmt: skip
    container = buildah("from", "--pull-never", "scanside")
    configured = json.loads(buildah("inspect", container))["OCIv1"]
    assert configured["architecture"] == machine and configured["config"]["User"] == "950:950"
    root, data, pacs = Path(buildah("mount", container)), tmp_path / "data", tmp_path / "pacs"
    data.mkdir()
    os.chown(data, 950, 950)
    pacs.mkdir()
    config = tmp_path / "scanside.toml"
    config.write_text(
        (FOLDER / "scanside.toml").read_text()
        + '[[destinations]]\nname = "pacs"\nae_title = "STORESCP"\nhost = "127.0.0.1"\nport = 11113\n'
    )
    what = configured["config"]["Entrypoint"] + configured["config"]["Cmd"]
    slow = 1 if machine == _HERE else 20
    with (tmp_path / "log").open("w") as log:
        command = ["unshare", "--mount", "--net", "bash", "-c", _START, "start", str(root), str(data), str(config)]
        running = subprocess.Popen([*command, *what], stdout=log, stderr=log)
    namespaces = ["nsenter", "--target", str(running.pid), "--net"]

    def inside(*command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        whole = [*namespaces, "--mount", "chroot", "--userspec=950:950", str(root), *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=timeout * slow)

    peer = None
    try:
        deadline = time.monotonic() + 90 * slow
        while " ready: " not in (tmp_path / "log").read_text():
            assert running.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        peer = subprocess.Popen([*namespaces, "storescp", "--output-directory", str(pacs), "11113"])
        for name, probe in probes().items():
            done = inside(*probe)
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        assert "Read-only file system" in inside("touch", "/opt/scanside/x").stderr
        radiograph = make_radiograph(tmp_path / "radiograph.dcm")
        send = [PYTHON, "-m", "appliance", "send", str(radiograph), "--to", "SCANSIDE@127.0.0.1:11112"]
        sent = subprocess.run([*namespaces, *send], capture_output=True, text=True, cwd=CHECKOUT, timeout=60 * slow)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        while not list(pacs.glob("SR*")):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
        running.terminate()
        assert running.wait(40) == 0, (tmp_path / "log").read_text()[-2000:]
    finally:
        running.kill()
        if peer:
            peer.kill()
            peer.wait()
        running.wait()

"""Where Debian 13 comes from: its release, its updates, its security updates; and what is there now."""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from pathlib import Path

from firmware.errors import FirmwareError
from firmware.image.chroot import call

SUITE = "trixie"
DEBIAN, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
# Debian's own keys, and none of others that the machine which builds may trust.
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_INDEX = re.compile(r" [0-9a-f]{64} +\d+ \S+/Packages(\.\w+)?")


def sources(components: str, debian: str, security: str) -> tuple[str, ...]:
    """Lines of sources.list(5).

    Parameters
    ----------
    components
        With commas between them.
    security
        The mirror of security updates; empty: none, and the image has them only as of Debian's latest point release.
    """
    suites = [(debian, SUITE), (debian, f"{SUITE}-updates"), *([(security, f"{SUITE}-security")] if security else [])]
    return tuple(
        f"deb [{_options(mirror)}] {mirror} {suite} {components.replace(',', ' ')}" for mirror, suite in suites
    )


def _options(mirror: str) -> str:
    # What was there at an earlier time has an index that is past its date.
    past = " check-valid-until=no" if "snapshot.debian.org" in mirror else ""
    return f"signed-by={_KEYRING}{past}"


@functools.cache  # what is built twice, to compare, is built from one state
def state(lines: tuple[str, ...]) -> str:
    """A digest of what these sources hold now: another one once a package is new there.

    Asked of apt, which takes only an index that Debian has signed and that is not past its date.

    Raises
    ------
    FirmwareError
        A mirror does not answer, has not the suite, or its index can't be trusted.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt downloads as a user of its own
        (folder / "sources.list").write_text("\n".join(lines) + "\n")
        options = {
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State": folder / "state",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "Acquire::Languages": "none",
            # The signed index of indices is enough: 0.2 MB instead of 10.
            "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
        }
        for each in ("state", "cache"):
            (folder / each).mkdir()
        try:
            call("apt-get", "--error-on=any", *(f"--option={key}={value}" for key, value in options.items()), "update")
        except FirmwareError as error:
            raise FirmwareError(
                f"what is new in Debian can't be asked: {error.message}",
                hint="name mirrors that are reached: --mirror, and --security, where `none` is nothing to release",
            ) from error
        texts = [path.read_text() for path in sorted((folder / "state/lists").glob("*Release"))]
    indices = [line for text in texts for line in text.splitlines() if _INDEX.fullmatch(line)]
    return hashlib.sha256("\n".join(indices).encode()).hexdigest()

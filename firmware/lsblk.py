"""Which block devices there are, as ``lsblk`` (util-linux) tells."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from firmware.errors import FirmwareError

_SECONDS = 60.0


def devices(*options: str) -> list[dict[str, Any]]:
    """One entry per device, with what the options ask for.

    Raises
    ------
    FirmwareError
        lsblk is not there, fails, or does not answer.
    """
    command = ["lsblk", "--json", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except FileNotFoundError as error:
        raise FirmwareError("lsblk is not installed", hint="apt-get install util-linux") from error
    except subprocess.TimeoutExpired as error:
        raise FirmwareError(
            f"lsblk does not answer within {_SECONDS:.0f} s: a disk of this machine hangs",
            hint="unplug what was plugged in last and run the same command again, or start the machine again",
        ) from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or f"exit code {error.returncode}"
        raise FirmwareError(f"lsblk does not answer: {said}", hint="start the machine again") from error
    except OSError as error:
        raise FirmwareError(f"lsblk can't be run: {error.strerror}", hint="start the machine again") from error
    return list(json.loads(done.stdout)["blockdevices"])

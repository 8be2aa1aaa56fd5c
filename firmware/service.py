"""Service mode: a shell for a few hours, for who holds a token that the publisher or site has signed for this box.

No account of a box has a password. A token names the box, its end, and when it was signed; it is taken from a stick.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from firmware import signing
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError

PURPOSE = "service token 1"
_MOST_HOURS = 24.0


def make(box_id: str, hours: float, key: Path, who: str) -> str:
    """A token as one line."""
    if not 0 < hours <= _MOST_HOURS:
        raise FirmwareError(f"a token counts for {_MOST_HOURS:.0f} hours at most")
    now = int(time.time())
    content = json.dumps({"box": box_id, "signed_at": now, "until": round(now + hours * 3600), "who": who}).encode()
    return f"{base64.urlsafe_b64encode(content).decode()}.{signing.sign(content, key, PURPOSE).decode()}\n"


def read(box: Box, token: str) -> dict[str, Any]:
    """What a token says that was signed for this box, whether or not it counts now.

    Raises
    ------
    RefusedError
        It was not.
    """
    first, _, signature = token.strip().partition(".")
    try:
        content = base64.urlsafe_b64decode(first)
    except ValueError as error:
        raise RefusedError("this is no service token", hint="take the whole line") from error
    signing.verify(content, signature.encode(), [box.trust / "site.pub"], PURPOSE, "the service token")
    said = json.loads(content)  # not before: what anybody has written need not end
    if said["box"] != box.identity():
        raise RefusedError(f"the service token is for box {said['box']}, and this is {box.identity()}")
    return dict(said)


def check(box: Box, token: str) -> dict[str, Any]:
    """What a token says, where it counts here and now.

    Raises
    ------
    RefusedError
        It does not.
    """
    said = read(box, token)
    now = time.time()
    if not 0 < said["until"] - now <= _MOST_HOURS * 3600:
        raise RefusedError(
            f"the service token counts until {_said(said['until'])}, and the clock says {_said(now)}",
            hint="make a new one: on a stick it moves a late clock forward; one that is ahead needs a time server",
        )
    return said


def _said(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def open_shell(box: Box, token: str) -> str:
    """A root shell on the console until the token ends. A shell that waits for input ends by SIGHUP alone."""
    said = check(box, token)
    seconds = round(float(said["until"]) - time.time())
    box.remember_if_possible("service", who=said["who"], seconds=seconds)
    subprocess.run(
        ["systemd-run", "--unit=scanside-shell", "--collect", f"--property=RuntimeMaxSec={seconds}",
         "--property=StandardInput=tty", "--property=StandardOutput=tty", "--property=StandardError=tty",
         "--property=TTYPath=/dev/console", "--property=TTYReset=yes", "--property=SendSIGHUP=yes",
         "--setenv=TERM=linux", "/bin/bash", "--login"],
        check=True, timeout=60,
    )  # fmt: skip
    return f"service mode for {said['who']}, until {time.strftime('%H:%M UTC', time.gmtime(float(said['until'])))}"

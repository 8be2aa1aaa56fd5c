"""What the console of a box without a configuration says: where its page is, and how the first account is made."""

from __future__ import annotations

import socket
import time
import tomllib
from collections.abc import Callable

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from firmware import health, provisioning
from firmware.box import Box
from firmware.firewall import page_port

_SECONDS = 90.0  # a DHCP server, or the address that a port takes by itself, may be late
_PAUSE = 3.0


def addresses() -> list[str]:
    """IPv4 addresses under which others reach this machine."""
    known = psutil.net_if_addrs()
    found = [each.address for of_one in known.values() for each in of_one if each.family == socket.AF_INET]
    return [each for each in found if not each.startswith("127.")]


def invitation(
    box: Box,
    ask: health.Ask = health.scanside,
    addresses: Callable[[], list[str]] = addresses,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """The lines; none where a configuration is in force, or nobody reaches the page.

    The code is a new one, and an earlier one counts no more.
    """
    port = page_port(tomllib.loads(box.configuration.read_text()))
    if provisioning.number_in_force(box) is not None or port is None:
        return []
    found = addresses()
    for _ in range(int(_SECONDS / _PAUSE)):
        if found:
            break
        sleep(_PAUSE)
        found = addresses()
    if not found:
        return ["this box has no configuration, and no address: put a cable in, or bring a stick with site.toml"]
    pages = " or ".join(f"https://{each}:{port}/box" for each in found)
    lines = [f"this box has no configuration yet: enter it at {pages}"]
    code = ask(("accounts", "enrol", "--config", str(box.configuration)))
    if code.returncode == 0:
        lines.append(f"its page asks for the code {code.stdout.strip()}, with which the first account is made")
    shown = box.data / "keys" / "page.pem"
    if shown.exists():
        fingerprint = x509.load_pem_x509_certificate(shown.read_bytes()).fingerprint(hashes.SHA256())
        lines.append(f"its certificate, which the browser shows, is SHA-256 {fingerprint.hex(':').upper()}")
    return lines

"""What the console of a box says: where its page is, and, without a configuration, how the first account is made."""

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
    """The lines; none where nobody else reaches the page.

    Without a configuration they have a new code for the first account, and an earlier one counts no more.
    """
    configuration = tomllib.loads(box.configuration.read_text())
    port = page_port(configuration)
    if port is None:
        return []
    found = addresses()
    for _ in range(int(_SECONDS / _PAUSE)):
        if found:
            break
        sleep(_PAUSE)
        found = addresses()
    is_new = provisioning.number_in_force(box) is None
    if not found and is_new:
        return ["this box has no configuration, and no address: put a cable in, or bring a stick with site.toml"]
    if not found:
        return [
            "this box has no address, so that nobody reaches its page: put a cable in, or mend [network] of site.toml"
        ]
    pages = [f"https://{each}:{port}/" for each in found]
    if is_new:
        lines = [f"this box has no configuration yet: enter it at {' or '.join(f'{each}box' for each in pages)}"]
        code = ask(("accounts", "enrol", "--config", str(box.configuration)))
        if code.returncode == 0:
            lines.append(f"its page asks for the code {code.stdout.strip()}, with which the first account is made")
    else:
        lines = [f"the page of this box is at {' or '.join(pages)}"]
    shown = box.data / "keys" / "page.pem"
    if shown.exists() and "tls" not in configuration["web"]:  # otherwise it is the one that the site has given
        fingerprint = x509.load_pem_x509_certificate(shown.read_bytes()).fingerprint(hashes.SHA256())
        lines.append(f"its certificate, which the browser shows, is SHA-256 {fingerprint.hex(':').upper()}")
    return lines

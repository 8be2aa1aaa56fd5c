"""The network of a site's configuration, as systemd-networkd reads it, and the ports of this machine."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

from firmware.box import Box
from firmware.errors import FirmwareError

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_PORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
# Otherwise a DHCP server would know the box by the machine's id, which is a new one at each start.
_KEEPS_ADDRESS = ("[DHCPv4]", "ClientIdentifier=mac")
# Where one port is chosen, the image's own file would have the others ask a DHCP server, whose routes count as well.
OTHER_PORTS = "[Match]\nType=ether\nKind=!*\n\n[Link]\nUnmanaged=yes\n"


def ports(box: Box) -> dict[str, tuple[str, bool]]:
    """The machine's own Ethernet ports by name: MAC address, and whether a cable with something at its end is in it."""
    found = {}
    for path in sorted((box.root / "sys/class/net").glob("*")):
        if (path / "device").exists() and _read(path / "type") == "1":  # ARPHRD_ETHER
            found[path.name] = (_read(path / "address"), _read(path / "carrier") == "1")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # such as the carrier of a port that is down
        return ""


def check_ports(box: Box, table: dict[str, Any], name: str) -> None:
    """A static address is at one port of this machine, and a port that is chosen is there."""
    port, there = table.get("port"), ports(box)
    if port is None:
        cabled = [f"{each} ({address})" for each, (address, carrier) in there.items() if carrier]
        if table.get("address", "dhcp") != "dhcp" and len(cabled) > 1:
            raise FirmwareError(
                f"{name}: {table['address']} would be at {len(cabled)} ports that have a cable: {', '.join(cabled)}",
                hint=f'choose one of them in [network], as in port = "{cabled[0].split()[0]}", or leave one cable in',
            )
    elif there and port not in there and port.lower() not in (address for address, _ in there.values()):
        known = ", ".join(f"{each} ({address})" for each, (address, _) in there.items())
        raise FirmwareError(f"{name}: this machine has no port {port}", hint=f"there are {known}")


def file(table: dict[str, Any], name: str = "[network]") -> str:
    """A systemd.network file."""
    address, port = table.get("address", "dhcp"), table.get("port")
    if port is None:
        chosen = []
    elif _MAC.fullmatch(port):
        chosen = [f"MACAddress={port}"]
    elif _PORT_NAME.fullmatch(port):
        chosen = [f"Name={port}"]
    else:
        raise FirmwareError(f"{name}: {port!r} is no port", hint="write its MAC address, or its name, as in enp1s0")
    lines = ["[Match]", "Type=ether", "Kind=!*", *chosen, "", *_KEEPS_ADDRESS, "", "[Network]"]
    try:
        if address == "dhcp":
            lines.append("DHCP=yes")
        else:
            own = ipaddress.ip_interface(address)
            lines.append(f"Address={own}")
            if "/" not in address:
                raise ValueError(f"{address} has no prefix length, such as /24")
            if "gateway" in table:
                gateway = ipaddress.ip_address(table["gateway"])
                near = own.version == gateway.version == 6 and gateway.is_link_local
                if gateway not in own.network and not near:
                    raise ValueError(f"the gateway {gateway} is not in {own.network}, so that nothing would reach it")
                lines.append(f"Gateway={gateway}")
        lines += [f"DNS={ipaddress.ip_address(each)}" for each in table.get("dns", ())]
    except ValueError as error:
        raise FirmwareError(f"{name}: {error}", hint='address is "dhcp" or like "192.0.2.5/24"') from error
    return "\n".join(lines) + "\n"

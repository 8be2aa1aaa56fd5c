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
        if address != "dhcp":
            lines += _static(address, table.get("gateway"))
        elif "gateway" in table:
            raise ValueError(
                'a gateway beside "dhcp" counts for nothing, since the DHCP server says which one there is'
            )
        else:
            lines.append("DHCP=yes")
        lines += [f"DNS={ipaddress.ip_address(each)}" for each in table.get("dns", ())]
    except ValueError as error:
        raise FirmwareError(f"{name}: {error}", hint='address is "dhcp" or like "192.0.2.5/24"') from error
    return "\n".join(lines) + "\n"


def _static(address: str, gateway: str | None) -> list[str]:
    """Raises `ValueError` where nothing would be reached by it."""
    own = ipaddress.ip_interface(address)
    if "/" not in address:
        raise ValueError(f"{address} has no prefix length, such as /24")
    _check_host(own.ip, own.network)
    if gateway is None:
        return [f"Address={own}"]
    way = ipaddress.ip_address(gateway)
    if way == own.ip:
        raise ValueError(f"the gateway {way} is the box's own address")
    near = own.version == way.version == 6 and way.is_link_local
    if way not in own.network and not near:
        raise ValueError(f"the gateway {way} is not in {own.network}, so that nothing would reach it")
    if not near:
        _check_host(way, own.network)
    return [f"Address={own}", f"Gateway={way}"]


def _check_host(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> None:
    """Whether a machine can have this address; raises `ValueError`."""
    unusable = address.is_unspecified or address.is_loopback or address.is_multicast
    if unusable or (address.version == 4 and address.is_reserved):
        raise ValueError(f"{address} is no address that a machine can have in a network")
    if network.max_prefixlen - network.prefixlen < 2:  # /31, /32, /127, /128: each address is a machine's
        return
    if address == network.network_address:
        raise ValueError(f"{address} is the address of the network {network}, and no machine's")
    if address.version == 4 and address == network.broadcast_address:
        raise ValueError(f"{address} is that of all machines in {network}, and no single one's")

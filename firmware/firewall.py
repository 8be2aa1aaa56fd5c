"""The packet filter: what the appliance's configuration opens, and nothing else.

While the system that runs is not known to be good nothing is open, so that no scanner gets an acknowledgement from one
that may be sent back with its ledger; and nothing goes out but what the network itself needs, since the earlier system
would send it again.
"""

from __future__ import annotations

import ipaddress
import subprocess
import tomllib
from typing import Any

from firmware.box import Box
from firmware.errors import FirmwareError

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_RULES = """flush ruleset
table inet scanside {{
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        ct state invalid drop
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, echo-request }} accept
        icmp type {{ echo-request, destination-unreachable }} limit rate 10/second accept
        udp sport 67 udp dport 68 accept
        ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
{ports}    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
    }}
{output}}}
"""
# Refused at once, not dropped: what tries would otherwise wait, and the check of the new system with it.
_OUTPUT_ON_TRIAL = """    chain output {
        type filter hook output priority filter; policy drop;
        oifname "lo" accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
        udp dport { 53, 67, 123, 547 } accept
        tcp dport 53 accept
        reject
    }
"""


def page_port(configuration: dict[str, Any]) -> int | None:
    """Where others reach the page; None where only the machine itself does, or there is none."""
    web = configuration.get("web", {})
    if not web.get("enabled", True) or web.get("host", "127.0.0.1") in LOOPBACK:
        return None
    return int(web.get("port", 8080))


def rules(configuration: dict[str, Any], on_trial: bool = False) -> str:
    """An nftables ruleset for a configuration (the appliance's TOML as tables)."""
    lines = [] if on_trial else list(_opened(configuration))
    comment = "        # a new system is on trial: nothing is opened yet\n" if on_trial else ""
    ports = comment + "".join(f"        {line}\n" for line in lines)
    return _RULES.format(ports=ports, output=_OUTPUT_ON_TRIAL if on_trial else "")


def _opened(configuration: dict[str, Any]) -> list[str]:
    scp = configuration.get("storage_scp", {})
    found = []
    if scp.get("enabled", True) and scp.get("host", "0.0.0.0") not in LOOPBACK:  # noqa: S104 (the configuration's)
        port = int(scp.get("port", 11112))
        addresses = [str(each["address"]) for each in scp.get("modalities", ()) if "address" in each]
        everybody = not scp.get("only_modalities") or len(addresses) < len(scp.get("modalities", ()))
        found += [f"tcp dport {port} accept"] if everybody else _from(addresses, port)
    page = page_port(configuration)
    if page is not None:
        found.append(f"tcp dport {page} accept")
    diagnoses = configuration.get("diagnoses", {})
    if diagnoses.get("enabled", False) and diagnoses.get("host", "0.0.0.0") not in LOOPBACK:  # noqa: S104
        port, addresses = int(diagnoses.get("port", 2575)), [str(each) for each in diagnoses.get("addresses", ())]
        found += _from(addresses, port) or [f"tcp dport {port} accept"]
    return found


def _from(addresses: list[str], port: int) -> list[str]:
    rows = []
    for address in addresses:
        network = ipaddress.ip_network(address, strict=False)
        rows.append(f"{'ip' if network.version == 4 else 'ip6'} saddr {network} tcp dport {port} accept")
    return rows


def apply(box: Box) -> str:
    """Load the rules that fit the configuration and the slot's state; returns them."""
    boot = box.boot()
    try:
        tables = tomllib.loads(box.configuration.read_text())
    except (OSError, ValueError) as error:
        tables = {"storage_scp": {"enabled": False}, "web": {"enabled": False}}
        reason = f"{box.configuration}: {error}"
        box.remember_if_possible("closed", why=reason)  # without a configuration nothing is open
    text = rules(tables, on_trial=boot.state(boot.current()) != "good")
    done = subprocess.run(["nft", "--file", "-"], input=text, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise FirmwareError(f"the packet filter was not loaded: {done.stderr.strip()}")
    return text

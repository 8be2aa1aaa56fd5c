"""Who may associate, and how many at once: allow-lists, quotas, and places that are kept for known modalities."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from dataclasses import dataclass

from appliance import config
from appliance.acceptor.pdu import Refusal

# PS3.8 table 9-21
_CALLING_NOT_RECOGNIZED = (0x01, 0x01, 0x03)
_CALLED_NOT_RECOGNIZED = (0x01, 0x01, 0x07)
_LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)


@dataclass(frozen=True)
class _Guest:
    address: str
    known: bool
    only_verifies: bool = False


class Access:
    """Counts the associations that are open; safe to use from several threads."""

    def __init__(self, settings: config.StorageScp) -> None:
        self._settings = settings
        self._modalities = [(each, _network(each.address)) for each in settings.modalities]
        # Without known modalities there is nobody to keep a place for.
        reserved = min(settings.reserved_associations, settings.max_associations - 1) if settings.modalities else 0
        self._most_unknown = settings.max_associations - reserved
        self._lock = threading.Lock()
        self._open: Counter[_Guest] = Counter()

    def modality(self, address: str, calling_ae_title: str) -> config.Modality | None:
        """The configured modality that a peer is, if any."""
        peer = plain(address)
        for each, network in self._modalities:
            if (network is None or peer in network) and each.ae_title in (None, calling_ae_title):
                return each
        return None

    def enter(self, address: str, own_address: str, calling_ae_title: str, called_ae_title: str) -> _Guest | Refusal:
        """A place, to be given back with `leave`, or why there is none.

        This device itself, by its own title on both sides and at its own address, gets in past the lists, for C-ECHO
        alone: otherwise it could not tell whether its Storage SCP answers. Anybody on this machine can say so, and
        gains nothing.
        """
        guest = self._judge(address, calling_ae_title, called_ae_title)
        if isinstance(guest, Refusal):
            itself = calling_ae_title == called_ae_title == self._settings.ae_title and address == own_address
            if not itself:
                return guest
            guest = _Guest(address, known=False, only_verifies=True)
        return self._place(guest)

    def _judge(self, address: str, calling_ae_title: str, called_ae_title: str) -> _Guest | Refusal:
        """By the lists."""
        settings = self._settings
        guest = _Guest(address, self.modality(address, calling_ae_title) is not None)
        if settings.only_modalities and not guest.known:
            return Refusal(*_CALLING_NOT_RECOGNIZED, "it is none of storage_scp.modalities")
        if settings.called_ae_titles and called_ae_title not in settings.called_ae_titles:
            return Refusal(
                *_CALLED_NOT_RECOGNIZED, f"it calls {called_ae_title!r}, not in storage_scp.called_ae_titles"
            )
        return guest

    def _place(self, guest: _Guest) -> _Guest | Refusal:
        """By the quotas."""
        settings = self._settings
        with self._lock:
            if self._open.total() >= settings.max_associations:
                return Refusal(*_LOCAL_LIMIT_EXCEEDED, "storage_scp.max_associations are open")
            if not guest.known:
                if self._open[guest] >= settings.max_associations_per_address:
                    words = "storage_scp.max_associations_per_address are open from its address"
                    return Refusal(*_LOCAL_LIMIT_EXCEEDED, words)
                if sum(count for each, count in self._open.items() if not each.known) >= self._most_unknown:
                    return Refusal(*_LOCAL_LIMIT_EXCEEDED, "the places left are kept for storage_scp.modalities")
            self._open[guest] += 1
        return guest

    def leave(self, guest: _Guest) -> None:
        with self._lock:
            self._open[guest] -= 1
            if not self._open[guest]:
                del self._open[guest]

    @property
    def open(self) -> int:
        with self._lock:
            return self._open.total()


def _network(address: str | None) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    return None if address is None else ipaddress.ip_network(address)


def plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A peer's address as people write it: IPv4 where it is mapped into IPv6, without a zone."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found

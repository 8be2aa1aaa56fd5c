"""What is asked about a connection: whom, how, and for what."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pydicom.uid import UID

from appliance.send import Destination
from appliance.tls_client import TlsFiles


@dataclass(frozen=True)
class Question:
    """Whom to ask, how, and for what.

    Attributes
    ----------
    wanted
        SOP class -> the transfer syntaxes in which the peer should take it.
    tls
        None for plain DICOM.
    own
        Whether the peer is this device's own Storage SCP; the certificate of ``tls`` is then the one that it shows.
    """

    peer: Destination
    calling_ae_title: str
    wanted: dict[UID, tuple[UID, ...]]
    tls: TlsFiles | None = None
    timeout: float = 5.0
    own: bool = False

    def connect(self) -> socket.socket:
        """A connection without TLS; raises `OSError`."""
        return socket.create_connection((self.peer.host, self.peer.port), self.timeout)

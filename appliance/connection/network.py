"""The layers below TLS and DICOM: the peer's name, and its port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from appliance.checks import Check
from appliance.connection.question import Question


def name(question: Question) -> Iterator[Check]:
    host = question.peer.host
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield Check("name", "fail", f"{host} has no address: {reason}", "check its spelling, or write its IP address")
        return
    if found != {host}:
        yield Check("name", "ok", f"{host} is {', '.join(sorted(found))}")


def port(question: Question) -> Iterator[Check]:
    where = f"{question.peer.host}, port {question.peer.port}"
    try:
        question.connect().close()
    except ConnectionRefusedError:
        yield Check(
            "port",
            "fail",
            f"{where}: the machine answers, but nothing listens there",
            "start the peer's DICOM service, or ask for its port (often 104 or 11112; with TLS 2762)",
        )
    except TimeoutError:
        yield Check(
            "port",
            "fail",
            f"{where}: no answer within {question.timeout:g} s",
            "a firewall drops it, or no machine has this address: ping it, then ask who runs the network",
        )
    except OSError as error:
        yield Check(
            "port",
            "fail",
            f"{where}: {error.strerror}",
            "check the address, this device's cable, network mask and gateway; a firewall may also say this",
        )
    else:
        yield Check("port", "ok", f"{where} is open")

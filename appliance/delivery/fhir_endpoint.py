"""FHIR R4 over HTTP: a transaction Bundle posted to a server's base address (FHIR's RESTful API, "transaction").

A server does all of a transaction or nothing; each entry has a condition (``ifNoneExist``), so that the same Bundle
posted again creates nothing twice.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import parse_url

from appliance import tls_client
from appliance.config import Config, Destination
from appliance.delivery.way import Answer, Item, authorization, tls_files
from appliance.errors import ApplianceError, DeliveryError

_MEDIA_TYPE = "application/fhir+json"
_LARGEST_ANSWER = 4 << 20
_DONE = ("200", "201")
_OF_THE_ITEM = (400, 409, 412, 413, 422)
_CODE = re.compile(r"[a-z-]{1,40}")


class FhirWay:
    """See the module; `appliance.delivery.way.Way`."""

    def __init__(self, destination: Destination, config: Config) -> None:
        self._destination, self._config = destination, config
        self._base = parse_url(destination.url.rstrip("/"))

    def check(self) -> None:
        status, content = self._asked("GET", "/metadata", None)
        resource = _resource(content)
        if status != 200:
            raise _failure(self._peer, status, resource)
        if resource.get("resourceType") != "CapabilityStatement":
            raise DeliveryError(f"{self._peer} does not answer as a FHIR server", hint="check the address")
        if not str(resource.get("fhirVersion", "")).startswith("4.0"):
            raise DeliveryError(
                f"{self._peer} speaks FHIR {str(resource.get('fhirVersion'))[:10]}, not R4 (4.0.1)",
                hint="use the address of its R4 endpoint",
            )

    def send(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item in items:
            try:
                bundle = item.path.read_bytes()
            except OSError as error:
                yield Answer(item, f"{item.path} can't be read: {error.strerror}", "item")
                continue
            answer = self._answered(item, bundle)
            yield answer
            if answer.blame in ("destination", "both"):
                return

    def close(self) -> None:
        pass

    @property
    def _peer(self) -> str:
        return f"the FHIR server {self._destination.url}"

    def _answered(self, item: Item, bundle: bytes) -> Answer:
        try:
            status, content = self._asked("POST", "", bundle)
        except ApplianceError as error:
            return Answer(item, str(error), "both" if isinstance(error, _BrokenOffError) else "destination")
        try:
            _check(self._peer, status, _resource(content), len(msgspec.json.decode(bundle)["entry"]))
        except DeliveryError as error:
            refused = status in _OF_THE_ITEM or status == 200
            return Answer(item, str(error), "item" if refused else "both" if status == 500 else "destination")
        return Answer(item)

    def _asked(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and content of the answer.

        Raises
        ------
        DeliveryError, ConfigError
            There is none; the server can't be reached, or a file of the login or of TLS can't be read.
        """
        timeout = self._config.delivery.timeout_seconds
        headers = {"Accept": _MEDIA_TYPE, **authorization(self._destination, self._config)}
        if body is not None:
            headers |= {"Content-Type": _MEDIA_TYPE, "Prefer": "return=minimal"}
        with self._pool(timeout) as pool:
            try:
                answer = pool.urlopen(
                    method, f"{self._base.path or ''}{path}" or "/", body, headers,
                    retries=False, redirect=False, preload_content=False,
                )  # fmt: skip
                return answer.status, _read(answer, time.monotonic() + timeout)
            except (NewConnectionError, ConnectTimeoutError, NameResolutionError, SSLError) as error:
                raise DeliveryError(
                    f"{self._peer} can't be reached: {_reason(error)}",
                    hint="check its address, its certificate and the firewall",
                ) from error
            except (TimeoutError, ReadTimeoutError) as error:
                raise _BrokenOffError(f"{self._peer} does not answer within {timeout:g} s") from error
            except HTTPError as error:
                raise _BrokenOffError(f"{self._peer} broke off: {_reason(error)}") from error

    def _pool(self, timeout: float) -> HTTPConnectionPool:
        host, port = self._base.host or "", self._base.port
        if self._base.scheme != "https":
            return HTTPConnectionPool(host, port, timeout=timeout, maxsize=1)
        files = tls_files(self._destination.tls, self._config)
        return HTTPSConnectionPool(
            host, port, timeout=timeout, maxsize=1, ssl_context=tls_client.client_context(files),
            server_hostname=files.name or host, assert_hostname=files.name or host,
        )  # fmt: skip


def _read(answer: BaseHTTPResponse, until: float) -> bytes:
    content = b""
    for more in answer.stream(65536):
        content += more
        if len(content) > _LARGEST_ANSWER or time.monotonic() > until:
            raise TimeoutError
    return content


def _resource(content: bytes) -> dict[str, Any]:
    """The resource in an answer, empty where there is none."""
    answer: Any = None
    with contextlib.suppress(msgspec.DecodeError):
        answer = msgspec.json.decode(content)
    return answer if isinstance(answer, dict) else {}


def _failure(peer: str, status: int, resource: dict[str, Any]) -> DeliveryError:
    """What the server says in free text is left out, since it may quote the patient."""
    issues = resource.get("issue") if resource.get("resourceType") == "OperationOutcome" else None
    codes = [str(each.get("code")) for each in issues or () if isinstance(each, dict)]
    said = ", ".join(code for code in dict.fromkeys(codes) if _CODE.fullmatch(code))
    hint = {401: "check the login", 403: "check what this login may do", 404: "check the address"}.get(status)
    return DeliveryError(f"{peer} answers HTTP {status}{f' ({said})' if said else ''}", hint=hint)


def _check(peer: str, status: int, resource: dict[str, Any], entries: int) -> None:
    """Raises `DeliveryError` unless every entry is there."""
    if status != 200:
        raise _failure(peer, status, resource)
    if resource.get("type") != "transaction-response" or not isinstance(resource.get("entry"), list):
        raise DeliveryError(f"{peer} answers HTTP 200, but not with the outcome of a transaction")
    responses = [each.get("response") for each in resource["entry"] if isinstance(each, dict)]
    done = [each for each in responses if isinstance(each, dict) and str(each.get("status", "")).startswith(_DONE)]
    if len(done) != entries:
        raise DeliveryError(f"{peer} has done {len(done)} of {entries} entries of the transaction")


def _reason(error: Exception) -> str:
    """Without the addresses of Python objects that urllib3 puts before it."""
    cause = error.args[-1] if error.args else error
    if isinstance(cause, Exception) and cause is not error:
        return _reason(cause)
    return str(cause).rpartition(": ")[2].rpartition("] ")[2] or type(error).__name__


class _BrokenOffError(DeliveryError):
    """The connection ended, or time did, within a request."""

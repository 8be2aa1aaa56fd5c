"""STOW-RS as a way out (PS3.18 section 10.5): results to a DICOMweb service, over TLS where its address says so."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import msgspec
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from appliance import __version__
from appliance.config import Config, Destination
from appliance.delivery.storage_scu import DUPLICATE
from appliance.delivery.way import Answer, Blame, Item, authorization, tls_files
from appliance.errors import ApplianceError, DeliveryError
from appliance.tls_client import client_context

_LONGEST_ANSWER = 1024 * 1024
_FAILED, _REFERENCED, _OTHER = "00081198", "00081199", "0008119A"  # Failed, Referenced SOP, Other Failures Sequence
_REASON, _INSTANCE = "00081197", "00081155"  # Failure Reason, Referenced SOP Instance UID
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_DICOM_TYPES = ("application/dicom+json", "application/dicom+xml")
_HINTS = {
    401: "check the login of this destination",
    403: "the login of this destination may not store here",
    404: "check url: it ends before /studies",
    413: "the service takes no file of this size",
    415: "the service does not take application/dicom",
}
# What the service says of itself, not of one object.
_OF_DESTINATION = {401, 403, 404, 405, 408, 415, 429, 502, 503, 504, 507}


class _Response(NamedTuple):
    """``media_type`` is of its Content-Type, in lower case and without parameters; empty where it has none."""

    status: int
    media_type: str
    content: bytes


class _Told(NamedTuple):
    """What a Store Instances Response Module says: Failure Reasons, and SOP Instance UIDs of what was stored."""

    reasons: list[int]
    stored: list[str]


class StowWay:
    """`appliance.delivery.way.Way` by STOW-RS: one request for each object, on one connection."""

    def __init__(self, destination: Destination, config: Config) -> None:
        self._destination, self._config = destination, config
        self._pool: urllib3.PoolManager | None = None

    def check(self) -> None:
        """Look whether the service is there: it is asked for one study."""
        try:
            status = self._request("GET", "studies?limit=1", {"Accept": "application/dicom+json"}).status
        except HTTPError as error:
            raise DeliveryError(self._in_words(error)) from error
        if status >= 300 and status not in (405, 501):  # one that stores need not search
            raise DeliveryError(f"{self._destination.url} answers with {status}", hint=_HINTS.get(status))

    def send(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item in items:
            answer = self._send(item)
            yield answer
            if answer.blame in ("destination", "both"):
                self.close()  # the files of TLS are read anew
                return

    def close(self) -> None:
        if self._pool is not None:
            self._pool.clear()
            self._pool = None

    def _send(self, item: Item) -> Answer:
        try:
            content = item.path.read_bytes()
        except OSError as error:
            return Answer(item, f"{item.path} can't be read: {error.strerror}", "item")
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join((head, content, f"\r\n--{boundary}--\r\n".encode()))
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        try:
            response = self._request("POST", "studies", headers, body)
        except HTTPError as error:
            reached = not isinstance(error, NewConnectionError | ConnectTimeoutError | SSLError)
            return Answer(item, self._in_words(error), "both" if reached else "destination")
        except ApplianceError as error:
            return Answer(item, str(error), "destination")
        fault, blame = _judge(response, item.sop_instance_uid)
        return Answer(item, f"{self._destination.url} {fault}" if fault else "", blame)

    def _request(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> _Response:
        """Raises `urllib3.exceptions.HTTPError`, or `ConfigError`."""
        pool = self._pool = self._pool or self._connect()
        response = pool.request(
            method,
            f"{self._destination.url.rstrip('/')}/{path}",
            body=body,
            headers={
                **headers,
                **authorization(self._destination, self._config),
                "User-Agent": f"scanside/{__version__}",
            },
            retries=False,  # the outbox tries again; and what comes of a redirect would be the wrong request
            redirect=False,
            preload_content=False,
        )
        try:
            content = response.read(_LONGEST_ANSWER)
        except HTTPError:
            response.close()
            raise
        if len(content) < _LONGEST_ANSWER:
            response.release_conn()
        else:
            response.close()
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return _Response(response.status, media_type, content)

    def _connect(self) -> urllib3.PoolManager:
        timeout = self._config.delivery.timeout_seconds
        options: dict[str, Any] = {}
        if self._destination.url.startswith("https:"):
            files = tls_files(self._destination.tls, self._config)
            options["ssl_context"] = client_context(files)
            if files.name:
                options["server_hostname"] = options["assert_hostname"] = files.name
        return urllib3.PoolManager(num_pools=1, timeout=urllib3.Timeout(connect=timeout, read=timeout), **options)

    def _in_words(self, error: HTTPError) -> str:
        url = self._destination.url
        if isinstance(error, SSLError):
            return f"{url} can't be reached over TLS: {error}"
        if isinstance(error, NewConnectionError | ConnectTimeoutError):
            return f"{url} can't be reached (check that it runs, its address and the firewall)"
        return f"{url} gave no answer: {error}"


def _judge(response: _Response, sop_instance_uid: str) -> tuple[str, Blame]:
    """What an answer says of the one object that was sent (PS3.18 section 10.5.3): an error, '' for none; its blame."""
    status, media_type, content = response
    told = _told(response)
    reasons, stored = told or _Told([], [])
    if reasons and status in (200, 202, 409):
        if set(reasons) == {DUPLICATE}:
            return "", "nobody"
        full = any(reason in _OUT_OF_RESOURCES for reason in reasons)
        words = ", ".join(f"0x{reason:04X}" for reason in reasons)
        return f"did not store it: {words} (Failure Reason)", "destination" if full else "item"
    if sop_instance_uid in stored and status in (200, 202):  # 202: stored with a warning
        return "", "nobody"
    if status == 200:
        if stored:
            return "did not store it: its answer names other objects only", "item"
        if not content.strip() or (told is not None and media_type in _DICOM_TYPES):
            return "", "nobody"
        what = media_type or "something"
        return f"answers with {what} that is no answer to STOW-RS (check url, and for a proxy before it)", "destination"
    hint = _HINTS.get(status)
    blame: Blame = "both" if status >= 500 else "item"
    if status in _OF_DESTINATION or 300 <= status < 400:
        blame = "destination"
    return f"answers with {status}{f' ({hint})' if hint else ''}", blame


def _told(response: _Response) -> _Told | None:
    """None where the content is no DICOM object, as JSON or XML."""
    with contextlib.suppress(
        msgspec.DecodeError, ElementTree.ParseError, KeyError, TypeError, IndexError, ValueError, AttributeError
    ):
        if response.media_type.endswith("xml"):
            module = _json_model(ElementTree.fromstring(response.content))  # noqa: S314 (expat bounds what entities become)
        else:
            module = msgspec.json.decode(response.content)
        failed = [item for name in (_FAILED, _OTHER) for item in module.get(name, {}).get("Value", [])]
        stored = module.get(_REFERENCED, {}).get("Value", [])
        return _Told(
            [int(item.get(_REASON, {}).get("Value", [0])[0]) for item in failed],
            [str(item[_INSTANCE]["Value"][0]) for item in stored],
        )
    return None


def _json_model(parent: ElementTree.Element) -> dict[str, Any]:
    """The attributes below an element of the Native DICOM Model (PS3.19 annex A.1), as the DICOM JSON Model has them.

    Values stay text.
    """
    return {
        each.get("tag", ""): {
            "Value": [_json_model(item) for item in each.findall("{*}Item")]
            or [(value.text or "").strip() for value in each.findall("{*}Value")]
        }
        for each in parent.findall("{*}DicomAttribute")
    }

"""STOW-RS as a way out: to Orthanc, over TLS too, and to services that answer with faults."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest

from appliance.acceptor.tls import server_context
from appliance.config import Config, Destination, DestinationLogin, DestinationTls
from appliance.delivery import way_to
from appliance.delivery.way import Answer
from appliance.errors import DeliveryError
from tests.certificates import Authority
from tests.dicom_files import make_radiograph
from tests.outgoing import FAST, Results, send
from tests.peers import dicomweb_plugin, free_port, orthanc, wait_until


def web(url: str, **more: object) -> Destination:
    return Destination(**{"name": "web", "protocol": "stow", "url": url, **more})


@contextmanager
def service(
    answer: Callable[[bytes], tuple[int, bytes]],
    tls: ssl.SSLContext | None = None,
    content_type: str = "application/dicom+json",
) -> Iterator[str]:
    """A DICOMweb service that answers as it is told; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, content = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", content_type)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        host = "https://localhost" if tls else "http://127.0.0.1"
        yield f"{host}:{server.server_port}/dicom-web"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_orthanc_stores_each_object_once_however_often_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    login = DestinationLogin(username="scanside", password_file="password")
    settings = {"AuthenticationEnabled": True, "RegisteredUsers": {"scanside": "secret"}}
    with orthanc(tmp_path / "pacs", Plugins=[dicomweb_plugin()], **settings) as pacs:
        to = web(f"http://127.0.0.1:{pacs.http_port}/dicom-web/", login=login)
        results = Results(tmp_path, (to,), 3)
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
        way_to(to, results.config).check()
        files = sorted(results.folder.iterdir())
        assert [answer.error for answer in send(to, *files, data=tmp_path)] == ["", "", ""]
        held = pacs_instances(pacs.http_port)
        assert held == results.uids
        (tmp_path / "password").write_text("wrong")
        (refused,) = send(to, *files, data=tmp_path)
        assert (refused.blame, "401" in refused.error) == ("destination", True)
        with pytest.raises(DeliveryError, match="401"):
            way_to(to, results.config).check()
        (no_file,) = send(web(to.url, login=DestinationLogin(token_file="none")), files[0], data=tmp_path)
        assert "none can't be read" in no_file.error


def pacs_instances(http_port: int) -> set[str]:
    import base64
    import urllib.request

    def get(path: str) -> object:
        basic = base64.b64encode(b"scanside:secret").decode()
        url, headers = f"http://127.0.0.1:{http_port}{path}", {"Authorization": f"Basic {basic}"}
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    names = get("/instances")
    assert isinstance(names, list)
    return {str(dict(get(f"/instances/{name}/simplified-tags"))["SOPInstanceUID"]) for name in names}  # type: ignore[call-overload]


def test_over_tls_each_side_proves_who_it_is(tmp_path: Path) -> None:
    """Not with Orthanc 1.10, whose HTTPS server ends with the first request on OpenSSL 3."""
    ours, theirs = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "theirs", "theirs")
    certificate, key = theirs.issue("pacs")
    mine, my_key = ours.issue("scanside")
    source = make_radiograph(tmp_path / "a.dcm", rows=32, columns=32)

    def answer(url: str, ca: str | None = "theirs/theirs.pem", shown: bool = True, name: str | None = None) -> Answer:
        pair = {"key": str(my_key), "certificate": str(mine)} if shown else {}
        (found,) = send(web(url, tls=DestinationTls(ca=ca, name=name, **pair)), source, data=tmp_path)
        return found

    with service(lambda _: (200, b""), server_context(key, certificate, ours.ca)) as url:
        assert not answer(url).error
        for unknown in ("ours/ours.pem", None):
            refused = answer(url, ca=unknown)
            assert (refused.blame, "TLS" in refused.error) == ("destination", True)
        assert answer(url, shown=False).error
        by_number = url.replace("localhost", "127.0.0.1")
        assert "TLS" in answer(by_number).error  # its certificate is of another name
        assert not answer(by_number, name="localhost").error
        assert "missing.pem" in answer(url, ca="missing.pem").error


def failed(reason: int, sequence: str = "00081198") -> bytes:
    item = {"00081155": {"vr": "UI", "Value": ["1.2"]}, "00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({sequence: {"vr": "SQ", "Value": [item]}}).encode()


def stored(sop_instance_uid: str) -> bytes:
    item = {"00081155": {"vr": "UI", "Value": [sop_instance_uid]}}
    return json.dumps({"00081199": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("status", "content", "blame", "said"),
    [
        (200, failed(0xC000), "item", "0xC000"),
        (200, failed(0x0110, "0008119A"), "item", "0x0110"),
        (409, failed(0x0111), "nobody", ""),  # it has it
        (202, failed(0x0110), "item", "0x0110"),
        (202, b"[1, 2]", "item", "202"),
        (409, failed(0xA700), "destination", "0xA700"),
        (409, failed(0xC000), "item", "0xC000"),
        (409, b"\xff", "item", "409"),
        (400, b"", "item", "400"),
        (302, b"", "destination", "302"),
        (401, b"", "destination", "check the login"),
        (404, b"", "destination", "before /studies"),
        (500, b"", "both", "500"),
        (503, b"", "destination", "503"),
        (400, b"x" * (2 << 20), "item", "400"),
    ],
)
def test_what_an_answer_is_blamed_on(tmp_path: Path, status: int, content: bytes, blame: str, said: str) -> None:
    files = [make_radiograph(tmp_path / f"{n}.dcm", rows=32, columns=32, seed=n) for n in range(2)]
    with service(lambda _: (status, content)) as url:
        answers = send(web(url), *files)
    assert (answers[0].blame, said in answers[0].error) == (blame, True)
    assert len(answers) == (1 if blame in ("destination", "both") else 2)


def in_xml(sequence: str, *values: tuple[str, str]) -> bytes:
    """A Store Instances Response Module with one item, in the Native DICOM Model."""
    inside = "".join(
        f'<DicomAttribute tag="{tag}"><Value number="1">{value}</Value></DicomAttribute>' for tag, value in values
    )
    item = f'<DicomAttribute tag="{sequence}" vr="SQ"><Item number="1">{inside}</Item></DicomAttribute>'
    return f'<NativeDicomModel xmlns="{_NATIVE}">{item}</NativeDicomModel>'.encode()


_NATIVE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_LOGIN_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
_JSON, _XML = "application/dicom+json; charset=utf-8", "application/dicom+xml"


@pytest.mark.parametrize(
    ("content_type", "content", "blame", "said"),
    [
        (_JSON, b"", "nobody", ""),
        ("text/html", b"", "nobody", ""),
        (_JSON, b"{}", "nobody", ""),
        (_XML, b"<xml/>", "nobody", ""),
        ("application/json", stored("OURS"), "nobody", ""),
        (_XML, in_xml("00081199", ("00081155", "OURS")), "nobody", ""),
        (_JSON, stored("1.2.3"), "item", "names other objects only"),
        (_XML, in_xml("00081199", ("00081155", "1.2.3")), "item", "names other objects only"),
        (_XML, in_xml("00081198", ("00081155", "OURS"), ("00081197", "49152")), "item", "0xC000"),
        ("application/json", b"{}", "destination", "with application/json that is no answer to STOW-RS"),
        ("text/html; charset=utf-8", _LOGIN_PAGE, "destination", "with text/html that is no answer to STOW-RS"),
        ("", _LOGIN_PAGE, "destination", "no answer to STOW-RS"),
        (_JSON, _LOGIN_PAGE, "destination", "no answer to STOW-RS"),
        (_XML, b"<xml", "destination", "no answer to STOW-RS"),
    ],
)  # fmt: skip
def test_200_is_a_success_where_the_answer_is_one(
    tmp_path: Path, content_type: str, content: bytes, blame: str, said: str
) -> None:
    source = make_radiograph(tmp_path / "a.dcm", rows=32, columns=32)
    ours = content.replace(b"OURS", str(pydicom.dcmread(source).SOPInstanceUID).encode())
    with service(lambda _: (200, ours), content_type=content_type) as url:
        (answer,) = send(web(url), source)
    assert (answer.blame, said in answer.error, bool(said)) == (blame, True, bool(answer.error))


def test_an_object_that_was_stored_with_a_warning_is_there(tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm", rows=32, columns=32)
    bodies: list[bytes] = []

    def answer(body: bytes) -> tuple[int, bytes]:
        bodies.append(body)
        return 202, stored(str(pydicom.dcmread(source).SOPInstanceUID))

    with service(answer) as url:
        (found,) = send(web(url), source)
    assert not found.error
    (body,) = bodies
    head, _, rest = body.partition(b"\r\n\r\n")
    assert re.fullmatch(rb"--[0-9a-f]{32}\r\nContent-Type: application/dicom", head)
    assert rest.startswith(source.read_bytes())


def test_a_service_that_is_gone_is_said(tmp_path: Path) -> None:
    to = web(f"http://127.0.0.1:{free_port()}/dicom-web")
    (answer,) = send(to, make_radiograph(tmp_path / "a.dcm", rows=32, columns=32))
    assert (answer.blame, "can't be reached" in answer.error) == ("destination", True)
    with pytest.raises(DeliveryError, match="can't be reached"):
        way_to(to, Config(delivery=FAST)).check()

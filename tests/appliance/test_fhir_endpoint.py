"""Bundles reach a FHIR server whole and once, or it is said why not: against Medplum's FHIR R4 server."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config, Delivery, Destination, DestinationLogin, DestinationTls, Fhir
from appliance.delivery.fhir_endpoint import FhirWay
from appliance.delivery.way import Answer, Item
from appliance.errors import DeliveryError
from appliance.image import load
from appliance.result import Prediction
from appliance.writers.fhir_bundle import FhirBundleWriter
from tests.certificates import Authority
from tests.dicom_files import make_radiograph
from tests.fhir_server import FhirServer, fhir_server
from tests.peers import free_port
from tests.results import PROVENANCE, drawn, found, lungs_beside


@pytest.fixture(scope="module")
def server() -> Iterator[FhirServer]:
    with fhir_server() as running:
        yield running


def way(url: str, folder: Path = Path(), seconds: float = 20.0, **more: Any) -> FhirWay:
    to = Destination(name="fhir", protocol="fhir", url=url, send=("fhir_bundle",), **more)
    return FhirWay(to, Config(data_dir=str(folder), delivery=Delivery(timeout_seconds=seconds)))


def bundle(folder: Path, said: Prediction | None = None, **attributes: object) -> Item:
    image = load(make_radiograph(folder / "a.dcm", rows=16, columns=16, **attributes))
    path = folder / "fhir_bundle.json"
    path.write_bytes(FhirBundleWriter(Fhir()).write([image], said or lungs_beside(found()), PROVENANCE))
    return Item(1, path, "fhir_bundle", "", "1.2.3", 1, "routine")


def change(item: Item, **values: Any) -> Item:
    """With another status of its last resource."""
    content = json.loads(item.path.read_bytes())
    content["entry"][-1]["resource"].update(values)
    item.path.write_text(json.dumps(content))
    return item


def test_a_bundle_is_there_once_however_often_it_is_sent(server: FhirServer, tmp_path: Path) -> None:
    sent = bundle(tmp_path, SpecificCharacterSet="ISO_IR 192", PatientName="Wang^XiaoDong=王^小东")
    out = way(server.base)
    assert list(out.send([sent, sent, sent])) == [Answer(sent)] * 3
    (report,) = server.all("DiagnosticReport")
    assert [reference["reference"].split("/")[0] for reference in report["result"]] == ["Observation"] * 2
    observations = {f"Observation/{each['id']}" for each in server.all("Observation")}
    assert {reference["reference"] for reference in report["result"]} == observations
    assert len(server.all("Device")) == 2
    other = bundle(tmp_path / "other", drawn(), StudyInstanceUID="1.2.3.9")
    assert list(way(f"{server.base}/").send([other])) == [Answer(other)]
    assert len(server.all("DiagnosticReport")) == 2
    assert len(server.all("Device")) == 2  # the same algorithm on the same device


def test_what_the_server_refuses_keeps_nothing_else_back(server: FhirServer, tmp_path: Path) -> None:
    broken, whole = change(bundle(tmp_path / "a"), status=None), bundle(tmp_path / "b")
    gone = bundle(tmp_path / "c")
    gone.path.unlink()
    refused, missing, taken = way(server.base).send([broken, gone, whole])
    assert refused.blame == missing.blame == "item"
    assert "answers HTTP 400" in refused.error
    assert "status" not in refused.error  # the server's own words might quote the patient
    assert "can't be read" in missing.error
    assert taken == Answer(whole)


def test_it_asks_whether_this_is_fhir_r4(server: FhirServer) -> None:
    way(server.base).check()
    with pytest.raises(DeliveryError, match="HTTP 400"):
        way(f"{server.base}/elsewhere").check()


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
ANSWERS = {
    "no FHIR": (HEAD + b"<html>", "item", "not with the outcome of a transaction"),
    "too few": (
        HEAD + b'{"type": "transaction-response", "entry": [{"response": {"status": "201"}}, null, {"response": 1}]}',
        "item",
        "has done 1 of 5 entries",
    ),
    "login": (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "destination", "HTTP 401 .check the login"),
    "busy": (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "destination", "HTTP 503"),
    "broken": (b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n", "both", "HTTP 500"),
    "redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "destination", "HTTP 302",
    ),
    "closed": (b"", "both", "broke off: Remote end closed"),
    "cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "both", "broke off"),
    "no HTTP": (b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n", "both", "broke off"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "blame", "words"), ANSWERS.values(), ids=ANSWERS)
def test_only_a_whole_transaction_counts(answer: bytes, blame: str, words: str, tmp_path: Path) -> None:
    """Servers that no real one is: they say one thing to whatever comes."""
    sent = bundle(tmp_path)
    size = sent.path.stat().st_size

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            received = b""
            while len(received.partition(b"\r\n\r\n")[2]) < size:
                received += connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        (said,) = way(f"http://127.0.0.1:{listener.getsockname()[1]}/r4").send([sent])
        thread.join(10)
    assert said.blame == blame
    with pytest.raises(DeliveryError, match=words):
        raise DeliveryError(said.error)


def test_it_says_in_words_why_nobody_is_there(tmp_path: Path) -> None:
    sent = bundle(tmp_path)
    (said,) = way(f"http://127.0.0.1:{free_port()}", seconds=2.0).send([sent, sent])
    assert said.blame == "destination"
    assert "can't be reached: Connection refused" in said.error
    (said,) = way("http://no-such-host.invalid", seconds=2.0).send([sent])
    assert "can't be reached" in said.error
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (said,) = way(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.5).send([sent])
    assert said.blame == "both"
    assert "does not answer within 0.5 s" in said.error


def test_over_tls_with_a_login(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca", "hospital"), Authority(tmp_path / "other", "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("fhir", host="fhir.example"))
    (tmp_path / "token").write_text("secret\n")
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as encrypted:
                    heard.append(encrypted.recv(65536))
                    encrypted.sendall(HEAD + b'{"resourceType": "CapabilityStatement", "fhirVersion": "5.0.0"}')
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/r4"
        ours = DestinationTls(ca=str(authority.ca), name="fhir.example")
        with pytest.raises(DeliveryError, match=r"speaks FHIR 5\.0\.0, not R4"):
            way(url, tmp_path, tls=ours, login=DestinationLogin(token_file="token")).check()
        assert b"GET /r4/metadata" in heard[0]
        assert b"Authorization: Bearer secret" in heard[0]
        login = DestinationLogin(username="me", password_file="token")
        with pytest.raises(DeliveryError, match="not R4"):
            way(url, tmp_path, tls=ours, login=login).check()
        assert b"Basic bWU6c2VjcmV0" in heard[1]
        for wrong in (DestinationTls(ca=str(other.ca), name="fhir.example"), DestinationTls(ca=str(authority.ca))):
            with pytest.raises(DeliveryError, match=r"can't be reached: .*certificate"):
                way(url, tmp_path, tls=wrong).check()
        (said,) = way(url, tmp_path, tls=ours, login=DestinationLogin(token_file="none")).send([bundle(tmp_path)])
        assert said.blame == "destination"
        assert "can't be read" in said.error
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)

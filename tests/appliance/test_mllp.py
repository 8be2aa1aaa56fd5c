"""HL7 messages reach a receiver and are acknowledged, or it is said why not: against the MLLP server of `hl7`."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import Config, Delivery, Destination, DestinationTls, Hl7
from appliance.delivery.mllp import MllpWay, check_acknowledgment, connected, control_id
from appliance.delivery.way import Item
from appliance.errors import DeliveryError
from appliance.image import load
from appliance.tls_client import TlsFiles, client_context
from appliance.writers.hl7_oru import Hl7OruWriter
from tests.certificates import Authority
from tests.dicom_files import make_radiograph
from tests.hl7_peer import Answer, hl7_receiver
from tests.peers import free_port
from tests.results import PROVENANCE, found

SECONDS = 10.0


@pytest.fixture
def message(tmp_path: Path) -> bytes:
    source = make_radiograph(tmp_path / "a.dcm", rows=16, columns=16, SpecificCharacterSet="ISO_IR 192",
                             PatientName="Yamada^Tarou=山田^太郎")  # fmt: skip
    return Hl7OruWriter(Hl7()).write([load(source)], found(), PROVENANCE)


def send(message: bytes, port: int, timeout: float = SECONDS, tls: tuple[ssl.SSLContext, str] | None = None) -> None:
    with connected("127.0.0.1", port, timeout, tls) as connection:
        connection.send(message)


def framed(text: str) -> bytes:
    return b"\x0b" + text.encode() + b"\x1c\r"


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_an_accepted_message_is_what_the_receiver_has(message: bytes, code: str) -> None:
    with (
        hl7_receiver(lambda got: got.create_ack(code)) as peer,
        connected("127.0.0.1", peer.port, SECONDS) as connection,
    ):
        for _ in range(3):
            connection.send(message)
    assert [str(got).encode() for got in peer.received] == [message] * 3
    assert peer.received[0]["PID.F5.R2.C1"] == "山田"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AE", "could not process"),
        ("AR", "rejects"),
        ("CE", "could not take"),
        ("CR", "rejects"),
        ("ZZ", "does not have"),
    ],
)
def test_a_refused_message_is_not_delivered(message: bytes, code: str, words: str) -> None:
    def refuse(got: hl7.Message) -> bytes:
        ack = str(got.create_ack(code)).rstrip("\r") + "|Yamada is unknown\rERR|||204^Unknown key identifier|E\r"
        return framed(ack)

    with hl7_receiver(refuse) as peer, pytest.raises(DeliveryError, match=words) as raised:
        send(message, peer.port)
    assert control_id(message) in str(raised.value)
    assert "ERR-3 204" in str(raised.value)
    assert "Yamada" not in str(raised.value)


ANSWERS: dict[str, tuple[Answer, str]] = {
    "another message": (lambda got: framed(str(got.create_ack("AA")).replace(str(got["MSH.F10"]), "1")),
                        "acknowledges another message"),
    "a late refusal": (lambda got: framed(str(got.create_ack("AE")).replace(str(got["MSH.F10"]), "1")),
                       "acknowledges another message"),
    "nothing": (lambda got: b"\x0bMSH|^~\\&|A|B\r\x1c\r", "acknowledges nothing"),
    "nonsense": (lambda got: b"\x0bhello\x1c\r", "no HL7 message"),
    "empty": (lambda got: b"\x0b\x1c\r", "no HL7 message"),
    "too much": (lambda got: b"\x0b" + b"x" * (1 << 21), "more than any acknowledgment needs"),
    "hangs up": (lambda got: None, "without an acknowledgment"),
    "silence": (lambda got: b"\x0bMSH|", "does not acknowledge the message within 1 s"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "words"), ANSWERS.values(), ids=ANSWERS)
def test_only_an_acknowledgment_of_this_message_counts(message: bytes, answer: Answer, words: str) -> None:
    with hl7_receiver(answer) as peer, pytest.raises(DeliveryError, match=words):
        send(message, peer.port, timeout=1.0 if "within" in words else SECONDS)


def test_what_precedes_the_acknowledgment_is_skipped(message: bytes) -> None:
    def hesitate(got: hl7.Message) -> bytes:
        return b"\r\n " + framed(str(got.create_ack("AA")))

    with hl7_receiver(hesitate) as peer:
        send(message, peer.port)


_PIECES = st.sampled_from([b"MSH|^~\\&|", b"MSA|", b"AA", b"|1", b"\r", b"ERR|", b"||", b"\n", b"\xff", b"^", b"AE"])


@given(st.binary(max_size=60) | st.lists(_PIECES, max_size=20).map(b"".join))
def test_whatever_is_answered_is_an_acknowledgment_or_an_error(answer: bytes) -> None:
    try:
        check_acknowledgment(answer, "1", "the receiver")
    except DeliveryError:
        return
    lines = answer.replace(b"\n", b"\r").split(b"\r")
    assert any(line.split(b"|")[:3] in ([b"MSA", b"AA", b"1"], [b"MSA", b"CA", b"1"]) for line in lines)


def test_it_says_in_words_why_nobody_is_there(message: bytes) -> None:
    with pytest.raises(DeliveryError, match="can't be reached: Connection refused"):
        send(message, free_port(), 2.0)


def test_over_tls(message: bytes, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca", "hospital"), Authority(tmp_path / "other", "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = authority.issue("scanside")
    with hl7_receiver(tls=context) as peer:
        ours = client_context(TlsFiles(authority.ca, certificate, key))
        send(message, peer.port, tls=(ours, "localhost"))
        assert len(peer.received) == 1
        strangers = client_context(TlsFiles(other.ca, certificate, key))
        with pytest.raises(DeliveryError, match="certificate is not accepted"):
            send(message, peer.port, tls=(strangers, "localhost"))
        nobody = client_context(TlsFiles(authority.ca))
        with pytest.raises(DeliveryError, match=r"broke off|wants a certificate|without an acknowledgment"):
            send(message, peer.port, tls=(nobody, "localhost"))
    with hl7_receiver() as plain, pytest.raises(DeliveryError, match=r"TLS|handshake"):
        send(message, plain.port, 2.0, (ours, "localhost"))


def test_a_receiver_that_never_reads_is_given_up(message: bytes) -> None:
    never = pytest.raises(DeliveryError, match="does not acknowledge")
    with socket.create_server(("127.0.0.1", 0)) as listener, never:
        send(message, listener.getsockname()[1], 0.5)


# --- as a way out ---------------------------------------------------------------------------------------------------


def way(port: int, folder: Path = Path(), **more: Any) -> MllpWay:
    to = Destination(name="ris", protocol="mllp", host="localhost", port=port, send=("hl7_oru",), **more)
    return MllpWay(to, Config(data_dir=str(folder), delivery=Delivery(timeout_seconds=SECONDS)))


def items(folder: Path, message: bytes, count: int) -> list[Item]:
    made = []
    for number in range(count):
        path = folder / f"{number}.hl7"
        path.write_bytes(message.replace(control_id(message).encode(), f"{number:020d}".encode()))
        made.append(Item(number, path, "hl7_oru", "", f"1.2.{number}", number, "routine"))
    return made


def test_one_that_is_refused_keeps_no_other_back(message: bytes, tmp_path: Path) -> None:
    waiting = items(tmp_path, message, 5)
    waiting[2].path.unlink()

    def choose(got: hl7.Message) -> hl7.Message:
        return got.create_ack("AR" if str(got["MSH.F10"]).endswith("1") else "AA")

    with hl7_receiver(choose) as peer:
        way(peer.port).check()
        answers = {answer.item.id: answer for answer in way(peer.port).send(waiting)}
    assert {number: answer.blame for number, answer in answers.items()} == {
        0: "nobody", 1: "item", 2: "item", 3: "nobody", 4: "nobody"
    }  # fmt: skip
    assert "can't be read" in answers[2].error


def test_one_that_breaks_the_connection_stops_the_rest(message: bytes, tmp_path: Path) -> None:
    waiting = items(tmp_path, message, 3)
    with hl7_receiver(lambda got: None if str(got["MSH.F10"]).endswith("1") else got.create_ack("AA")) as peer:
        first, second = way(peer.port).send(waiting)
        assert (first.error, second.blame) == ("", "both")
        (left,) = way(peer.port).send(waiting[2:])
        assert left.error == ""


def test_a_dead_receiver_is_to_blame_itself(message: bytes, tmp_path: Path) -> None:
    waiting = items(tmp_path, message, 2)
    (answer,) = way(free_port()).send(waiting)
    assert (answer.item, answer.blame) == (waiting[0], "destination")
    with pytest.raises(DeliveryError, match="can't be reached"):
        way(free_port()).check()
    (answer,) = way(free_port(), tls=DestinationTls(ca="missing.pem")).send(waiting)
    assert answer.blame == "destination"
    assert "missing.pem" in answer.error


def test_the_way_speaks_tls(message: bytes, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "hospital")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    ours = DestinationTls(ca=f"ca/{authority.ca.name}")
    with hl7_receiver(tls=context) as peer:
        answers = list(way(peer.port, tmp_path, tls=ours).send(items(tmp_path, message, 2)))
    assert [answer.error for answer in answers] == ["", ""]

"""Diagnoses by HL7 over MLLP: what is acknowledged is on the disk, and whatever a peer does harms nobody.

The senders are those of the library `hl7` and the appliance's own way out.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hl7
import psutil
import pytest
from hl7.client import MLLPClient
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import diagnosis_listener, package, performance, problems
from appliance.audit import Trail, decode
from appliance.audit_store import AuditStore
from appliance.config import Config, Diagnoses, Models, Tls
from appliance.config_file import load
from appliance.delivery.mllp import connected
from appliance.diagnosis_listener import Listener
from appliance.errors import ConfigError, DeliveryError
from appliance.health import health
from appliance.hl7_message import Message, split
from appliance.machine import Clock
from appliance.store import Store
from appliance.tls_client import TlsFiles, client_context
from appliance.truth_store import TruthStore
from appliance.web.app import create_app
from tests.appliance.test_performance import KNOWN, parse
from tests.certificates import Authority
from tests.running import RunningAppliance

SECONDS = 20.0
SAID = "OBX|2|CE|233604007^Pneumonia^SCT||52101004^Present^SCT||||||F|||202611011200"


def oru(*segments: str, study: str = "1.2.7", head: str = "|P|2.5.1", number: str = "17", kind: str = "ORU^R01") -> str:
    lines = [
        f"MSH|^~\\&|RIS|HOSPITAL|SCANSIDE|RADIOLOGY|20261101||{kind}|{number}{head}", "PID|1||P1||Müller^Ann",
        "OBR|1||A7|18748-4^^LN", f"OBX|1|HD|113014^DICOM Study^DCM||^{study}^ISO||||||F", *(segments or (SAID,)),
    ]  # fmt: skip
    return "\r".join(lines) + "\r"


class Box:
    """A listener on a free port, on a data folder with the bundled package."""

    def __init__(self, folder: Path, **said: Any) -> None:
        self.config = Config(
            data_dir=str(folder),
            models=Models(packages=tuple(map(str, package.bundled("chest-pneumonia")))),
            diagnoses=Diagnoses(enabled=True, host="127.0.0.1", **said),
        )
        self.store, self.truth = Store(self.config.ledger_path), TruthStore(self.config.ledger_path)
        self.trail = Trail(self.config.audit_path, self.config.key_path)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.listener = Listener(self.config, self.trail)
        threading.Thread(target=self.listener.serve, args=(self._socket,), daemon=True).start()

    def send(self, message: str | bytes, encoding: str = "utf-8") -> hl7.Message:
        """By the library's client; the acknowledgment."""
        with MLLPClient("127.0.0.1", self.port, encoding) as client:
            return hl7.parse(client.send_message(message).strip(b"\x0b\x1c\r"))

    def speak(self, content: bytes, seconds: float = SECONDS) -> bytes:
        """Whatever comes back until the listener closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as peer:
            answer = b""
            with contextlib.suppress(ConnectionError):
                peer.sendall(content)
                while more := peer.recv(65536):
                    answer += more
            return answer

    def kept(self) -> list[tuple[str, str, str, bool]]:
        return [
            (row["study_instance_uid"], row["accession_number"], row["finding"], bool(row["present"]))
            for row in self.truth.matched()
        ]

    def day(self) -> dict[str, int]:
        (row,) = self.truth.of_senders(0)
        names = ("messages", "taken", "repeated", "others", "not_final", "faulty")
        return {name: row[name] for name in names if row[name]}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path, addresses=("127.0.0.0/8",))


def test_what_is_acknowledged_is_on_the_disk(box: Box) -> None:
    answer = box.send(oru())
    assert (str(answer["MSA.1"]), str(answer["MSA.2"])) == ("AA", "17")
    assert [str(answer[f"MSH.{n}"]) for n in (3, 4, 5, 6, 11, 12)] == [
        "SCANSIDE", "RADIOLOGY", "RIS", "HOSPITAL", "P", "2.5.1",
    ]  # fmt: skip
    assert box.kept() == [("1.2.7", "A7", "Pneumonia", True)]
    assert str(answer.segment("MSH")(9)) == "ACK^R01^ACK"
    # The study is unknown: counted and shown, and there once it has a result.
    assert [each.kind for each in performance.cases_of(box.truth)[1]] == ["unmatched"]
    assert str(box.send(oru(number="18"))["MSA.1"]) == "AA"
    assert box.day() == {"messages": 2, "taken": 1, "repeated": 1}
    assert health(box.config, box.store)["diagnoses"]["taken"] == 1
    records = [decode(row["content"]) for row in AuditStore(box.config.audit_path).records()]
    assert [(each.action, each.how, each.person) for each in records] == [("ORU^R01", "hl7", "RIS")]


@pytest.mark.parametrize(
    ("message", "code", "condition"),
    [
        (oru(kind="ADT^A08"), "AR", "200"),
        (oru(head="|T|2.5.1"), "AR", "202"),
        (oru(number=""), "AE", "101"),
        (oru(SAID.replace("52101004^Present", "7^Perhaps")), "AE", "102"),
        (oru(SAID, study="").replace("OBR|1||A7|", "OBR|1|||"), "AE", "102"),
        (oru(*[SAID] * 101), "AE", "102"),
        (oru() + oru(), "AE", "100"),
        ("EVN|nonsense", "AR", "100"),
        ("MSHxxxxxxx", "AR", "100"),
        (oru().encode("utf-16"), "AR", "100"),
    ],
)
def test_what_can_not_be_taken_is_refused_with_a_reason_and_nothing_of_it_is_kept(
    box: Box, message: str | bytes, code: str, condition: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = box.send(message)
    assert (str(answer["MSA.1"]), str(answer["ERR.3.1.1"])) == (code, condition)
    assert str(answer["ERR.8"]) == str(answer["MSA.3"]) != ""
    assert box.kept() == []
    assert box.day() == {"messages": 1, "faulty": 1}
    assert str(box.send(oru())["MSA.1"]) == "AA"
    assert "Perhaps" not in caplog.text
    assert [each.name for each in judged(box)] == ["diagnoses", "diagnoses_refused"]


def judged(box: Box) -> list[problems.Problem]:
    found = {**health(box.config, box.store), "running": True}
    names = ("diagnoses", "diagnoses_refused", "diagnoses_unknown")
    return [each for each in problems.find(found, Clock("", True), [], None) if each.name in names]


@pytest.mark.parametrize(
    ("message", "counted"),
    [
        (oru(SAID.replace("||F|", "||P|")), {"not_final": 1}),
        (oru("OBX|2|CE|1^Fracture^SCT||52101004||||||F"), {"others": 1}),
    ],
)
def test_what_says_nothing_here_is_accepted_and_counted(box: Box, message: str, counted: dict[str, int]) -> None:
    for _ in range(50):
        assert str(box.send(message)["MSA.1"]) == "AA"
    assert box.kept() == []
    assert box.day() == {"messages": 50, **dict.fromkeys(counted, 50)}
    assert ("diagnoses_unknown" in [each.name for each in judged(box)]) == ("others" in counted)


def test_latin_letters_of_a_sender_that_declares_nothing_do_no_harm(box: Box) -> None:
    assert str(box.send(oru(), "latin-1")["MSA.1"]) == "AA"
    assert len(box.kept()) == 1


def test_the_enhanced_mode_gets_its_own_words(box: Box) -> None:
    assert str(box.send(oru(head="|P|2.5.1|||AL|NE"))["MSA.1"]) == "CA"
    assert str(box.send(oru(head="|P|2.5.1|||AL|NE", kind="ADT^A01"))["MSA.1"]) == "CR"


def test_each_order_of_a_message_is_about_its_own_study() -> None:
    lines = ["MSH|^~\\&|RIS||||20261101||ORU^R01|1|P|2.5.1", "OBR|1||A1", SAID, "OBR|2||A\\T\\2",
             SAID.replace("52101004^Present", "2667000^Absent"), "ZDS|1.2.8^^Application^DICOM"]  # fmt: skip
    said = parse("\r".join(lines).encode(), KNOWN)
    assert [(each.study_instance_uid, each.accession_number, each.present) for each in said.diagnoses] == [
        ("", "A1", True), ("1.2.8", "A&2", False),
    ]  # fmt: skip
    early = parse("\r".join([lines[0], "DG1|1||J18.9||20261102|F", *lines[1:]]).encode(), KNOWN)
    assert early.diagnoses == []
    assert "before several orders" in early.faults[0]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80), st.sampled_from(["|^~\\&", "#*~\\&", "$^~@&"]), st.sampled_from(["AA", "AE", "AR"]))
def test_an_acknowledgment_is_a_message_whatever_the_sender_and_the_reason_hold(
    words: str, marks: str, code: Any
) -> None:
    clean = "".join(each for each in words if each not in f"\r\n\x0b\x1c{marks[0]}")
    head = marks[0].join(["MSH", marks[1:], clean, "", "", "", "", "", "ORU^R01".replace("^", marks[1]), "9"])
    (lines,) = split(head.encode("utf-8", "replace"))
    answer = Message.of(lines).acknowledge(code, "" if code == "AA" else "102", words)
    (answered,) = split(answer)
    found = {each.name: each for each in Message.of(answered).segments}
    assert (found["MSA"].field(1), found["MSA"].field(2)) == (code, "9")
    assert ("ERR" in found) == (code != "AA")


# --- hostile peers ----------------------------------------------------------------------------------------------------


def test_a_block_without_an_end_or_a_beginning_keeps_nothing_and_nobody_waits(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis_listener, "_MESSAGE_SECONDS", 1.0)
    message = oru().encode()
    assert box.speak(b"GET / HTTP/1.1\r\n\r\n") == b""
    with socket.create_connection(("127.0.0.1", box.port), SECONDS) as slow:
        slow.sendall(b"\x0b" + message)  # no end block, and then silence
        begun = time.monotonic()
        assert str(box.send(oru(number="2", study="1.2.8"))["MSA.2"]) == "2"
        assert time.monotonic() - begun < 1.0
        assert slow.recv(10) == b""
    with socket.create_connection(("127.0.0.1", box.port), SECONDS) as gone:
        gone.sendall(b"\x0b" + message)
    assert [study for study, *_ in box.kept()] == ["1.2.8"]


def test_a_peer_that_trickles_is_cut_off(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis_listener, "_MESSAGE_SECONDS", 1.0)
    with socket.create_connection(("127.0.0.1", box.port), SECONDS) as slow, pytest.raises(OSError):
        for byte in b"\x0b" + oru().encode() * 100:
            slow.sendall(bytes([byte]))
            time.sleep(0.05)
    assert box.kept() == []


def test_a_huge_message_is_refused_with_a_reason(box: Box) -> None:
    answer = box.speak(b"\x0b" + oru(f"OBX|9|ED|PDF||^{'A' * (5 << 20)}||||||F").encode() + b"\x1c\r")
    assert b"\rMSA|AE|17|" in answer
    assert b"4 MiB" in answer
    assert box.kept() == []
    assert str(box.send(oru())["MSA.1"]) == "AA"


def test_a_message_of_very_many_segments_is_refused_at_once(box: Box) -> None:
    begun = time.monotonic()
    answer = box.send(oru(SAID, *["OBX|1|CE|1^x"] * 300_000))
    assert (str(answer["MSA.1"]), str(answer["MSA.2"])) == ("AE", "17")
    assert time.monotonic() - begun < 10
    assert box.kept() == []


def test_the_places_are_limited_and_given_back(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis_listener, "_MESSAGE_SECONDS", 3.0)
    silent = [socket.create_connection(("127.0.0.1", box.port), SECONDS) for _ in range(5)]
    time.sleep(0.5)
    assert str(box.send(oru())["MSA.1"]) == "AA"  # the first one had to make room
    assert silent[0].recv(1) == b""
    busy = [socket.create_connection(("127.0.0.1", box.port), SECONDS) for _ in range(5)]
    for each in busy:
        each.sendall(b"\x0bMSH")
    time.sleep(0.5)
    assert box.speak(b"\x0b" + oru().encode() + b"\x1c\r") == b""  # closed at once
    for each in (*silent[1:], *busy):
        assert each.recv(1) == b""
        each.close()
    assert str(box.send(oru())["MSA.1"]) == "AA"


def test_a_silent_connection_ends(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis_listener, "_IDLE_SECONDS", 1.0)
    assert box.speak(b"\x0b" + oru().encode() + b"\x1c\r").count(b"MSA|AA") == 1


def test_one_connection_may_bring_many_messages_without_waiting(box: Box) -> None:
    blocks = b"".join(b"\x0b" + oru(number=str(n), study=f"1.2.{n}").encode() + b"\x1c\r\n" for n in range(200))
    with socket.create_connection(("127.0.0.1", box.port), SECONDS) as peer:
        peer.sendall(blocks)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        while more := peer.recv(65536):
            answer += more
    assert answer.count(b"\rMSA|AA|") == 200
    assert len(box.kept()) == 200
    assert len(box.truth.imports()) == 1


def test_who_is_not_listed_is_not_heard(tmp_path: Path) -> None:
    box = Box(tmp_path, addresses=("192.0.2.0/24",))
    assert box.speak(b"\x0b" + oru().encode() + b"\x1c\r") == b""
    assert box.kept() == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([b"\x0b", b"\x1c", b"\x1c\r", b"MSH|^~\\&|", oru().encode(), b"\x00\xff|^~", b"OBX|"])))
def test_no_bytes_stop_the_listener(some_box: Box, parts: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", some_box.port), SECONDS) as peer, contextlib.suppress(OSError):
        peer.sendall(b"".join(parts))
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass
    assert str(some_box.send(oru())["MSA.1"]) == "AA"


@pytest.fixture(scope="module")
def some_box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box(tmp_path_factory.mktemp("box"), addresses=("127.0.0.1",))


def test_what_can_not_be_kept_now_is_asked_for_again(tmp_path: Path) -> None:
    """A package in force that is not there: which findings count is not known, and nothing is lost for it."""
    box = Box(tmp_path, addresses=("127.0.0.1",))
    gone = Config(
        data_dir=box.config.data_dir, models=Models(packages=("gone.scanside",)), diagnoses=box.config.diagnoses
    )
    box.listener._config = gone  # as after an update
    answer = box.send(oru())
    assert (str(answer["MSA.1"]), str(answer["ERR.3.1.1"])) == ("AR", "207")
    assert box.kept() == []
    box.listener._config = box.config
    assert str(box.send(oru())["MSA.1"]) == "AA"


# --- TLS, configuration, the whole appliance --------------------------------------------------------------------------


def tls_files(folder: Path, authority: Authority) -> Tls:
    certificate, key = authority.issue("box")
    return Tls(key=str(key), certificate=str(certificate), ca=str(authority.ca))


def test_over_tls_both_sides_show_a_certificate(tmp_path: Path) -> None:
    site, foreign = Authority(tmp_path / "ca", "site"), Authority(tmp_path / "other", "foreign")
    box = Box(tmp_path / "box", tls=tls_files(tmp_path, site))
    certificate, key = site.issue("ris")
    context = client_context(TlsFiles(site.ca, certificate, key))
    with connected("127.0.0.1", box.port, SECONDS, (context, "localhost")) as connection:
        for number in range(3):
            connection.send(oru(number=str(number), study=f"1.2.{number}").encode())
    assert len(box.kept()) == 3
    for files in (TlsFiles(site.ca), TlsFiles(site.ca, *foreign.issue("thief"))):
        with (
            pytest.raises((DeliveryError, OSError)),
            connected("127.0.0.1", box.port, SECONDS, (client_context(files), "localhost")) as connection,
        ):
            connection.send(oru(number="9", study="1.2.9").encode())
    box.speak(b"\x0b" + oru(study="1.2.10").encode() + b"\x1c\r")  # plain
    assert len(box.kept()) == 3


def test_a_configuration_that_lets_everybody_in_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    for text, words in (
        ("[diagnoses]\nenabled = true\n", "anybody's word"),
        ('[diagnoses]\naddresses = ["ris.example"]\n', "names are not looked up"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load(file)
    file.write_text('[diagnoses]\nenabled = true\nhost = "127.0.0.1"\n')
    assert load(file).diagnoses.port == 2575
    file.write_text(
        '[diagnoses]\nenabled = true\n[diagnoses.tls]\nkey = "k"\ncertificate = "missing.pem"\nca = "missing.pem"\n'
    )
    with pytest.raises(ConfigError, match=r"diagnoses.tls.certificate: .*missing.pem can't be read"):
        diagnosis_listener.tls_files(load(file, tmp_path))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[RunningAppliance, int]]:
    appliance = RunningAppliance(folder, '[diagnoses]\nenabled = true\nport = 0\nhost = "127.0.0.1"\n')
    appliance.start()
    try:
        yield appliance, appliance.status()["components"]["diagnoses"]["port"]
    finally:
        appliance.stop()


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_the_appliance_listens_and_a_killed_listener_loses_nothing(tmp_path: Path) -> None:
    """Sent by the program `mllp_send`, while the process that listens is killed again and again."""
    with running(tmp_path) as (appliance, port):
        assert appliance.process is not None
        parent = psutil.Process(appliance.process.pid)
        accepted: set[int] = set()

        def listeners() -> list[psutil.Process]:
            return [each for each in parent.children() if "appliance.diagnosis_listener" in " ".join(each.cmdline())]

        for number in range(40):
            if number in (10, 25):
                (child,) = listeners()
                child.kill()
            sent = tmp_path / "sent.hl7"
            sent.write_bytes(b"\x0b" + oru(number=str(number), study=f"1.2.{number}").encode() + b"\x1c\r")
            with contextlib.suppress(OSError, ssl.SSLError, AssertionError):
                with MLLPClient("127.0.0.1", port) as client:
                    client.socket.settimeout(5)
                    answer = client.send(sent.read_bytes())
                assert f"MSA|AA|{number}\r".encode() in answer
                accepted.add(number)
        until(lambda: bool(listeners()))
        truth = TruthStore(appliance.data / "ledger.sqlite3", read_only=True)
        assert {f"1.2.{number}" for number in accepted} <= {row["study_instance_uid"] for row in truth.matched()}
        assert len(accepted) >= 37  # those that were under way at a kill got no answer, and would be sent again
        sent.write_bytes(oru(number="99").encode())
        program = str(Path(sys.executable).with_name("mllp_send"))
        done = subprocess.run([program, "--loose", "-p", str(port), "-f", str(sent), "127.0.0.1"],
                              capture_output=True, check=True, timeout=60)  # fmt: skip
        assert b"MSA|AA|99" in done.stdout
        page = create_app(load(appliance.config_path)).test_client().get("/performance").get_data(as_text=True)
        assert "127.0.0.1" in page

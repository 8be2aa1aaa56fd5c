"""DICOM audit messages against the schema of PS3.15 A.5.1, and a syslog collector over TLS that comes and goes."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from appliance import audit
from appliance.audit import Record, Trail
from appliance.audit_message import Source, messages
from appliance.audit_subjects import AuditSubjects, Subject
from appliance.audit_syslog import AuditSyslog
from appliance.config import Audit, Config, Syslog
from appliance.store import Arrival, Store
from tests.certificates import Authority
from tests.peers import wait_until

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).with_name("audit_message.rng")))
SOURCE = Source("box-1", "Ward 3")
SUBJECTS = [
    Subject("P-1", {"1.2.3": {"1.2.840.10008.5.1.4.1.1.1": 2}, "1.2.4": {}}),
    Subject("P-2", {"1.2.5": {"": 1}}),
]


def parsed(record: Record, subjects: list[Subject], source: Source = SOURCE) -> list[Any]:
    found = []
    for message in messages(record, subjects, source):
        assert "\n" not in message
        tree = etree.fromstring(message)
        assert SCHEMA.validate(tree), (message, SCHEMA.error_log)
        found.append(tree)
    return found


def code(tree: Any, path: str) -> list[str]:
    return [each.get("csd-code") for each in tree.findall(path)]


@given(
    event=st.sampled_from(get_args(audit.Event)),
    words=st.lists(st.text(max_size=30), min_size=7, max_size=7),
    failed=st.booleans(),
    subjects=st.sampled_from([[], SUBJECTS[:1], SUBJECTS]),
    at=st.floats(0, 4e9),
)
def test_whatever_a_record_says_its_messages_are_valid(
    event: audit.Event, words: list[str], failed: bool, subjects: list[Subject], at: float
) -> None:
    person, role, how, address, action, target, detail = words
    record = Record(at, event, action, failed, person, role, how, address, target, detail)
    trees = parsed(record, subjects, Source(words[0], words[1]))
    assert trees
    for tree in trees:
        assert sum(each.get("UserIsRequestor") == "true" for each in tree.findall("ActiveParticipant")) <= 1


@pytest.mark.parametrize(
    ("event", "action", "event_id", "type_code", "event_action"),
    [
        ("start", "Scanside 1", "110100", "110120", "E"),
        ("stop", "Scanside 1", "110100", "110121", "E"),
        ("login", "login", "110114", "110122", "E"),
        ("logout", "logout", "110114", "110123", "E"),
        ("lock_out", "lock_out", "110114", "110122", "E"),
        ("used", "audit show", "110101", "audit show", "R"),
        ("refused", "POST /accounts", "110113", "110132", "E"),
        ("gap", "audit", "110113", "110133", "E"),
        ("account", "set_role", "110113", "110136", "E"),
        ("account", "add_account", "110113", "110137", "E"),
        ("command", "add_account", "110113", "110137", "E"),
        ("view", "GET /", "110112", "GET /", "E"),
    ],
)
def test_each_event_has_the_codes_of_the_standard(
    event: audit.Event, action: str, event_id: str, type_code: str, event_action: str
) -> None:
    (tree,) = parsed(Record(0.0, event, action, person="anna", address="192.0.2.1"), [])
    assert code(tree, "EventIdentification/EventID") == [event_id]
    assert code(tree, "EventIdentification/EventTypeCode") == [type_code]
    assert tree.find("EventIdentification").get("EventActionCode") == event_action
    assert tree.find("EventIdentification").get("EventDateTime") == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("record", "event_id", "roles"),
    [
        (Record(0.0, "view", "GET /study", person="anna", target="image 1"), "110103", ["110150"]),
        (Record(0.0, "act", "POST /study/review", person="anna", target="image 1"), "110103", ["110150"]),
        (Record(0.0, "transfer_begin", "C-STORE", person="CT1", target="transfer 1"), "110102", ["110153", "110152"]),
        (Record(0.0, "transfer_end", "C-STORE", person="CT1", target="transfer 1"), "110104", ["110153", "110152"]),
        (Record(0.0, "transfer_end", "sent", target="destination pacs"), "110104", ["110152", "110153"]),
        (Record(0.0, "download", "GET /x.dcm", person="anna", target="image 1"), "110106", ["110153", "110154"]),
        (Record(0.0, "upload", "POST /upload", person="anna"), "110107", ["110152", "110155"]),
    ],
)
def test_what_is_about_patients_is_one_message_for_each_with_study_and_id(
    record: Record, event_id: str, roles: list[str]
) -> None:
    trees = parsed(record, SUBJECTS)
    for tree, subject in zip(trees, SUBJECTS, strict=True):
        assert code(tree, "EventIdentification/EventID") == [event_id]
        assert code(tree, "ActiveParticipant/RoleIDCode") == roles
        objects = tree.findall("ParticipantObjectIdentification")
        assert [each.get("ParticipantObjectID") for each in objects] == [*subject.studies, subject.patient_id]
        assert code(objects[0], "ParticipantObjectIDTypeCode") == ["110180"]
        assert code(objects[-1], "ParticipantObjectIDTypeCode") == ["2"]


def test_a_failed_login_and_a_lock_out_say_how_bad_it_is() -> None:
    outcomes = []
    for event, failed in (("login", False), ("login", True), ("lock_out", True)):
        (tree,) = parsed(Record(0.0, event, event, failed), [])  # type: ignore[arg-type]
        outcomes.append(tree.find("EventIdentification").get("EventOutcomeIndicator"))
    assert outcomes == ["0", "4", "8"]


def test_ids_of_patients_are_replaced_where_it_is_set() -> None:
    record = Record(0.0, "view", "GET /study", target="image 1")
    (tree,) = parsed(record, SUBJECTS[:1], Source("box-1", pseudonym_key=b"k" * 32))
    last = tree.findall("ParticipantObjectIdentification")[-1].get("ParticipantObjectID")
    assert re.fullmatch(r"pseudonym-[0-9a-f]{16}", last)


def ledger(folder: Path) -> Store:
    store = Store(folder / "ledger.sqlite3")
    for number, patient in ((1, "P-1"), (2, "P-1"), (3, "P-2")):
        arrival = Arrival(f"1.{number}", "1.2.840.10008.5.1.4.1.1.1", f"{number:064d}", "f", 1, "storage_scp", "X",
                          transfer_id="ab" * 16)  # fmt: skip
        identifier = store.receive(arrival).instance_id
        store.claim("w", 30)
        header = {"patient_id": patient, "patient_name": "SECRET^JANE", "study_instance_uid": f"1.9.{patient[-1]}"}
        store.triage(identifier, "w", header, "routine", 0.0)
        store.reject(identifier, "w", "no")
    return store


def test_whose_data_it_was_is_looked_up_in_the_ledger(tmp_path: Path) -> None:
    ledger(tmp_path).close()
    subjects = AuditSubjects(tmp_path / "ledger.sqlite3", read_only=True)
    now, kind = time.time(), "1.2.840.10008.5.1.4.1.1.1"
    both = [Subject("P-1", {"1.9.1": {kind: 2}}), Subject("P-2", {"1.9.2": {kind: 1}})]
    transfer = Record(now, "transfer_end", "C-STORE", target=f"transfer {'ab' * 16}", since=now)
    assert subjects.of(transfer) == both
    assert subjects.of(Record(now, "view", "x", target="image 3")) == both[1:]
    assert subjects.of(Record(now, "transfer_end", "x", target="destination pacs", images=(1, 2, 3))) == both
    for target in ("image 99", "account jane", "", "transfer " + "cd" * 16, "image x"):
        assert subjects.of(Record(now, "view", "x", target=target)) == []
    subjects.close()


# --- a collector ---------------------------------------------------------------------------------------------------


class Collector:
    """A syslog collector over TLS, with a certificate from both sides; each message is parsed as the standards say."""

    def __init__(self, authority: Authority) -> None:
        certificate, key = authority.issue("collector")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.load_verify_locations(authority.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self.port = 0
        self.received: list[tuple[int, Any]] = []
        self._lock = threading.Lock()

    @contextmanager
    def up(self) -> Iterator[None]:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", self.port))
            self.port = listening.getsockname()[1]
            listening.listen()
            listening.settimeout(0.1)
            stop = threading.Event()
            thread = threading.Thread(target=self._serve, args=(listening, stop))
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()

    def _serve(self, listening: socket.socket, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                plain, _ = listening.accept()
            except TimeoutError:
                continue
            with plain:
                plain.settimeout(5)
                with self._context.wrap_socket(plain, server_side=True) as secure:
                    self._read(secure, stop)

    def _read(self, secure: ssl.SSLSocket, stop: threading.Event) -> None:
        secure.settimeout(0.1)
        data = b""
        while not stop.is_set():
            try:
                more = secure.recv(65536)
            except TimeoutError:
                continue
            if not more:
                return
            data += more
            while b" " in data and len(data) > int(data[: data.index(b" ")]) + data.index(b" "):
                length, _, rest = data.partition(b" ")
                self._take(rest[: int(length)])
                data = rest[int(length) :]

    def _take(self, message: bytes) -> None:
        found = re.fullmatch(
            rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\S+) scanside \d+ DICOM\+RFC3881 "
            rb'\[meta sequenceId="(\d+)"\] \xef\xbb\xbf(.*)',
            message,
            re.DOTALL,
        )
        assert found, message
        tree = etree.fromstring(found[3].decode())
        assert SCHEMA.validate(tree), SCHEMA.error_log
        with self._lock:
            self.received.append((int(found[2]), tree))

    def numbers(self) -> set[int]:
        with self._lock:
            return {number for number, _ in self.received}


def test_a_collector_that_goes_away_gets_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.audit_syslog._SURE_SECONDS", 0.3)
    monkeypatch.setattr("appliance.audit_syslog._SHORTEST_PAUSE", 0.2)
    authority = Authority(tmp_path / "ca", "hospital")
    collector = Collector(authority)
    certificate, key = authority.issue("box")
    with collector.up():
        pass  # for its port
    settings = Syslog(
        host="127.0.0.1", port=collector.port, ca=str(authority.ca), key=str(key), certificate=str(certificate),
        name="localhost",
    )  # fmt: skip
    config = Config(data_dir=str(tmp_path), audit=Audit(source="box-1", syslog=settings))
    ledger(tmp_path).close()
    trail = Trail(config.audit_path, config.key_path)
    for number in range(3):
        trail.append(Record(time.time(), "view", "GET /study", person="anna", target=f"image {number + 1}"))
    sender = AuditSyslog(config, settings)
    sender.start()
    wait_until(lambda: "can't be reached" in str(sender.say()["problem"]), "the dead collector is said")
    with collector.up():
        wait_until(lambda: collector.numbers() == {1, 2, 3}, "what waited is sent")
        wait_until(lambda: sender.say()["wait"] == 0, "and known to be there")
    for _ in range(2):
        trail.append(Record(time.time(), "act", "POST /x", person="anna"))
    wait_until(lambda: sender.say()["state"] == "failing", "that it went away is noticed")
    sender.stop()
    trail.append(Record(time.time(), "act", "POST /y", person="anna"))
    again = AuditSyslog(config, settings)  # after a restart
    again.start()
    with collector.up():
        wait_until(lambda: collector.numbers() == {1, 2, 3, 4, 5, 6}, "the rest is sent")
        wait_until(lambda: again.say()["wait"] == 0, "and known to be there")
        again.stop()
    text = "".join(etree.tostring(tree, encoding="unicode") for _, tree in collector.received)
    assert "SECRET" not in text
    assert "P-2" in text
    trail.close()


def test_a_stranger_is_sent_nothing(tmp_path: Path) -> None:
    collector = Collector(Authority(tmp_path / "ca", "stranger"))
    with collector.up():
        pass
    other = Authority(tmp_path / "other", "hospital")
    settings = Syslog(host="127.0.0.1", port=collector.port, ca=str(other.ca), name="localhost")
    config = Config(data_dir=str(tmp_path), audit=Audit(syslog=settings))
    ledger(tmp_path).close()
    trail = Trail(config.audit_path, config.key_path)
    trail.append(Record(time.time(), "act", "POST /x"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", collector.port))
        listening.listen()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = Authority(tmp_path / "third", "third").issue("third")
        context.load_cert_chain(certificate, key)
        sender = AuditSyslog(config, settings)
        sender.start()
        plain, _ = listening.accept()
        with plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_side=True).recv(1)
        wait_until(lambda: "not known here" in str(sender.say()["problem"]), "why is said")
        sender.stop()
    assert sender.say()["wait"] == 1
    trail.close()

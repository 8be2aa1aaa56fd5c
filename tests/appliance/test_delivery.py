"""Results reach every destination: Orthanc and dcmtk's storescp, down and up again, across restarts."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pydicom
import pytest
from pynetdicom import evt

from appliance.config import Config, DestinationTls
from appliance.config_file import load
from appliance.delivery import way_to
from appliance.delivery.storage_scu import File, Peer, associated, store
from appliance.errors import ConfigError, DeliveryError
from appliance.store import Arrival
from tests.certificates import Authority
from tests.dicom_files import make_radiograph
from tests.outgoing import FAST, Results, faulty, local, received, send, stuck_before
from tests.peers import free_port, orthanc, storescp, wait_until


def test_everything_arrives_at_every_destination(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as one, storescp(tmp_path / "b") as two:
        results = Results(tmp_path, (local("one", one), local("two", two)), 5)
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
        assert received(tmp_path / "a") == received(tmp_path / "b") == results.uids


def test_a_destination_that_is_down_gets_everything_when_it_comes_back(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 3)
    with results.delivering():
        wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
        (row,) = results.store.destinations()
        assert "can't be reached" in row["last_error"]
        assert row["waiting"] == 3
        assert results.states() == {"written"}
        with storescp(tmp_path / "a", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
        assert received(tmp_path / "a") == results.uids


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2)
    with results.delivering():
        wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
    with storescp(tmp_path / "a", port=port), results.delivering():
        wait_until(lambda: results.states() == {"delivered"}, "all are delivered")


def test_a_dead_destination_delays_no_other(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as alive:
        results = Results(tmp_path, (local("dead", free_port()), local("alive", alive)), 3)
        with results.delivering():
            begin = time.monotonic()
            wait_until(lambda: received(tmp_path / "a") == results.uids, "the living one has everything")
            assert time.monotonic() - begin < 10
        assert results.states() == {"written"}


def test_an_aborting_peer_is_tried_again(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2)
    with results.delivering():
        with storescp(tmp_path / "a", "--abort-during", port=port):
            wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
        with storescp(tmp_path / "b", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
    assert received(tmp_path / "b") == results.uids


def test_a_peer_that_takes_implicit_vr_only_gets_the_same_values(tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm", rows=32, columns=32)
    with storescp(tmp_path / "in", "+xi") as port:
        (answer,) = send(local("peer", port), source)
    assert not answer.error
    (arrived,) = (tmp_path / "in").iterdir()
    got, expected = pydicom.dcmread(arrived), pydicom.dcmread(source)
    assert got.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert got == expected


def test_orthanc_takes_it_and_answers_echo(tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs") as pacs:
        to = local("pacs", pacs.port, pacs.ae_title)
        way_to(to, Config(delivery=FAST)).check()
        files = [make_radiograph(tmp_path / f"{n}.dcm", rows=32, columns=32, seed=n) for n in range(3)]
        assert [answer.error for answer in send(to, *files)] == ["", "", ""]
        assert len(pacs.sop_class_uids()) == 3
        (refused,) = send(local("pacs", pacs.port, "WRONG"), files[0])
        assert "refused the association" in refused.error
        assert refused.blame == "destination"


def test_echo_says_in_words_why_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="can't be reached"):
        way_to(local("peer", free_port()), Config(delivery=FAST)).check()


def test_a_file_that_is_gone_is_said_and_keeps_nothing_else_back(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as port:
        results = Results(tmp_path, (local("pacs", port),), 3)
        (results.folder / "1.dcm").unlink()
        with results.delivering():
            wait_until(lambda: len(received(tmp_path / "a")) == 2, "the others arrive")
            wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
        assert "1.dcm" in results.store.destinations()[0]["last_error"]


# --- the circuit breaker ------------------------------------------------------------------------------------------


def test_the_circuit_of_a_dead_destination_stays_open_across_a_restart(tmp_path: Path) -> None:
    results = Results(tmp_path, (local("pacs", free_port()),), 3, first_retry_seconds=600, longest_probe_seconds=600)
    with results.delivering():
        wait_until(lambda: results.store.lane("pacs"), "the circuit is open")
    with results.delivering() as outbox:
        for _ in range(5):
            outbox.wake()
            time.sleep(0.05)
    lane = results.store.lane("pacs")
    assert lane is not None
    assert lane["failures"] == 1
    assert "can't be reached" in lane["last_error"]
    assert [row["attempts"] for row in results.store.due("pacs")] == [0, 0, 0]  # nobody has tried these


def test_after_the_return_one_probe_lets_everything_flow(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 120)
    with results.delivering():
        wait_until(lambda: results.destination("pacs")["failures"] >= 3, "it has failed some times")
        with storescp(tmp_path / "a", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered", 60)
        assert results.store.lane("pacs") is None
    assert received(tmp_path / "a") == results.uids
    assert {row["attempts"] for row in results.store.deliveries(1)} == {1}


def test_an_object_that_no_peer_survives_keeps_no_other_back(tmp_path: Path) -> None:
    poison = "none yet"
    taken: list[str] = []

    def on_store(event: evt.Event) -> int | None:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid == poison:
            return None
        taken.append(uid)
        return 0x0000

    with faulty(on_store) as port:
        results = Results(tmp_path, (local("pacs", port),), 5)
        poison = str(pydicom.dcmread(results.folder / "0.dcm", stop_before_pixels=True).SOPInstanceUID)
        with results.delivering():
            wait_until(lambda: set(taken) == results.uids - {poison}, "all others arrive")
    assert len(taken) == 4
    (left,) = results.store.deliveries(1)
    assert (left["state"], left["attempts"] > 0) == ("waiting", True)


def test_an_object_that_is_refused_is_tried_again_by_itself(tmp_path: Path) -> None:
    refusals = iter([0xC000, 0x0124])
    taken: list[str] = []

    def on_store(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid.endswith(refused) and (status := next(refusals, 0)):
            return status
        taken.append(uid)
        return 0x0000

    refused = "no UID"
    with faulty(on_store) as port:
        results = Results(tmp_path, (local("pacs", port),), 3)
        refused = str(pydicom.dcmread(results.folder / "0.dcm", stop_before_pixels=True).SOPInstanceUID)
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
    assert sorted(taken) == sorted(results.uids)
    assert results.store.deliveries(1)[0]["attempts"] == 3
    assert results.store.lane("pacs") is None


def test_a_peer_that_says_that_it_has_an_object_has_it(tmp_path: Path) -> None:
    """Killed after the peer's success and before its own commit, the appliance sends once more."""
    with faulty(lambda _: 0x0111) as port:  # duplicate SOP instance
        results = Results(tmp_path, (local("pacs", port),), 1)
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "it is delivered")
    assert results.store.deliveries(1)[0]["attempts"] == 1


def test_a_full_peer_is_probed_with_one_object(tmp_path: Path) -> None:
    asked: list[str] = []
    full = True

    def on_store(event: evt.Event) -> int:
        asked.append(str(event.request.AffectedSOPInstanceUID))
        return 0xA700 if full else 0x0000

    with faulty(on_store) as port:
        results = Results(tmp_path, (local("pacs", port),), 10)
        with results.delivering():
            wait_until(lambda: results.destination("pacs")["failures"] >= 2, "it has refused twice")
            assert len(asked) <= results.destination("pacs")["failures"] + 1  # the second may be under way
            assert "0xA700" in results.destination("pacs")["last_error"]
            full = False
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")


def test_a_peer_that_stops_reading_holds_its_own_lane_only_and_not_for_ever(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as alive, storescp(tmp_path / "b") as behind, stuck_before(behind, 100_000) as stuck:
        destinations = (local("stuck", stuck), local("alive", alive))
        results = Results(tmp_path, destinations, 2, side=2200, timeout_seconds=1.0)
        with results.delivering():
            wait_until(lambda: received(tmp_path / "a") == results.uids, "the living one has everything")
            wait_until(lambda: results.destination("stuck")["failures"], "the stuck one is given up for now")


def test_a_slow_peer_gets_the_time_that_it_needs(tmp_path: Path) -> None:
    def on_store(_: evt.Event) -> int:
        time.sleep(1.0)
        return 0x0000

    with faulty(on_store) as port:
        results = Results(tmp_path, (local("pacs", port),), 2, side=600, timeout_seconds=0.5)
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
    assert results.store.deliveries(1)[0]["attempts"] == 1


# --- undelivered --------------------------------------------------------------------------------------------------


def test_what_nobody_takes_is_set_aside_alarmed_and_sent_again_by_hand(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2, undelivered_hours=1 / 3600)
    with results.delivering():
        wait_until(lambda: results.destination("pacs")["undelivered"] == 2, "both are set aside")
    assert results.states() == {"written"}
    assert results.store.undelivered_count() == 2
    assert results.store.due("pacs") == []
    assert all("can't be reached" in row["last_error"] for row in results.store.undelivered())
    last = results.store.events(1)[-1]
    assert last["what"] == "undelivered"
    assert "structured_report to pacs: PEER@127.0.0.1" in last["detail"]
    assert results.store.send_undelivered("another") == 0
    assert results.store.send_undelivered("pacs") == 2
    with storescp(tmp_path / "a", port=port), results.delivering():
        wait_until(lambda: results.states() == {"delivered"}, "both are delivered")
    assert received(tmp_path / "a") == results.uids


def test_nothing_is_given_up_untried_after_the_box_was_off_for_long(tmp_path: Path) -> None:
    """However much it is, and where the peer, or the network, is there a little later only."""
    port = free_port()
    patient = {"longest_retry_seconds": 30.0, "undelivered_hours": 1.0}
    results = Results(tmp_path, (local("pacs", port),), 120, **patient)
    with results.store._transaction() as connection:
        connection.execute("UPDATE outbox SET queued_at = queued_at - 4 * 86400")
    with results.delivering():
        wait_until(lambda: results.destination("pacs")["failures"] >= 2, "it has failed")
        with storescp(tmp_path / "a", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered", 60)
    assert received(tmp_path / "a") == results.uids
    assert all(event["what"] != "undelivered" for number in range(1, 121) for event in results.store.events(number))


def test_a_clock_that_goes_ahead_is_no_time_that_anything_has_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: clock() + ahead[0])
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2, undelivered_hours=1.0)
    with results.delivering():
        time.sleep(1.5)  # what was tried by then may be given up
        ahead[0] = 86400.0
        time.sleep(1.0)
        assert results.destination("pacs")["undelivered"] == 0
        with storescp(tmp_path / "a", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")


def test_what_a_peer_takes_while_it_is_set_aside_is_delivered(tmp_path: Path) -> None:
    results = Results(tmp_path, (local("pacs", free_port()),), 1)
    (item,) = results.store.due("pacs")
    assert results.store.give_up("pacs", time.time(), "it fails") == 1
    results.store.sent(item["id"])
    assert (results.states(), results.store.undelivered_count()) == ({"delivered"}, 0)


def test_what_a_peer_has_lost_is_sent_again_by_hand(tmp_path: Path) -> None:
    begin = time.time()
    with storescp(tmp_path / "a") as port:
        results = Results(tmp_path, (local("pacs", port),), 3)
        with results.delivering() as outbox:
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
            for path in (tmp_path / "a").iterdir():
                path.unlink()
            assert results.store.send_delivered("pacs", since=time.time()) == 0
            assert results.store.send_delivered("pacs", since=begin) == 3
            outbox.wake()
            wait_until(lambda: received(tmp_path / "a") == results.uids, "all are there again")
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")


def test_what_is_read_first_is_sent_first(tmp_path: Path) -> None:
    to = (local("pacs", free_port()),)
    results = Results(tmp_path, to, 2)
    results.add(2, to, tier="medium", raised_to="routine")
    results.add(3, to, tier="high", raised_to="stat")
    assert [row["instance_id"] for row in results.store.due("pacs")] == [4, 3, 1, 2]


def test_what_is_urgent_waits_for_one_second_of_the_others_at_most(tmp_path: Path) -> None:
    """However much was due before it, and however slow the peer is."""
    taken: list[str] = []

    def on_store(event: evt.Event) -> int:
        taken.append(str(event.request.AffectedSOPInstanceUID))
        time.sleep(0.05)
        return 0x0000

    with faulty(on_store) as port:
        to = (local("pacs", port),)
        results = Results(tmp_path, to, 60)
        before = set(results.uids)
        with results.delivering():
            wait_until(lambda: taken, "it has begun")
            results.add(60, to, tier="high", raised_to="stat")
            (urgent,) = results.uids - before
            wait_until(lambda: urgent in taken, "it is sent", 5)
            assert len(taken) < 40
            wait_until(lambda: results.states() == {"delivered"}, "so are the others")
    assert sorted(taken) == sorted(results.uids)


# --- TLS ----------------------------------------------------------------------------------------------------------


def test_over_tls_each_side_proves_who_it_is(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "theirs", "theirs")
    certificate, key = theirs.issue("pacs")
    mine, my_key = ours.issue("scanside")
    source = make_radiograph(tmp_path / "a.dcm", rows=32, columns=32)
    options = ("+tls", str(key), str(certificate), "+cf", str(ours.ca))
    good = DestinationTls(ca="theirs/theirs.pem", key=str(my_key), certificate=str(mine))
    with storescp(tmp_path / "in", *options) as port:
        to = local("pacs", port, host="localhost", tls=good)
        way_to(to, Config(data_dir=str(tmp_path), delivery=FAST))
        (answer,) = send(to, source, data=tmp_path)
        assert not answer.error
        strangers = DestinationTls(ca="ours/ours.pem", key=str(my_key), certificate=str(mine))
        (answer,) = send(local("pacs", port, host="localhost", tls=strangers), source, data=tmp_path)
        assert answer.blame == "destination"
        assert "TLS" in answer.error
        (answer,) = send(local("pacs", port, tls=DestinationTls(ca="theirs/missing.pem")), source, data=tmp_path)
        assert "missing.pem" in answer.error
        (answer,) = send(local("pacs", port), source)
        assert answer.error
    assert len(list((tmp_path / "in").iterdir())) == 1


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ae_title = "A"\nhost = "h"', "has no port"),
        ('protocol = "stow"', "has no url"),
        ('protocol = "stow"\nurl = "https://h/x"\nhost = "h"', "host is not for"),
        ('protocol = "stow"\nurl = "ftp://h/x"', "no address of a service"),
        ('protocol = "stow"\nurl = "https://user:secret@h/x"', "no address of a service"),
        ('protocol = "stow"\nurl = "https://h/x"\nstorage_commitment = true', "storage_commitment is not for"),
        ('protocol = "stow"\nurl = "http://h/x"\nlogin = { token_file = "t" }', "in the clear"),
        ('protocol = "stow"\nurl = "https://h/x"\nlogin = { username = "u" }', "login can't be used"),
        ('protocol = "stow"\nurl = "http://h/x"\ntls = {}', "begins with http:"),
        ('ae_title = "A"\nhost = "h"\nport = 1\ntls = { key = "k" }', "only one of key and certificate"),
        ('ae_title = "A"\nhost = "h"\nport = 1\nwhen = "never"', "when"),
    ],
)
def test_a_destination_that_can_not_be_right_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "scanside.toml"
    path.write_text(f'[[destinations]]\nname = "pacs"\n{text}\n')
    with pytest.raises(ConfigError, match=said):
        load(path)


def test_child_processes_get_every_kind_of_destination(tmp_path: Path) -> None:
    path = tmp_path / "scanside.toml"
    path.write_text(
        '[[destinations]]\nname = "a"\nae_title = "A"\nhost = "h"\nport = 1\ntls = { ca = "c" }\n'
        '[[destinations]]\nname = "b"\nprotocol = "stow"\nurl = "https://h/x"\nlogin = { token_file = "t" }\n'
    )
    config = load(path)
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_an_answer_reaches_whoever_asked_even_where_the_associations_thread_looks_first(tmp_path: Path) -> None:
    """That thread is held where pynetdicom 3.0.4 believes it to wait, until the answer is there, and looks first."""
    file = File.of(make_radiograph(tmp_path / "a.dcm", rows=32, columns=32))
    with storescp(tmp_path / "in") as port:
        peer = Peer("127.0.0.1", port, "STORESCP", "SCANSIDE", 2.0)
        with associated(peer, file.contexts) as association:
            held, answered, looked = (threading.Event() for _ in range(3))

            class Held(threading.Event):
                def wait(self, timeout: float | None = None) -> bool:
                    if answered.is_set():  # it has been past here since, and so has looked
                        looked.set()
                    super().wait(timeout)
                    held.set()
                    return answered.wait(10)

            checkpoint = Held()
            checkpoint.set()
            association._reactor_checkpoint = checkpoint
            assert held.wait(10)
            send_message = association.dimse.send_msg

            def send_and_dawdle(*message: Any) -> None:
                send_message(*message)
                wait_until(lambda: not association.dimse.msg_queue.empty(), "the answer is there")
                answered.set()
                assert looked.wait(10)

            association.dimse.send_msg = send_and_dawdle  # type: ignore[method-assign]
            assert store(association, file, 0).status == 0x0000


# --- a clock that is set back -------------------------------------------------------------------------------------


def test_what_is_new_is_due_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an hour ahead when results were queued, and when one was sent."""
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)
    results = Results(tmp_path, (local("pacs", free_port()),), 2)
    first, second = results.store.due("pacs")
    results.store.sent(first["id"], to_commit=True)
    results.store.sent(second["id"])
    assert results.store.send_delivered("pacs", clock()) == 2
    results.store.sent(first["id"], to_commit=True)
    monkeypatch.setattr(time, "time", clock)
    assert [row["id"] for row in results.store.due("pacs")] == [second["id"]]
    assert [row["id"] for row in results.store.to_ask("pacs")] == [first["id"]]


@pytest.mark.parametrize("running", [False, True])
def test_a_clock_that_is_set_back_makes_nothing_wait_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """It was an hour ahead when deliveries failed and an image was being read; set right before the start, or later."""
    clock, ahead = time.time, [3600.0]
    monkeypatch.setattr(time, "time", lambda: clock() + ahead[0])
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2)
    store = results.store
    first, _ = store.due("pacs")
    store.retry([first["id"]], "refused", time.time() + 1)
    store.lane_failed("pacs", "can't be reached", time.time() + 1)
    for number in (7, 8):
        store.receive(Arrival(f"1.2.{number}", "1.2", f"{number:064d}", f"{number}.dcm", 1, "storage_scp", "TEST"))
    held = store.claim("gone", 30)
    given_back = store.claim("test", 30)
    assert held is not None
    assert given_back is not None
    store.release(given_back["id"], "test", "the disk is full", 5.0)

    def row(identifier: int) -> Any:
        return store._rows("SELECT not_before, lease_until FROM instance WHERE id = :id", id=identifier)[0]

    with storescp(tmp_path / "a", port=port):
        if not running:
            ahead[0] = 0.0
        with results.delivering():
            if running:
                time.sleep(0.5)
                ahead[0] = 0.0
            wait_until(lambda: received(tmp_path / "a") == results.uids, "all are there within the usual pauses")
    assert row(held["id"])["lease_until"] < time.time() + 31
    assert row(given_back["id"])["not_before"] < time.time() + 61
    assert all(each["queued_at"] < time.time() for each in store._rows("SELECT queued_at FROM outbox"))

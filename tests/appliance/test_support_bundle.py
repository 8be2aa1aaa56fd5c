"""The support bundle and the log hold nothing of a patient: names are planted wherever they could come from."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest

from appliance import log, package, recount
from appliance.audit import Record, Trail
from appliance.config import Config, Destination, DestinationLogin, Inference, Models, Web
from appliance.custody import Custody
from appliance.errors import DeliveryError
from appliance.history import Period
from appliance.history_store import HistoryStore
from appliance.log import Line
from appliance.recount import Fault, Outcome
from appliance.support_bundle import told_health, write
from tests.appliance.conftest import account
from tests.appliance.test_web import Box, quarantined
from tests.running import scanside

# One for each place where something of a patient may come in, so that what is found tells where it came from.
PLANTED = {
    "PatientName": "Quexnamowitz",
    "PatientID": "QX-ID-778899",
    "institution": "Quexhospital",
    "free text": "quexdescription",
    "AE comment": "Quexcomment",
    "error of a destination": "Quexdestination",
    "file name": "quexfile",
    "dropped": "quexdropped",
    "sender": "QUEXSENDER",
    "UID": "1.2.826.0.1.3680043.8.498.778899",
    "log": "Quexlogline",
    "exception": "Quexexception",
    "event": "Quexevent",
    "worker": "Quexworker",
    "orphan": "quexorphan",
    "peer": "Quexpeer",
    "warning": "Quexwarning",
    "unicode": "Quëxnäme山田",
}
SECRETS = {"password": "quexpasswordfile", "user": "quexuser", "account": "quexaccount", "view": "quexview"}


ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "iso2022_jp_2", "iso2022_kr", "utf-7")


def encoded(word: str) -> Iterator[bytes]:
    """A word as it may stand in bytes."""
    for each in {word, word.upper(), word.lower()}:
        for encoding in (
            "utf-8",
            "utf-16-le",
            "utf-16-be",
            "utf-32-le",
            "latin-1",
            "iso2022_jp_2",
            "iso2022_kr",
            "utf-7",
        ):
            try:
                content = each.encode(encoding)
            except UnicodeEncodeError:
                continue
            yield content
            yield content.hex().encode()
            yield content.hex().upper().encode()
            for shift in range(3):  # what stands in the middle of base64 does so in one of three ways
                inner = base64.b64encode(b"\0" * shift + content + b"\0" * 3)
                yield inner[4:-8] if len(inner) > 16 else inner
        yield quote(each).encode()
        yield json.dumps(each)[1:-1].encode()


def everything(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a zip file, of each member, of each member's name, and of zip files in it."""
    content = path.read_bytes()
    yield path.name, content
    yield from members(path.name, content)


def members(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(BytesIO(content)) as bundle:
        for each in bundle.infolist():
            inner = bundle.read(each)
            yield f"{name}/{each.filename}", each.filename.encode() + b"\n" + each.comment + each.extra + inner
            if zipfile.is_zipfile(BytesIO(inner)):
                yield from members(f"{name}/{each.filename}", inner)


def leaks(path: Path) -> list[tuple[str, str]]:
    found = []
    for name, content in everything(path):
        for place, word in {**PLANTED, **SECRETS}.items():
            if any(each in content for each in encoded(word)):
                found.append((name, place))
    return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path)
    box.config = Config(
        data_dir=str(tmp_path),
        models=Models(packages=tuple(str(path) for path in package.bundled("chest-pneumonia"))),
        inference=Inference(backend="onnxruntime"),
        web=Web(port=0),
        destinations=(
            Destination(name="pacs", protocol="stow", url="https://127.0.0.1:1/dicom-web",
                        login=DestinationLogin(username=SECRETS["user"], password_file=SECRETS["password"])),
            Destination(name="files", protocol="folder", path=f"out-{PLANTED['file name']}"),
        ),
    )  # fmt: skip
    plant(box)
    return box


def plant(box: Box) -> None:
    described = {
        "patient_name": f"{PLANTED['PatientName']}^{PLANTED['unicode']}",
        "patient_id": PLANTED["PatientID"],
        "institution": PLANTED["institution"],
        "body_part": PLANTED["free text"],
        "view": PLANTED["PatientName"],
        "study_instance_uid": PLANTED["UID"],
    }
    identifier = box.add(1, 0.9, **described)
    box.add(2, reason=f"Its body part is {PLANTED['free text']}, of {PLANTED['UID']}.", **described)
    quarantined(box, 3)
    with box.store._transaction() as connection:
        connection.execute(
            "UPDATE instance SET sender = ?, file = ?, patient_age = ?, ae_title = ?",
            (
                f"{PLANTED['sender']} {PLANTED['file name']}.dcm",
                PLANTED["file name"],
                PLANTED["PatientName"],
                PLANTED["sender"],
            ),
        )
        connection.execute("UPDATE result SET warnings = ?", (json.dumps([PLANTED["warning"]]),))
        connection.execute("INSERT INTO event VALUES (NULL, 1, 0, 'note', ?)", (PLANTED["event"],))
        connection.execute("INSERT INTO event VALUES (NULL, 1, 0, 'sent', ?)", (f"report to {PLANTED['peer']}",))
        (item,) = connection.execute("SELECT id FROM object WHERE instance_id = ?", (identifier,)).fetchone()
        for name, words in (
            ("pacs", f"the peer answered Failure 0xA700: {PLANTED['AE comment']} {PLANTED['PatientName']}"),
            (PLANTED["peer"], f"{PLANTED['peer']}: {PLANTED['error of a destination']}"),
        ):
            connection.execute(
                "INSERT INTO outbox (object_id, destination, state, next_attempt_at, last_error) "
                "VALUES (?, ?, 'undelivered', 0, ?)",
                (item, name, words),
            )
    box.store.lane_failed("pacs", f"https://{PLANTED['peer']} can't be reached: {PLANTED['error of a destination']}", 0)
    worker = {
        "package": f"chest-pneumonia {PLANTED['worker']}"[:15], "backend": "tensorrt", "serves": False, "seconds": None,
        "receipt": None, "reason": f"TensorRT can't be loaded: {PLANTED['worker']}; install it", "progress": None,
        "min_dice": None,
    }  # fmt: skip
    box.store.set_component("worker", {"state": "waiting", "reason": f"No: {PLANTED['worker']}", "trials": [worker]})
    box.store.set_component(
        "inference", {"state": "ready", "stops": {"onnxruntime": 12}, "last_stop": PLANTED["worker"]}
    )
    dropped = {f"ward/{PLANTED['dropped']} {PLANTED['PatientName']}.dcm": f"{PLANTED['dropped']} is not whole"}
    box.store.set_component("drop_folder", {"state": "ready", "path": f"/x/{PLANTED['dropped']}", "problems": dropped,
                                            "watch_problem": PLANTED["dropped"]})  # fmt: skip
    box.store.set_component("silence", {"state": "silent", "silent": [
        {"ae_title": PLANTED["sender"], "last": 0, "usual_seconds": 9, "weeks": 0}]})  # fmt: skip
    owed = {"ae_title": PLANTED["sender"], "given_up": 1, "waiting": 0, "last_error": PLANTED["peer"], "asked_at": 0}
    box.store.set_component("storage_commitment", {"state": "ready", "peers": [owed]})
    custody = Custody(box.config.ledger_path)
    counts = {"received": 3, "resulted": 1, "rejected": 1, "failed": 0, "quarantined": 1, "pending": 0}
    faults = [Fault("image 1", f"its file {PLANTED['orphan']} is not there"), Fault(f"spool/{PLANTED['orphan']}", "x")]
    recount.keep(custody, Outcome("full", 0.0, 0.0, counts, 2, faults))
    custody.close()
    kept = HistoryStore(box.config.ledger_path)
    kept.count(Period(minutes=1), 1e9)
    kept.close()
    plant_log(box.config)
    account(box.config.ledger_path, **{SECRETS["account"]: "engineer"})
    trail = Trail(box.config.audit_path, box.config.key_path)
    trail.append(
        Record(0.0, "view", f"GET /{SECRETS['view']}", person=SECRETS["account"], target=PLANTED["PatientName"])
    )
    trail.close()


def plant_log(config: Config) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    root.handlers[:] = []
    root.setLevel("INFO")
    log.keep(config.log_path)
    lines = logging.getLogger("scanside.test")
    try:
        lines.info("instance %d: %s", 17, "duplicate")
        lines.info("association from %s at %s", PLANTED["log"], PLANTED["PatientName"])
        lines.error("%s fails: %s", PLANTED["log"], DeliveryError(f"the peer said {PLANTED['exception']}"))
        lines.error(f"somebody has forgotten {PLANTED['log']}")
        try:
            raise ValueError(PLANTED["exception"])
        except ValueError:
            lines.exception("instance %d is quarantined", 18)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], level = before
        root.setLevel(level)


def test_nothing_of_a_patient_and_no_secret_is_in_it(box: Box, tmp_path: Path) -> None:
    to = tmp_path / "bundle.zip"
    names = write(box.config, to)
    assert leaks(to) == []
    with zipfile.ZipFile(to) as bundle:
        assert set(json.loads(bundle.read("health.json"))) == set(told_health(box.config))
    assert {"README.txt", "versions.json", "configuration.json", "health.json", "problems.json", "receipts.json",
            "ledger.json", "history/minutes.json", "history/hours.json", "history/days.json", "log.txt",
            "doctor.json"} == set(names)  # fmt: skip


def test_the_search_finds_what_is_planted_in_any_form(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    name = PLANTED["PatientName"]
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a.txt", f"of {name}")
    contents = {
        "plain": name.encode(),
        "utf-16": f"x{name}".encode("utf-16"),
        "hex": name.encode().hex().encode(),
        "base64": base64.b64encode(b"to " + name.encode() + b" and more"),
        "zip": inner.getvalue(),
        "upper": name.upper().encode(),
        "json": json.dumps(PLANTED["unicode"]).encode(),
    }
    for way, content in contents.items():
        path = tmp_path / f"{way}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("b", content)
        assert leaks(path), way


def test_it_tells_what_a_vendor_needs(box: Box, tmp_path: Path) -> None:
    to = tmp_path / "bundle.zip"
    write(box.config, to)
    with zipfile.ZipFile(to) as bundle:
        read = {name: bundle.read(name).decode() for name in bundle.namelist()}
    versions = json.loads(read["versions.json"])
    assert versions["libraries"]["pydicom"] == "3.0.2"
    assert versions["kernel"]
    settings = json.loads(read["configuration.json"])
    assert settings["destinations"][0]["url"] == "https://127.0.0.1:1/dicom-web"
    assert settings["destinations"][0]["login"]["password_file"] == "(left out)"
    assert settings["destinations"][0]["login"]["username"] == "(left out)"
    health = json.loads(read["health.json"])
    pacs = next(each for each in health["destinations"] if each["name"] == "pacs")
    assert "can't be reached" in pacs["last_error"]
    assert health["backends"][0]["reason"].startswith("TensorRT can't be loaded")
    problems = json.loads(read["problems.json"])
    assert any(each["what"].startswith("The appliance is not running") for each in problems)
    ledger = json.loads(read["ledger.json"])
    assert ledger["tables"]["instance"]["rows"] == 3
    assert ledger["proof"]["fault_count"] == 2
    assert json.loads(read["history/days.json"])[0][1]["results"] == 1
    assert "instance 17: duplicate" in read["log.txt"] or "instance 17: \N{HORIZONTAL ELLIPSIS}" in read["log.txt"]
    assert "ValueError" in read["log.txt"]
    assert "instance 18 is quarantined" in read["log.txt"]
    doctor = json.loads(read["doctor.json"])
    assert any(each["what"] == "backend onnxruntime" and each["outcome"] == "ok" for each in doctor)


def test_the_command_makes_it_without_an_appliance(tmp_path: Path) -> None:
    Box(tmp_path / "box").add(1, 0.9)
    config = tmp_path / "scanside.toml"
    config.write_text(
        f"data_dir = 'box'\n[inference]\nbackend = 'onnxruntime'\n[models]\n"
        f"packages = {[str(path) for path in package.bundled('chest-pneumonia')]}\n"
    )
    made = scanside("support-bundle", tmp_path / "a.zip", "--config", config)
    assert made.returncode == 0, made.stderr
    assert "no patient data" in made.stdout
    assert zipfile.is_zipfile(tmp_path / "a.zip")
    none = scanside("support-bundle", tmp_path / "b.zip", "--data", tmp_path / "nowhere")
    assert none.returncode == 1
    assert "there is no ledger" in none.stderr


# --- the log --------------------------------------------------------------------------------------------------------


def test_a_traceback_names_places_and_not_what_the_error_says(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        log.set_up("info")
        try:
            raise ValueError(PLANTED["exception"])
        except ValueError:
            logging.getLogger("scanside.test").exception("instance %d is quarantined", 18)
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
    said = capsys.readouterr().err
    assert PLANTED["exception"] not in said
    assert "test_support_bundle.py" in said
    assert said.rstrip().endswith("ValueError")


def test_the_log_is_kept_in_two_files_of_a_bounded_size(tmp_path: Path) -> None:
    script = (
        "import logging, sys; from pathlib import Path; from appliance import log; log.keep(Path(sys.argv[1]))\n"
        "logging.getLogger().setLevel('INFO')\n"
        "for number in range(6000): logging.info('line %d of %s ' + 'x' * 100, number, sys.argv[2])"
    )
    from tests.running import PYTHON

    children = [subprocess.Popen([PYTHON, "-c", script, str(tmp_path), name]) for name in "ab"]
    assert [child.wait(60) for child in children] == [0, 0]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["scanside.1.jsonl", "scanside.jsonl", "scanside.lock"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 << 20
    lines = log.latest(tmp_path, 100)
    assert len(lines) == 100
    assert all(isinstance(line, Line) and line.text().startswith("line ") for line in lines)
    assert log.latest(tmp_path / "nothing", 10) == []


def test_lines_that_were_cut_off_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "scanside.jsonl").write_bytes(
        b'{"at": 1, "level": "info", "part": "x", "sentence": "a"}\n{"at": 2, "le'
    )
    assert [line.text() for line in log.latest(tmp_path, 10)] == ["a"]

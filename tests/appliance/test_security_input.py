"""What people, files and modalities write: never markup, never a path, never SQL, never a header, never too much."""

from __future__ import annotations

import io
import sqlite3
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.appliance.conftest import browser, log_in
from tests.appliance.guarded import Guarded, routes
from tests.dicom_files import make_radiograph

pytestmark = pytest.mark.usefixtures("quick_hashes")

SCRIPTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</template><script>alert(1)</script>",
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(tmp_path_factory.mktemp("box"))


def pages(box: Guarded, role: str = "administrator") -> dict[str, str]:
    client = box.client(role)
    paths = ["/", "/worklist.fragment", "/quarantine", "/deliveries", "/device", "/accounts", "/account", "/kiosk"]
    paths += [f"/study/{number}" for number in range(1, 20)]
    return {path: client.get(path).get_data(as_text=True) for path in paths}


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_file_or_a_modality_says_is_never_markup(script: str, tmp_path: Path) -> None:
    box = Guarded(tmp_path)
    header = {
        "patient_name": f"{script}^JANE", "patient_id": script, "patient_sex": script[:2], "patient_age": script,
        "modality": script, "body_part": script, "view": script, "acquired_at": script, "institution": script,
        "study_instance_uid": script,
    }  # fmt: skip
    box.add(3, header, ae_title=script, reason=f"StudyDescription {script}")
    box.add(4, header, ae_title=script, reason=f"file {script}.dcm")
    shown = pages(box)
    for path, text in shown.items():
        assert script not in text, path
        assert "<img src=x" not in text
        assert "<svg onload" not in text
    assert "&lt;" in shown["/"]
    assert "JANE" in shown["/study/3"]


def test_what_a_file_says_is_no_template(tmp_path: Path) -> None:
    box = Guarded(tmp_path)
    box.add(3, {"patient_name": "{{7*191}}{% raw %}"})
    text = box.client("viewer").get("/study/3").get_data(as_text=True)
    assert "{{7*191}}{% raw %}" in text
    assert "1337" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_person_types_is_never_markup(script: str, box: Guarded) -> None:
    client = _administrator(box)
    answers = [
        browser(box.app).post("/login", data={"username": script, "password": "x", "next": script}),
        client.post("/invitations", data={"username": script, "role": script}),
        client.post(f"/invitations/{quote(script, safe='')}/withdraw"),
        client.post("/tokens", data={"name": script, "scope": script, "expires": script}),
        client.post(f"/accounts/{quote(script, safe='')}/role", data={"role": script}),
        client.post(f"/tokens/{quote(script, safe='')}/revoke"),
        client.get("/", query_string={"page": script, "search": script}),
        client.get(f"/{quote(script, safe='')}"),
        client.get(f"/reader-study/{quote(script, safe='')}"),
    ]
    for answer in answers:
        assert script not in answer.get_data(as_text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_s_name_is_never_markup(script: str, box: Guarded) -> None:
    answer = upload(box, (f"{script}.dcm".replace('"', "%22"), b"no DICOM"))
    assert answer.status_code == 200
    assert script not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/....//app.py",
        "/static//etc/passwd", "/study/1/../../keys/device.pem", "/study/1/..%2f..%2fkeys%2fdevice.pem",
        "/study/1/%2e%2e%2fimage.png", "/study/..%2f..%2fledger.sqlite3", "/study/1%00/image.png",
        "/study/1/structured_report.dcm/../../../audit.sqlite3", "/quarantine/..%2f1.dcm", "/quarantine/1.dcm%00.png",
        "/reader-study/..%2f..%2fkeys/case/1.png", "/reader-study/%2e%2e/case/1.png", "/study/0x1", "/study/1e9",
        "/dicom-web/studies/../../keys/device.pem", "/study/-1", "/study/99999999999999999999",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_its_folder(path: str, box: Guarded) -> None:
    answer = _administrator(box).get(path, follow_redirects=True)
    assert answer.status_code in ((401,) if path.startswith("/dicom-web/") else (404, 405)), answer.get_data(
        as_text=True
    )
    assert b"BEGIN PRIVATE KEY" not in answer.data
    assert b"SQLite format" not in answer.data


@pytest.mark.parametrize("uid", ["../../../../tmp/x", "1.2/../3", "1.2.3\x00", "a" * 10_000, "1.2.3;DROP TABLE x"])
def test_a_uid_names_no_file(uid: str, tmp_path: Path) -> None:
    """A UID of the address or of the file itself: files are named by their content."""
    box = Guarded(tmp_path / "box")
    path = make_radiograph(tmp_path / "chest.dcm")
    content = path.read_bytes()
    boundary = b"\r\n--xyz\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--xyz--\r\n"
    headers = {**box.token("send"), "Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz'}
    answer = browser(box.app).post(f"/dicom-web/studies/{quote(uid, safe='')}", data=boundary, headers=headers)
    assert answer.status_code in (400, 403, 404, 409)  # 403: there is no such route
    outside = [each for each in tmp_path.rglob("*") if each.is_file() and tmp_path / "box" not in each.parents]
    assert outside == [path]


INJECTIONS = (
    "' OR '1'='1", "1; DROP TABLE account; --", "' UNION SELECT password FROM account --", "\x00", "%", "_", '"', "\\",
)  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_text_is_sql(text: str, tmp_path: Path) -> None:
    box = Guarded(tmp_path)
    stranger, client = browser(box.app), _administrator(box)
    assert log_in(stranger, text, text).status_code in (403, 429)
    assert stranger.get("/").status_code == 302
    assert stranger.get("/api/v1/studies", headers={"Authorization": f"Bearer {text}"}).status_code in (400, 401)
    for path in ("/", "/worklist.fragment", "/quarantine", "/deliveries"):
        query = dict.fromkeys(("page", "search", "state", "sort"), text)
        assert client.get(path, query_string=query).status_code < 500
    for path in (f"/accounts/{quote(text, safe='')}/disable", f"/tokens/{quote(text, safe='')}/revoke"):
        assert client.post(path).status_code in (400, 404)
    client.post("/reader-study/x", data={"reader": text, "code": text})
    connection = sqlite3.connect(box.config.ledger_path)
    assert connection.execute("SELECT count(*) FROM account").fetchone() == (4,)
    connection.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_is_sent_to_any_route_is_answered(data: st.DataObject, box: Guarded) -> None:
    """No request makes the page fail: an error of the server's own is a hole that nobody has looked into."""
    client = _administrator(box)
    method, path, endpoint = data.draw(st.sampled_from(list(routes(box.app))))
    if endpoint in ("people.logout", "people.login", "people.change"):
        return
    words = st.text(max_size=20)
    query = data.draw(st.dictionaries(st.sampled_from(["page", "q", "search", "state", "next"]), words, max_size=2))
    form = data.draw(st.dictionaries(st.sampled_from(["username", "role", "name", "reader", "code", "rating"]), words))
    answer = client.open(path, method=method, query_string=query, data=form if method == "POST" else None)
    assert answer.status_code < 500, (method, path, query, form)


_clients: dict[int, FlaskClient] = {}


def _administrator(box: Guarded) -> FlaskClient:
    """One for all, since a login takes its time."""
    if id(box) not in _clients:
        _clients[id(box)] = box.client("administrator")
    return _clients[id(box)]


SPLITTERS = ("x\r\nSet-Cookie: a=b", "x\nLocation: http://evil.example", "x\r\n\r\n<html>", "\u010d\u010a")


@pytest.mark.parametrize("text", SPLITTERS)
def test_no_text_becomes_a_header(text: str, box: Guarded) -> None:
    """Response splitting, by whatever comes back in an answer."""
    client = _administrator(box)
    answers = [
        browser(box.app).post("/login", data={"username": "viewer", "password": "x", "next": text}),
        browser(box.app).get(f"/study/{quote(text)}"),
        browser(box.app).get("/study/1", query_string={"a": text}),
        client.post(f"/accounts/{quote(text, safe='')}/enable"),
        client.post("/invitations", data={"username": text, "role": "viewer"}),
        client.get(f"/reader-study/{quote(text, safe='')}"),
    ]
    for answer in answers:
        for name, value in answer.headers:
            assert "\r" not in name + value
            assert "\n" not in name + value
        assert "a=b" not in answer.headers.get("Set-Cookie", "")
        assert "evil.example" not in answer.headers.get("Location", "").partition("?")[0]


# --- too much ------------------------------------------------------------------------------------------------------


def test_a_form_has_its_limit_and_a_password_too(box: Guarded) -> None:
    client = browser(box.app)
    assert client.post("/login", data={"username": "x", "password": "p" * 100_000}).status_code == 413
    assert log_in(client, "viewer", "p" * 60_000).status_code == 403


def upload(box: Guarded, *files: tuple[str, bytes]) -> TestResponse:
    body = b"".join(
        b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in files
    )
    kind = "multipart/form-data; boundary=xyz"
    return _administrator(box).post("/upload", data=body + b"--xyz--\r\n", content_type=kind)


def test_an_upload_has_its_limits(box: Guarded) -> None:
    one = upload(box, ("a.dcm", b"\x00" * 1_100_000))
    assert one.status_code in (200, 413)
    assert "are here" not in one.get_data(as_text=True) or "0 of 1 files are here" in one.get_data(as_text=True)
    many = upload(box, *((f"{number}.dcm", b"\x00" * 900_000) for number in range(4)))
    assert many.status_code == 413


def test_a_bomb_in_a_zip_is_turned_away(box: Guarded) -> None:
    """A hundred kilobytes that become a hundred megabytes, archives in archives, and names that lead elsewhere."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", b"\x00" * 100_000_000)
    nested = bomb.getvalue()
    for _ in range(5):
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.zip", nested)
        nested = outer.getvalue()
    escaping = io.BytesIO()
    with zipfile.ZipFile(escaping, "w") as archive:
        archive.writestr("../../../../tmp/escaped.dcm", b"x")
        archive.writestr("/etc/cron.d/escaped", b"x")
    before = len(box.store.worklist(limit=1000))
    for content in (bomb.getvalue(), nested, escaping.getvalue()):
        assert upload(box, ("a.zip", content)).status_code in (200, 413)
    rows = box.store.worklist(limit=1000)
    assert all(row["size"] < 1_000_000 for row in rows[: len(rows) - before])
    assert not Path("/tmp/escaped.dcm").exists()
    assert not Path("/etc/cron.d/escaped").exists()
    folder = Path(box.config.data_dir)
    assert sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) < 50_000_000

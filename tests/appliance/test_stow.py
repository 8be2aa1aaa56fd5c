"""STOW-RS and the upload form by a test client: the standard's answers, limits, and what hostile bodies provoke."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.test import TestResponse

from appliance.config import Config, Uploads
from appliance.store import Store
from appliance.web.app import create_app
from appliance.web.multipart import parts
from tests.appliance.conftest import PASSWORD, account
from tests.dicom_files import make_radiograph
from tests.peers import small_disk

RELATED = 'multipart/related; type="application/dicom"; boundary=xyz'
FROM_PAGE = {"Origin": "http://localhost"}  # as browsers say it of this device's own page


class Page:
    """The page's application on an empty folder, and its ledger."""

    def __init__(self, folder: Path, **tables: Any) -> None:
        self.config = Config(data_dir=str(folder), **tables)
        self.store = Store(self.config.ledger_path)
        self.arrivals: list[None] = []
        self.client: FlaskClient = create_app(self.config, lambda: self.arrivals.append(None)).test_client()

    def stow(self, *contents: bytes, path: str = "/dicom-web/studies", **headers: str) -> TestResponse:
        sent = {"Content-Type": RELATED, "Accept": "application/dicom+json", **headers}
        return self.client.post(path, data=body(*contents), headers=sent)

    def upload(self, *files: tuple[str, bytes]) -> list[dict[str, Any]]:
        answer = self.client.post(
            "/upload",
            data={"files": [(io.BytesIO(content), name) for name, content in files]},
            headers={"Accept": "application/json", **FROM_PAGE},
        )
        assert answer.status_code == 200, answer.get_data(as_text=True)
        found: list[dict[str, Any]] = answer.get_json()
        return found

    def rows(self) -> list[dict[str, Any]]:
        return sorted(self.store.worklist(limit=1000), key=lambda row: row["id"])

    def spooled(self) -> list[Path]:
        return [path for path in self.config.spool_path.rglob("*") if path.is_file()]


def body(*contents: bytes, end: bytes = b"\r\n--xyz--\r\n") -> bytes:
    head = b"\r\n--xyz\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + content for content in contents) + end


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path / "box")


@pytest.fixture
def chest(tmp_path: Path) -> bytes:
    return make_radiograph(tmp_path / "chest.dcm").read_bytes()


def uid(content: bytes) -> str:
    return str(dcmread(io.BytesIO(content), stop_before_pixels=True).SOPInstanceUID)


def reasons(answer: TestResponse) -> list[int]:
    found = answer.get_json()
    items = [item for tag in ("00081198", "0008119A") if tag in found for item in found[tag]["Value"]]
    return [item["00081197"]["Value"][0] for item in items]


def test_what_is_stored_is_said_so_durable_and_told_to_the_worker(page: Page, chest: bytes, tmp_path: Path) -> None:
    other = make_radiograph(tmp_path / "b.dcm", seed=1).read_bytes()
    answer = page.stow(chest, other)
    assert answer.status_code == 200
    assert answer.mimetype == "application/dicom+json"
    stored = answer.get_json()["00081199"]["Value"]
    assert [each["00081155"]["Value"][0] for each in stored] == [uid(chest), uid(other)]
    assert "00081198" not in answer.get_json()
    first, second = page.rows()
    assert (first["source"], first["state"], first["sop_instance_uid"]) == ("stow", "received", uid(chest))
    assert first["transfer_id"] == second["transfer_id"]
    assert (page.config.spool_path / first["file"]).read_bytes() == chest
    assert len(page.arrivals) >= 2


def test_the_same_as_by_c_store_is_the_same_instance(page: Page, chest: bytes) -> None:
    assert page.stow(chest).status_code == page.stow(chest).status_code == 200
    (row,) = page.rows()
    assert row["copies"] == 2


def test_some_that_fail_make_202_and_all_that_fail_make_409(page: Page, chest: bytes, tmp_path: Path) -> None:
    answer = page.stow(b"a letter", chest, b"")
    assert answer.status_code == 202
    assert reasons(answer) == [0xC000, 0xC000]
    assert len(page.rows()) == 1
    other = make_radiograph(tmp_path / "b.dcm", SOPInstanceUID=uid(chest), seed=2)  # other pixels, same UID
    answer = page.stow(other.read_bytes())
    assert (answer.status_code, reasons(answer)) == (409, [0x0111])
    assert page.rows()[1]["state"] == "quarantined"


def test_instances_of_another_study_are_refused_where_one_is_named(page: Page, chest: bytes) -> None:
    study = str(dcmread(io.BytesIO(chest)).StudyInstanceUID)
    answer = page.stow(chest, path="/dicom-web/studies/1.2.3")
    assert (answer.status_code, reasons(answer)) == (409, [0xC409])
    assert page.rows() == []
    assert page.stow(chest, path=f"/dicom-web/studies/{study}").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/dicom"}, 415),
        ({"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=xyz'}, 415),
        ({"Content-Type": "multipart/related"}, 400),
        ({"Content-Type": "multipart/related; boundary=other"}, 400),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Accept": "application/dicom+xml"}, 406),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
    ],
)
def test_what_is_no_such_request_is_refused_in_words(
    page: Page, chest: bytes, headers: dict[str, str], status: int
) -> None:
    answer = page.stow(chest, **headers)
    assert answer.status_code == status
    assert answer.mimetype == "text/plain"
    assert len(answer.get_data(as_text=True)) > 10
    assert page.rows() == []


def test_a_part_of_another_kind_is_refused(page: Page) -> None:
    data = b"--xyz\r\nContent-Type: image/jpeg\r\n\r\nx\r\n--xyz--"
    assert page.client.post("/dicom-web/studies", data=data, headers={"Content-Type": RELATED}).status_code == 415


def test_a_body_that_is_cut_off_keeps_what_came_whole_and_says_400(page: Page, chest: bytes, tmp_path: Path) -> None:
    other = make_radiograph(tmp_path / "b.dcm", seed=1).read_bytes()
    cut = body(chest, other)[: -len(other) // 2]
    answer = page.client.post("/dicom-web/studies", data=cut, headers={"Content-Type": RELATED})
    assert answer.status_code == 400
    (row,) = page.rows()
    assert row["sop_instance_uid"] == uid(chest)
    assert len(page.spooled()) == 1, "nothing of the other one stays"
    (transfer,) = page.store._rows("SELECT ending FROM transfer")
    assert transfer["ending"] == "aborted"


def test_limits_hold_for_a_file_and_for_a_request(tmp_path: Path) -> None:
    page = Page(tmp_path / "box", uploads=Uploads(largest_file_mb=1, largest_request_mb=2))
    small = make_radiograph(tmp_path / "a.dcm", rows=500, columns=600).read_bytes()
    large = make_radiograph(tmp_path / "b.dcm", rows=1000, columns=1000, seed=1).read_bytes()
    assert page.stow(small).status_code == 200
    assert page.stow(large).status_code == 413
    assert page.stow(*[make_radiograph(tmp_path / f"{n}.dcm", rows=500, columns=600, seed=n).read_bytes()
                       for n in range(2, 7)]).status_code == 413  # fmt: skip
    assert {path.stat().st_size for path in page.spooled()} == {len(small)}


def test_a_full_disk_is_a_reason_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "12m") as disk:
        page = Page(disk / "box")
        images = [
            make_radiograph(tmp_path / f"{n}.dcm", rows=1500, columns=1500, seed=n).read_bytes() for n in range(3)
        ]
        answer = page.stow(*images)
        assert answer.status_code == 202
        assert 0xA700 in reasons(answer)
        assert {path.stat().st_size for path in page.spooled()} == {len(images[0])}
        page.store.close()


def test_with_a_login_systems_need_it_in_every_request(tmp_path: Path, chest: bytes) -> None:
    page = Page(tmp_path / "box")
    account(page.config.ledger_path, pacs="engineer")
    account(page.config.ledger_path, jane="clinician")

    def basic(password: str, name: str = "pacs") -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}

    refused = page.stow(chest)
    assert (refused.status_code, refused.headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert page.stow(chest, **basic(PASSWORD)).status_code == 200
    for _ in range(9):
        assert page.stow(chest, **basic("wrong")).status_code == 401
    assert page.stow(chest, **basic(PASSWORD)).status_code == 200, "one that was right before is not locked out"
    assert page.client.post("/upload", headers={**basic(PASSWORD), **FROM_PAGE}).status_code == 302, (
        "people log in on the page"
    )
    assert page.stow(chest, **basic(PASSWORD, "jane")).status_code == 403, "her role has no right to send"
    page.client.post("/login", data={"username": "pacs", "password": PASSWORD}, headers=FROM_PAGE)
    assert page.client.get("/upload").status_code == 200


def test_switched_off_there_is_nothing(tmp_path: Path, chest: bytes) -> None:
    page = Page(tmp_path / "box", uploads=Uploads(enabled=False))
    assert page.stow(chest).status_code == 404
    assert "/upload" not in page.client.get("/").get_data(as_text=True)


# --- the form -------------------------------------------------------------------------------------------------------


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_each_file_has_its_outcome(page: Page, chest: bytes, tmp_path: Path) -> None:
    other = make_radiograph(tmp_path / "b.dcm", seed=1).read_bytes()
    found = page.upload(("a.dcm", chest), ("again.dcm", chest), ("letter.txt", b"no image"), ("empty", b""),
                        ("some.zip", zipped(**{"x/b.dcm": other, "readme": b"text"})))  # fmt: skip
    assert [(each["name"], each["state"]) for each in found] == [
        ("a.dcm", "taken"), ("again.dcm", "again"), ("letter.txt", "ignored"), ("empty", "refused"),
        ("some.zip/x/b.dcm", "taken"), ("some.zip/readme", "ignored"),
    ]  # fmt: skip
    assert [row["source"] for row in page.rows()] == ["upload", "upload"]


def test_without_scripts_the_form_answers_with_a_page(page: Page, chest: bytes) -> None:
    files = [(io.BytesIO(chest), "<b>.dcm"), (io.BytesIO(b"x"), "y")]
    answer = page.client.post("/upload", data={"files": files}, headers=FROM_PAGE)
    text = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "1 of 2 files are here" in text
    assert "&lt;b&gt;.dcm" in text
    assert "<b>.dcm" not in text


def test_a_file_is_kept_byte_for_byte_whatever_is_in_it(page: Page, tmp_path: Path) -> None:
    """Line breaks and dashes at its end, where the boundary follows."""
    for number, end in enumerate((b"\r\n", b"\r\n--", b"\r", b"--xy", b"\n\r\n-")):
        content = make_radiograph(tmp_path / f"{number}.dcm", seed=number).read_bytes() + end
        page.upload((f"{number}.dcm", content))
        assert (page.config.spool_path / page.rows()[-1]["file"]).read_bytes() == content


PIECES = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"--xyz", b"\r\n--xy", b"-", b"x", b"\0" * 50]), max_size=12
)


class Slow(io.BytesIO):
    """Gives a few bytes at a time, as a network does."""

    def __init__(self, content: bytes, step: int) -> None:
        super().__init__(content)
        self.step = step

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.step)


@settings(max_examples=200)
@given(contents=st.lists(PIECES.map(b"".join).filter(lambda c: b"\n--xyz" not in c and b"\r--xyz" not in c
                                                     and not c.startswith(b"--xyz")), min_size=1, max_size=4),
       step=st.integers(1, 40))  # fmt: skip
def test_parts_come_out_as_they_went_in(contents: list[bytes], step: int) -> None:
    found = [b"".join(part.pieces) for part in parts(Slow(body(*contents), step), "xyz", 10**6, 10)]
    assert found == contents


@settings(max_examples=200)
@given(data=st.one_of(st.binary(max_size=300), PIECES.map(b"".join)), step=st.integers(1, 40))
def test_any_body_ends_in_parts_or_in_words(data: bytes, step: int) -> None:
    def read() -> Iterator[bytes]:
        for part in parts(Slow(data, step), "xyz", 100, 3):
            yield from part.pieces

    with suppress(BadRequest, RequestEntityTooLarge):
        list(read())


def test_headers_without_end_are_refused_before_they_fill_the_memory() -> None:
    endless = b"--xyz\r\n" + b"X: " + b"a" * 2_000_000
    with pytest.raises(RequestEntityTooLarge):
        list(parts(io.BytesIO(endless), "xyz", 10**9, 10))

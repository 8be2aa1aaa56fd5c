"""The scanner simulator: pictures become valid DICOM, and each file's fate is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind

from appliance.acceptor.tls import server_context
from appliance.delivery.storage_scu import Peer
from appliance.errors import ApplianceError, ImageError
from appliance.image import load
from appliance.patients import by_number, from_worklist
from appliance.scanner import Manner
from appliance.send import Destination, parse_destination, send_files, wrap_image
from appliance.tls_client import TlsFiles, client_context
from tests.certificates import Authority
from tests.dicom_files import chest_pixels, make_radiograph
from tests.peers import free_port, needs, storescp, wait_for_port
from tests.running import scanside


def picture(path: Path, bits: int = 8) -> Path:
    PillowImage.fromarray(chest_pixels(91, 77, bits, seed=1)).save(path)
    return path


@pytest.mark.parametrize(("name", "bits"), [("a.png", 8), ("a.png", 16), ("a.jpg", 8)])
def test_a_wrapped_picture_is_a_valid_computed_radiograph(name: str, bits: int, tmp_path: Path) -> None:
    source = picture(tmp_path / name, bits)
    wrap_image(source, {"PatientAge": "004Y"}).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    verdict = subprocess.run([needs("dciodvfy"), "-new", str(tmp_path / "a.dcm")], capture_output=True, text=True)
    assert verdict.returncode == 0, verdict.stderr
    expected = np.asarray(PillowImage.open(source))
    assert np.array_equal(load(tmp_path / "a.dcm").pixels, expected)


def test_the_same_picture_is_the_same_instance_and_other_attributes_are_another(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    one, two, other = (wrap_image(source, attributes) for attributes in ({}, {}, {"ViewPosition": "LL"}))
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert other.ViewPosition == "LL"


@pytest.mark.parametrize("attributes", [{"Nonsense": "1"}, {"Rows": "5"}, {"PixelData": "x"}, {"PatientAge": "old"}])
def test_attributes_that_cannot_be_set_are_named(attributes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match=next(iter(attributes))):
        wrap_image(picture(tmp_path / "a.png"), attributes)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png"):
        wrap_image(tmp_path / "a.png", {})


def test_each_file_has_its_answer(tmp_path: Path) -> None:
    make_radiograph(tmp_path / "in" / "a.dcm")
    picture(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.txt").write_text("no image")
    with storescp(tmp_path / "out") as port:
        answers = list(
            send_files(sorted((tmp_path / "in").iterdir()), Destination("PEER", "127.0.0.1", port), "TEST", {}, 2)
        )
    assert {answer.path.name: answer.ok for answer in answers} == {"a.dcm": True, "b.png": True, "c.txt": False}
    assert "it does not begin as one does" in next(answer.error for answer in answers if not answer.ok)
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A@host:104", Destination("A", "host", 104)),
        ("MY PACS@10.0.0.1:11112", Destination("MY PACS", "10.0.0.1", 11112)),
        ("A@[::1]:104", Destination("A", "::1", 104)),
    ],
)
def test_destinations_are_read(text: str, expected: Destination) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize("text", ["", "host:104", "A@host", "A@host:0", "A@host:70000", "A" * 17 + "@host:104", "A@:1"])
def test_what_is_no_destination_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ApplianceError) as refused:
        parse_destination(text)
    assert "SCANSIDE@127.0.0.1:11112" in str(refused.value)


def test_the_command_says_what_became_of_the_files(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    with storescp(tmp_path / "out") as port:
        sent = scanside("send", source, "--to", f"PEER@127.0.0.1:{port}", "--set", "PatientAge=004Y")
        assert sent.returncode == 0, sent.stderr
        (arrived,) = (tmp_path / "out").iterdir()
        assert pydicom.dcmread(arrived).PatientAge == "004Y"
    failed = scanside("send", source, "--to", f"PEER@127.0.0.1:{free_port()}")
    assert failed.returncode == 1
    assert "can't be reached" in failed.stdout + failed.stderr


# --- the manner of a scanner ----------------------------------------------------------------------------------------


def test_each_test_patient_gets_all_files_as_new_images(tmp_path: Path) -> None:
    files = [make_radiograph(tmp_path / "in" / f"{n}.dcm", seed=n, StudyInstanceUID="1.2.3") for n in range(2)]
    with storescp(tmp_path / "out") as port:
        to = Destination("PEER", "127.0.0.1", port)
        for _ in range(2):
            answers = list(send_files(files, to, "TEST", {}, 2, patients=list(by_number(3))))
            assert [answer.ok for answer in answers] == [True] * 6
            assert {answer.path for answer in answers} == set(files)
    arrived = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir()]
    assert len({each.SOPInstanceUID for each in arrived}) == 12
    assert len({each.StudyInstanceUID for each in arrived}) == 6
    assert len({(each.PatientID, each.PatientName) for each in arrived}) == 3
    assert all(each.pixel_array.shape == (256, 224) for each in arrived)


def test_patients_come_from_a_worklist(tmp_path: Path) -> None:
    """dcmtk's worklist server."""
    (tmp_path / "lists" / "WORKLIST").mkdir(parents=True)
    (tmp_path / "lists" / "WORKLIST" / "lockfile").touch()
    for number, modality in enumerate(("CR", "CR", "MR")):
        (tmp_path / "entry.dump").write_text(
            f"(0008,0050) SH ACC{number}\n(0010,0010) PN WORK^LIST{number}\n(0010,0020) LO W{number}\n"
            f"(0020,000d) UI 1.2.3.{number + 1}\n(0040,0100) SQ\n(fffe,e000) -\n(0008,0060) CS {modality}\n"
            f"(0040,0001) AE SCANNER\n(0040,0002) DA 20260101\n(0040,0003) TM 1000\n(0040,0009) SH S{number}\n"
            f"(fffe,e00d) -\n(fffe,e0dd) -\n(0040,1001) SH R{number}\n"
        )
        target = tmp_path / "lists" / "WORKLIST" / f"{number}.wl"
        subprocess.run([needs("dump2dcm"), str(tmp_path / "entry.dump"), str(target)], check=True, capture_output=True)
    port = free_port()
    process = subprocess.Popen([needs("wlmscpfs"), "-dfr", "-dfp", str(tmp_path / "lists"), str(port)])
    try:
        wait_for_port(port)
        found = from_worklist(Peer("127.0.0.1", port, "WORKLIST", "SCANNER", 30))
    finally:
        process.terminate()
        process.wait(30)
    assert sorted(each.attributes["PatientID"] for each in found) == ["W0", "W1", "W2"]
    examined = found[0].examine(make_radiograph(tmp_path / "a.dcm"))
    assert examined.PatientName == found[0].attributes["PatientName"]
    assert examined.StudyInstanceUID.startswith("1.2.3.")


def test_a_worklist_is_asked_over_tls_as_the_images_are_sent(tmp_path: Path) -> None:
    """A worklist that takes no call in the clear, nor one without a certificate."""
    authority = Authority(tmp_path / "ca", "test")
    certificate, key = authority.issue("peer")
    own, own_key = authority.issue("me")
    listed = Dataset()
    listed.PatientName, listed.PatientID = "WORK^LIST", "W1"
    entity = AE("WORKLIST")
    entity.add_supported_context(ModalityWorklistInformationFind)
    server = entity.start_server(
        ("127.0.0.1", port := free_port()),
        block=False,
        ssl_context=server_context(key, certificate, authority.ca),
        evt_handlers=[(evt.EVT_C_FIND, lambda _: iter([(0xFF00, listed)]))],
    )
    try:
        with storescp(tmp_path / "out", "+tls", str(key), str(certificate), "+cf", str(authority.ca)) as to:
            sent = scanside("send", make_radiograph(tmp_path / "a.dcm"), "--to", f"PEER@localhost:{to}",
                            "--worklist", f"WORKLIST@localhost:{port}", "--tls", "--ca", authority.ca, "--cert", own,
                            "--key", own_key)  # fmt: skip
    finally:
        server.shutdown()
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert [pydicom.dcmread(path).PatientID for path in (tmp_path / "out").iterdir()] == ["W1"]


def test_an_aborted_image_is_sent_again_and_arrives_once(tmp_path: Path) -> None:
    files = [make_radiograph(tmp_path / "in" / f"{n}.dcm", rows=600, columns=600, seed=n) for n in range(6)]
    aborts: list[None] = []
    with storescp(tmp_path / "out") as port:
        answers = list(
            send_files(
                files, Destination("PEER", "127.0.0.1", port), "TEST", {}, 1,
                manner=Manner(abort_every=2), on_abort=lambda: aborts.append(None),
            )
        )  # fmt: skip
    assert [answer.ok for answer in answers] == [True] * 6
    assert len(aborts) == 3
    whole = [path for path in (tmp_path / "out").iterdir() if path.stat().st_size > 600 * 600 * 2]
    assert len(whole) == 6


def test_a_rate_is_kept_and_associations_are_made_anew(tmp_path: Path) -> None:
    files = [make_radiograph(tmp_path / "in" / f"{n}.dcm", rows=32, columns=32, seed=n) for n in range(6)]
    log = tmp_path / "log"
    with log.open("w") as written:
        port = free_port()
        (tmp_path / "out").mkdir()
        process = subprocess.Popen([needs("storescp"), "-v", "--output-directory", str(tmp_path / "out"), str(port)],
                                   stdout=written, stderr=written)  # fmt: skip
        wait_for_port(port)
        manner = Manner(images_per_second=20, per_association=2)
        answers = list(send_files(files, Destination("PEER", "127.0.0.1", port), "TEST", {}, 1, manner=manner))
        process.terminate()
        process.wait(30)
    at = [answer.answered_at for answer in answers]
    assert at[-1] - at[0] >= 0.2  # 5 steps of 50 ms, whatever the load; the answers' own times differ a little
    assert log.read_text().count("Association Release") == 3


def test_it_speaks_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "test")
    certificate, key = authority.issue("peer")
    files = TlsFiles(authority.ca, *authority.issue("me"))
    source = make_radiograph(tmp_path / "a.dcm")
    with storescp(tmp_path / "out", "+tls", str(key), str(certificate), "+cf", str(authority.ca)) as port:
        sent = scanside("send", source, "--to", f"PEER@localhost:{port}", "--tls", "--ca", files.ca, "--cert",
                        files.certificate, "--key", files.key, "--patients", "2")  # fmt: skip
        assert sent.returncode == 0, sent.stdout + sent.stderr
        assert "2 of 2 images taken" in sent.stderr
        plain = scanside("send", source, "--to", f"PEER@localhost:{port}")
        assert plain.returncode == 1
    assert client_context(files).minimum_version >= 0x0303
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_peer_that_is_not_there_is_asked_once(tmp_path: Path) -> None:
    files = [make_radiograph(tmp_path / f"{n}.dcm", seed=n) for n in range(5)]
    answers = list(send_files(files, Destination("PEER", "127.0.0.1", free_port()), "TEST", {}, 2))
    assert len(answers) == 5
    assert all("can't be reached" in answer.error for answer in answers)

"""What `scanside test-connection` finds, against real peers: dcmtk, Orthanc, OpenSSL, and sockets that misbehave."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from appliance import config
from appliance.checks import Check
from appliance.connection import IMAGES, Question, examine, needed_for
from appliance.ingest.storage_scp import StorageScp
from appliance.send import Destination
from appliance.tls_client import TlsFiles
from tests.appliance.conftest import Box
from tests.certificates import HOUR, Authority
from tests.dicom_files import make_radiograph
from tests.peers import free_port, orthanc, storescp, wait_for_port
from tests.running import scanside


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.fixture(scope="module")
def mine(authority: Authority) -> TlsFiles:
    certificate, key = authority.issue("scanside")
    return TlsFiles(authority.ca, certificate, key)


def ask(
    port: int,
    *,
    called: str = "ANY",
    calling: str = "SCANNER",
    tls: TlsFiles | None = None,
    host: str = "localhost",
    timeout: float = 5.0,
) -> list[Check]:
    return list(examine(Question(Destination(called, host, port), calling, IMAGES, tls, timeout)))


def failure(checks: list[Check]) -> Check:
    """The one that failed, with which the test ends."""
    assert [check.outcome == "fail" for check in checks] == [False] * (len(checks) - 1) + [True], checks
    assert checks[-1].hint
    return checks[-1]


def tls_storescp(folder: Path, server: tuple[Path, Path], ca: Path, *options: str) -> Iterator[int]:
    certificate, key = server
    return storescp(folder, "+tls", str(key), str(certificate), "+cf", str(ca), *options)


# --- network and DICOM ------------------------------------------------------------------------------------------------


def test_a_peer_that_is_in_order_is_said_to_be(tmp_path: Path) -> None:
    with storescp(tmp_path / "out", "+xa") as port:
        checks = ask(port)
    assert {check.outcome for check in checks} == {"ok"}
    said = {check.what: check.detail for check in checks}
    assert said["CT Image Storage"] == "in 6 of 6 transfer syntaxes"
    assert said["C-ECHO"] == "answered"


def test_a_port_where_nobody_listens() -> None:
    found = failure(ask(free_port()))
    assert found.what == "port"
    assert "nothing listens" in found.detail


def test_a_port_that_swallows_everything() -> None:
    """As a firewall that drops: here a listener whose queue is full, so that the kernel drops, too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filling = [socket.socket() for _ in range(8)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        found = failure(ask(listener.getsockname()[1], host="127.0.0.1", timeout=0.5))
        for each in filling:
            each.close()
    assert found.what == "port"
    assert "firewall" in found.hint


def test_a_name_that_nobody_has() -> None:
    found = failure(ask(104, host="no-such-host.invalid"))
    assert found.what == "name"
    assert "no-such-host.invalid" in found.detail


def test_a_wrong_called_ae_title(tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs") as pacs:  # which checks it here
        found = failure(ask(pacs.port, called="ORTHANK"))
        assert "it is not called 'ORTHANK'" in found.detail
        assert "letter by letter" in found.hint


def test_a_calling_ae_title_that_the_peer_does_not_know() -> None:
    """pynetdicom's acceptor says so; dcmqrscp rejects the called one then, Orthanc hangs up."""
    peer = AE(ae_title="ARCHIVE")
    peer.require_calling_aet = ["CT1"]
    peer.add_supported_context(Verification)
    server = peer.start_server(("127.0.0.1", 0), block=False)
    try:
        found = failure(ask(server.socket.getsockname()[1], called="ARCHIVE", calling="STRANGER"))
    finally:
        server.shutdown()
    assert "does not know the calling AE title 'STRANGER'" in found.detail
    assert "--from" in found.hint


def test_objects_and_syntaxes_that_the_peer_does_not_take(tmp_path: Path) -> None:
    with storescp(tmp_path / "out", "+xi") as port:  # implicit VR only
        checks = {check.what: check for check in ask(port)}
    some = checks["CT Image Storage"]
    assert some.outcome == "warning"
    assert "JPEG 2000" in some.detail
    unknown = {UID("1.2.3.4.5"): (ExplicitVRLittleEndian, ImplicitVRLittleEndian)}
    with orthanc(tmp_path / "pacs") as pacs:
        found = list(examine(Question(Destination("ORTHANC", "localhost", pacs.port), "SCANNER", unknown)))
    refused = next(check for check in found if check.what == "1.2.3.4.5")
    assert "not this kind of object" in refused.detail


def test_what_files_need_is_asked_for(tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm", transfer_syntax="1.2.840.10008.1.2.4.90")
    wanted = needed_for([path])
    assert {each.name: [syntax.name for syntax in syntaxes] for each, syntaxes in wanted.items()} == {
        "Computed Radiography Image Storage": ["JPEG 2000 Image Compression (Lossless Only)"]
    }


@contextmanager
def answering(answer: bytes | None, hold: bool = False) -> Iterator[int]:
    """A listener that says this to everyone; None: nothing, until it is told to end."""
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            held = []
            while not end.is_set():
                try:
                    peer, _ = listener.accept()
                except TimeoutError:
                    continue
                if answer is not None:
                    peer.sendall(answer)
                held.append(peer)
                if not hold:
                    held.pop().close()
            for each in held:
                each.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        end.set()
        thread.join()


@pytest.mark.parametrize(("answer", "hold"), [(b"SSH-2.0-OpenSSH_9\r\n", False), (None, True), (None, False)])
def test_what_is_no_dicom_peer(answer: bytes | None, hold: bool) -> None:
    with answering(answer, hold) as port:
        found = failure(ask(port, host="127.0.0.1", timeout=1.0))
    assert found.what == "association"
    assert "log" in found.hint


# --- TLS --------------------------------------------------------------------------------------------------------------


@contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_tls_that_is_in_order(authority: Authority, mine: TlsFiles, tmp_path: Path) -> None:
    with tls_storescp(tmp_path / "out", authority.issue("pacs"), authority.ca) as port:
        checks = ask(port, tls=mine)
    assert not [check for check in checks if check.outcome == "fail"]
    said = next(check.detail for check in checks if check.what == "TLS")
    assert "TLSv1." in said
    assert "CN=pacs" in said


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [(-2 * HOUR, -HOUR, "has expired"), (HOUR, 2 * HOUR, "is not valid yet")],
)
def test_a_peers_certificate_out_of_its_time(
    begin: timedelta, end: timedelta, words: str, authority: Authority, mine: TlsFiles, tmp_path: Path
) -> None:
    with tls_storescp(tmp_path / "out", authority.issue("late", begin, end), authority.ca) as port:
        found = failure(ask(port, tls=mine))
    assert f"the peer's certificate {words}" in found.detail
    assert "valid from 20" in found.detail
    assert "clock says" in found.hint


def test_a_peer_of_an_unknown_authority(authority: Authority, mine: TlsFiles, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    with tls_storescp(tmp_path / "out", stranger.issue("pacs2"), authority.ca) as port:
        found = failure(ask(port, tls=mine))
    assert "not known here: CN=stranger" in found.detail
    assert "--ca" in found.hint


def test_a_certificate_for_another_name(authority: Authority, mine: TlsFiles, tmp_path: Path) -> None:
    with tls_storescp(tmp_path / "out", authority.issue("pacs3", host="pacs.example"), authority.ca) as port:
        found = failure(ask(port, tls=mine))
        assert "is not for localhost, but pacs.example" in found.detail
        right = TlsFiles(mine.ca, mine.certificate, mine.key, "pacs.example")
        assert not [check for check in ask(port, tls=right) if check.outcome == "fail"]


def test_a_peer_that_wants_a_certificate(authority: Authority, tmp_path: Path) -> None:
    with tls_storescp(tmp_path / "out", authority.issue("pacs4"), authority.ca) as port:
        found = failure(ask(port, tls=TlsFiles(authority.ca)))
    assert found.what == "TLS"
    assert "--cert" in found.hint


def test_a_certificate_that_the_peer_does_not_believe(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    certificate, key = stranger.issue("me")
    with tls_storescp(tmp_path / "out", authority.issue("pacs5"), authority.ca) as port:
        found = failure(ask(port, tls=TlsFiles(authority.ca, certificate, key)))
    assert "does not know the authority that issued this side's certificate" in found.detail


@pytest.mark.parametrize(
    ("begin", "end", "words"), [(-2 * HOUR, -HOUR, "has expired"), (HOUR, 2 * HOUR, "not valid yet")]
)
def test_a_certificate_of_this_side_out_of_its_time(
    begin: timedelta, end: timedelta, words: str, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("old", begin, end)
    with tls_storescp(tmp_path / "out", authority.issue("pacs6"), authority.ca) as port:
        found = failure(ask(port, tls=TlsFiles(authority.ca, certificate, key)))
    assert found.what == "own certificate"
    assert words in found.detail


def test_plain_dicom_called_by_tls_and_the_other_way_round(
    authority: Authority, mine: TlsFiles, tmp_path: Path
) -> None:
    with storescp(tmp_path / "plain") as port:
        found = failure(ask(port, tls=mine))
        assert "--tls" in found.hint
    with tls_storescp(tmp_path / "secure", authority.issue("pacs7"), authority.ca) as port:
        found = failure(ask(port))
        assert "speaks TLS on this port" in found.detail


def test_an_old_tls_version(authority: Authority, mine: TlsFiles) -> None:
    certificate, key = authority.issue("ancient")
    port = free_port()
    command = ["openssl", "s_server", "-accept", str(port), "-cert", str(certificate), "-key", str(key), "-tls1_1",
               "-cipher", "ALL:@SECLEVEL=0", "-quiet"]  # fmt: skip
    with running(*command, port=port):
        found = failure(ask(port, tls=mine))
    assert "no TLS version that is allowed" in found.detail


def test_files_of_this_side_that_do_not_serve(authority: Authority, mine: TlsFiles, tmp_path: Path) -> None:
    assert mine.certificate is not None
    assert mine.key is not None
    _, other_key = authority.issue("other")
    sealed, text = tmp_path / "sealed.key", tmp_path / "text.pem"
    text.write_text("hello")
    command = ["openssl", "pkey", "-in", str(mine.key), "-aes256", "-passout", "pass:x", "-out", str(sealed)]
    subprocess.run(command, check=True, capture_output=True)
    with answering(None, hold=True) as port:
        for files, words in (
            (TlsFiles(mine.ca, mine.certificate, other_key), "other.key does not belong to the certificate"),
            (TlsFiles(mine.ca, mine.certificate, sealed), "is encrypted"),
            (TlsFiles(mine.ca, mine.certificate, text), "text.pem is not a private key in PEM form"),
            (TlsFiles(mine.ca, text, mine.key), "text.pem is no certificate in PEM form"),
            (TlsFiles(text), "text.pem can't be used as an authority"),
            (TlsFiles(tmp_path / "none.pem"), "No such file"),
        ):
            found = failure(ask(port, tls=files, host="127.0.0.1"))
            assert found.what == "own certificate"
            assert words in found.detail


def test_a_peers_certificate_that_was_made_for_a_client_only(
    authority: Authority, mine: TlsFiles, tmp_path: Path
) -> None:
    server = authority.issue("clientonly", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    with tls_storescp(tmp_path / "out", server, authority.ca) as port:
        found = failure(ask(port, tls=mine))
    assert "was not made for a server" in found.detail


def test_the_clock_is_told_where_certificates_count(authority: Authority, mine: TlsFiles, tmp_path: Path) -> None:
    with tls_storescp(tmp_path / "out", authority.issue("pacs8"), authority.ca) as port:
        (clock,) = (check for check in ask(port, tls=mine) if check.what == "clock")
    assert clock.detail.startswith("this device's says 20")
    assert clock.outcome in ("ok", "warning")  # by whether this machine's is kept right
    assert "clock" not in {check.what for check in ask(port)}


# --- this device's own TLS port ---------------------------------------------------------------------------------------


@contextmanager
def own_port(box: Box, settings: config.Tls) -> Iterator[Callable[[], list[Check]]]:
    """A Storage SCP that runs with these files, and what is found about it now."""
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, tls=settings), box.intake)
    port = scp.start()
    files = TlsFiles(Path(settings.ca), Path(settings.certificate), Path(settings.key), any_name=True)
    question = Question(Destination("SCANSIDE", "127.0.0.1", port), "SCANNER", IMAGES, files, own=True)
    try:
        yield lambda: list(examine(question))
    finally:
        scp.stop()


def _settings(certificate: Path, key: Path, ca: Path) -> config.Tls:
    return config.Tls(key=str(key), certificate=str(certificate), ca=str(ca))


def test_the_own_tls_port_in_order(box: Box, authority: Authority) -> None:
    with own_port(box, _settings(*authority.issue("box1"), authority.ca)) as found:
        checks = found()
    assert not [check for check in checks if check.outcome == "fail"], checks
    said = {check.what: check.detail for check in checks}
    assert "CN=box1" in said["TLS"]
    assert said["C-ECHO"] == "answered"


def test_own_files_that_are_renewed_while_it_runs(box: Box, authority: Authority) -> None:
    certificate, key = authority.issue("box2")
    with own_port(box, _settings(certificate, key, authority.ca)) as found:
        authority.issue("box2")  # the same files
        assert not [check for check in found() if check.outcome == "fail"]
        certificate.write_bytes(authority.issue("box3")[0].read_bytes())
        assert "does not belong to the certificate" in failure(found()).detail
        key.unlink()
        assert "box2.key is missing" in failure(found()).detail
        authority.issue("box2", -2 * HOUR, -HOUR)
        assert "has expired" in failure(found()).detail


def test_own_files_that_the_running_appliance_does_not_show(box: Box, authority: Authority) -> None:
    scp = StorageScp(
        config.StorageScp(host="127.0.0.1", port=0, tls=_settings(*authority.issue("box8"), authority.ca)), box.intake
    )
    peer = Destination("SCANSIDE", "127.0.0.1", scp.start())
    try:
        files = TlsFiles(authority.ca, *authority.issue("box9"), any_name=True)
        check = failure(list(examine(Question(peer, "SCANNER", IMAGES, files, own=True))))
    finally:
        scp.stop()
    assert "older certificate than the file: CN=box8" in check.detail
    assert "look into the log" in check.hint


def test_an_own_certificate_of_another_authority_than_the_scanners(
    box: Box, authority: Authority, tmp_path: Path
) -> None:
    """Such a site is in order; only a scanner's certificate can show that."""
    scanners = Authority(tmp_path / "scanners", "scanners")
    with own_port(box, _settings(*authority.issue("box5"), scanners.ca)) as found:
        last = found()[-1]
    assert (last.what, last.outcome) == ("TLS certificate", "warning")
    assert "--cert" in last.hint


def test_an_own_port_that_runs_with_an_older_configuration(box: Box, authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("box6")
    question = TlsFiles(authority.ca, *files, any_name=True)
    with storescp(tmp_path / "out") as port:
        own = Question(Destination("SCANSIDE", "127.0.0.1", port), "SCANNER", IMAGES, question, own=True)
        check = failure(list(examine(own)))
    assert check.what == "TLS"
    assert "it runs with another configuration" in check.hint


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_tests_what_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "scanside.toml"
    with storescp(tmp_path / "out", "+xa") as port, closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        path.write_text(
            f'data_dir = "box"\n[storage_scp]\nhost = "127.0.0.1"\nport = {unused.getsockname()[1]}\n[[destinations]]\n'
            f'name = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
        )
        good = scanside("test-connection", "pacs", "--config", path)
        assert good.returncode == 0, good.stdout
        assert "Comprehensive 3D SR Storage: in 2 of 2" in good.stdout
        both = scanside("test-connection", "--json", "--config", path)
    assert both.returncode == 1
    own, pacs = json.loads(both.stdout)
    assert own["checks"][-1]["what"] == "port"
    assert all(check["outcome"] == "ok" for check in pacs["checks"])


def test_a_destination_is_asked_for_what_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "scanside.toml"
    with storescp(tmp_path / "out") as port:
        path.write_text(
            '[results]\nkinds = ["structured_report", "presentation_state", "parametric_map"]\n[[destinations]]\n'
            f'name = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\nsend = ["presentation_state"]\n'
        )
        asked = [scanside("test-connection", peer, "--config", path).stdout for peer in ("pacs", f"X@127.0.0.1:{port}")]
    assert "Grayscale Softcopy Presentation State Storage" in asked[0]
    assert "Comprehensive 3D SR" not in asked[0]
    assert "Comprehensive 3D SR" in asked[1]
    assert "Parametric Map Storage" in asked[1]
    assert "Segmentation Storage" not in asked[1]


def test_the_command_tests_the_own_port_as_it_is_configured(box: Box, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("box7")
    settings = _settings(certificate, key, authority.ca)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, tls=settings), box.intake)
    path = tmp_path / "scanside.toml"
    path.write_text(
        f'data_dir = "box"\n[storage_scp]\nhost = "127.0.0.1"\nport = {scp.start()}\n[storage_scp.tls]\n'
        f'key = "{key}"\ncertificate = "{certificate}"\nca = "{authority.ca}"\n'
    )
    try:
        found = scanside("test-connection", "--config", path)
    finally:
        scp.stop()
    assert found.returncode == 0, found.stdout
    assert "own Storage SCP SCANSIDE@127.0.0.1" in found.stdout
    assert "over TLS" in found.stdout
    assert "CN=box7" in found.stdout

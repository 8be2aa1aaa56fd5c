"""The conformance statement is the configuration's and the code's, and the committed one is up to date."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pytest
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel, Verification

from appliance import package
from appliance.config import Config, Destination, DropFolder, Results, StorageScp, Tls, Web
from appliance.conformance import statement
from appliance.decode import DECODERS
from appliance.document import Document
from appliance.ingest.storage_scp import StorageScp as Listener
from appliance.specimen import attributes, objects
from appliance.writers import WRITERS
from tests.appliance.conftest import Box
from tests.running import CHECKOUT, scanside

pytestmark = pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")


def test_the_committed_statement_is_up_to_date(tmp_path: Path) -> None:
    """Make it anew with: scanside conformance --to docs/conformance.md"""
    path = tmp_path / "conformance.md"
    told = scanside("conformance", "--to", path)
    assert told.returncode == 0, told.stderr
    assert path.read_text() == (CHECKOUT / "docs" / "conformance.md").read_text()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    told = scanside("conformance", "--to", tmp_path / "none" / "conformance.md")
    assert told.returncode == 1
    assert told.stderr.strip() == f"scanside: {tmp_path / 'none' / 'conformance.md'}: No such file or directory"


def test_it_says_what_is_configured() -> None:
    scp = StorageScp(ae_title="ROOM7", port=104, only_modalities=False, undecodable="refuse", max_associations=7,
                     storage_commitment=False, tls=Tls(key="a", certificate="b", ca="c"))  # fmt: skip
    config = Config(
        storage_scp=scp,
        drop_folder=DropFolder(enabled=False),
        web=Web(enabled=False),
        results=Results(messages=("hl7_oru",)),
    )
    text = statement(config).markdown()
    for words in (
        "| AE title of STORAGE-SCP | `ROOM7` |",
        "| associations at once, as acceptor | 7 |",
        "| Storage Commitment Push Model | SCP | No, as configured |",
        "| DICOMweb Studies Service, Store (STOW-RS) | origin server | No, as configured |",
        "all standard image storage classes",
        "DICOM in: TLS 1.2 or 1.3",
        "| `hl7_oru` | Yes |",
    ):
        assert words in text, words
    assert "Other transfer syntaxes are accepted" not in text


def test_it_lists_the_destinations() -> None:
    config = Config(
        destinations=(
            Destination(name="pacs", ae_title="PACS", host="192.0.2.1", port=104, send=("structured_report",)),
            Destination(name="ehr", protocol="fhir", url="https://ehr.example/r4", send=("fhir_bundle",)),
            Destination(name="all", ae_title="ALL", host="192.0.2.2", port=104),
        ),
        results=Results(messages=("fhir_bundle",)),
    )
    text = statement(config).markdown()
    assert "| pacs | C-STORE | PACS | 192.0.2.1:104 | no | structured_report |" in text
    assert "| ehr | FHIR over HTTP |  | https://ehr.example/r4 | yes | fhir_bundle |" in text
    assert "| no | structured_report, secondary_capture, segmentation |" in text, "what is made"


def test_every_writer_and_every_decoder_is_in_it() -> None:
    text = statement(Config()).markdown()
    for kind in WRITERS:
        assert f"(`{kind}`)" in text
    for syntax in DECODERS:
        assert f"| `{syntax}` | Yes |" in text


def test_attributes_say_where_their_values_come_from() -> None:
    report = dict(objects())["structured_report"]
    origins = {name: origin for _, name, _, origin in attributes(report)}
    assert origins["Patient's Name"] == origins["Study Instance UID"] == "of the source image"
    assert origins["SOP Instance UID"] == "made by the appliance"
    assert origins["Modality"] == "`SR`"


class _Texts(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_html_and_markdown_say_the_same() -> None:
    made = Document("A <title>")
    made.heading(2, "Head & shoulders")
    made.bullets(["one `x < y`", "two"])
    made.table(("a", "b"), [("1|2", "<3>")])
    assert made.markdown() == (
        "# A <title>\n\n## Head & shoulders\n\n- one `x < y`\n- two\n\n| a | b |\n| --- | --- |\n| 1\\|2 | <3> |\n"
    )
    read = _Texts()
    read.feed(made.html())
    said = [text for text in read.found if text.strip()]
    assert said[-8:] == ["Head & shoulders", "one ", "x < y", "two", "a", "b", "1|2", "<3>"]


@pytest.mark.parametrize("performed", [True, False])
def test_its_services_are_those_of_an_association(performed: bool, box: Box) -> None:
    """Of what is proposed, deflated and big endian too, that is accepted which is listed."""
    settings = StorageScp(host="127.0.0.1", port=0, performed_procedure_step=performed)
    text = statement(Config(storage_scp=settings)).markdown()
    contexts = text.split("### 4.1")[1].split("\n\n")[1].splitlines()[2:-1]  # the last are all storage classes
    listed = {row.split("|")[2].strip(" `"): row.split("|")[3].strip() for row in contexts}
    scp = Listener(settings, box.intake)
    entity = AE("CT1")
    for name in (Verification, StorageCommitmentPushModel, ModalityPerformedProcedureStep):
        for syntax in ALL_TRANSFER_SYNTAXES[:8]:
            entity.add_requested_context(name, syntax)
    try:
        association = entity.associate("127.0.0.1", scp.start())
        accepted: dict[str, set[str]] = {}
        for context in association.accepted_contexts:
            accepted.setdefault(str(context.abstract_syntax), set()).add(context.transfer_syntax[0].name)
        association.release()
    finally:
        scp.stop()
    assert accepted == {name: set(syntaxes.split(", ")) for name, syntaxes in listed.items()}
    assert ("| Modality Performed Procedure Step | SCP | Yes |" in text) is performed

"""Results as files in a folder: whole, once, and where it says; and which destination may be sent what."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from appliance.config import Config, Destination
from appliance.config_file import load
from appliance.delivery.folder import FolderWay
from appliance.delivery.way import Answer, Item
from appliance.errors import ConfigError, DeliveryError
from tests.peers import small_disk


def items(folder: Path, count: int, size: int = 10) -> list[Item]:
    folder.mkdir(exist_ok=True)
    made = []
    for number in range(count):
        path = folder / f"{number}.hl7"
        path.write_bytes(bytes([number]) * size)
        made.append(Item(number, path, "hl7_oru", "", f"1.2.{number}", number, "routine"))
    return made


def way(folder: Path) -> FolderWay:
    return FolderWay(Destination(name="files", protocol="folder", path="out"), Config(data_dir=str(folder)))


def test_files_are_there_whole_and_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    waiting = items(tmp_path / "results", 3)
    way(tmp_path).check()
    for _ in range(2):
        assert list(way(tmp_path).send(waiting)) == [Answer(item) for item in waiting]
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"1.2.0.hl7", "1.2.1.hl7", "1.2.2.hl7"}
    assert files["1.2.2.hl7"].read_bytes() == b"\2" * 10
    assert stat.S_IMODE(files["1.2.2.hl7"].stat().st_mode) == 0o640


def test_a_result_that_is_gone_keeps_no_other_back(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    waiting = items(tmp_path / "results", 2)
    waiting[0].path.unlink()
    gone, written = way(tmp_path).send(waiting)
    assert gone.blame == "item"
    assert written == Answer(waiting[1])


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """It may be a mount that is gone."""
    with pytest.raises(DeliveryError, match="is no folder"):
        way(tmp_path).check()
    (answer,) = way(tmp_path).send(items(tmp_path / "results", 2))
    assert answer.blame == "destination"
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_it_and_leaves_nothing_half(tmp_path: Path) -> None:
    with small_disk(tmp_path / "out", "64k") as out:
        answers = list(way(tmp_path).send(items(tmp_path / "results", 4, 30_000)))
        assert [answer.blame for answer in answers] == ["nobody", "nobody", "destination"]
        assert "no room left" in answers[-1].error
        assert {path.name for path in out.iterdir()} == {"1.2.0.hl7", "1.2.1.hl7"}


# --- which destination is sent what ---------------------------------------------------------------------------------


def configured(folder: Path, destination: str, messages: str = '["hl7_oru", "fhir_bundle"]') -> Destination:
    path = folder / "scanside.toml"
    path.write_text(f"[results]\nmessages = {messages}\n[[destinations]]\nname = 'x'\n{destination}\n")
    return load(path).destinations[0]


@pytest.mark.parametrize(
    ("destination", "sent"),
    [
        ("protocol = 'mllp'\nhost = 'ris'\nport = 2575", ("hl7_oru",)),
        ("protocol = 'fhir'\nurl = 'https://fhir.example/r4'", ("fhir_bundle",)),
        ("protocol = 'folder'\npath = 'out'", ("structured_report", "secondary_capture", "segmentation")),
        ("protocol = 'folder'\npath = 'out'\nsend = ['fhir_bundle', 'segmentation']", ("fhir_bundle", "segmentation")),
    ],
)
def test_a_protocol_gets_what_it_carries(destination: str, sent: tuple[str, ...], tmp_path: Path) -> None:
    assert configured(tmp_path, destination).send[: len(sent)] == sent


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("protocol = 'mllp'\nhost = 'ris'", "has no port"),
        ("protocol = 'mllp'\nhost = 'ris'\nport = 1\nsend = ['segmentation']", "carries hl7_oru only"),
        ("protocol = 'fhir'\nurl = 'ftp://x'", "no address of a service"),
        ("protocol = 'folder'", "has no path"),
        ("protocol = 'folder'\npath = 'x'\nurl = 'http://x'", "url is not for"),
        ("ae_title = 'PACS'\nhost = 'pacs'\nport = 104\nsend = ['hl7_oru']", "carries no hl7_oru"),
    ],
)
def test_what_can_not_work_is_refused_at_the_start(destination: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        configured(tmp_path, destination)


def test_destinations_without_an_ae_title_reach_the_other_processes(tmp_path: Path) -> None:
    """As JSON, in which each key is there and is checked again."""
    to = configured(tmp_path, "protocol = 'mllp'\nhost = 'ris'\nport = 2575")
    assert msgspec.json.decode(msgspec.json.encode(to), type=Destination) == to


def test_a_message_that_nobody_makes_can_not_be_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is to be sent hl7_oru, which results\.kinds and results\.messages"):
        configured(tmp_path, "protocol = 'mllp'\nhost = 'ris'\nport = 2575", "[]")

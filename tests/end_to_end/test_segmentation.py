"""Outlines from front door to front door: the command line, the running appliance, the page in a browser."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, expect

from appliance import in_service, writer
from appliance.config_file import load
from appliance.pipeline import Pipeline
from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.end_to_end.conftest import drawn, show_at_full_depth
from tests.filled import Site, fill, models
from tests.peers import orthanc
from tests.running import RunningAppliance, scanside

pytestmark = [pytest.mark.long, pytest.mark.skipif(not fake_package.BUNDLED, reason="no model package is bundled")]

SR, SC, SEG = (
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.66.4",
)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configured")
    path = folder / "scanside.toml"
    path.write_text(f'data_dir = "box"\n{models(folder / "packages")}[inference]\nbackend = "onnxruntime"\n')
    return path


# --- the command line -----------------------------------------------------------------------------------------------


def test_infer_reads_a_folder_of_images_and_series(configured: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_radiograph(folder / "chest.dcm")
    make_series(folder / "one", hippocampus_pixels(18, 30, 24))
    make_series(folder / "two", hippocampus_pixels(18, 30, 24, seed=1), order=(1, 0, 2), flipped=(1,), seed=1)
    gap = make_series(folder / "gap", hippocampus_pixels(18, 30, 24, seed=2), seed=2)
    positions = sorted(gap, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    positions[7].unlink()
    out = tmp_path / "out"
    ran = scanside("infer", folder, "--json", "--out", out, "--config", configured)
    assert ran.returncode == 0, ran.stderr
    answers = {Path(each["file"]).parent.name: each for each in map(json.loads, ran.stdout.splitlines())}
    assert {name: (each["files"], each["status"]) for name, each in answers.items()} == {
        "in": (1, "resulted"),
        "one": (18, "resulted"),
        "two": (30, "resulted"),
        "gap": (17, "rejected"),
    }
    assert [each["label"] for each in answers["in"]["segments"]] == ["Lungs"]
    assert answers["in"]["findings"][0]["map_share"] is not None
    for name in ("one", "two"):
        assert answers[name]["package"] == "hippocampus"
        assert all(each["volume_ml"] > 0.1 for each in answers[name]["segments"])
    assert "gap" in answers["gap"]["reason"]
    written = [pydicom.dcmread(path).SOPClassUID for path in out.iterdir()]
    assert sorted(written) == sorted([SR, SC, SEG] * 3)
    table = scanside("infer", folder, "--config", configured).stdout
    assert "and 17 more" in table
    assert " mL" in table
    assert "Pneumonia: " in table


def test_infer_reads_no_two_patients_or_studies_as_one_series(configured: Path, tmp_path: Path) -> None:
    files = make_series(tmp_path / "in", hippocampus_pixels(24, 30, 24))
    for number, path in enumerate(sorted(files, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))):
        dataset = pydicom.dcmread(path)
        if number >= 16:
            dataset.StudyInstanceUID = "1.2.3"
        elif number >= 8:
            dataset.PatientID = "ANOTHER"
        dataset.save_as(path)
    ran = scanside("infer", tmp_path / "in", "--json", "--config", configured)
    assert [json.loads(line)["files"] for line in ran.stdout.splitlines()] == [8, 8, 8]


def test_infer_says_what_is_missing_in_a_series(configured: Path, tmp_path: Path) -> None:
    make_series(tmp_path / "in" / "cut", hippocampus_pixels(18, 30, 24), ImagesInAcquisition=20)
    make_series(tmp_path / "in" / "whole", hippocampus_pixels(18, 30, 24), ImagesInAcquisition=18)
    ran = scanside("infer", tmp_path / "in", "--json", "--config", configured)
    cut, whole = (json.loads(line)["warnings"] for line in ran.stdout.splitlines())
    said = "Images of the series may be missing: says 20 images, 18 are here."
    assert said in cut
    assert not any("may be missing" in each for each in whole)


def test_the_command_line_tells_of_the_dice(configured: Path) -> None:
    receipts = json.loads(scanside("receipt", "--json", "--config", configured).stdout)
    dice = {each["package"].split()[0]: each["receipt"].get("min_dice") for each in receipts}
    assert dice == {"chest-pneumonia": None, "lungs": 1.0, "hippocampus": 1.0}
    assert "smallest Dice coefficient" in scanside("receipt", "--config", configured).stdout
    bench = json.loads(scanside("bench", "--seconds", "0.2", "--json", "--config", configured).stdout)
    assert {each["package"].split()[0] for each in bench if each["images_per_second"]} == set(dice)
    hippocampus = configured.parent / "packages" / "hippocampus.scanside"
    shown = scanside("package", "show", hippocampus, "--config", configured).stdout
    assert "outlines" in shown
    assert "Anterior hippocampus (SCT 5366008)" in shown
    assert "Dice" in shown


# --- the running appliance ------------------------------------------------------------------------------------------


def test_all_objects_reach_the_pacs(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as pacs:
        destination = (
            f'[[destinations]]\nname = "pacs"\nae_title = "{pacs.ae_title}"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
        )
        appliance = RunningAppliance(tmp_path / "appliance", models(tmp_path / "packages") + destination)
        appliance.start()
        try:
            to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
            (sent,) = send_files([make_radiograph(tmp_path / "chest.dcm")], to, "TEST", {}, associations=1)
            assert sent.ok
            (row,) = appliance.wait_final(1)
            assert row["state"] == "delivered", row["reason"]
            assert row["outlines"]["provenance"]["package"] == "lungs"
            assert row["outlines"]["segments"][0]["label"] == "Lungs"
            assert sorted(pacs.sop_class_uids()) == sorted([SR, SC, SEG])
            appliance.wait_ready()
            with urllib.request.urlopen(f"{appliance.url}device", timeout=10) as answer:
                shown = answer.read().decode()
            for words in (
                "<h2>chest-pneumonia",
                "<h2>lungs",
                "smallest Dice coefficient of a segment 1.0",
            ):
                assert words in shown, words
        finally:
            appliance.stop()


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(configured: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """1: a chest whose map is shown; 2: one whose map is withheld; 3: a volume."""
    folder = tmp_path_factory.mktemp("site")
    config = load(configured, folder / "box")
    tried = in_service.try_out(config)
    for number, least in enumerate((0.0, 1.0)):
        shown = msgspec.structs.replace(config, results=msgspec.structs.replace(config.results, least_map_share=least))
        opened = Pipeline.open(shown, tried, writer.derived_uid("a device"))
        fill(config, opened, [make_radiograph(folder / f"{number}.dcm", rows=300, columns=260, seed=number)])
        if number:
            fill(config, opened, make_series(folder / "series", hippocampus_pixels(18, 30, 24)))
        opened.close()
    running = Site(config)
    yield running
    running.stop()


@pytest.fixture(params=[(1280, 800), (390, 844)], ids=["1280", "phone"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that fails its test when it says anything on the console, or is wider than the screen."""
    complaints: list[str] = []
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    assert not complaints


def test_the_worklist_shows_sizes_and_colors(page: Page, site: Site) -> None:
    page.goto(site.url)
    volume = page.locator("tbody tr").filter(has_text="hippocampus")
    assert "Anterior hippocampus outlined" in volume.inner_text()
    assert volume.inner_text().count(" mL") == 2
    expect(volume.locator(".swatch rect").first).to_have_attribute("fill", "#ffaa3c")
    chest = page.locator("tbody tr").filter(has_text="pneumonia").first
    assert "Lungs outlined" in chest.inner_text()
    assert "% of the image" in chest.inner_text()


def test_outlines_and_heat_maps_are_off_until_they_are_asked_for(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/1")
    assert is_gray(drawn(canvas))
    expect(page.get_by_label("Opacity")).to_be_disabled()
    page.get_by_label("Outline: Lungs").check()
    outlined = drawn(canvas)
    assert not is_gray(outlined)
    page.get_by_label("Opacity").fill("20")
    assert np.abs(drawn(canvas).astype(int) - outlined).max() > 30
    page.get_by_label("Outline: Lungs").uncheck()
    assert is_gray(drawn(canvas))
    page.get_by_label("Heat map: Pneumonia").check()
    page.reload()
    page.locator("#canvas[data-depth=full]").wait_for()
    assert is_gray(drawn(canvas))
    assert "of the heat map lies inside the outline (Lungs)" in page.locator(".findings").inner_text()
    assert "Outlined by" in page.locator(".details").inner_text()


def is_gray(picture: np.ndarray) -> bool:
    return bool((np.ptp(picture.astype(int), axis=2) == 0).all())


def test_a_withheld_map_is_not_there_and_says_so(page: Page, site: Site) -> None:
    page.goto(f"{site.url}study/2")
    expect(page.get_by_text("Heat map withheld: Pneumonia")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="The activation map is withheld")).to_be_visible()
    expect(page.get_by_label("Heat map: Pneumonia")).to_have_count(0)
    expect(page.locator("[data-overlay]")).to_have_count(1)
    assert page.context.request.get(f"{site.url}study/2/heat-0.png").status == 404


def test_the_slices_of_a_volume_are_leafed_through(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/3")
    expect(page.get_by_text("9 of 18")).to_be_visible()
    middle = drawn(canvas)
    assert is_gray(middle)  # its outlines are off at first, too
    canvas.focus()
    for key, place in (("PageDown", 10), ("Home", 1), ("End", 18), (",", 17)):
        page.keyboard.press(key)
        expect(page.get_by_text(f"{place} of 18")).to_be_visible()
    page.locator("#slice").fill("2")
    expect(page.get_by_text("2 of 18")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert (drawn(canvas) != middle).any()
    page.locator("#slice").fill("9")
    assert (drawn(canvas) == middle).all()
    page.get_by_label("Outlines:").check()
    # The outline is the one of this slice, where it lies on the image: the strip's own, brought to the canvas.
    strip = page.context.request.get(f"{site.url}study/3/outline.png").body()
    lines = np.asarray(PillowImage.open(io.BytesIO(strip)).getchannel("A"))
    tall = lines.shape[0] // 18
    expected = PillowImage.fromarray(lines[8 * tall : 9 * tall])
    height, width = middle.shape[:2]
    scale = min(width / 24, height / 30)
    size = round(24 * scale), round(30 * scale)
    where = np.asarray(expected.resize(size)) > 128
    colored = np.ptp(drawn(canvas).astype(int), axis=2) > 20
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    on_image = colored[top : top + size[1], left : left + size[0]]
    assert where.sum() > 100
    near = np.any([np.roll(on_image, step, axis) for step in (-1, 0, 1) for axis in (0, 1)], axis=0)
    assert near[where].mean() > 0.95  # to a pixel of the screen: lines are as thin
    assert colored.sum() == on_image.sum()
    assert "mL" in page.locator(".findings").inner_text()

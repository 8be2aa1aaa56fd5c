"""What a clinician does with the page, in Chromium: looks through the worklist, at an image, and says what is right."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from appliance import in_service, writer
from appliance.config import Config, Web
from appliance.config_file import load
from appliance.pipeline import Pipeline
from appliance.store import Arrival, Store
from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.end_to_end.conftest import barriers, drawn, show_at_full_depth, watched, width_once_loaded
from tests.filled import Site, fill, models

pytestmark = [pytest.mark.long, pytest.mark.skipif(not fake_package.BUNDLED, reason="no model package is bundled")]

ROWS, COLUMNS = 200, 256
# Values of 12 bits that differ by one from column to column: a picture of 8 bits has no room for them.
RAMP = np.tile(np.arange(2000, 2000 + COLUMNS, dtype=np.uint16), (ROWS, 1))
WINDOWS = {"WindowCenter": ["2128", "2128"], "WindowWidth": ["4096", "257"],
           "WindowCenterWidthExplanation": ["WIDE", "NARROW"]}  # fmt: skip
PATIENT = {"PatientName": "DOE^JANE SECRET", "PatientID": "ID-4711-SECRET"}
FRAMED = '[web]\nembed_origins = ["https://viewer.example"]\n'
LINEAR, INVERSE, SIGMOID, CHEST, OLD, NEW, GONE = 1, 2, 3, 4, 5, 23, 41


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Ramps with their functions, a chest, two volumes of one patient, an image that is gone, one that failed."""
    folder = tmp_path_factory.mktemp("clinician")
    path = folder / "scanside.toml"
    path.write_text(f'data_dir = "box"\n{models(folder / "packages")}[inference]\nbackend = "onnxruntime"\n{FRAMED}')
    config = load(path)
    opened = Pipeline.open(config, in_service.try_out(config), writer.derived_uid("a device"))

    def image(name: str, **attributes: object) -> int:
        return fill(config, opened, [make_radiograph(folder / f"{name}.dcm", **{**PATIENT, **attributes})])  # type: ignore[arg-type]

    ramp = {"pixels": RAMP, **WINDOWS, "PixelSpacing": ["0.5", "0.5"]}
    assert image("linear", **ramp) == LINEAR
    inverse = {"photometric": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert image("inverse", **ramp, **inverse) == INVERSE
    assert image("sigmoid", **ramp, VOILUTFunction="SIGMOID") == SIGMOID
    assert image("chest", rows=500, columns=420, PatientAge="061Y", PatientName="OTHER^ONE", PatientID="ELSE") == CHEST
    for name, year, slices, identifier in (("old", "2024", 18, OLD), ("new", "2026", 18, NEW)):
        pixels = hippocampus_pixels(slices, 30, 24, seed=int(year))
        series = make_series(folder / name, pixels, AcquisitionDate=f"{year}0102", **PATIENT)
        assert fill(config, opened, series) == identifier
    assert image("gone", seed=7) == GONE
    opened.close()
    for file in config.spool_path.iterdir():
        if file.read_bytes() == (folder / "gone.dcm").read_bytes():
            file.unlink()
    store = Store(config.ledger_path)
    store.receive(Arrival("1.9", "1.2", "9" * 64, "9.dcm", 1, "storage_scp", "CT at 192.0.2.1", ae_title="CT"))
    store.claim("worker", 30)
    store.triage(GONE + 1, "worker", {"modality": "CT", "accession_number": "ACC-17"}, "routine", 0.0)
    store.fail(GONE + 1, "worker", "No backend gave an answer.")
    store.close()
    return config


@pytest.fixture(scope="module")
def site(filled: Config) -> Iterator[Site]:
    running = Site(filled)
    yield running
    running.stop()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, complaints = watched(context, site.url)
    yield opened
    context.close()
    assert not complaints


def shades(canvas: Locator) -> np.ndarray:
    """Of each column of a ramp, along the middle of the canvas; float ``(columns,)``."""
    picture = drawn(canvas).astype(float)
    height, width = picture.shape[:2]
    scale = min(width / COLUMNS, height / ROWS)
    places = (width - COLUMNS * scale) / 2 + (np.arange(COLUMNS) + 0.5) * scale
    return picture[height // 2, places.astype(int), 0]


def linear(center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, of the ramp."""
    return np.clip((RAMP[0] - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Within what drawing between pixels may change, off the ends, where it has no neighbor."""
    return bool(np.abs(found - expected)[2:-2].max() <= 1.6)


# --- the viewer ------------------------------------------------------------------------------------------------------


def test_all_bits_of_an_image_are_there(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/{LINEAR}")
    assert near(shades(canvas), linear(2128, 4096))
    page.get_by_label("Window preset").select_option("NARROW")
    narrow = shades(canvas)
    assert near(narrow, linear(2128, 257))
    assert len(set(narrow.tolist())) > 200  # of a picture of 8 bits, through the wide window, there would be 17
    page.locator("#invert").click()
    assert near(shades(canvas), 255 - linear(2128, 257))
    canvas.hover()
    assert re.fullmatch(r"\d+, \d+: 2\d\d\d", page.locator("#value").inner_text())
    page.get_by_role("button", name="Reset").click()
    assert near(shades(canvas), linear(2128, 4096))


def test_the_patient_s_sides_stand_at_the_edges(page: Page, site: Site) -> None:
    """Left, right, upper and lower edge; of a volume those of axial slices, however the scanner cut them."""
    for number, letters in ((LINEAR, ["R", "L", "H", "F"]), (NEW, ["R", "L", "A", "P"])):
        canvas = show_at_full_depth(page, f"{site.url}study/{number}")
        sides = page.locator("#edges span")
        assert sides.all_inner_texts() == letters
        box, (left, right, upper, lower) = canvas.bounding_box(), [each.bounding_box() for each in sides.all()]
        assert box and left and right and upper and lower
        assert left["x"] < box["x"] + 40 and right["x"] > box["x"] + box["width"] - 60
        assert upper["y"] < box["y"] + 40 and lower["y"] > box["y"] + box["height"] - 80


def test_low_values_of_monochrome1_are_white(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/{INVERSE}")
    page.get_by_label("Window preset").select_option("NARROW")
    assert near(shades(canvas), 255 - linear(2128, 257))
    canvas.hover(position={"x": 5, "y": 5})
    canvas.hover()
    assert ": 2" in page.locator("#value").inner_text()  # the values themselves, as the modality made them


def test_a_sigmoid_is_one(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/{SIGMOID}")
    page.get_by_label("Window preset").select_option("NARROW")
    assert near(shades(canvas), 255 / (1 + np.exp(-4 * (RAMP[0] - 2128.0) / 257)))


def test_everything_is_done_by_hand_and_by_keyboard(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/{LINEAR}")
    levels, scale = page.locator("#levels"), page.locator("#scale")
    box = canvas.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 30, steps=3)
    page.mouse.up()
    width, center = map(int, re.findall(r"\d+", levels.inner_text()))
    assert width > 4096
    assert center < 2128  # brighter
    canvas.focus()
    page.keyboard.press("Shift+ArrowLeft")
    assert int(re.findall(r"\d+", levels.inner_text())[0]) < width
    fitted = scale.inner_text()
    for key, holds in (("+", False), ("0", True), ("1", False), ("r", True)):
        page.keyboard.press(key)
        assert (scale.inner_text() == fitted) is holds
        if key == "1":
            assert scale.inner_text() == "100 %"
    page.mouse.wheel(0, -300)
    assert scale.inner_text() != fitted
    before = drawn(canvas)
    page.keyboard.press("ArrowRight")
    assert (drawn(canvas) != before).any()
    page.keyboard.press("r")
    page.keyboard.press("d")
    page.mouse.move(x - 50, y)
    page.mouse.down()
    page.mouse.move(x + 50, y)
    page.mouse.up()
    measured = drawn(canvas)
    assert np.ptp(measured.astype(int), axis=2).max() > 60  # the yellow line, with its millimeters
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_fingers_zoom(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page, complaints = watched(context, site.url)
    canvas = show_at_full_depth(page, f"{site.url}study/{LINEAR}")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    fitted = int(page.locator("#scale").inner_text().split()[0])
    hands = context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, apart: float) -> None:
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}] if apart else []
        hands.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 30)
    for apart in (45, 60, 90):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    assert int(page.locator("#scale").inner_text().split()[0]) == pytest.approx(3 * fitted, rel=0.1)
    context.close()
    assert not complaints


def test_the_outline_stays_on_the_image_when_that_is_zoomed_and_moved(page: Page, site: Site) -> None:
    canvas = show_at_full_depth(page, f"{site.url}study/{CHEST}")
    page.get_by_label("Opacity").evaluate("node => node.value = 100")
    page.get_by_label("Outline: Lungs").check()
    height, width = drawn(canvas).shape[:2]
    scale = min(width / 420, height / 500)

    def outline() -> np.ndarray:
        """Places of the line on the canvas, ``(count, 2)``: across, down."""
        return np.argwhere(np.ptp(drawn(canvas).astype(int), axis=2) > 90)[:, ::-1] + 0.5

    middle = np.array([width, height]) / 2
    fitted = (outline() - middle) / scale
    canvas.focus()
    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    moved = (outline() - middle - np.array([width, height]) / 20) / (scale * 1.25**3)
    # In pixels of the image: each place of the line was one before, where that was on the canvas.
    inside = fitted[np.abs(fitted).max(axis=1) < 80]
    distance = np.sqrt(((inside[::7, None] - moved[None, ::3]) ** 2).sum(axis=2)).min(axis=1)
    assert len(inside) > 50
    assert distance.max() < 1.5


def test_a_frame_shows_heat_map_and_outlines_on_the_image(page: Page, site: Site) -> None:
    for number, width in ((CHEST, 360), (CHEST, 1280), (NEW, 360), (NEW, 1280)):
        asked = urllib.request.Request(
            f"{site.url}api/v1/embed-links",
            json.dumps({"study": number}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            path = json.load(answer)["path"]
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{site.url[:-1]}{path}")
        image = page.locator(".stack img").first
        assert width_once_loaded(image) > 20
        expect(page.locator(".stack img:visible")).to_have_count(1)
        toggles = page.locator("[data-toggle]")
        assert toggles.count() > 0
        for toggle in toggles.all():
            toggle.check()
        place = image.bounding_box()
        assert place is not None
        for overlay in page.locator("[data-overlay]").all():
            width_once_loaded(overlay)
            assert overlay.bounding_box() == pytest.approx(place, abs=1)


def test_what_is_gone_is_shown_as_the_picture_that_is_left(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    page, complaints = watched(context, site.url)
    page.goto(f"{site.url}study/{GONE}")
    page.get_by_text("Only the reduced picture of 8 bits can be shown").wait_for()
    assert drawn(page.locator("#canvas")).max() > 100
    context.close()
    assert [each for each in complaints if "404" not in each] == []


def test_the_page_works_without_javascript(browser: Browser, site: Site) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}study/{CHEST}")
    picture, stage = page.get_by_alt_text("The radiograph").bounding_box(), page.locator("#stage").bounding_box()
    assert picture
    assert stage
    assert stage["y"] <= picture["y"]
    assert picture["y"] + picture["height"] <= stage["y"] + stage["height"] + 1
    expect(page.get_by_role("toolbar")).to_have_count(0)
    page.goto(site.url)
    page.get_by_role("combobox", name="Finding").select_option("outlined only")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    context.close()


# --- the study -------------------------------------------------------------------------------------------------------


def test_agree_and_disagree_take_one_and_two_clicks(page: Page, site: Site, filled: Config) -> None:
    page.goto(f"{site.url}study/{CHEST}")
    group = page.get_by_role("group", name="Your assessment of: Pneumonia")
    group.get_by_text("Disagree", exact=True).click()
    group.get_by_role("button", name="Another reason").click()
    expect(group).to_contain_text("disagrees: another reason")
    group.get_by_role("button", name="Agree", exact=True).click()
    expect(group).to_contain_text("A reader agrees")
    expect(group).to_contain_text("1 earlier, superseded")
    expect(page.get_by_text("Marked as reviewed")).to_be_visible()
    page.goto(f"{site.url}?q={CHEST}")
    assert "agreed" in page.locator("tbody tr").inner_text()
    page.goto(f"{site.url}?unassessed=1")
    expect(page.locator(f'a[href="/study/{CHEST}"]')).to_have_count(0)


def test_warnings_stand_above_the_image(page: Page, site: Site) -> None:
    page.goto(f"{site.url}study/{CHEST}")
    warning = page.get_by_role("alert").filter(has_text="Outside validated use")
    box, image = warning.bounding_box(), page.locator("#stage").bounding_box()
    assert box
    assert image
    assert box["y"] + box["height"] <= image["y"]
    assert "61 years" in warning.inner_text()


def test_prior_results_are_of_the_same_patient_only(page: Page, site: Site) -> None:
    page.goto(f"{site.url}study/{NEW}")
    priors = page.locator(".priors")
    text = priors.inner_text()
    assert "Anterior hippocampus: " in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "2024-01-02 to 2026-01-02" in text
    expect(priors.locator(f'a[href="/study/{OLD}"]')).to_have_count(1)
    expect(priors.locator(f'a[href="/study/{CHEST}"]')).to_have_count(0)
    for secret in ("SECRET", "4711"):
        assert secret not in page.content()


def test_the_report_is_one_page_without_the_patient(page: Page, site: Site, tmp_path: Path) -> None:
    for identifier in (CHEST, NEW):
        page.goto(f"{site.url}study/{identifier}")
        page.get_by_role("link", name="One page to print").click()
        expect(page.get_by_text("NOT FOR DIAGNOSIS")).to_have_count(2)
        assert "Not for:" in page.content()
        assert "SECRET" not in page.content()
        for size in ("A4", "Letter"):
            printed = page.pdf(format=size, path=tmp_path / f"{identifier}{size}.pdf")
            assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) == 1


def test_a_patient_s_name_breaks_nothing(browser: Browser, tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), web=Web(show_patient=True))
    store = Store(config.ledger_path)
    for number, name, patient_id in ((1, "W" * 64 + "^" + "M" * 64, "L" * 64), (2, "قباني^لنزار", "عربي-12")):
        store.receive(Arrival(f"1.{number}", "1.2", f"{number}" * 64, "1.dcm", 1, "storage_scp", "CT at 192.0.2.1"))
        store.claim("worker", 30)
        described = {"patient_name": name, "patient_id": patient_id, "patient_age": "004Y"}
        store.triage(number, "worker", described, "routine", 0.0)
        store.reject(number, "worker", "It is not read here.")
    store.close()
    running = Site(config)
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page, complaints = watched(context, running.url)
    page.goto(f"{running.url}study/1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(f"{running.url}study/2")
    # The age is one piece, not torn apart by what is written from the right.
    pieces = page.evaluate(
        """() => {
          const text = document.querySelector("h1 small").lastChild, range = document.createRange();
          const at = text.data.indexOf("004Y");
          range.setStart(text, at);
          range.setEnd(text, at + 4);
          return range.getClientRects().length;
        }"""
    )
    assert pieces == 1
    context.close()
    running.stop()
    assert not complaints


# --- the worklist ----------------------------------------------------------------------------------------------------


def test_a_list_that_gets_no_answer_says_so(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    page = context.new_page()
    for path in ("", "device"):
        page.goto(site.url + path)
        notice = page.get_by_text("No answer from the device since")
        expect(notice).not_to_be_visible()
        page.route("**/*.fragment*", lambda route: route.abort())
        notice.wait_for(timeout=15_000)
        assert re.search(r"since \d+:\d\d:\d\d", notice.inner_text())
        page.unroute("**/*.fragment*")
        notice.wait_for(state="hidden", timeout=15_000)
    context.close()


def test_a_filter_lies_in_the_address_and_outlives_what_comes_meanwhile(page: Page, site: Site, filled: Config) -> None:
    page.goto(site.url)
    page.get_by_role("combobox", name="State").select_option("failed")
    page.wait_for_url("**/?state=failed")
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    assert "See the device page" in row.inner_text()
    store = Store(filled.ledger_path)
    for number in (8, 7):
        arrival = Arrival(f"1.9.{number}", "1.2", f"{number}" * 64, "8.dcm", 1, "storage_scp", "CT at 192.0.2.1")
        identifier = store.receive(arrival).instance_id
        store.claim("worker", 30)
        store.triage(identifier, "worker", {"modality": "CT"}, "routine", 0.0)
        (store.reject if number == 8 else store.fail)(identifier, "worker", "It can't be read.")
    store.close()
    row.nth(1).wait_for(timeout=10_000)
    expect(row).to_have_count(2)
    page.get_by_role("searchbox").fill("acc-17")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=acc-17&state=failed")
    expect(row).to_have_count(1)
    page.get_by_role("link", name="Show all").click()
    row.nth(5).wait_for()


@pytest.mark.parametrize(("scheme", "tongue"), [("light", "de-DE"), ("dark", "en-US")])
def test_nobody_is_kept_out(browser: Browser, site: Site, scheme: str, tongue: str) -> None:
    for width in (360, 1280, 3840):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            locale=tongue,
        )
        page, complaints = watched(context, site.url)
        for path in ("", f"study/{CHEST}", f"study/{NEW}", f"study/{GONE + 1}", f"study/{CHEST}/report", "upload"):
            page.goto(f"{site.url}{path}")
            for summary in page.locator(".choices summary").all()[:2]:
                summary.click()
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            cut_off = "nodes => nodes.filter((node) => node.getBoundingClientRect().right > innerWidth - 4).length"
            assert page.locator(".tools button:visible").evaluate_all(cut_off) == 0, path
            if width != 3840:
                assert barriers(page) == [], path
        context.close()
        assert not complaints


# --- on a phone, and in another language -----------------------------------------------------------------------------


@pytest.fixture
def phone(browser: Browser, site: Site) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    opened, complaints = watched(context, site.url)
    yield opened
    context.close()
    assert not complaints


def test_a_phone_shows_the_worklist_at_once_and_filters_when_asked(phone: Page, site: Site) -> None:
    phone.goto(site.url)
    state = phone.get_by_role("combobox", name="State")
    expect(state).not_to_be_visible()
    row = phone.locator("tbody tr").first.bounding_box()
    assert row
    assert row["y"] < 400
    phone.get_by_text("Filter").click()
    state.select_option("failed")
    phone.wait_for_url("**/?state=failed")
    rows = phone.locator("tbody tr").all_inner_texts()
    assert rows
    assert all("failed" in row for row in rows)
    assert phone.locator("summary", has_text="Filter").inner_text() == "Filter 1"


def test_a_phone_shows_the_finding_before_the_image(phone: Page, site: Site) -> None:
    for identifier, said in ((CHEST, "pneumonia"), (NEW, "Anterior hippocampus")):
        phone.goto(f"{site.url}study/{identifier}")
        answer = phone.locator(".answers")
        box, image = answer.bounding_box(), phone.locator("#stage").bounding_box()
        assert box
        assert image
        assert box["y"] + box["height"] <= image["y"]
        assert said in answer.inner_text()


def test_what_scripts_say_is_translated_too(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="de-DE")
    page, complaints = watched(context, site.url)
    canvas = show_at_full_depth(page, f"{site.url}study/{NEW}")
    assert page.locator("#place").inner_text() == "9 von 18"
    assert "Automatisch" in page.get_by_label("Fenstervoreinstellung").inner_text()
    canvas.focus()
    page.keyboard.press("PageDown")
    assert page.locator("#place").inner_text() == "10 von 18"
    page.goto(f"{site.url}study/{LINEAR}")
    page.locator("#canvas[data-depth=full]").wait_for()
    for words in ("Warnung.", "Nur für Forschungszwecke.", "Nicht zur Diagnose"):
        assert words in page.locator("body").inner_text()
    expect(page.locator(".answers [lang], .notice [lang], .use [lang]")).to_have_count(0)
    context.close()
    assert not complaints

"""Pictures of the local page for people to look at, and the one in the README.

``python -m tests.end_to_end.screenshots FOLDER`` runs an appliance on generated images (the golden vectors of the
bundled package) and photographs each page on a phone, a desktop and a 4K screen, dark and light.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec
from playwright.sync_api import Browser, sync_playwright

from appliance import in_service, package, pipeline, writer
from appliance.config_file import load
from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.filled import Site, fill, models
from tests.peers import needs
from tests.running import RunningAppliance, scanside

SCREENS = {"phone": (390, 844), "desktop": (1366, 768), "4k": (3840, 2160)}
PAGES = {
    "worklist": "",
    "read": "study/1",
    "refused": "study/4",
    "device": "device",
    "models": "models",
    "missing": "study/99",
}
OUTLINED = {"outlines": "", "lungs": "study/1", "withheld": "study/2", "volume": "study/3"}


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        root = Path(work)
        appliance = RunningAppliance(root / "appliance")
        appliance.start()
        browser = playwright.chromium.launch(executable_path=needs("chromium"), args=["--no-sandbox"])
        try:
            files = _images(root)
            list(send_files(files, Destination("SCANSIDE", "127.0.0.1", appliance.port), "TEST", {}, associations=1))
            appliance.wait_final(len(files))
            _photograph_all(browser, appliance.url, PAGES, folder)
            scanside("study", "create", "pilot", "--config", appliance.config_path, check=True)
            for screen, size in SCREENS.items():
                _photograph_reader(browser, appliance.url, size, folder / f"reader-study-{screen}-dark.png")
            site = _outlined(root / "outlined")
            _photograph_all(browser, site.url, OUTLINED, folder)
            site.stop()
        finally:
            browser.close()
            appliance.stop()


def _images(root: Path) -> list[Path]:
    """Generated radiographs, one of them positive, and some that come with a warning or are turned away."""
    golden = package.read(package.bundled("chest-pneumonia")[0], None).golden()
    order = sorted(range(len(golden["images"])), key=lambda n: -float(golden["cpu/logits"][n].max()))
    chosen = [order[len(order) // 3], order[len(order) // 2], order[-1]]
    read = [
        make_radiograph(root / f"{n}.dcm", pixels=golden["images"][n], bits=8, seed=n, PatientID=f"P{n}")
        for n in chosen
    ]
    lateral = make_radiograph(root / "lateral.dcm", ViewPosition="LL", seed=91)
    adult = make_radiograph(root / "adult.dcm", pixels=golden["images"][chosen[1]], bits=8, seed=92, PatientAge="061Y")
    return [*read, lateral, adult]


def _outlined(root: Path) -> Site:
    """Two chests with outlined lungs, the map of one withheld, and a volume; by thresholds, not by models."""
    path = root / "scanside.toml"
    root.mkdir()
    path.write_text(f'data_dir = "box"\n{models(root / "packages")}[inference]\nbackend = "onnxruntime"\n')
    config, golden = load(path), fake_package.bundled().golden()
    order = sorted(range(len(golden["images"])), key=lambda n: -float(golden["cpu/logits"][n].max()))
    tried = in_service.try_out(config)
    for number, least in enumerate((0.0, 1.0)):
        shown = msgspec.structs.replace(config, results=msgspec.structs.replace(config.results, least_map_share=least))
        opened = pipeline.Pipeline.open(shown, tried, writer.derived_uid("a device"))
        pixels = golden["images"][order[number]]
        fill(config, opened, [make_radiograph(root / f"{number}.dcm", pixels=pixels, bits=8, seed=number)])
        if number:
            fill(config, opened, make_series(root / "series", hippocampus_pixels(34, 50, 38)))
        opened.close()
    return Site(config)


def _photograph_all(browser: Browser, url: str, pages: dict[str, str], folder: Path) -> None:
    for scheme in ("dark", "light"):
        for screen, size in SCREENS.items():
            for name, path in pages.items():
                _photograph(browser, url + path, size, scheme, folder / f"{name}-{screen}-{scheme}.png")


def _photograph(browser: Browser, url: str, size: tuple[int, int], scheme: str, target: Path) -> None:
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    for toggle in page.locator("[data-toggle]").all():
        toggle.check()
    page.wait_for_load_state("networkidle")
    target.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=target, full_page=True)
    context.close()


def _photograph_reader(browser: Browser, url: str, size: tuple[int, int], target: Path) -> None:
    """An image in a blinded study, rated but not yet answered."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{url}reader-study/pilot")
    page.get_by_label("Name or pseudonym").fill(f"reader {size[0]}")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Begin").click()
    page.wait_for_load_state("networkidle")
    page.keyboard.press("6")
    page.screenshot(path=target)
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Pictures of the local page for people to look at, and the one in the README.

``python -m tests.end_to_end.screenshots FOLDER`` runs an appliance on generated images (the golden vectors of the
bundled package) and photographs each page on a phone, a desktop and a 4K screen, dark and light.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from appliance import package
from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.peers import needs
from tests.running import RunningAppliance

SCREENS = {"phone": (390, 844), "desktop": (1366, 768), "4k": (3840, 2160)}
PAGES = {"worklist": "", "read": "study/1", "refused": "study/4", "device": "device", "missing": "study/99"}


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
            for scheme in ("dark", "light"):
                for screen, size in SCREENS.items():
                    for name, path in PAGES.items():
                        target = folder / f"{name}-{screen}-{scheme}.png"
                        _photograph(browser, appliance.url + path, size, scheme, target)
        finally:
            browser.close()
            appliance.stop()


def _images(root: Path) -> list[Path]:
    """Generated radiographs, one of them positive, and some that come with a warning or are turned away."""
    golden = package.read(package.bundled()[0], None).golden()
    order = sorted(range(len(golden["images"])), key=lambda n: -float(golden["cpu/logits"][n].max()))
    chosen = [order[len(order) // 3], order[len(order) // 2], order[-1]]
    read = [
        make_radiograph(root / f"{n}.dcm", pixels=golden["images"][n], bits=8, seed=n, PatientID=f"P{n}")
        for n in chosen
    ]
    lateral = make_radiograph(root / "lateral.dcm", ViewPosition="LL", seed=91)
    adult = make_radiograph(root / "adult.dcm", pixels=golden["images"][chosen[1]], bits=8, seed=92, PatientAge="061Y")
    return [*read, lateral, adult]


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))

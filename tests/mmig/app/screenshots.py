"""The pictures of docs/app.md, from a real Chromium: `python -m tests.mmig.app.screenshots`."""

import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from mmig.app.examples import read_examples
from mmig.app.handlers import Handlers
from mmig.app.page import Page
from mmig.app.serve import served
from mmig.app.systems import open_systems
from tests.mmig.app.conftest import CPU

DOCS = Path(__file__).parents[3] / "docs"
PATIENCE = 300_000
COLOURS = 128


def main() -> None:
    """Draw them all."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/uploads"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        compared = ["configs/editors/tiny_instruction.yaml", "configs/editors/tiny.yaml"]
        draw(browser, Path(folder) / "two", compared, DOCS / "app.png", 1180, "light", grid=False)
        writer = ["configs/demo/stage1.yaml"]
        draw(browser, Path(folder) / "dark", writer, DOCS / "app-attention.png", 1180, "dark", grid=False)
        draw(browser, Path(folder) / "grid", compared[:1], DOCS / "app-grid.png", 400, "light", grid=True)
        browser.close()


def draw(browser: Browser, root: Path, names: list[str], out: Path, width: int, scheme: str, grid: bool) -> None:
    """The page of some systems after an edit of the first example, or after a grid."""
    root.mkdir()
    handlers = Handlers(open_systems(names, CPU), read_examples(), root)
    with served(Page(handlers)) as url:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_selector("#picture img")
        if grid:
            page.get_by_role("tab", name="Guidance grid").click()
        page.click("#draw" if grid else "#go")
        page.wait_for_selector("#status .is-calm:has-text('one'), #status [role=alert]")
        page.wait_for_selector("#cancel", state="hidden")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        taken = page.screenshot(full_page=True)
        page.close()
    with Image.open(io.BytesIO(taken)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()

"""The picture of `serve`'s page in the README: the released model, asked about two CIFAKE test images and a photograph.

    python docs/pictures/serve.py CIFAKE.zip      # writes serve.png beside this file

Needs `pip install '.[web,dev]'` and chromium. The CIFAKE images are the first of their object class by file name, as in
answers.py; none was picked. The photograph is scikit-learn's china.jpg, by danielbuechele (CC BY 2.0).
"""

import io
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright
from sklearn.datasets import load_sample_image

from lightning_cifake.serve.app import create_app
from lightning_cifake.serve.server import address_of, listen, make_server
from lightning_cifake.serve.settings import Settings

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT, COLOURS = 1200, 1040, 256
IMAGES = {"0 (6).jpg": "test/FAKE/0 (6).jpg", "0000 (8).jpg": "test/REAL/0000 (8).jpg"}
EXPLAINED = "china.jpg"


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server with the released model."""
    settings = Settings(log="none")
    with listen("127.0.0.1", 0) as opened:
        server = make_server(create_app(settings), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield address_of(opened)
        server.should_exit = True
        thread.join()


def pictures(archive: Path) -> list[dict[str, object]]:
    """As the page's chooser takes them."""
    buffer = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(buffer, "JPEG", quality=92)
    files = {"china.jpg": buffer.getvalue()}
    with zipfile.ZipFile(archive) as opened:
        for name, inside in IMAGES.items():
            files[name] = opened.read(next(each for each in opened.namelist() if each.endswith(inside)))
    return [{"name": name, "mimeType": "image/jpeg", "buffer": content} for name, content in files.items()]


def shoot(address: str, files: list[dict[str, object]]) -> bytes:
    """A PNG of the page with its answers, one of them explained."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        page.goto(address)
        page.set_input_files("#files", files)
        page.get_by_role("button", name=f"What it saw in {EXPLAINED}").click()
        expect(page.locator(".explained img")).to_have_count(3)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.evaluate("scrollTo(0, 0)")
        found = page.screenshot()
        browser.close()
    return found


def main() -> int:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {Path(__file__).name} CIFAKE.zip")
    with serving() as address:
        content = shoot(address, pictures(Path(sys.argv[1])))
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(HERE / "serve.png", optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The example in the browser: the model in WebAssembly, in Chromium, gives the probabilities that Python gives."""

import base64
import functools
import io
import random
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Opened, expect, launched
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.shipped import released_model

pytestmark = pytest.mark.long  # npm install, and 14 MB of WebAssembly

REPOSITORY = Path(__file__).parents[2]
PROBABILITY = 1e-4  # the issue's; int8 and float32 in WebAssembly have come far nearer
ASK = """async ([files, larger]) => {
  const { predict } = await import("/static/server.js");
  const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  return predict(files.map(([name, text]) => new File([bytes(text)], name)), larger);
}"""


@pytest.fixture(scope="module")
def site(module_folder: Callable[[str], Path]) -> Path:
    """The folder of static files, built from a copy of the examples."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    root = module_folder("browser")
    leave = shutil.ignore_patterns("node_modules", "site")
    for name in ("examples/browser", "examples/javascript", "lightning_cifake/serve/static"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=leave)
    folder = root / "examples" / "browser"
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm install failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    subprocess.run(["node", "build.mjs", released_model(), root / "site"], cwd=folder, check=True, timeout=60)
    return root / "site"


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Opened]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with launched() as browser, Opened(browser, f"http://127.0.0.1:{server.server_port}") as opened:
            opened.context.set_default_timeout(60_000)
            opened.page.goto(opened.address)
            yield opened
        server.shutdown()


def made() -> list[tuple[str, bytes]]:
    """Pictures of several sizes, formats and peculiarities."""
    found = []
    rng = np.random.default_rng(0)

    def add(name: str, size: tuple[int, int], kind: str, mode: str = "RGB", **how: Any) -> None:
        low = rng.integers(0, 256, (max(size[1] // 8, 2), max(size[0] // 8, 2), 3), np.uint8)
        buffer = io.BytesIO()
        picture = Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)
        (picture.quantize(64) if mode == "P" else picture.convert(mode)).save(buffer, kind, **how)
        found.append((name, buffer.getvalue()))

    for size in [(32, 32), (1, 1), (45, 31), (127, 127), (128, 128), (300, 200), (1000, 1500), (200, 33)]:
        add(f"{size}.png", size, "PNG")
    for subsampling in (0, 1, 2):
        add(f"{subsampling}.jpg", (77, 51), "JPEG", quality=85, subsampling=subsampling)
    add("large.jpg", (1600, 1200), "JPEG", quality=85, progressive=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    add("turned.jpg", (60, 40), "JPEG", quality=90, exif=turned)
    add("grey.jpg", (64, 64), "JPEG", "L")
    add("palette.gif", (64, 64), "GIF", "P")
    add("palette.png", (64, 64), "PNG", "P")
    add("opaque.png", (64, 64), "PNG", "RGBA")
    add("lossy.webp", (64, 64), "WEBP", quality=80)
    add("really-a-png.jpg", (40, 32), "PNG")
    return found


@pytest.mark.parametrize("larger", ["resize", "crop", "tiles"])
def test_the_same_files_give_the_same_answers(page: Opened, larger: str) -> None:
    files = [*made(), ("broken.png", b"no picture"), ("empty.png", b"")]
    answers = page.page.evaluate(ASK, [[(name, base64.b64encode(each).decode()) for name, each in files], larger])
    expected = [detected(name, content, larger) for name, content in files]
    assert [each["error"] is None for each in answers] == [each.error is None for each in expected]
    assert [each["verdict"] for each in answers] == [each.verdict for each in expected]
    assert [each["warning"] for each in answers] == [each.warning for each in expected]
    theirs = [each["prob_real"] for each in answers[:-2]]
    ours = [each.prob_real for each in expected[:-2]]
    assert np.ptp(ours) > 0.5, "all alike would prove nothing"
    assert theirs == pytest.approx(ours, abs=PROBABILITY)
    page.check()


@functools.cache
def detector() -> Detector:
    return Detector()


def detected(name: str, content: bytes, larger: Any) -> Any:
    """What Python says of the same file, its name and all."""
    from lightning_cifake.deploy.load import Encoded

    (answer,) = detector().predict([Encoded(name, content)], larger=larger)
    return answer


def test_transparency_is_where_a_browser_differs_and_it_says_so(page: Opened) -> None:
    picture = Image.new("RGBA", (32, 32), (200, 80, 40, 2))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (answer,) = page.page.evaluate(ASK, [[("glass.png", base64.b64encode(buffer.getvalue()).decode())], "resize"])
    assert answer["warning"].startswith("is transparent in places: ")


def test_images_of_cifake_give_the_same_answers(page: Opened, cifake_root: Path) -> None:
    if not zipfile.is_zipfile(cifake_root):
        pytest.skip("reads CIFAKE's zip")
    with zipfile.ZipFile(cifake_root) as archive:
        names = [name for name in archive.namelist() if "/test/" in f"/{name}" and name.endswith(".jpg")]
        files = [archive.read(name) for name in random.Random(0).sample(names, 200)]
    answers = page.page.evaluate(ASK, [[("a.jpg", base64.b64encode(each).decode()) for each in files], "resize"])
    ours = [each.prob_real for each in detector().predict(files)]
    assert [each["prob_real"] for each in answers] == pytest.approx(ours, abs=PROBABILITY)


def test_the_page_answers_without_any_server_behind_it(page: Opened) -> None:
    page.page.reload()
    expect(page.page.locator("#privacy")).to_contain_text("nothing leaves this browser")
    expect(page.page.locator("#api")).to_be_hidden()
    expect(page.page.locator("#footer")).to_contain_text("cifake-compact-int8")
    page.context.set_offline(True)  # from here on nothing can be asked of anybody
    try:
        name, content = made()[0]
        page.page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": content}])
        answer = detected(name, content, "resize")
        expect(page.page.locator(".card")).to_have_attribute(
            "data-verdict", "UNCERTAIN" if 0.2 <= answer.prob_real <= 0.8 else answer.verdict
        )
        page.page.get_by_role("button", name=f"What it saw in {name}").click()
        expect(page.page.locator(".explained img")).to_have_count(3)
    finally:
        page.context.set_offline(False)
    page.check()

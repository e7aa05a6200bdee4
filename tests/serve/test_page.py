"""The page of ``serve`` in a real browser: Chromium, driven by playwright; skipped where either is missing."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Opened, expect, launched
from PIL import Image
from serve_stub import Stub, serving

from lightning_cifake import Detector
from lightning_cifake.deploy.answers import CSV_HEADER

DROP = """([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""
PASTE = """(bytes) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""

PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests here."""
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Stub, str]]:
    """A server that does what a test says, and its address."""
    stub = Stub()
    with serving(stub) as address:
        yield stub, address


@pytest.fixture(scope="module")
def shared(browser: Any, site: tuple[Stub, str]) -> Iterator[Opened]:
    """One page for most tests: a new one takes longer than they do."""
    with Opened(browser, site[1]) as opened:
        yield opened


@pytest.fixture
def stub(site: tuple[Stub, str]) -> Stub:
    site[0].reset()
    return site[0]


@pytest.fixture
def page(shared: Opened, stub: Stub) -> Iterator[Any]:
    """The page, loaded anew beside a server that answers."""
    shared.page.goto(shared.address)
    yield shared.page
    shared.check()


def grey(level: int, size: tuple[int, int] = (32, 32)) -> bytes:
    """A PNG of one shade, which answers are known of."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def choose(page: Any, *files: tuple[str, bytes]) -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": each} for name, each in files])


def card(page: Any, name: str) -> Any:
    return page.locator(".card").filter(has=page.locator(".name", has_text=name))


def test_a_dropped_picture_is_answered_in_words_with_its_bar_and_the_reasons_to_doubt_it(page: Any) -> None:
    page.evaluate(DROP, ["white.png", list(grey(247, (64, 48)))])
    one = card(page, "white.png")
    expect(one.locator(".verdict")).to_have_text("Looks like a photograph")
    expect(one.locator(".statement")).to_contain_text("about 97 in 100 are photographs")
    expect(one.locator(".statement")).to_contain_text("unlike them")
    expect(one.locator(".doubts")).to_contain_text("64×48 pixels. The model was trained on 32×32.")
    expect(one.locator(".doubts")).to_contain_text("It is shrunk")
    expect(one.locator(".track")).to_have_attribute(
        "aria-label", "Probability of a photograph: 96.9 %, threshold at 50 %, not sure from 30 % to 70 %."
    )
    bar = one.locator(".track").bounding_box()
    dot, zone = one.locator(".track .dot").bounding_box(), one.locator(".track .zone").bounding_box()
    assert (dot["x"] + dot["width"] / 2 - bar["x"]) / bar["width"] == pytest.approx(247 / 255, abs=0.01)
    assert (zone["x"] - bar["x"]) / bar["width"] == pytest.approx(0.3, abs=0.01)
    expect(page.locator("#status")).to_contain_text("white.png: Looks like a photograph.")
    expect(page.locator("#privacy")).to_contain_text("nothing leaves this machine")


def test_a_pasted_picture_gets_a_name_and_an_answer_that_is_not_sure(page: Any) -> None:
    page.evaluate(PASTE, list(grey(128)))
    one = card(page, "pasted-1.png")
    expect(one.locator(".verdict")).to_have_text("Not sure")
    expect(one.locator(".statement")).to_have_text(
        "About 50 in 100 test pictures with this answer are photographs. That is too close to say."
    )
    expect(one.locator(".doubts")).to_be_hidden()


STATEMENTS = """async ([models, answers]) => {
  const { calibrationWords, statementOf, thresholdWords } = await import("/static/words.js");
  return models.map((model, at) => [statementOf(answers[at], model), calibrationWords(model), thresholdWords(model)]);
}"""
CALIBRATED = {"method": "isotonic", "images": 2000, "data": "mine", "rule": "recall=0.95", "error": 0.031}


@pytest.mark.parametrize(
    ("model", "verdict", "prob", "said"),
    [
        ({"calibration": None}, "REAL", 0.97,
         ["The model’s own number: 97 in 100 for a photograph. Nobody has checked how often that is right.",
          "as the network gives them; nobody has checked how often they are right", "a photograph above 50 %"]),
        ({"calibration": None, "temperature": 2.0}, "AI", 0.2,
         ["The model’s own number: 80 in 100 for AI-generated. Nobody has checked how often that is right.",
          "temperature 2.000; nobody has checked how often they are right", "a photograph above 50 %"]),
        ({"calibration": {"method": "temperature"}, "temperature": 0.65}, "AI", 0.001,
         ["More than 99 in 100 test pictures with this answer are AI-generated.",
          "temperature 0.650, fitted on pictures that were not trained on", "a photograph above 50 %"]),
        ({"calibration": CALIBRATED, "threshold": 0.9}, "AI", 0.7,
         ["Of the pictures it was calibrated on, about 30 in 100 with this answer are AI-generated. It is called that "
          "all the same: the threshold is set at 90 %.",
          "a curve, fitted on 2,000 pictures (mine)",
          "a photograph above 90 %, chosen so that at least 95 % of AI-generated pictures are found"]),
        ({"calibration": {**CALIBRATED, "rule": "false_alarms=0.01"}, "threshold": 0.02}, "REAL", 0.3,
         ["Of the pictures it was calibrated on, about 30 in 100 with this answer are photographs. It is called a "
          "photograph all the same: the threshold is set at 2 %.",
          "a curve, fitted on 2,000 pictures (mine)",
          "a photograph above 2 %, chosen so that at most 1 % of photographs are called AI-generated"]),
        ({"calibration": {**CALIBRATED, "method": "keep", "rule": "0.02"}, "threshold": 0.02}, "UNCERTAIN", 0.03,
         ["The model’s own number: 3 in 100 for a photograph. On 2,000 pictures such numbers were off by 3.1 in 100 on "
          "average. That is too close to the threshold, 2 %, to say.",
          "as the network gives them; off by 3.1 in 100 on average on 2,000 pictures (mine)",
          "a photograph above 2 %"]),
    ],
)  # fmt: skip
def test_a_statement_is_no_more_than_what_the_probabilities_were_held_against(model, verdict, prob, said, page) -> None:
    made = {"threshold": 0.5, "temperature": 1.0, **model}
    answer = {"verdict": verdict, "prob_real": prob, "error": None, "warning": None}
    assert page.evaluate(STATEMENTS, [[made], [answer]]) == [said]


def test_many_pictures_go_in_bounded_batches_and_a_broken_one_costs_no_other_its_answer(page: Any, stub: Stub) -> None:
    files = [(f"{number:02}.png", grey(10 if number % 2 else 250)) for number in range(50)]
    files[7] = ("07.png", b"no picture")
    stub.delay.clear()
    choose(page, *files)
    expect(page.locator("#progress-words")).to_contain_text("0 of 50 pictures")
    stub.delay.set()
    expect(page.locator("#summary")).to_have_text(
        "50 pictures: 25 look like photographs, 24 look AI-generated, 1 without an answer."
    )
    expect(card(page, "07.png").locator(".statement")).to_have_text(
        "Not an image, or of a format that is not read here."
    )
    assert max(map(len, stub.asked)) <= 16 and len(stub.asked) == 4 and stub.most_at_once == 2
    assert page.locator(".name").all_inner_texts() == [name for name, _ in files]
    expect(page.locator("#progress")).to_be_hidden()


def test_the_csv_holds_what_predict_would_write_and_no_formula(page: Any) -> None:
    choose(page, ("=HYPERLINK().png", grey(250, (64, 64))), ('a "b", c.png', grey(1)), ("broken.png", b"no"))
    expect(page.locator("#summary")).to_contain_text("1 without an answer")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "answers.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.splitlines()[0] == CSV_HEADER
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["path"], row["verdict"]) for row in rows] == [
        ("'=HYPERLINK().png", "REAL"),
        ('a "b", c.png', "AI"),
        ("broken.png", ""),
    ]
    assert float(rows[0]["prob_real"]) == 250 / 255 and rows[2]["error"].startswith("not an image")
    assert rows[0]["warning"] == "64x64, trained on 32x32: scaled down"


def test_what_the_network_saw_is_shown_on_request_and_hidden_again(page: Any) -> None:
    choose(page, ("white.png", grey(250)))
    button = page.get_by_role("button", name="What it saw in white.png")
    button.click()
    images = page.locator(".explained img")
    expect(images).to_have_count(3)  # as it sees it; and the same below the map
    assert (
        page.evaluate("[...document.querySelectorAll('.explained img')].map((each) => each.naturalWidth)") == [32] * 3
    )
    assert images.first.evaluate("(image) => getComputedStyle(image).imageRendering") == "pixelated"
    expect(button).to_have_attribute("aria-expanded", "true")
    button.click()
    expect(page.locator(".explained")).to_be_hidden()


def test_another_policy_asks_again_about_larger_pictures_alone(page: Any, stub: Stub) -> None:
    choose(page, ("large.png", grey(250, (200, 100))), ("small.png", grey(250)))
    expect(card(page, "large.png").locator(".doubts")).to_contain_text("shrunk")
    page.get_by_role("radio", name="Let tiles vote").check()
    expect(card(page, "large.png").locator(".doubts")).to_contain_text("16 small squares of it vote")
    assert stub.asked == [["large.png", "small.png"], ["large.png"]]


def test_a_name_with_markup_is_text(page: Any) -> None:
    name = "<img src=x onerror=alert(1)><script>alert(2)<.png"
    choose(page, (name, grey(250)))
    expect(page.locator(".name")).to_have_text(name)
    expect(page.locator("#status")).to_contain_text(name)
    assert page.locator(".name *, #status *").count() == 0 and page.title() == "Photograph or AI-generated?"
    page.get_by_role("button", name="The model and its figures").click()
    expect(page.locator(".model-card")).to_have_text(
        "Its card" + "Words " + "wide " * 100
    )  # a card's scripts and handlers are left out
    assert page.locator(".model-card script, .model-card [onclick]").count() == 0


def test_a_busy_server_is_asked_again_and_a_large_batch_in_parts(page: Any, stub: Stub) -> None:
    stub.fails = [(429, {"Retry-After": "0.2"}), (413, {}), (413, {})]
    choose(page, ("a.png", grey(250)), ("b.png", grey(250)))
    expect(page.locator("#summary")).to_have_text("2 pictures: 1 looks like a photograph, 1 without an answer.")
    refused = page.locator(".card").filter(has_text="No answer")
    expect(refused.locator(".statement")).to_have_text("It is too large for this server.")
    assert stub.asked[:2] == [["a.png", "b.png"]] * 2 and sorted(stub.asked[2:]) == [["a.png"], ["b.png"]]


def test_a_file_past_the_limit_is_refused_before_it_is_sent(page: Any, stub: Stub) -> None:
    expect(page.locator("#limits")).to_have_text("One or many, up to 1 MB each.")
    choose(page, ("huge.png", bytes(2**21)))
    expect(page.locator(".statement")).to_have_text("It has 2 MB, and this server takes at most 1 MB.")
    assert stub.asked == []


def test_pictures_survive_a_server_that_is_gone_and_are_answered_when_it_is_back(page: Any, stub: Stub) -> None:
    expect(page.locator("#legend-threshold")).to_have_text("the threshold, 50 %")
    page.context.set_offline(True)
    try:
        choose(page, ("a.png", grey(250)), ("b.png", grey(1)))
        expect(page.locator("#again-words")).to_contain_text("The server cannot be reached")
        expect(page.locator("#status")).to_contain_text("The server cannot be reached")
        expect(card(page, "a.png").locator(".verdict")).to_have_text("Not asked yet")
    finally:
        page.context.set_offline(False)
    assert stub.asked == []
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#summary")).to_have_text("2 pictures: 1 looks like a photograph, 1 looks AI-generated.")
    expect(page.locator("#again")).to_be_hidden()


def test_a_token_is_asked_for_and_kept_out_of_every_store(page: Any, stub: Stub) -> None:
    stub.token = "secret-of-the-test"
    page.reload()
    page.get_by_label("Token", exact=True).fill(stub.token)
    page.keyboard.press("Enter")
    expect(page.locator("#legend-threshold")).to_have_text("the threshold, 50 %")
    choose(page, ("a.png", grey(250)))
    expect(page.locator(".verdict")).to_have_text("Looks like a photograph")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert stub.token not in page.content() and page.input_value("#token-value") == ""


def test_all_of_it_works_from_the_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the pictures"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(focused(page))
        if reached[-1] == "Choose pictures":
            break
    assert reached[-1] == "Choose pictures", reached
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    files = [{"name": name, "mimeType": "image/png", "buffer": grey(250)} for name in ("a.png", "b.png")]
    chooser.value.set_files(files)
    expect(page.locator("#summary")).to_contain_text("2 pictures")
    reached.clear()
    while "Remove a.png" not in reached:
        page.keyboard.press("Tab")
        reached.append(focused(page))
        assert len(reached) < 20, reached
    assert [name for name in reached if name[0].isupper()][-4:] == [
        "Download CSV", "Clear all", "What it saw in a.png", "Remove a.png"
    ]  # fmt: skip
    page.keyboard.press("Enter")
    assert focused(page) == "Remove b.png"
    page.keyboard.press("Space")
    assert focused(page) == "Choose pictures" and page.locator(".card").count() == 0
    page.get_by_role("button", name="The model and its figures").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("98.50 % of 20,000 test pictures")
    page.keyboard.press("Escape")
    assert focused(page) == "The model and its figures"


def focused(page: Any) -> str:
    return page.evaluate(
        "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent).trim()"
        " || document.activeElement.value"
    )


def test_axe_finds_nothing_light_or_dark_and_no_width_scrolls_sideways(
    browser: Any, site: tuple[Stub, str], stub: Stub
) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="needs axe-core-python").Axe()
    # axe comes into the page as a script, which the page's own policy forbids
    with Opened(browser, site[1], bypass_csp=True, reduced_motion="reduce") as opened:
        page = opened.page
        page.goto(opened.address)
        name = "a-name-without-any-space-in-it-" * 5
        choose(page, (name, grey(250, (64, 48))), ("dark.png", grey(1)), ("unsure.png", grey(128)), ("b", b"no"))
        expect(page.locator("#summary")).to_contain_text("4 pictures")
        page.get_by_role("button", name="What it saw in dark.png").click()
        expect(page.locator(".explained img")).to_have_count(3)
        for width in (320, 360, 768, 1400):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        page.emulate_media(color_scheme="light")
        assert page.evaluate(PAPER) == "rgb(246, 247, 248)"
        found = [*axe.run(page)["violations"]]
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(PAPER) == "rgb(18, 20, 23)"
        found += axe.run(page, options={"runOnly": ["color-contrast"]})["violations"]
        page.get_by_role("button", name="The model and its figures").click()
        found += axe.run(page)["violations"]
        assert not [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found]
        opened.check()


def test_a_telephone_may_take_a_photograph(browser: Any, site: tuple[Stub, str], stub: Stub) -> None:
    with Opened(browser, site[1], has_touch=True, is_mobile=True) as opened:
        opened.page.goto(opened.address)
        with opened.page.expect_file_chooser() as chooser:
            opened.page.get_by_role("button", name="Take a photograph").tap()
        assert chooser.value.element.get_attribute("capture") == "environment"
        opened.check()


def test_before_the_real_app_the_page_shows_what_the_detector_says(browser: Any) -> None:
    """With the released model as it comes; the zone of doubt is the server's."""
    pytest.importorskip("fastapi", reason="needs the extra web")
    from served import serving as serving_app

    from lightning_cifake.serve.settings import Settings

    detector = Detector()
    files = [("white.png", grey(250)), ("black.png", grey(3)), ("large.png", noise(300, 200)), ("broken.png", b"no")]
    with serving_app(Settings(log="none")) as served, Opened(browser, served.url) as opened:
        page = opened.page
        page.goto(served.url)
        violations = page.evaluate_handle(VIOLATIONS)
        expect(page.locator("#footer")).to_contain_text("compact")
        choose(page, *files)
        expect(page.locator("#summary")).to_contain_text("1 without an answer")
        for larger in ("resize", "tiles"):
            page.locator(f"[name=larger][value={larger}]").check()
            expect(card(page, "large.png").locator(".doubts")).to_contain_text(
                "vote" if larger == "tiles" else "Shrunk"
            )
            with page.expect_download() as download:
                page.get_by_role("button", name="Download CSV").click()
            text = Path(download.value.path()).read_text(encoding="utf-8")
            rows = {row["path"]: row for row in csv.DictReader(io.StringIO(text))}
            for (name, _), answer in zip(
                files, detector.predict([each for _, each in files], uncertain=(0.2, 0.8), larger=larger), strict=True
            ):
                row = rows[name]
                assert (row["verdict"], row["warning"], row["error"]) == (
                    answer.verdict or "", answer.warning or "", answer.error or ""
                )  # fmt: skip
                if answer.prob_real is not None:
                    assert float(row["prob_real"]) == pytest.approx(answer.prob_real, abs=1e-6)
        page.get_by_role("button", name="What it saw in large.png").click()
        expect(page.locator(".explained img")).to_have_count(3)
        sizes = page.evaluate("[...document.querySelectorAll('.explained img')].map((each) => each.naturalWidth)")
        assert sizes == [32] * 3
        page.get_by_role("button", name="The model and its figures").click()
        expect(page.get_by_role("dialog")).to_contain_text(detector.sha256)
        expect(page.get_by_role("dialog").get_by_role("heading", level=3).first).to_contain_text("CIFAKE detectors")
        assert violations.json_value() == []
        opened.check()


VIOLATIONS = """() => {
  const found = [];
  addEventListener("securitypolicyviolation", (event) => found.push(event.violatedDirective));
  return found;
}"""


def noise(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

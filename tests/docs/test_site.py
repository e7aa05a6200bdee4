"""The pages as files and as a site: links resolve, the README is one screen, the site fetches nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*/*.md"),
        *(ROOT / "checkpoints").glob("*.md"),
    )
)
README = ROOT / "README.md"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub and mkdocs make of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_of_the_repository(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists() and file.is_relative_to(ROOT), link
        assert not anchor or anchor in headings(file), link


def test_the_readme_is_one_screen() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert any(line.startswith("![") for line in lines[:10]), "a picture of an answer is near the top"


def test_the_readme_carries_no_date_processor_or_second() -> None:
    text = README.read_text()
    for pattern in (r"\d{4}-\d{2}-\d{2}", r"EPYC|Xeon|AVX|Ryzen", r"\d ?(s|ms|min|seconds?|minutes?|hours?)\b"):
        assert re.findall(pattern, text) == [], pattern


def test_every_room_of_the_package_is_in_the_architecture() -> None:
    page, drawing = ((ROOT / "docs" / name).read_text() for name in ("architecture.md", "architecture.svg"))
    for init in sorted((ROOT / "lightning_cifake").glob("*/__init__.py")):
        room = init.parent.name
        assert f"lightning_cifake/{room}/" in page and f"{room}/" in drawing, room
    for named in re.findall(r"`([\w/]+/)`", page):
        assert (ROOT / named).is_dir() or (ROOT / "lightning_cifake" / named).is_dir(), named


def test_the_drawing_is_what_its_script_draws() -> None:
    script = ROOT / "docs" / "architecture.py"
    drawn = subprocess.run(
        [sys.executable, "-c", "import architecture; print(architecture.svg(), end='')"],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / "docs" / "architecture.svg").read_text() == drawn


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "", "NO_MKDOCS_2_WARNING": "1", "HOME": str(tmp_path)},
    )
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        html = page.read_text()
        fetched = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", html)
        assert [address for address in fetched if address != "https://squidfunk.github.io/mkdocs-material/"] == [], page

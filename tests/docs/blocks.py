"""Reads the fenced blocks of the pages."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    ROOT / "checkpoints" / "README.md",
    *(path for path in (ROOT / "CONTRIBUTING.md", ROOT / "checkpoints" / "MODEL_CARD.md") if path.exists()),
]


class Block(NamedTuple):
    """One fenced block. ``run``: no comment before it says ``parsed, not run``."""

    page: str
    language: str
    title: str
    text: str
    run: bool


def blocks() -> list[Block]:
    found = []
    fence = re.compile(
        r"(?P<mark><!-- parsed, not run -->\n\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
    )
    for page in PAGES:
        for match in fence.finditer(page.read_text()):
            language, _, rest = match["info"].partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            name = str(page.relative_to(ROOT))
            found.append(Block(name, language, title[1] if title else "", match["text"], not match["mark"]))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each line of a block without a language, less comments and the environment's settings in front."""
    lines = block.text.replace("\\\n", " ").splitlines()
    parsed = [shlex.split(line, comments=True) for line in lines]
    return [words[_settings(words) :] for words in parsed if words]


def _settings(words: list[str]) -> int:
    return next((at for at, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word)), len(words))


def ours(words: list[str]) -> list[str] | None:
    """The arguments of ``lightning-cifake`` in a line, however it is started; None for another program."""
    if words[0] == "lightning-cifake":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1 :][:1] == ["lightning_cifake"]:
        return words[words.index("-m") + 2 :]
    return None

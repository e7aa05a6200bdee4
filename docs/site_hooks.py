"""What mkdocs does beside mkdocs.yml: a link out of docs/ works in the repository, and is a plain name on the site."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\.?/[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def plain(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        inside = target.startswith("docs/") and not link[2].endswith("/")
        return link[0] if inside else f"{link[1]} (`{target}`)"

    return LINK.sub(plain, markdown)

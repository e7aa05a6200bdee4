"""audit.html: one self-contained page of an audit, beside audit.json and excluded.txt."""

import base64
from pathlib import Path
from typing import Any

from lightning_cifake.assessment.audit import Audit
from lightning_cifake.assessment.page import thumbnail
from lightning_cifake.assessment.rendering import environment
from lightning_cifake.errors import UserError
from lightning_cifake.files import sealed_json, temporary_folder
from lightning_cifake.text import printable, reason_of

JSON, PAGE, LIST = "audit.json", "audit.html", "excluded.txt"
NAMED = 60  # pairs, groups and suspects that the page names; audit.json has more


def check_output(folder: Path) -> None:
    """Refuses a folder that nothing can be written to, before minutes are spent.

    Raises:
        UserError: it is a file, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: expected a folder, got the file {printable(folder)}")
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with temporary_folder(there, "audit"):  # no folder is left behind where it comes to nothing
            pass
    except OSError as error:
        raise UserError(f"cannot write to {printable(folder)}: {reason_of(error)}") from error


def write(folder: Path, found: Audit, pictures: int) -> None:
    """All three files, or none of them.

    Raises:
        UserError: they cannot be written; what was there before is untouched.
    """
    contents = {
        JSON: sealed_json(found.record),
        PAGE: page_of(found, pictures),
        LIST: "\n".join(found.excluded) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, "audit") as made:
            for name, text in contents.items():
                (made / name).write_bytes(text.encode(errors="surrogateescape"))
            for name in contents:
                (made / name).replace(folder / name)
    except OSError as error:
        raise UserError(f"cannot write to {printable(folder)}: {reason_of(error)}") from error


def page_of(found: Audit, pictures: int) -> str:
    """The page as HTML that fetches nothing.

    Args:
        found: what it is of.
        pictures: pairs, and suspects, that are shown with their pictures.
    """
    templates = environment(escaped=True)
    templates.filters["shown"] = printable
    templates.globals["columns"] = _columns
    record = found.record
    names = [name for pair in record["near"]["listed"][:pictures] for name in pair["names"]]
    names += [each["name"] for each in (record["labels"] or {"images": []})["images"][:pictures]]
    return templates.get_template("audit.html.j2").render(
        a=record, pictures=_uris(found, names), shown=pictures, named=NAMED, json=JSON, listed=LIST
    )


def _uris(found: Audit, names: list[str]) -> dict[str, str]:
    """Pictures as data URIs, by name."""
    if not names:
        return {}
    wanted = set(names)
    return {
        path: f"data:image/png;base64,{base64.b64encode(thumbnail(found.images.images[at])).decode()}"
        for at, path in enumerate(found.images.paths)
        if path in wanted
    }


def _columns(files: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """A row of the table of files: its name, and each class's values in words."""
    rows = [("bytes", [_quantiles(of_class["bytes"]) for of_class in files.values()])]
    for key, title in (
        ("size", "width and height"), ("format", "format"), ("mode", "mode"), ("jpeg_tables", "JPEG tables"),
        ("jpeg_chroma", "JPEG chroma"), ("beside", "written beside"),
    ):  # fmt: skip
        rows.append((title, [_counts(of_class[key], of_class["images"]) for of_class in files.values()]))
    return rows


def _quantiles(quantiles: dict[str, int]) -> str:
    low, high = f"{quantiles['least']:,}", f"{quantiles['most']:,}"
    return f"{low} to {high}, median {quantiles['median']:,}"


def _counts(counts: dict[str, int], images: int) -> str:
    if len(counts) == 1 and sum(counts.values()) == images:
        return f"all {next(iter(counts))}"
    return ", ".join(f"{value} ({count:,})" for value, count in counts.items()) or "none"

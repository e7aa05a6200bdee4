"""What a server says of its model at /v1/model: the file's own facts, its manifest's figures, and its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.digest import manifest_of
from lightning_cifake.deploy.larger import LARGER
from lightning_cifake.serve.settings import Settings
from lightning_cifake.shipped import DEFAULT, MODELS

PART_BYTES = 4096  # that a form puts around a file, at most
UNSURE = 0.3  # of P(REAL), on each side of the threshold: where the page says "not sure", unless it was told otherwise
FIGURES = ("data", "part", "protocol", "images", "seen_in_training")


def describe(detector: Detector, settings: Settings) -> dict[str, Any]:
    """What /v1/model answers."""
    facts, limits = detector.facts, settings.limits
    low, high = settings.uncertain or (
        round(max(0.0, facts.threshold - UNSURE), 6),
        round(min(1.0, facts.threshold + UNSURE), 6),
    )
    return {
        "name": name_of(settings.model),
        "file": detector.path.name,
        "sha256": detector.sha256,
        "image_size": facts.image_size,
        "precision": facts.precision,
        "threshold": facts.threshold,
        "temperature": facts.temperature,
        "unsure": [low, high],
        "larger": list(LARGER),
        "limits": {
            "body_bytes": limits.body_bytes,
            "file_bytes": min(limits.body_bytes - PART_BYTES, MAX_FILE_BYTES),
            "files": limits.files,
            "pixels": limits.pixels,
            "answer_seconds": limits.answer_seconds,
        },
        "figures": figures_of(detector),
        "card": card_of(detector),
    }


def name_of(model: Path | str | None) -> str:
    """A released model's own, else its file's."""
    if model is None:
        return DEFAULT
    named = isinstance(model, str) and (model in MODELS or model.startswith("hf://"))
    return str(model) if named else Path(model).stem


def figures_of(detector: Detector) -> dict[str, Any] | None:
    """What the manifest beside the file says was measured of it; None without one, or of another file."""
    real = manifest_of(detector.path, detector.sha256).get("real")
    if not isinstance(real, Mapping) or not isinstance(real.get("onnxruntime"), Mapping):
        return None
    return {key: real[key] for key in FIGURES if key in real} | dict(real["onnxruntime"])


def card_of(detector: Detector) -> str | None:
    """The model's card, as HTML without any of its own; None where none lies beside it."""
    path = detector.path.with_suffix(".md")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return as_html(text)


def as_html(markdown: str) -> str:
    """Markdown -> HTML in which nothing of it is markup that was written there; its front matter is left out."""
    from markdown_it import MarkdownIt  # of rich

    if markdown.startswith("---\n"):
        _, _, markdown = markdown[4:].partition("\n---\n")
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

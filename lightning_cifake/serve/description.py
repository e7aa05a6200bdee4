"""What a server says of its model at /v1/model: the file's own facts, its manifest's figures, and its card."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.digest import manifest_of
from lightning_cifake.deploy.larger import LARGER
from lightning_cifake.front_matter import without_front_matter
from lightning_cifake.hub import README, is_hub_name
from lightning_cifake.serve.settings import Settings
from lightning_cifake.shipped import CARD, DEFAULT, MODELS, models_folder
from lightning_cifake.text import printable, shorten

PART_BYTES = 4096  # that a form puts around a file, at most
UNSURE_ODDS = 4.0  # the page says "not sure" where the odds are up to so many times those at the threshold, or a part
CALIBRATED, METHODS = "calibrated", ("keep", "temperature", "isotonic")  # of evaluation.calibration, which needs scipy
CIFAKE = "e3e44ed55b44e46170fa92014824be73839036870b963435eff5247509d6a84f"  # of data.cifake_pixels, which needs torch
FIGURES = ("data", "part", "protocol", "images", "seen_in_training")
TRAINED_ON_CIFAKE = (
    "pictures of one generator (Stable Diffusion 1.4) and photographs of ten kinds of things (CIFAR-10), all of "
    "32×32 pixels"
)


def describe(detector: Detector, settings: Settings) -> dict[str, Any]:
    """What /v1/model answers."""
    facts, limits = detector.facts, settings.limits
    manifest, card = manifest_of(detector.path, detector.sha256), card_of(detector, settings.model)
    return {
        "name": name_of(settings.model),
        "file": detector.path.name,
        "sha256": detector.sha256,
        "version": metadata.version("lightning_cifake"),
        "image_size": facts.image_size,
        "precision": facts.precision,
        "trained_on": trained_on(manifest),
        "threshold": facts.threshold,
        "temperature": facts.temperature,
        "calibration": calibration_of(detector),
        "unsure": list(settings.uncertain or zone_of(facts.threshold)),
        "larger": list(LARGER),
        "limits": {
            "body_bytes": limits.body_bytes,
            "file_bytes": min(limits.body_bytes - PART_BYTES, MAX_FILE_BYTES),
            "files": limits.files,
            "pixels": limits.pixels,
            "answer_seconds": limits.answer_seconds,
        },
        "figures": figures_of(manifest),
        "card": None if card is None else as_html(card),
    }


def zone_of(threshold: float) -> tuple[float, float]:
    """P(REAL) from low to high is too near the threshold to say: 0.2 to 0.8 around 1/2, and narrower near 0 and 1.

    By odds, so that it ends before 0 and 1 wherever the threshold is: no verdict is always in doubt.
    """
    low, high = threshold, UNSURE_ODDS * threshold
    return (
        round(low / (low + UNSURE_ODDS * (1 - threshold)), 6),
        round(high / (high + 1 - threshold), 6),
    )


def calibration_of(detector: Detector) -> dict[str, Any] | None:
    """How the probabilities were held against pictures whose class is known; None where nothing says that they were.

    ``method``: ``temperature`` or ``isotonic``, fitted; ``keep``, left as they were and measured. Of what ``calibrate``
    did: ``images`` and ``data``, the ``rule`` of the threshold, and ``error``, the mean difference between
    probabilities and shares there (ECE). None of these where ``export`` fitted a temperature.
    """
    told = detector.facts.metadata
    with suppress(KeyError, TypeError, ValueError, RecursionError):  # a model may say anything of itself
        record = json.loads(told[CALIBRATED])
        if record["method"] in METHODS and math.isfinite(record["after"]["ece"]):
            return {
                "method": record["method"],
                "images": int(record["images"]),
                "data": shorten(printable(record["data"]), 80),
                "rule": shorten(printable(record["rule"]), 80),
                "error": float(record["after"]["ece"]),
            }
    released = detector.path.parent == models_folder() and detector.path.name in {each.file for each in MODELS.values()}
    if detector.facts.temperature != 1 and (released or told.get("temperature_fitted") == "true"):
        return {"method": "temperature", "images": None, "data": None, "rule": None, "error": None}
    return None  # a temperature may have been typed


def trained_on(manifest: Mapping[str, Any]) -> str | None:
    """In words; None where the manifest does not say."""
    model = manifest.get("model")
    training = model.get("training") if isinstance(model, Mapping) else None
    if not isinstance(training, Mapping):
        return None
    if training.get("data_digest") == CIFAKE:
        return TRAINED_ON_CIFAKE
    data = training.get("data")
    return f"the pictures of {shorten(printable(data), 80)}" if isinstance(data, str) else None


def name_of(model: Path | str | None) -> str:
    """A released model's own, else its file's."""
    if model is None:
        return DEFAULT
    named = isinstance(model, str) and (model in MODELS or is_hub_name(model))
    return str(model) if named else Path(model).stem


def figures_of(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the manifest says was measured of its model; None where it says nothing."""
    real = manifest.get("real")
    if not isinstance(real, Mapping) or not isinstance(real.get("onnxruntime"), Mapping):
        return None
    return {key: real[key] for key in FIGURES if key in real} | dict(real["onnxruntime"])


def card_of(detector: Detector, model: Path | str | None = None) -> str | None:
    """The model's card, in Markdown: X.md beside X.onnx, else one of several models that names this very file; of a
    model of the Hub its repository's README.md."""
    path = detector.path
    beside = [(path.with_name(README), False)] if is_hub_name(model) else []
    for each, of_several in ((path.with_suffix(".md"), False), (path.with_name(CARD), True), *beside):
        try:
            text = each.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if not of_several or detector.sha256 in text:
            return text
    return None


def as_html(markdown: str) -> str:
    """Markdown -> HTML in which nothing of it is markup that was written there; its front matter is left out."""
    from markdown_it import MarkdownIt  # of rich

    return MarkdownIt("commonmark", {"html": False}).enable("table").render(without_front_matter(markdown))

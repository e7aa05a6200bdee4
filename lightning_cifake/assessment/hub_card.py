"""The card of a model that is pushed to the Hugging Face Hub: an evaluation's, an export's, or a plain one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json
from lightning_cifake.front_matter import split_front_matter, with_front_matter
from lightning_cifake.hub_upload import front_matter, plain_card, usage
from lightning_cifake.run_folder import METRICS
from lightning_cifake.text import printable


def card(
    repo: str,
    sha256: str,
    weights: bool,
    evaluation: Path | None = None,
    manifest: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """The card, in Markdown behind the YAML that the Hub reads.

    Args:
        repo: ``owner/name``.
        sha256: of the model's file: an evaluation has to be of this one.
        weights: it is a checkpoint's weights, not an exported model.
        evaluation: a folder of ``evaluate``.
        manifest: of an exported model: it measured the model when it was exported.
        licence: as the Hub names licences; what the manifest says where none is given.

    Raises:
        UserError: the evaluation is not of this model, or no evaluation at all.
    """
    results, worth = [], None
    if evaluation is None and manifest is not None and (results := _results(repo, manifest)):
        figures = manifest["real"]
        worth = (
            f"On {figures['images']:,} {figures.get('part', '')} images of {printable(figures.get('data'))} it decided "
            f"{figures['onnxruntime']['accuracy']:.2%} rightly as it was exported. No more is published with it."
        )
    front, body = split_front_matter(_card_of(evaluation, sha256) if evaluation else plain_card(repo, weights, worth))
    own = front_matter()
    tags = [*own["tags"], "safetensors" if weights else "onnx", *front.get("tags", [])]
    front = {**front, **own, "tags": list(dict.fromkeys(tags))}
    if results:
        front["model-index"] = results
    if licence is None and manifest is not None and "MIT" in str(manifest.get("model", {}).get("licence", "")):
        licence = "mit"
    if licence is not None:
        front = {"license": licence, **front}
    return with_front_matter(front, body if "## Use" in body else f"{body.rstrip()}\n\n{usage(repo, weights)}")


def _card_of(evaluation: Path, sha256: str) -> str:
    from lightning_cifake.assessment.card import card_of

    metrics = read_json(evaluation / METRICS)[0]
    models = metrics.get("models")
    found = [each for each in models if each.get("sha256") == sha256] if isinstance(models, list) else []
    if not found:
        raise UserError(
            f"--evaluation: {printable(evaluation)} is not of this model: expected what `evaluate` wrote of the file "
            f"with SHA-256 {sha256[:12]}..."
        )
    return card_of(metrics, found[0]["name"])


def _results(repo: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The Hub's ``model-index`` of what was measured at the export; nothing where nothing was."""
    real = manifest.get("real")
    figures = real.get("onnxruntime") if isinstance(real, dict) else None
    if not isinstance(figures, dict) or not isinstance(real, dict):
        return []
    metrics = [
        {"type": kind, "value": figures[key], "name": name}
        for kind, key, name in (("accuracy", "accuracy", "Accuracy"), ("roc_auc", "auroc", "AUROC"))
        if isinstance(figures.get(key), float)
    ]
    dataset = {"type": "imagefolder", "name": printable(real.get("data")), "split": printable(real.get("part"))}
    task = {"type": "image-classification", "name": "AI-generated or photograph"}
    name = repo.partition("/")[2]
    return [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}] if metrics else []

"""A model card in the form of the Hugging Face Hub, made of evaluations, of manifests, and of what a person wrote.

One model or several that were asked about the same images, side by side. The figures are of the metrics.json of
``evaluate``; of a model that has none, of its manifest, which holds fewer. What no figure knows (licence, what it was
trained on, what it is for and what not) stands in a text of its own, whose front matter comes into the card's.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_cifake.assessment.page_values import FORMS, Values, is_defined
from lightning_cifake.assessment.page_words import CHANGES, FIGURES, UNCHANGED, Words
from lightning_cifake.assessment.rendering import environment
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.intervals import wilson_interval
from lightning_cifake.extras import require
from lightning_cifake.front_matter import split_front_matter, with_front_matter
from lightning_cifake.shipped import MODELS
from lightning_cifake.text import code_span, markdown, plural, printable

EVALUATION = "evaluation"
HUB_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("roc_auc", "auroc", "AUROC"),
    ("precision", "precision_real", "Precision of REAL"),
    ("recall", "recall_real", "Recall of REAL"),
    ("precision", "precision_fake", "Precision of AI"),
    ("recall", "recall_fake", "Recall of AI"),
)
"""The Hub's name of a metric, ours, and what it is called: the Hub's do not say which class they are about."""
PLACE = "<!-- evaluation -->"  # a line of the text, where what is made comes; else at its end
TASK = {"type": "image-classification", "name": "AI-generated or photograph"}
_COMMENT = re.compile(r"[^\S\n]*<!--.*?-->", re.DOTALL)
_PARTS = ("test", "val", "train")


class Subject(NamedTuple):
    """A model of a card.

    Attributes:
        name: what it is called in tables.
        metrics: of ``evaluate``, and ``at``, its place among the models there; None where it was not evaluated.
        manifest: of ``export``; None where it is not an exported model's, or is not at hand.
    """

    name: str
    metrics: Mapping[str, Any] | None
    at: int
    manifest: Mapping[str, Any] | None

    @property
    def evaluated(self) -> Mapping[str, Any] | None:
        return None if self.metrics is None else self.metrics["models"][self.at]

    @property
    def file(self) -> str:
        return str((self.evaluated or {}).get("file") or self.manifest_value("model", "file") or "")

    @property
    def sha256(self) -> str | None:
        return (self.evaluated or {}).get("sha256") or self.manifest_value("model", "sha256")

    def manifest_value(self, *keys: str) -> Any:
        found: Any = self.manifest
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def card_of(metrics: Mapping[str, Any], model: str | None = None) -> str:
    """The card of one model, for its maker to write the rest into.

    Args:
        metrics: of ``evaluate``.
        model: the name of one of its models; needed where there are several.

    Raises:
        UserError: not an evaluation's; no such model; jinja2 is not installed.
    """
    return make_card(subjects_of([metrics], model=model))


def subjects_of(
    evaluations: Sequence[Mapping[str, Any]], manifests: Sequence[Mapping[str, Any]] = (), model: str | None = None
) -> list[Subject]:
    """The models of a card: those of the manifests in their order, then evaluated ones without a manifest.

    Args:
        evaluations: metrics.json of ``evaluate``, of which each gives one model.
        manifests: of exported models; an evaluation of the same file belongs to it.
        model: the name of one of an evaluation's models; needed where it has several.

    Raises:
        UserError: not an evaluation's; no such model; not a manifest; models that were asked about other images.
    """
    evaluated = []
    for metrics in evaluations:
        if metrics.get("kind") != EVALUATION:
            raise UserError("a model card is made of an evaluation: expected the metrics.json of evaluate, got a run's")
        at = _place_of(metrics, model)
        evaluated.append(Subject(str(metrics["models"][at]["name"]), metrics, at, None))
    by_digest = {subject.sha256: subject for subject in evaluated if subject.sha256}
    released = {each.file: name for name, each in MODELS.items()}
    found = []
    for manifest in manifests:
        bare = Subject("", None, 0, manifest)
        if not bare.file or not bare.sha256:
            raise UserError("expected the manifest of an exported model, X.json beside X.onnx, got another file")
        known = by_digest.get(bare.sha256)
        name = known.name if known else released.get(bare.file) or bare.file.removesuffix(".onnx")
        found.append((known or bare)._replace(name=name, manifest=manifest))
    with_manifest = {subject.sha256 for subject in found}
    found += [subject for subject in evaluated if subject.sha256 not in with_manifest or subject.sha256 is None]
    images = {tuple(map(s.metrics["data"].get, ("digest", "part", "images"))) for s in found if s.metrics}
    if len(images) > 1:
        raise UserError("a card's figures stand side by side: expected evaluations on the same images")
    return found


def make_card(subjects: Sequence[Subject], text: str | None = None) -> str:
    """The card as Markdown behind YAML front matter, whose ``model-index`` the Hub reads.

    Args:
        subjects: of :func:`subjects_of`, one that was evaluated at least.
        text: what a person wrote, in Markdown, perhaps with front matter: what is made comes in place of its line
            ``<!-- evaluation -->``, other comments are left out. None for a text that names what is to be written.

    Raises:
        UserError: jinja2 is not installed; front matter that is none; no subject that was evaluated.
    """
    require("train", "jinja2", what="a model card")
    first = next((subject for subject in subjects if subject.metrics), None)
    if first is None or first.metrics is None:
        raise UserError("a model card is made of an evaluation: expected the metrics.json of evaluate, got none")
    front, body = ({}, None) if text is None else split_front_matter(text, "the card's text")
    data = first.metrics["data"]
    own = [subject for subject in subjects if _is_of(subject, data)]
    words = {subject.name: Words(Values(subject.metrics)) for subject in subjects if subject.metrics}
    robust = [subject for subject in subjects if (subject.evaluated or {}).get("robustness")]
    unseen = [subject for subject in subjects if (subject.evaluated or {}).get("unseen")]
    unseen_rows = _left_out_row(unseen) + _figure_rows(unseen, _unseen_figures, short=len(subjects) > 1)
    made = environment(escaped=False).get_template("card.md.j2").render(
        subjects=subjects,
        data=data,
        counts=(first.evaluated or {})["all"]["class_counts"],
        figures=_table("figure", own, _figure_rows(own, _figures)),
        unseen=_table("without them", unseen, unseen_rows) if unseen else "",
        matrices=_table("", own, _matrix_rows(own)),
        robustness=_table("change", robust, _robustness_rows(robust)),
        weaknesses={
            subject.name: [markdown(each.striptags()) for each in words[subject.name].weaknesses(subject.at)]
            for subject in subjects
            if subject.metrics
        },
        files=_files(subjects),
        limits=_limits(words),
        commands=list(filter(None, map(_command, subjects))),
        plural=plural,
        text=markdown,
        code=code_span,
    )  # fmt: skip
    if body is None:
        threshold = f"{(first.evaluated or {})['threshold']:g}"
        body = environment(escaped=False).get_template("card-text.md.j2").render(
            title=" and ".join(markdown(subject.name) for subject in subjects), threshold=threshold
        )  # fmt: skip
    before, _, after = body.partition(PLACE)
    whole = front_matter(subjects, data, front)
    parts = [before.strip() if text is None else _without_comments(before), made.strip(), _without_comments(after)]
    return with_front_matter(whole, "\n\n".join(part for part in parts if part))


def front_matter(
    subjects: Sequence[Subject], data: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the Hub reads of a card: what was written, and the figures of every subject that has them."""
    written = dict(written or {})
    datasets = written.get("datasets") or []
    dataset = {"type": "imagefolder", "name": printable(data["name"])}
    if datasets:
        dataset = {"type": str(datasets[0]), "name": str(datasets[0]).rpartition("/")[2]}
    part = next((part for part in _PARTS if part in str(data.get("part") or "").split()), None)
    entries, kinds = [], []
    for subject in subjects:
        known = _figures(subject) if _is_of(subject, data) else {}
        found = [
            {"type": kind, "value": known[key]["value"], "name": name}
            for kind, key, name in HUB_METRICS
            if key in known and is_defined(known[key]["value"])
        ]
        kinds += [metric["type"] for metric in found]
        result = {"task": dict(TASK), "dataset": {**dataset, **({"split": part} if part else {})}, "metrics": found}
        name = subject.file.removesuffix(".onnx") if subject.manifest else subject.name
        entries.append({"name": printable(name), "results": [result]})
    onnx = all(subject.file.endswith(".onnx") for subject in subjects)
    precisions = [(s.evaluated or {}).get("precision") or s.manifest_value("model", "precision") for s in subjects]
    made = {
        "library_name": "onnx" if onnx else "pytorch",
        "pipeline_tag": TASK["type"],
        "tags": list(dict.fromkeys(["ai-generated-image-detection", *(str(each) for each in precisions if each)])),
        "metrics": list(dict.fromkeys(kinds)),
    }
    tags = [*(written.get("tags") or []), *made["tags"]]
    return {**made, **written, "tags": list(dict.fromkeys(tags)), "model-index": entries}


def _without_comments(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", _COMMENT.sub("", text)).strip()


def _limits(words: Mapping[str, Words]) -> list[str]:
    """Each once; one that does not hold for all models names those it holds for."""
    held: dict[str, list[str]] = {}
    for name, some in words.items():
        for limit in some.limits():
            held.setdefault(markdown(limit.striptags()), []).append(name)
    return [
        limit if len(names) == len(words) else f"{', '.join(map(code_span, names))}: {limit}"
        for limit, names in held.items()
    ]


def _place_of(metrics: Mapping[str, Any], model: str | None) -> int:
    names = [each["name"] for each in metrics["models"]]
    if model is None and len(names) == 1:
        return 0
    if model not in names:
        listed = printable(", ".join(names))
        got = "none named" if model is None else f"got {printable(model)}"
        raise UserError(f"a model card is of one model of an evaluation: expected one of {listed}, {got}")
    return names.index(model)


def _is_of(subject: Subject, data: Mapping[str, Any]) -> bool:
    """Whether its figures are of these images: an evaluation's are, a manifest's may be of a sample."""
    real = [subject.manifest_value("real", key) for key in ("data_digest", "images")]
    return subject.metrics is not None or real == [data.get("digest"), data["images"]]


def _figures(subject: Subject) -> Mapping[str, Any]:
    """By name, ``value`` and ``interval``: the evaluation's, or what follows from the counts in a manifest (Wilson)."""
    if subject.evaluated:
        return subject.evaluated["all"]["figures"]
    (ai_ai, ai_real), (real_ai, real_real) = subject.manifest_value("real", "onnxruntime", "confusion_matrix")
    shares = {
        "accuracy": (ai_ai + real_real, ai_ai + ai_real + real_ai + real_real),
        "recall_real": (real_real, real_ai + real_real),
        "precision_real": (real_real, ai_real + real_real),
        "recall_fake": (ai_ai, ai_ai + ai_real),
        "precision_fake": (ai_ai, ai_ai + real_ai),
    }
    found: dict[str, Any] = {
        name: {"value": right / images, "interval": list(wilson_interval(right, images))}
        for name, (right, images) in shares.items()
        if images
    }
    return found | {"auroc": {"value": subject.manifest_value("real", "onnxruntime", "auroc"), "interval": None}}


def _unseen_figures(subject: Subject) -> Mapping[str, Any]:
    return (subject.evaluated or {})["unseen"]["figures"]


Rows = list[tuple[str, list[str]]]


def _table(corner: str, subjects: Sequence[Subject], rows: Rows) -> str:
    """Markdown, a column a model; empty without rows."""
    if not rows:
        return ""
    names = [code_span(subject.name) for subject in subjects]
    lines = [[corner, *names], ["---"] * (len(names) + 1), *([title, *cells] for title, cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure_rows(
    subjects: Sequence[Subject], figures: Callable[[Subject], Mapping[str, Any]], short: bool = False
) -> Rows:
    """Each figure's name, and its text for each model."""
    shown = [row for row in FIGURES if not short or row[0] in ("accuracy", "recall_real", "recall_fake", "auroc")]
    return [
        (title, [_cell(figures(subject).get(key), form) for subject in subjects])
        for key, title, _, form in shown
        if subjects
    ]


def _left_out_row(subjects: Sequence[Subject]) -> Rows:
    asked = [subject.evaluated or {} for subject in subjects]
    return [("images left out", [f"{each['all']['images'] - each['unseen']['images']:,}" for each in asked])]


def _command(subject: Subject) -> str:
    return printable(shlex.join(map(str, (subject.metrics or {}).get("command") or [])))


def _cell(figure: Mapping[str, Any] | None, form: str) -> str:
    if figure is None:
        return "not measured"
    if not is_defined(figure["value"]):
        return "undefined"
    text = FORMS[form](figure["value"])
    if not figure.get("interval"):
        return text
    low, high = figure["interval"]
    low, high = FORMS["bare" if form == "percent" else form](low), FORMS[form](high)
    return f"{text} ({low} to {high})"


def _matrix_rows(subjects: Sequence[Subject]) -> Rows:
    matrices = [
        subject.evaluated["all"]["confusion_matrix"]
        if subject.evaluated
        else subject.manifest_value("real", "onnxruntime", "confusion_matrix")
        for subject in subjects
    ]
    kinds = ("AI images called AI / REAL", "photographs called AI / REAL")
    return [(kind, [" / ".join(f"{n:,}" for n in each[at]) for each in matrices]) for at, kind in enumerate(kinds)]


def _robustness_rows(subjects: Sequence[Subject]) -> Rows:
    """A row a kind of change, the accuracy at each of its strengths in a cell; first that of the unchanged images."""
    if not subjects:
        return []
    asked = [(subject.evaluated or {})["robustness"] for subject in subjects]
    rows: Rows = [("images asked about", [f"{each['images']:,}" for each in asked])]
    kinds: dict[str, dict[Any, None]] = {}
    by_model = [{(row["name"], row["strength"]): row for row in each["rows"]} for each in asked]
    for name, strength in (key for each in by_model for key in each):
        kinds.setdefault(name, {})[strength] = None
    for name, strengths in kinds.items():
        title = CHANGES.get(name, markdown(printable(name)))
        if name == UNCHANGED:
            unchanged = [each[name, None] for each in by_model]
            cells = [_cell({"value": r["accuracy"], "interval": r["accuracy_interval"]}, "percent") for r in unchanged]
        else:
            told = [str(strength) for strength in strengths if strength is not None]
            title += f": {' / '.join(told)}" if told else ""
            found = [[each.get((name, strength)) for strength in strengths] for each in by_model]
            cells = [" / ".join(f"{100 * r['accuracy']:.1f}" if r else "-" for r in each) + " %" for each in found]
        rows.append((title, cells))
    return rows


def _files(subjects: Sequence[Subject]) -> str:
    """A table with what is known of each model's file; empty of models that are none."""
    if not any(subject.file for subject in subjects):
        return ""

    def of(subject: Subject, show: Callable[[Any], str], *keys: str) -> str:
        found = subject.manifest_value(*keys)
        return "" if found is None else show(found)

    header = ["model", "file", "size", "precision", "temperature", "test decisions unlike its checkpoint's", "SHA-256"]
    rows = [
        [
            code_span(subject.name),
            code_span(subject.file),
            of(subject, lambda size: f"{size / 1e6:.1f} MB", "model", "bytes"),
            of(subject, lambda precision: markdown(str(precision)), "model", "precision"),
            of(subject, lambda temperature: f"{temperature:.3g}", "model", "temperature"),
            of(subject, FORMS["count"], "real", "flipped_decisions"),
            code_span(subject.sha256) if subject.sha256 else "",
        ]
        for subject in subjects
    ]
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line[at] for at in kept) + " |" for line in lines)

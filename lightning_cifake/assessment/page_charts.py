"""The pictures of a page: which values of metrics.json each draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lightning_cifake.assessment.page_drawings import Axis, Bar, Dot, Drawer, Line, log_share_axis, share_axis
from lightning_cifake.assessment.page_values import Values, is_defined, name_of
from lightning_cifake.assessment.page_words import UNCHANGED

ACCUSED = "photographs called AI (%)"
FOUND = "AI images found (%)"
NICE = [part * 10.0**power for power in range(-4, 4) for part in (1, 2, 5)]  # steps of an axis


class Charts:
    """Draws what there is; an empty text where there is nothing to draw."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._drawer = Drawer()

    def roc(self, model: int, log: bool = False) -> Markup:
        """AI images found against photographs accused, over all thresholds."""
        roc = self._values.get("models", model, "curves", "roc")
        if not roc:
            return Markup("")
        # the file's is of REAL, the positive class: what is called REAL wrongly and rightly
        accused = [1 - rate for rate in reversed(roc["true_positive_rate"])]
        found = [1 - rate for rate in reversed(roc["false_positive_rate"])]
        figures = ("models", model, "all", "figures")
        real, fake = (self._values.get(*figures, name, "value") for name in ("recall_real", "recall_fake"))
        x = log_share_axis(ACCUSED) if log else share_axis(ACCUSED)
        chance = [n / 100 for n in range(101)] if not log else [10 ** (n / 20 - 3) for n in range(61)]
        return self._drawer.chart(
            "Few photographs accused: AI images found, on a logarithmic axis" if log else "ROC curve",
            f"{FOUND} on the vertical axis against {ACCUSED}, for every threshold. The dashed line is guessing; the "
            "dot is the model's own threshold.",
            x,
            share_axis(FOUND),
            [Line(list(zip(chance, chance, strict=True)), "guide"), Line(list(zip(accused, found, strict=True)))],
            _dots([(None if real is None else 1 - real, fake, "its threshold")]),
        )

    def precision_recall(self, model: int) -> Markup:
        """Precision of REAL over recall of REAL."""
        curve = self._values.get("models", model, "curves", "precision_recall")
        if not curve:
            return Markup("")
        figures = ("models", model, "all", "figures")
        recall, precision = (self._values.get(*figures, f"{name}_real", "value") for name in ("recall", "precision"))
        low = min(*curve["precision"], 0.99)
        return self._drawer.chart(
            "Precision and recall of REAL",
            "On the vertical axis the share of photographs among what is called a photograph, against the share of "
            "photographs that is called one, for every threshold. The dot is the model's own threshold.",
            share_axis("photographs called REAL (%)"),
            share_axis("of these really photographs (%)", low),
            [Line(list(zip(curve["recall"], curve["precision"], strict=True)))],
            _dots([(recall, precision, "its threshold")]),
        )

    def reliability(self, model: int) -> Markup:
        """What share is REAL, where the model says how likely it is."""
        bins = [
            each for each in self._values.get("models", model, "curves", "reliability", "bins") or [] if each["images"]
        ]
        if not bins:
            return Markup("")
        points = [(each["mean_prob_real"], each["share_real"]) for each in bins]
        return self._drawer.chart(
            "Reliability",
            "On the vertical axis the share of photographs among the images of a bin, against the mean probability of "
            "REAL that the model gives them. On the dashed line the probabilities mean what they say.",
            share_axis("probability of REAL (%)"),
            share_axis("really photographs (%)"),
            [Line([(0, 0), (1, 1)], "guide"), Line(points, marked=True)],
            bars=[
                Bar(each["mean_prob_real"], *each["interval"])
                for each in bins
                if each.get("interval") and all(map(is_defined, each["interval"]))
            ],
        )

    def robustness(self, model: int, name: str, places: Sequence[int]) -> Markup:
        """Accuracy over the strengths of one perturbation, from its rows' places in the table."""
        rows = [self._values.get("models", model, "robustness", "rows", at) for at in places]
        shown = [(name_of(row["strength"]), row["accuracy"]) for row in rows if is_defined(row["accuracy"])]
        if len(shown) < 2:
            return Markup("")
        every = self._values.get("models", model, "robustness", "rows")
        clean = next((row["accuracy"] for row in every if row["name"] == UNCHANGED), None)
        in_order = not any(isinstance(row["strength"], str) for row in rows)
        low = min(0.5, *(accuracy for _, accuracy in shown))
        x = Axis("strength", -0.4, len(shown) - 0.6, [(place, text) for place, (text, _) in enumerate(shown)])
        guide = [] if clean is None else [Line([(-0.4, clean), (len(shown) - 0.6, clean)], "guide")]
        return self._drawer.chart(
            f"Accuracy after {name}",
            f"Accuracy over the strength of {name}; the dashed line is the accuracy on the same images as they are.",
            x,
            share_axis("accuracy (%)", 0.5 if low >= 0.5 else 0.0),
            [
                *guide,
                Line([(step, accuracy) for step, (_, accuracy) in enumerate(shown)], marked=True, joined=in_order),
            ],
            height=200,
        )

    def history(self, history: Sequence[Mapping[str, Any]], figure: str) -> Markup:
        """Training and validation over the epochs: ``accuracy`` or ``loss``."""
        lines = []
        for part, style in (("train", "a"), ("val", "b")):
            found = [
                (row["epoch"] + 1, row[f"{part}_{figure}"])
                for row in history
                if is_defined(row.get(f"{part}_{figure}"))
            ]
            if found:
                lines.append(Line(found, style, marked=len(found) <= 30))
        if not lines:
            return Markup("")
        last = max(1, round(max(epoch for line in lines for epoch, _ in line.points)))
        ticks = range(1, last + 1, max(1, round(last / 6)))
        x = Axis("epoch", 0.5, last + 0.5, [(epoch, str(epoch)) for epoch in ticks])
        values = [value for line in lines for _, value in line.points]
        if figure == "accuracy":
            y = share_axis("accuracy (%)", min(*values, 0.99))
        else:
            step = next(each for each in NICE if max(values) <= 6 * each or each == NICE[-1])
            count = max(1, math.ceil(max(values) / step))
            y = Axis(figure, 0, count * step, [(tick * step, f"{tick * step:.3g}") for tick in range(count + 1)])
        return self._drawer.chart(
            f"{figure.capitalize()} over the epochs",
            f"The {figure} on the training images and on the validation images, epoch by epoch.",
            x,
            y,
            lines,
        )


def _dots(points: Sequence[tuple[float | None, float | None, str]]) -> list[Dot]:
    return [Dot(x, y, label) for x, y, label in points if x is not None and y is not None]

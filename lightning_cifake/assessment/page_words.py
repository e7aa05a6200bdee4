"""What a page says in words, from metrics.json: what to beware of, and what the figures do not tell."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup

from lightning_cifake.assessment.page_values import Values, constant, is_defined, name_of
from lightning_cifake.classes import DISPLAY_NAMES

FIGURES = (
    ("accuracy", "Accuracy", "right answers among all", "percent"),
    ("balanced_accuracy", "Balanced accuracy", "the mean of both recalls: each class counts the same", "percent"),
    ("recall_real", "Recall of REAL", "photographs that are called photographs", "percent"),
    ("precision_real", "Precision of REAL", "photographs among what is called a photograph", "percent"),
    ("f1_real", "F1 of REAL", "harmonic mean of the two", "percent"),
    ("recall_fake", "Recall of AI", "AI images that are called AI", "percent"),
    ("precision_fake", "Precision of AI", "AI images among what is called AI", "percent"),
    ("f1_fake", "F1 of AI", "harmonic mean of the two", "percent"),
    ("auroc", "AUROC", "how often a photograph gets the higher probability of REAL; a half is guessing", "area"),
    ("average_precision", "Average precision", "the area under precision over recall of REAL", "area"),
    ("eer", "Equal error rate", "where as many photographs are accused as AI images are missed", "percent"),
    ("recall_fake_at_1", "AI found at 1 % false alarms", "with a threshold that accuses 1 % of photographs", "percent"),
    ("recall_fake_at_01", "AI found at 0.1 % false alarms", "with one that accuses 0.1 % of photographs", "percent"),
    ("brier", "Brier score", "mean squared error of the probability; 0 is perfect", "area"),
    ("ece", "Calibration error (ECE)", "how far probabilities are from what happens; 0 is perfect", "area"),
    ("log_loss", "Log loss", "cross-entropy of the probability; 0 is perfect", "area"),
)
"""Key, name, what it is, form."""

RUN_FIGURES = (
    ("accuracy", *FIGURES[0][1:]),
    ("precision", *FIGURES[3][1:]),
    ("recall", *FIGURES[2][1:]),
    ("f1", *FIGURES[4][1:]),
    ("auroc", *FIGURES[8][1:]),
    ("average_precision", *FIGURES[9][1:]),
    ("loss", "Loss", "what training made small", "area"),
)
"""The same of a run's metrics.json."""

MACHINE = (
    ("processor", "text", ("machine", "processor")),  # a run's
    ("cores", "count", ("machine", "cores")),
    ("GPU", "text", ("machine", "gpu")),
)

CHANGES = {
    "none": "as they are",
    "png": "saved as PNG, which loses nothing",
    "jpeg": "saved as JPEG, by quality",
    "webp": "saved as WebP, by quality",
    "blur": "blurred, by sigma in pixels",
    "noise": "with noise, in levels of 255",
    "rescale": "scaled down and back, to a share of the sides",
    "crop": "cropped and enlarged, to a share of the sides",
    "brightness": "brighter or darker, by a factor",
    "contrast": "with more or less contrast, by a factor",
    "saturation": "with more or less colour, by a factor",
    "hue": "with colours turned, by degrees",
    "flip": "mirrored",
    "messenger": "as a messenger sends them: scaled to a share of the sides, saved as JPEG, enlarged",
    "screenshot": "as a screenshot: enlarged, captured, scaled back",
    "edited": "edited on a telephone: brighter, more contrast and colour, saved as JPEG",
}
"""What was done to images, by the names of :mod:`~lightning_cifake.evaluation.perturbations`."""
UNCHANGED = "none"  # the row of robustness of the images as they are
SMALL = 1_000  # images, below which intervals are wide
FEWEST_IN_GROUP = 20  # images, below which a group is no weakness but chance


class Group(NamedTuple):
    """A value of a grouping: its key in metrics.json without the model's."""

    value: str
    key: tuple[str, str]


class Words:
    """Sentences and rows; every figure in them carries its key."""

    figures = FIGURES
    run_figures = RUN_FIGURES

    def __init__(self, values: Values) -> None:
        self._values = values

    def groups(self, model: int, by: str) -> list[Group]:
        """Values of ``object`` or ``generator``, in the file's order."""
        found = self._values.get("models", model, "groups", by) or {}
        return [Group(str(value), (by, str(value))) for value in found]

    def judgement(self, model: int) -> str:
        """A sentence where a model is worth little; else none."""
        figures = ("models", model, "all", "figures")
        counts = self._values.get("models", model, "all", "class_counts") or {}
        total = sum(counts.values())
        low = (self._values.get(*figures, "accuracy", "interval") or [None])[0]
        low = self._values.get(*figures, "accuracy", "value") if low is None else low
        if total and len([count for count in counts.values() if count]) == 1:
            return "All images are of one class: these figures do not say whether it can tell the two apart."
        if total and is_defined(low) and low <= max(counts.values()) / total:
            return "That may be no better than calling every image by the name of the larger class."
        auroc = self._values.get(*figures, "auroc", "value")
        if is_defined(auroc) and auroc < 0.5:
            return "It ranks AI images above photographs: worse than guessing."
        return ""

    def weaknesses(self, model: int) -> list[Markup]:
        """Where it does worst: a generator, a kind of object, a perturbation; at most one each."""
        found = []
        groups = ("models", model, "groups")
        if (worst := self._worst(model, "generator", "recall_fake", least=1)) is not None:
            found.append(
                Markup("AI images of {}, of which it finds {}").format(
                    called(worst),
                    self._values.show("of", *groups, "generator", worst, "figures", "recall_fake", "value"),
                )
            )
        if (worst := self._worst(model, "object", "accuracy", least=2)) is not None:
            found.append(
                Markup("images of {}, of which it gets {} right").format(
                    called(worst), self._values.show("of", *groups, "object", worst, "figures", "accuracy", "value")
                )
            )
        if (at := self.worst_perturbation(model)) is not None:
            row = ("models", model, "robustness", "rows", at)
            found.append(
                Markup("images after {} ({}), of which it gets {} right").format(
                    called(self.worst_name(model)),
                    self.change(self._values.get(row, "name")),
                    self._values.show("of", row, "accuracy"),
                )
            )
        return found

    def _worst(self, model: int, by: str, figure: str, least: int) -> str | None:
        """The group that does worst; None where there are too few to compare."""
        known = {}
        for group in self.groups(model, by):
            content = self._values.get("models", model, "groups", *group.key)
            value = self._values.get("models", model, "groups", *group.key, "figures", figure, "value")
            if is_defined(value) and content.get("images", 0) >= FEWEST_IN_GROUP:
                known[group.value] = value
        return min(known, key=lambda value: known[value]) if len(known) >= least else None

    def worst_perturbation(self, model: int) -> int | None:
        """Its row in the table of robustness; None where nothing makes the model worse."""
        rows = self._values.get("models", model, "robustness", "rows") or []
        at = self._values.get("models", model, "robustness", "worst")
        return None if at is None or rows[at]["name"] == UNCHANGED else at

    def worst_name(self, model: int) -> str:
        at = self.worst_perturbation(model)
        return "" if at is None else perturbation(self._values.get("models", model, "robustness", "rows", at))

    def change(self, name: str) -> Markup:
        """What a change is, in words."""
        return constant(CHANGES.get(name, name_of(name)))

    def perturbations(self, model: int) -> dict[str, list[int]]:
        """By name, the rows of each, in the file's order."""
        found: dict[str, list[int]] = {}
        for at, row in enumerate(self._values.get("models", model, "robustness", "rows") or []):
            found.setdefault(str(row["name"]), []).append(at)
        return found

    def mistakes(self) -> Markup:
        """What a run's model called wrongly, of the classes that there are images of."""
        found = []
        ai, real = DISPLAY_NAMES
        sides = (
            ("called", "photograph", ai, (1, 0), real),
            ("took", "AI image", "for photographs", (0, 1), ai),
        )
        for verb, one, wrongly, place, name in sides:
            images = self._values.get("class_counts", name)
            if images == 0:
                continue
            count = self._values.show("count", "confusion_matrix", *place)
            of = Markup("the {}s").format(one)  # before 0.2.0 a run did not count its classes
            if images is not None:
                of = self._values.counted(one, f"{one}s", "class_counts", name)
            found.append(Markup("{} {} of {} {}").format(verb, count, of, wrongly))
        return Markup("It {}.").format(Markup(", and ").join(found))

    def seen_in_training(self, part: str) -> Markup:
        """How many of the images a run was measured on it was trained on, and what is left without them."""
        images = self._values.get("seen_in_training", "images")
        if images is None:
            return Markup("How many of these images it was trained on is not known.")
        if images == 0:
            return Markup("None of these images was trained on, itself or as a duplicate.")
        were = "was trained on, itself" if images == 1 else "were trained on, themselves"
        leaks = part == "test" and self._values.get("leak_audit", "test_images_in_train")
        what = ": the protocol leaks, and the accuracy says little about new images" if leaks else ""
        left = Markup("No other is left to say how well it does on new ones.")
        if is_defined(self._values.get("seen_in_training", "accuracy_without")):
            without = "Without it" if images == 1 else "Without them"
            figure = self._values.show("percent", "seen_in_training", "accuracy_without")
            left = Markup("{} the accuracy is {}.").format(without, figure)
        count = self._values.show("count", "seen_in_training", "images")
        return Markup("{} of these images {} or as a duplicate{}. {}").format(count, were, what, left)

    def limits(self) -> Iterator[Markup]:
        """What these figures do not tell."""
        show, models = self._values.show, self._values.get("models") or []
        yield Markup(
            "They are about these images. Another generator, another camera, other subjects or another way of saving "
            "are other questions, and this page does not answer them."
        )
        yield Markup(
            "An answer about one picture is no proof, however near to {} or {} its probability is. Nobody should be "
            "accused because of it."
        ).format(constant(0), constant(1))
        yield Markup(
            "An interval says how much the figure could differ with other images of the same kind ({} of the time). It "
            "does not say how much another training would differ."
        ).format(constant("95 %"))
        images = self._values.get("data", "images")
        if isinstance(images, int) and images < SMALL:
            are = "There is only" if images == 1 else "There are only"
            yield Markup("{} {}: the intervals are wide, and small differences mean nothing.").format(
                are, self._values.counted("image", "images", "data", "images")
            )
        for at, model in enumerate(models):
            shown = show("text", "models", at, "name")
            if not model.get("unseen"):
                yield Markup(
                    "Which images <b>{}</b> was trained on is not known: some of these may be among them, and the "
                    "figures too good."
                ).format(shown)
            generators = (model.get("groups") or {}).get("generator") or {}
            if len(generators) == 1:
                yield Markup("<b>{}</b> was asked about images of one generator only.").format(shown)
        if models and not any(model.get("robustness") for model in models):
            yield Markup(
                "How answers change when images are saved again, shrunk or blurred was not measured; "
                "<code>evaluate --robustness</code> does."
            )

    def data_facts(self) -> list[tuple[str, Markup]]:
        """What is known of the images."""
        rows = (
            ("data", "text", "name"),
            ("SHA-256", "text", "digest"),
            ("part", "text", "part"),
            ("protocol", "text", "protocol"),
            ("images", "count", "images"),
            ("trained on, themselves or as a duplicate, by any of the models", "count", "duplicates_of_training"),
            ("that repeat the pixels of another", "count", "duplicates"),
        )
        found = [
            (title, self._values.show(form, "data", key)) for title, form, key in rows if self._is_there("data", key)
        ]
        found += [
            (f"of CIFAKE's own {part} part, by their pixels", self._values.show("count", "data", "of_cifake", part))
            for part in ("test", "train")
            if self._is_there("data", "of_cifake", part)
        ]
        counts = self._values.get("models", 0, "all", "class_counts") or {}
        found += [
            (f"of class {name}", self._values.show("count", "models", 0, "all", "class_counts", name))
            for name in counts
        ]
        if isinstance(self._values.get("data", "unreadable"), list):
            found.append(("could not be read", self._values.length("data", "unreadable")))
        return found

    def run_facts(self) -> list[tuple[str, Markup]]:
        """What a run's metrics.json says of how it came about."""
        rows = (
            ("checkpoint", "text", ("checkpoint",)),
            ("its SHA-256", "text", ("checkpoint_sha256",)),
            ("threshold", "number", ("threshold",)),
            ("temperature", "number", ("temperature",)),
            ("chosen by calibrate, on so many images", "count", ("calibration", "images")),
            ("network", "text", ("model", "network", "class_path")),
            ("parameters", "count", ("parameters",)),
            ("multiply-adds, in millions", "mega", ("multiply_adds",)),
            ("data", "text", ("data",)),
            ("its SHA-256", "text", ("data_digest",)),
            ("images trained on", "count", ("split_sizes", "train")),
            ("images validated on", "count", ("split_sizes", "val")),
            ("images tested on", "count", ("split_sizes", "test")),
            ("test images that were trained on", "count", ("leak_audit", "test_images_in_train")),
            ("test images with a duplicate in training", "count", ("leak_audit", "test_images_with_twin_in_train")),
            ("files left out", "count", ("left_out_files",)),
            ("epochs", "count", ("epochs",)),
            ("images in a batch", "count", ("batch_size",)),
            ("seed", "text", ("seed",)),
            *MACHINE,
        )
        return [(title, self._values.show(form, *key)) for title, form, key in rows if self._is_there(*key)]

    def versions(self) -> list[tuple[str, Markup]]:
        found = self._values.get("versions") or {}
        rows = [(name_of(name), self._values.show("text", "versions", name)) for name in found]
        if isinstance(self._values.get("machine"), str):
            rows.append(("machine", self._values.show("text", "machine")))
        return rows

    def _is_there(self, *key: str | int) -> bool:
        return self._values.get(*key) is not None


def called(name: Any) -> Markup:
    """A foreign name in a sentence; digits in it are no figures."""
    return Markup('<b class="n">{}</b>').format(name_of(name))


def perturbation(row: dict[str, Any]) -> str:
    """``jpeg 50``."""
    strength = row.get("strength")
    return name_of(f"{row['name']} {strength}" if strength not in (None, "") else row["name"])

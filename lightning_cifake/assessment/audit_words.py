"""What an audit's figures mean, a sentence a finding, the worst first."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_cifake.assessment.audit_shortcuts import CHANCE, GIVES_AWAY, TELLS
from lightning_cifake.text import plural, printable

PROBLEM, LOOK, FINE = "problem", "look", "fine"
_WHY = {
    "the files": "A detector that is trained here may learn that, and nothing of what images show.",
    "the pixels": "A detector may learn that and little else: a trap where the classes were not resized alike.",
}
_HARD = "most of them will be hard images, not wrong labels."
_ORDER = (PROBLEM, LOOK, FINE)


def findings_of(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """``severity`` (problem, look or fine), ``about`` (the section) and ``text`` of each finding, for audit.json."""
    found = [
        {"severity": severity, "about": about, "text": text}
        for about, sentences in (
            ("shortcuts", _shortcuts(record)),
            ("exact", _exact(record["exact"])),
            ("near", _near(record["near"])),
            ("labels", _labels(record["labels"], record["data"]["images"])),
            ("data", _data(record["data"])),
        )
        for severity, text in sentences
    ]
    return sorted(found, key=lambda each: _ORDER.index(each["severity"]))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _area(row: Mapping[str, Any]) -> str:
    value, (low, high) = row["auroc"]["value"], row["auroc"]["interval"]
    return f"{row['name']} (AUROC {value:.3f}, {low:.3f} to {high:.3f})"


def _shortcuts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rows = record["shortcuts"]
    if all(row["auroc"]["value"] is None for row in rows):
        yield LOOK, "Too few images to say whether something trivial tells the classes apart."
        return
    for of in ("the files", "the pixels"):
        mine = [row for row in rows if row["of"] == of]
        if giving := [row for row in mine if row["verdict"] == GIVES_AWAY]:
            named = ", ".join(map(_area, giving))
            yield PROBLEM, f"Of {of}, this alone gives the classes away: {named}. {_WHY[of]}"
        if telling := [row for row in mine if row["verdict"] == TELLS]:
            yield (
                LOOK,
                (
                    f"Of {of}, this tells something about the class: {', '.join(map(_area, telling))}. "
                    "A detector should be far better than that."
                ),
            )
        if mine and all(row["verdict"] == CHANCE for row in mine):
            yield FINE, f"Nothing that was tried of {of} tells the classes apart."


def _exact(exact: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if count := exact["groups_of_both_labels"]:
        yield PROBLEM, f"{plural(count, 'picture stands', 'pictures stand')} under both labels, pixel for pixel."
    for where, count in exact["images_also_in"].items():
        one, other = where.split(" in ")
        yield (
            PROBLEM,
            (
                f"{plural(count, f'{one} image')} {_are(count)} in {other} too, pixel for pixel: figures "
                f"on {'it' if count == 1 else 'them'} are of images that were seen."
            ),
        )
    for part, count in exact["copies_within"].items():
        where = "the images" if part == "all" else part
        yield (
            LOOK,
            f"{plural(count, 'image')} of {where} {'is a copy' if count == 1 else 'are copies'} of another one there.",
        )
    if not exact["groups"]:
        yield FINE, "No two images have the same pixels."


def _near(near: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if count := near["pairs_of_both_labels"]:
        yield (
            LOOK,
            f"{plural(count, 'pair')} of near-duplicates {_have(count)} one image under each label.",
        )
    for where, count in near["images_also_in"].items():
        one, other = where.split(" in ")
        yield (
            PROBLEM,
            (
                f"{plural(count, f'{one} image')} {_have(count)} a near-duplicate in {other}: the "
                "same picture brightened, shifted by a pixel, mirrored or saved again."
            ),
        )
    for part, count in near["pairs_within"].items():
        where = "the images" if part == "all" else part
        yield LOOK, f"{plural(count, 'pair')} of near-duplicates within {where}."
    if near["cut"]:
        yield LOOK, "There were more candidates for near-duplicates than were compared: these counts are too low."
    if not near["pairs"]:
        yield FINE, "No near-duplicates were found."


def _labels(labels: Mapping[str, Any] | None, images: int) -> Iterator[tuple[str, str]]:
    if labels is None:
        yield LOOK, "Too few images of a class to say anything about wrong labels."
        return
    count = labels["count"]
    if labels["verdict"] == CHANCE:
        yield LOOK, f"Nothing can be said about wrong labels: {labels['classifier']} hardly tells the classes apart."
    elif not count:
        yield FINE, "No label is spoken against."
    elif labels["verdict"] == "stand apart":
        yield (
            PROBLEM,
            (
                f"{plural(count, 'label')} {_are(count)} likely wrong: a classifier "
                "that is sure of nearly all others is sure of the other class there."
            ),
        )
    else:
        yield (
            LOOK,
            (
                f"A classifier speaks against {plural(count, 'label')} of {images:,}. "
                f"{'It does' if count == 1 else 'They do'} not stand apart from the images that it is merely unsure of "
                f"({labels['accuracy']:.1%} right): "
                + ("this will be a hard image, not a wrong label." if count == 1 else _HARD)
            ),
        )


def _data(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if count := data["unreadable_count"]:
        yield (
            PROBLEM,
            f"{plural(count, 'image')} cannot be read, and {_are(count)} left out of all this.",
        )
    if count := sum(data["not_images"].values()):
        yield (
            LOOK,
            f"{plural(count, 'file')} in the class folders {_are(count)} not named like images.",
        )
    for note in data["notes"]:
        yield LOOK, f"{printable(note[0].upper())}{printable(note[1:])}."
    for part, counts in data["parts"].items():
        less, more = sorted(counts.values())
        if more > 3 * less:
            where = "" if part == "all" else f" in {part}"
            yield LOOK, f"One class has {more:,} images{where} and the other {less:,}."

"""An evaluation's tables, for a terminal: every figure with its interval."""

from collections.abc import Mapping
from typing import Any

from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.console import print_rows
from lightning_cifake.evaluation.figures import TITLES
from lightning_cifake.text import plural, printable

AI, REAL = DISPLAY_NAMES
AREAS = ("auroc", "average_precision", "brier", "ece", "log_loss")
"""Figures that are no shares."""
OF_GROUPS = ("accuracy", "recall_fake", "recall_real", "auroc")
OF_MODELS = ("accuracy", "auroc", "recall_fake", "recall_real", "recall_fake_at_1", "ece")
MOST_ROWS = 40  # of a table of groups; metrics.json has all


def print_evaluation(content: Mapping[str, Any]) -> None:
    """All tables of a metrics.json of an evaluation, to standard output."""
    for line in about_images(content["data"], content["models"][0]["all"]["class_counts"]):
        print(line)
    models = content["models"]
    if len(models) > 1:
        print("\nthe models side by side")
        print_rows(["model", *(TITLES[name] for name in OF_MODELS)], [_of_model(each) for each in models])
    for model in models:
        _print_model(model)
    for each in content["comparisons"]:
        _print_comparison(each)


def about_images(data: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    """What was measured on, and what to know of it."""
    classes = " + ".join(f"{count:,} {name}" for name, count in zip(DISPLAY_NAMES, counts.values(), strict=True))
    lines = [f"{printable(data['name'])}, {data['part']}: {plural(data['images'], 'image')} ({classes})"]
    if missing := [name for name, count in zip(DISPLAY_NAMES, counts.values(), strict=True) if not count]:
        lines.append(f"no images of {missing[0]}: what needs both classes is undefined")
    if unreadable := data["unreadable"]:
        first = unreadable[0]
        lines.append(
            f"{plural(len(unreadable), 'image')} cannot be read and {'is' if len(unreadable) == 1 else 'are'} not "
            f"counted, first {printable(first['name'])}: "
            f"{printable(first['reason'])}"
        )
    if data["duplicates"]:
        lines.append(f"{plural(data['duplicates'], 'image repeats', 'images repeat')} the pixels of another one")
    lines += [
        f"{plural(count, 'image is', 'images are')} of CIFAKE's own {part} part, by their pixels"
        for part, count in data.get("of_cifake", {}).items()
        if count
    ]
    return [*lines, *map(printable, data["notes"])]


def _print_model(model: Mapping[str, Any]) -> None:
    print(
        f"\n{printable(model['name'])}: {printable(model['file'])}, {model['precision']}, threshold "
        f"{model['threshold']:g}, temperature {model['temperature']:g}"
    )
    seen, unseen = model["seen"], model["unseen"]
    if seen["images"] is None:
        print(f"trained on any of these images: {seen['how']}")
    else:
        print(f"trained on, as they are or as a duplicate: {plural(seen['images'], 'image')} (by {seen['how']})")
    columns = [(f"all {model['all']['images']:,}", model["all"])]
    if unseen is not None and seen["images"]:
        columns.append((f"the {unseen['images']:,} not trained on", unseen))
    names = model["all"]["figures"]
    header = ["figure", *(part for title, _ in columns for part in (title, "95 % interval"))]
    lines = [
        [TITLES[name], *(part for _, figures in columns for part in cells(name, figures["figures"][name]))]
        for name in names
    ]
    print_rows(header, lines)
    for name, told in zip(DISPLAY_NAMES, model["all"]["confusion_matrix"], strict=True):
        print(f"images of {name}: {told[0]:,} called {AI}, {told[1]:,} called {REAL}")
    for by, groups in model["groups"].items():
        if groups:
            _print_groups(by, groups, model["means"].get(by, {}))
    if model["robustness"]:
        _print_robustness(model["robustness"])


def _print_groups(by: str, groups: Mapping[str, Any], means: Mapping[str, Any]) -> None:
    header = [by, "images", *(TITLES[name] for name in OF_GROUPS)]
    lines = [
        [value, f"{group['images']:,}", *(" ".join(cells(name, group["figures"][name])) for name in OF_GROUPS)]
        for value, group in list(groups.items())[:MOST_ROWS]
    ]
    if len(groups) > MOST_ROWS:
        lines.append([f"and {len(groups) - MOST_ROWS:,} more", *[""] * (len(header) - 1)])
    if means and len(groups) > 1:
        shown = [_value(name, means[name]["value"]) if name in means else "" for name in OF_GROUPS]
        lines.append([f"mean of {len(groups)}", "", *shown])
    print_rows(header, lines)


def _print_robustness(found: Mapping[str, Any]) -> None:
    """Of each way to change images the strength that costs most; metrics.json has all."""
    print(
        f"\n{found['images']:,} of the images, changed as images are on their way: "
        f"{100 * found['right_under_all']:.2f} % are called right after every change"
    )
    worst: dict[str, Mapping[str, Any]] = {}
    for row in found["rows"]:
        if row["name"] not in worst or row["accuracy"] < worst[row["name"]]["accuracy"]:
            worst[row["name"]] = row
    print_rows(
        ["change, at its worst", *(TITLES[name] for name in OF_GROUPS), "other verdicts"],
        [
            [
                row["name"] if row["strength"] is None else f"{row['name']} {row['strength']}",
                *(
                    " ".join(cells(name, {"value": row[name], "interval": row[f"{name}_interval"]}))
                    for name in OF_GROUPS
                ),
                f"{row['flipped']:,}",
            ]
            for row in worst.values()
        ],
    )


def _of_model(model: Mapping[str, Any]) -> list[str]:
    figures = model["all"]["figures"]
    return [model["name"], *(" ".join(cells(name, figures[name])) for name in OF_MODELS)]


def _print_comparison(found: Mapping[str, Any]) -> None:
    a, b = map(printable, found["models"])
    counts = (
        f"right are both {found['both_right']:,} times, only the first {found['only_a']:,}, only the second "
        f"{found['only_b']:,}, neither {found['both_wrong']:,}"
    )
    print(f"\n{a} against {b}: the same verdict on {found['agreement']:.2%}")
    print(f"{counts}; McNemar's p {found['mcnemar']['p_value']:.3g}")
    lines = [[TITLES[name], *cells(name, each, "+")] for name, each in found["differences"].items()]
    print_rows(["first less second", "difference", "95 % interval"], lines)


def cells(name: str, figure: Mapping[str, Any], sign: str = "") -> tuple[str, str]:
    """A figure and its interval: ``98.12 %``, ``[97.90, 98.31]``; why there is none, where there is none."""
    value, interval = figure["value"], figure["interval"]
    if value is None:
        return "undefined", ""
    if interval is None:
        return _value(name, value, sign), ""
    low, high = (_value(name, bound, sign).removesuffix(" %") for bound in interval)
    return _value(name, value, sign), f"[{low}, {high}]"


def _value(name: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if name in AREAS else f"{100 * value:{sign}.2f} %"

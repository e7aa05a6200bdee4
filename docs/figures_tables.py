"""The pages' tables, each made whole from what was recorded: TABLES has them by the name in the page's comment."""

from collections.abc import Callable
from functools import partial
from typing import Any

from figures_sources import RANGES, is_evaluated, is_recorded, source, text, value

from lightning_cifake.shipped import MODELS

ALL_TEST_IMAGES = 20_000  # of CIFAKE


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def results_table() -> str:
    """The runs on CIFAKE."""
    rows = []
    for name, run, note in (
        ("`published`", "published", ", all of them trained on"),
        ("`clean`", "clean", ", none trained on"),
        ("`official`", "official", ""),
        ("`official` + `halving`", "halving", ""),
        ("`official` + `cpu`", "cpu", ""),
    ):
        own = f"{text(run, 'accuracy', '.2%')} ({text(run, 'images', ',')}{note})" if note else ""
        there = f"{run}-official" if note else run
        without = value(there, "seen_in_training")
        rows.append(
            [
                name,
                text(run, "split_sizes.train", ","),
                text(run, "epochs", "d"),
                own,
                text(there, "accuracy", ".2%"),
                f"{text(there, 'seen_in_training.accuracy_without', '.2%')} ({without['images']})",
                text(there, "auroc", ".4f"),
            ]
        )
    return table(
        [
            "run",
            "images trained on",
            "epochs",
            "accuracy on its own test images",
            "on CIFAKE's 20,000",
            "without twins of trained images",
            "AUROC there",
        ],
        rows,
    )


def readme_table() -> str:
    """The same in the README: what a reader compares."""

    def accuracy(name: str) -> str:
        return text(name, "accuracy", ".2%")

    def released(name: str) -> str:
        of = "" if value(name, "real.images") == ALL_TEST_IMAGES else f" ({text(name, 'real.images', ',')} of them)"
        return text(name, "real.onnxruntime.accuracy", ".2%") + of

    rows = [
        ["`published`, as the paper's code", accuracy("published"), accuracy("published-official")],
        ["`clean`, the same without the leak", accuracy("clean"), accuracy("clean-official")],
        ["`official` + `cpu`, CIFAKE's own split", "", accuracy("cpu")],
        *([f"released: `{name}`, {model.about}", "", released(name)] for name, model in MODELS.items()),
    ]
    return table(["run", "accuracy on its own test images", "accuracy on CIFAKE's 20,000 test images"], rows)


def export_table() -> str:
    """One checkpoint and its exports on CIFAKE's test images."""
    names = ("float32", "float16", "int8")

    def row(title: str, first: str, cell: Callable[[str], str]) -> list[str]:
        return [title, first, *map(cell, names)]

    def said(name: str, side: str, kind: int) -> str:
        ai, real = value(name, f"real.{side}.confusion_matrix")[kind]
        return f"{ai:,} / {real:,}"

    def differ(part: str) -> Callable[[str], str]:
        return lambda name: (
            f"{text(name, f'{part}.logit_difference_max', '.1e' if name == 'float32' else '.2g')} / "
            f"{text(name, f'{part}.logit_difference_mean', '.1e' if name == 'float32' else '.2g')}"
        )

    rows = [
        row("size", "", lambda name: f"{text(name, 'model.bytes/1e6', '.1f')} MB"),
        row(
            "accuracy",
            text("float32", "real.lightning.accuracy", ".2%"),
            lambda name: text(name, "real.onnxruntime.accuracy", ".2%"),
        ),
        row(
            "AUROC",
            text("float32", "real.lightning.auroc", ".4f"),
            lambda name: text(name, "real.onnxruntime.auroc", ".4f"),
        ),
        *(
            row(
                f"{title} images said to be AI / REAL",
                said("float32", "lightning", kind),
                lambda name, kind=kind: said(name, "onnxruntime", kind),
            )
            for kind, title in enumerate(("AI", "REAL"))
        ),
        row("logits differ, at most / mean", "", differ("real")),
        row(
            f"decisions flipped, of {text('int8', 'real.images', ',')}",
            "",
            lambda name: text(name, "real.flipped_decisions", "d"),
        ),
        row("edge cases: logits differ, at most / mean", "", differ("hard")),
        row(
            f"edge cases: flipped, of {text('int8', 'hard.images', 'd')}",
            "",
            lambda name: text(name, "hard.flipped_decisions", "d"),
        ),
    ]
    return table(["", "Lightning", "float32", "float16", "int8"], rows)


def short_table() -> str:
    """The released models on one screen; what was not measured of one is left empty."""

    def changed(name: str, kind: str, strength: float) -> str:
        asked = source(f"evaluation-{name}")["models"][0].get("robustness") if is_evaluated(name) else None
        found = [row for row in (asked or {"rows": []})["rows"] if (row["name"], row["strength"]) == (kind, strength)]
        return f"{100 * found[0]['accuracy']:.0f} %" if found else ""

    def rate(name: str) -> str:
        rows = [row for row in source("leaderboard")["rows"] if row["sha256"] == value(name, "model.sha256")]
        speed = rows[0]["speed"] if rows else None
        return f"{speed['answering']['median']:,.0f}" if speed else ""

    rows = [
        [
            f"`{name}`",
            MODELS[name].about,
            text(name, "real.onnxruntime.accuracy", ".2%"),
            changed(name, "jpeg", 50),
            changed(name, "blur", 1.0),
            text("others", f"rows.released {name}.ddpm.called_fake.value", ".0%"),
            rate(name),
            f"{text(name, 'model.bytes/1e6', '.1f')} MB",
        ]
        for name in ("compact", "best", "robust")
    ]
    header = [
        "",
        "what it is",
        "right answers",
        "after JPEG, quality 50",
        "after a blur of 1 pixel",
        "DDPM's images found",
        "images/s",
        "size",
    ]
    return table(header, rows)


def files_table() -> str:
    """The released models' files."""
    rows = [
        [
            f"`{name}`",
            f"`{model.file}`",
            model.about,
            f"{text(name, 'model.bytes/1e6', '.1f')} MB",
            f"`{value(name, 'model.sha256')}`",
        ]
        for name, model in MODELS.items()
    ]
    return table(["name", "file", "what it is", "size", "SHA-256"], rows)


def benchmark_rates(records: str) -> str:
    """docs/benchmark on one screen: images/s on every machine."""
    from lightning_cifake.benchmark.side_by_side import rates_table

    return rates_table(source(records)) if source(records) else "Not recorded yet."


def benchmark_ratios(records: str) -> str:
    """What is compared with what, on every machine."""
    from lightning_cifake.benchmark.side_by_side import ratios_table

    return ratios_table(source(records)) if source(records) else "Not recorded yet."


def minutes_table() -> str:
    """Minutes to an accuracy, a table a machine, and the picture."""
    from lightning_cifake.benchmark.minutes_page import PICTURE, markdown_tables

    if not is_recorded("minutes"):
        return "No run is recorded yet."
    picture = f"![Validation accuracy against minutes](minutes/{PICTURE})"
    return f"{markdown_tables(source('minutes'))}\n\n{picture}"


def gpu_table() -> str:
    """A training step on a GPU, by how it is launched."""
    steps = source("gpu")
    rows = [
        [
            f"`{row['network']}`", f"{row['batch']}", row["precision"] + (", channels last" * row["channels_last"]),
            row["launched"], f"{row['images_per_second']:,} ({row['low']:,} to {row['high']:,})",
            f"{row['operations_per_second'] / steps['rates'][row['precision']]:.1%}".replace("%", " %"),
        ]
        for row in [*steps["steps"], *source("gpu-compiled")["steps"]]
    ]  # fmt: skip
    return table(["network", "batch", "precision", "launched", "images/s", "of the matrix rate"], rows)


def flips_table() -> str:
    """One flipped byte: how each use of a damaged file ended."""
    ends = ("refused", "repaired", "same", "said", "silent", "traceback")
    rows = [
        [name, *(str(found["ends"].get(end, "" if end in ends[:4] else 0)) for end in ends)]
        for name, found in source("flips")["kinds"].items()
    ]
    header = ["kind", "refused in one line", "repaired", "the same answer", "another answer, and said", "silent"]
    return table([*header, "traceback"], rows)


def leaderboard_table() -> str:
    """Every recorded network, best first."""
    from lightning_cifake.benchmark.leaderboard_table import markdown_table

    return markdown_table(source("leaderboard")["rows"])


ORIGIN = {
    "resnet50": "the published network; He et al. 2015",
    "compact": "this project's own, small",
    "residual": "this project's own",
    "custom_cnn": 'the paper\'s "existing system"; Bird and Lotfi 2024',
    "meso4": "Afchar et al. 2018",
    "mesoinception4": "Afchar et al. 2018",
    "correlation": "Zhang, Quan et al. 2020",
    "features": "descriptors and classifiers; Tokuda et al. 2013",
    "ensemble": "several checkpoints as one network",
}
FITTED = {"features", "ensemble"}  # what they are made of is known when they have been fitted


def networks_table() -> str:
    """What each shipped network is made of at 32 px, counted here and now."""
    import torch

    from lightning_cifake.networks import SHIPPED, build_network
    from lightning_cifake.networks.costs import costs_of

    rows = []
    for name in SHIPPED:
        for stem in ("", "half", "small") if name == "resnet50" else ("",):
            title = f"`{name}`, `stem: {stem}`" if stem else f"`{name}`"
            if name in FITTED:
                rows.append([title, ORIGIN[name], "", ""])
                continue
            with torch.device("meta"):
                network = build_network({"class_path": name, "init_args": {"stem": stem} if stem else {}})
            costs = costs_of(network, 32)
            rows.append(
                [title, ORIGIN[name], f"{costs.parameters:,}", f"{(costs.multiply_adds or 0) / 1e6:,.1f} million"]
            )
    return table(["name", "what it is", "parameters", "multiply-adds"], rows)


def features_table() -> str:
    """Each descriptor with each classifier, on validation."""
    found: dict[str, list[str]] = {}
    classifiers: list[str] = []
    for name in source("features-validation"):
        descriptor, _, classifier = name.partition("-")
        if classifier:
            classifiers += [classifier] if classifier not in classifiers else []
            found.setdefault(descriptor, []).append(text("features-validation", f"{name}.accuracy", ".2%"))
    return table(["", *(f"`{each}`" for each in classifiers)], [[f"`{name}`", *cells] for name, cells in found.items()])


def transfer_table() -> str:
    """A detector on images unlike its own, before and after it has learnt from some."""
    figures = value("transfer", "figures")
    counted = f"accuracy on {figures['before']['images']} test images"
    rows = [
        [name, text("transfer", f"figures.{name}.accuracy", ".1%"), text("transfer", f"figures.{name}.auroc", ".3f")]
        for name in figures
    ]
    return table(["trained on the new images", counted, "AUROC"], [["nothing", *rows[0][1:]], *rows[1:]])


def larger_table() -> str:
    """What a model makes of made larger pictures by each policy."""
    rows = []
    for model, found in source("larger")["models"].items():
        kinds = {"mosaic of 3 x 3 images": found["mosaic"], "image enlarged 2.5 times": found["enlarged"]}
        for kind, by in [("image as it is", {"resize": found["alone"]}), *kinds.items()]:
            for larger, figures in by.items():
                low, high = figures["accuracy"]["interval"]
                accuracy = f"{figures['accuracy']['value']:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")
                policy = "" if kind == "image as it is" else f"`{larger}`"
                rows.append([f"`{model}`", kind, policy, accuracy, f"{figures['auroc']['value']:.3f}"])
    return table(["model", "picture", "policy", "accuracy", "AUROC"], rows)


def others_kinds() -> dict[str, str]:
    """The kinds of pictures in the record -> what they are called on a page."""
    return {kind: {"ddpm": "DDPM", "wgan": "WGAN"}.get(kind, kind) for kind in value("others", "images")}


def others_cell(found: dict[str, Any], form: str) -> str:
    """A figure with its interval; shares in per cent."""
    low, high = (format(each, form).replace("%", "") for each in found["interval"] or (found["value"],) * 2)
    text = format(found["value"], form).replace("%", " %")
    return f"{text} \\[{low}, {high}\\]" if found["interval"] else text


def others_called_table() -> str:
    """What the released models call pictures of other generators, at their own thresholds."""
    kinds = others_kinds()
    rows = [
        [f"`{name}`", *(others_cell(row[kind]["called_fake"], ".1%") for kind in kinds)]
        for name in MODELS
        if (row := source("others")["rows"].get(f"released {name}"))
    ]
    header = [f"{title}, {value('others', 'images')[kind]:,}" for kind, title in kinds.items()]
    return table(["called AI", *header], rows)


def others_table() -> str:
    """How far each score tells pictures of each kind from photographs."""
    kinds = others_kinds()
    rows = []
    for name, row in source("others")["rows"].items():
        group, _, rest = name.partition(" " if name.startswith("released") else ": ")
        title = f"released `{rest}`" if group == "released" else f"{group}: {rest}"
        rows.append([title, *(others_cell(row[kind]["auroc"], ".3f") for kind in kinds)])
    return table(["AUROC against photographs", *kinds.values()], rows)


def evaluations_table() -> str:
    """The released models as `evaluate --robustness` found them: a few figures, each with its interval."""
    every = {name: source(f"evaluation-{name}")["models"][0] for name in MODELS if is_evaluated(name)}
    asked = {name: found for name, found in every.items() if found.get("robustness")}
    names = list(asked)

    def cell(found: float | None, interval: list[float] | None, form: str) -> str:
        if found is None:
            return ""
        low, high = (format(each, form).replace("%", "") for each in interval or (found, found))
        return f"{format(found, form).replace('%', ' %')} \\[{low}, {high}\\]"

    def figure(name: str, key: str, part: str = "all", form: str = ".2%") -> str:
        found = asked[name][part]["figures"][key]
        return cell(found["value"], found["interval"], form)

    def changed(name: str, kind: str, strength: object) -> str:
        row = next(
            each for each in asked[name]["robustness"]["rows"] if (each["name"], each["strength"]) == (kind, strength)
        )
        return cell(row["accuracy"], row["accuracy_interval"], ".1%")

    rows: list[tuple[str, Callable[[str], str]]] = [
        ("accuracy", lambda name: figure(name, "accuracy")),
        ("without duplicates of training images", lambda name: figure(name, "accuracy", "unseen")),
        ("AUROC", lambda name: figure(name, "auroc", form=".4f")),
        ("AI found, one in 100 photographs accused", lambda name: figure(name, "recall_fake_at_1")),
        ("calibration error (ECE)", lambda name: figure(name, "ece", form=".4f")),
        ("images changed, of those above", lambda name: f"{asked[name]['robustness']['images']:,}"),
        *(
            (f"accuracy after {kind} {strength}", lambda name, k=kind, s=strength: changed(name, k, s))
            for kind, strength in (
                ("jpeg", 70), ("jpeg", 50), ("webp", 50), ("blur", 1), ("rescale", 0.75), ("noise", 8),
                ("crop", 0.75), ("messenger", 0.75), ("screenshot", 1.5),
            )
        ),
    ]  # fmt: skip
    return table(["", *(f"`{name}`" for name in names)], [[title, *map(make, names)] for title, make in rows])


TABLES = {
    "gpu": gpu_table,
    "minutes": minutes_table,
    "evaluations": evaluations_table,
    "larger": larger_table,
    "others": others_table,
    "others-called": others_called_table,
    "features": features_table,
    "leaderboard": leaderboard_table,
    "networks": networks_table,
    "transfer": transfer_table,
    "results": results_table,
    "short": short_table,
    "files": files_table,
    "readme": readme_table,
    "export": export_table,
    **{name: partial(benchmark_rates, name) for name in RANGES},
    **{f"{name}-ratios": partial(benchmark_ratios, name) for name in RANGES},
    "flips": flips_table,
}

"""The figures in README.md and docs/, and MODEL_CARD.md, made again from the files that commands recorded.

    python docs/figures.py            # says which figures are not what was recorded; exit code 1 if any
    python docs/figures.py --write    # writes the recorded ones

A figure is followed by a comment that names its source, its key and its form, which readers of the page do not see:

    92.62 %<!-- halving accuracy .2% -->
    20.0 MB<!-- int8 model.bytes/1e6 .1f -->

Sources are the names in SOURCES. A key goes down with dots, a divisor may follow it; the form is one of `format`'s. A
whole table that is made from the records stands between `<!-- table NAME -->` and `<!-- end of table -->`; TABLES has
the functions that make them. `tests/docs/test_figures.py` runs this over every page.
"""

import csv
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "docs/results"
EVALUATIONS = "docs/evaluations"
CARD = "MODEL_CARD.md"
ABOUT = "checkpoints/about.md"  # the part of it that a person wrote

sys.path.insert(0, str(ROOT))  # run as a script, it finds the packages of this checkout

from lightning_cifake.shipped import MODELS  # noqa: E402

SOURCES: dict[str, str | Callable[[], Any]] = {
    "published": f"{RESULTS}/published/metrics.json",
    "published-official": f"{RESULTS}/published/test-official/metrics.json",
    "early-stop": f"{RESULTS}/published-early-stop/metrics.json",
    "early-stop-official": f"{RESULTS}/published-early-stop/test-official/metrics.json",
    "clean": f"{RESULTS}/clean/metrics.json",
    "clean-official": f"{RESULTS}/clean/test-official/metrics.json",
    "official": f"{RESULTS}/official/metrics.json",
    "halving": f"{RESULTS}/official-halving/metrics.json",
    "float32": f"{RESULTS}/official-halving/cifake-float32.json",
    "float16": f"{RESULTS}/official-halving/cifake-float16.json",
    "int8": f"{RESULTS}/official-halving/cifake-int8.json",
    **{name: f"checkpoints/{Path(model.file).stem}.json" for name, model in MODELS.items()},  # their manifests
    "compact-cpu": f"{RESULTS}/compact-two-cores/metrics.json",
    **{f"evaluation-{name}": f"{EVALUATIONS}/{name}/metrics.json" for name in MODELS},
    "benchmark": "docs/benchmark/benchmark.json",
    "busy": "docs/benchmark/busy.json",
    "flips": "docs/reliability/flips.json",
    "leaderboard": "docs/leaderboard/leaderboard.json",
    "features": f"{RESULTS}/features/metrics.json",
    "features-validation": lambda: _features_validation(),
    "transfer": "docs/transfer/transfer.json",
    "larger": f"{RESULTS}/larger.json",
    "epoch": "docs/parity/epoch/course.json",
    "parity": lambda: _parity(),
    "equivalence": lambda: _equivalence(),
    "leak": lambda: _leak(),
}

NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%)?"
MARK = re.compile(
    rf"(?P<number>{NUMBER})(?P<unit>[^\S\n]?[A-Za-z*`]*)<!-- (?P<source>[\w-]+) (?P<key>\S+) (?P<form>\S+) -->"
)
ALL_TEST_IMAGES = 20_000  # of CIFAKE
TABLE = re.compile(r"(?P<start><!-- table (?P<name>[\w-]+) -->)\n.*?\n(?P<end><!-- end of table -->)", re.DOTALL)


@cache
def source(name: str) -> Any:
    if name not in SOURCES:
        raise SystemExit(f"no source {name}: expected one of {', '.join(SOURCES)}")
    found = SOURCES[name]
    return json.loads((ROOT / found).read_text()) if isinstance(found, str) else found()


def value(name: str, key: str) -> Any:
    """What a source holds under a key: ``model.bytes/1e6``, ``confusion_matrix.0.1``."""
    path, _, divisor = key.partition("/")
    found = source(name)
    for part in path.split("."):
        try:
            found = found[int(part) if isinstance(found, list) else part]
        except (KeyError, IndexError, ValueError):
            raise SystemExit(f"{name} has nothing under {key}") from None
    return found / float(divisor) if divisor else found


def text(name: str, key: str, form: str) -> str:
    """A figure as the pages write it: 92.62 %, 1,530, 2.5e-5."""
    made = format(value(name, key), form)
    made = re.sub(r"e([-+])0*(\d)", lambda e: f"e{e[1].replace('+', '')}{e[2]}", made)
    return made.replace("%", " %")


def refresh(page: str) -> str:
    """The page with every marked figure and table as recorded."""
    page = TABLE.sub(lambda found: f"{found['start']}\n\n{TABLES[found['name']]()}\n\n{found['end']}", page)
    return MARK.sub(
        lambda found: (
            text(found["source"], found["key"], found["form"])
            + f"{found['unit']}<!-- {found['source']} {found['key']} {found['form']} -->"
        ),
        page,
    )


def pages() -> list[Path]:
    others = [ROOT / name for name in ("README.md", "checkpoints/README.md", ABOUT)]
    return [*others, *sorted((ROOT / "docs").rglob("*.md"))]


def card() -> str:
    """MODEL_CARD.md, as `report --card` makes it (checkpoints/README.md has the command)."""
    from lightning_cifake.assessment.card import make_card, subjects_of

    evaluations = [source(f"evaluation-{name}") for name in MODELS if is_evaluated(name)]
    return make_card(subjects_of(evaluations, [source(name) for name in MODELS]), refresh((ROOT / ABOUT).read_text()))


def is_evaluated(name: str) -> bool:
    return (ROOT / EVALUATIONS / name / "metrics.json").is_file()


# sources that are computed -------------------------------------------------------------------------------------------


PARITY_ROWS = {
    "loss_100": "loss of each of 100 steps, float64",
    "weights_100": "all weights and statistics after 100 steps, float64",
    "jpeg_decisions": "JPEG decoder against the accurate one: decisions changed",
    "jpeg_points": "JPEG decoder against the accurate one: change of accuracy",
    "epoch_step": "last compared step with all weights within 1e-8 of TensorFlow's",
    "epoch_weights": "all weights at its end, apart from TensorFlow's",
    "epoch_weights_nudged": "all weights at its end, apart from our own",
}
"""Measured values of docs/parity that the pages name: the end of the row's text."""


def _parity() -> dict[str, Any]:
    """How many claims and deliberate faults docs/parity holds, a claim's cases counted as one; PARITY_ROWS' values."""
    rows = json.loads((ROOT / "docs/parity/parity.json").read_text())["claims"]
    found: dict[str, Any] = {
        name: next((row["measured"] for row in rows if row["text"].endswith(end)), None)
        for name, end in PARITY_ROWS.items()
    }
    for kind, noun in (("claim", "claims"), ("fault", "faults")):
        verdicts: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            if row["kind"] == kind:
                verdicts.setdefault((row["rung"], row["text"]), set()).add(row["verdict"])
        found[noun] = len(verdicts)
        found[f"{noun}_hold"] = sum(each == {"holds"} for each in verdicts.values())
    return found


def _equivalence() -> dict[str, Any]:
    """The verdict on docs/parity/equivalence/runs.csv, differences in points."""
    from parity_tests.verdict import verdict

    found = verdict()
    for measure in ("accuracy", "auroc"):
        found[measure]["points"] = 100 * found[measure]["difference"]
        found[measure]["low"], found[measure]["high"] = (100 * end for end in found[measure]["interval_90"])
        for side in ("theirs", "ours"):
            found[measure][side]["sd_points"] = 100 * found[measure][side]["sd"]
        found[measure]["margin_points"] = 100 * found[measure]["margin"]
    return found


def _leak() -> dict[str, float]:
    """What the tables of results say in differences and shares."""

    def points(one: str, other: str) -> float:
        return 100 * (value(one, "accuracy") - value(other, "accuracy"))

    def share(name: str, row: int, column: int) -> float:
        matrix = value(name, "confusion_matrix")  # rows: what the image is, columns: what is said; AI, then REAL
        return matrix[row][column] / sum(matrix[row])

    return {
        "published_lift": points("published", "published-official"),
        "clean_gap": points("clean-official", "clean"),
        "images_more": value("published", "split_sizes.train") - value("clean", "split_sizes.train"),
        "official_ai_found": share("official", 0, 0),
        "official_real_called_ai": share("official", 1, 0),
        "halving_ai_found": share("halving", 0, 0),
        "halving_real_called_ai": share("halving", 1, 0),
        **{
            f"{run}_error": 100 * (value(run, "accuracy") * (1 - value(run, "accuracy")) / value(run, "images")) ** 0.5
            for run in ("published", "clean", "halving")
        },
    }


# tables --------------------------------------------------------------------------------------------------------------


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
        ["`official` + `halving`, CIFAKE's own split", "", accuracy("halving")],
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


def benchmark_table() -> str:
    """docs/benchmark on one screen."""
    record = source("benchmark")
    rows = []
    for name, engine in record["engines"].items():
        training, answering = engine["training"], engine["answering"]

        def median(found: Any, form: str, unit: str = "") -> str:
            return f"{found['median']:{form}}{unit}" if isinstance(found, dict) else ""

        def times(kind: str, name: str = name) -> str:
            return median(record["ratios"][kind].get(name, {}).get("tf"), ".2f")

        one = answering["one_image_ms"]
        memory = [f"{each:,.0f}" if each else "-" for each in (training["peak_mib"], answering["peak_mib"])]
        rows.append(
            [
                f"`{name}`",
                median(training["start_to_first_step_s"], ".1f", " s"),
                median(training["images_per_second"], ".0f"),
                times("training"),
                f"{one['p50']:.1f} ms" if one else "",
                median(answering["images_per_second"].get("32"), ",.0f"),
                times("answering_32"),
                f"{' / '.join(memory)} MiB",
            ]
        )
    return table(
        [
            "engine",
            "start to first step",
            "training, images/s",
            "times `tf`",
            "inference, one image p50",
            "inference, images/s at 32",
            "times `tf`",
            "peak memory, training / inference",
        ],
        rows,
    )


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


def _features_validation() -> dict[str, dict[str, float]]:
    """Figures on validation of each part and fusion of `features`."""
    with (ROOT / RESULTS / "features" / "parts-validation.csv").open(encoding="utf-8") as file:
        return {row.pop("part"): {key: float(cell) for key, cell in row.items()} for row in csv.DictReader(file)}


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
    "evaluations": evaluations_table,
    "larger": larger_table,
    "features": features_table,
    "leaderboard": leaderboard_table,
    "networks": networks_table,
    "transfer": transfer_table,
    "results": results_table,
    "short": short_table,
    "files": files_table,
    "readme": readme_table,
    "export": export_table,
    "benchmark": benchmark_table,
    "flips": flips_table,
}


def main() -> int:
    write, stale = "--write" in sys.argv[1:], 0
    for page in [*pages(), ROOT / CARD]:
        before = page.read_text()
        after = card() if page.name == CARD else refresh(before)
        if after == before:
            continue
        stale += 1
        if write:
            page.write_text(after)
            print(f"{page.relative_to(ROOT)}: written")
            continue
        for old, new in zip(before.splitlines(), after.splitlines(), strict=False):
            if old != new:
                print(f"{page.relative_to(ROOT)}\n  it says  {old}\n  recorded {new}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    raise SystemExit(main())

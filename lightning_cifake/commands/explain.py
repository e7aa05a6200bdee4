"""The command ``explain``: pictures of what a model looks at, in single images or in sheets of a labelled folder."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lightning_cifake import shipped
from lightning_cifake.classes import CLASS_NAMES, DISPLAY_NAMES
from lightning_cifake.commands.arguments import add_labelled_arguments, asked_for, positive
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.commands.tracking import tracked
from lightning_cifake.console import exact_names, say
from lightning_cifake.deploy.larger import TILES, Larger
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import expand_user, output_folder, public_name, sealed_json, write_whole
from lightning_cifake.text import plural, printable, shorten

EXAMPLES = """examples:
  python -m lightning_cifake explain photo.jpg folder/                       the released model, by occlusion
  python -m lightning_cifake explain photo.jpg --model checkpoints/clean/1/best.ckpt --sanity
  python -m lightning_cifake explain photo.jpg --model model.onnx --patch 6 --stride 1 --baseline grey
  python -m lightning_cifake explain photo.jpg --larger tiles                the middle alone: --larger crop
  python -m lightning_cifake explain --sheet --data.root data/cifake/CIFAKE.zip --model best
"""
OUTPUT = Path("explained")
RECORD = "explain.json"
EACH = 12  # images of a sheet: two rows
BATCH = 256  # images asked about between two steps of the progress bar
SHEETS = {
    "hits": ("confident_hits", "Right and sure"),
    "misses": ("confident_misses", "Wrong and sure"),
    "uncertain": ("uncertain", "Undecided, nearest to the threshold"),
}
"""Kind of :func:`examples_of` -> the file's name, and the title."""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Draws what a model looks at in an image: blue speaks for REAL, red for AI. Occlusion covers a patch at a\n"
        "time and shows how far the logit falls; it works with every model. Grad-CAM weights the last map that is at\n"
        "least 8x8 by its gradient; it needs a checkpoint. Prints one line an image: path, AI or REAL, the\n"
        "probability of REAL, and the picture, separated by tabs. An image that cannot be read is a line with its\n"
        "error, and the exit code is 1. A map shows where a model is sensitive; it does not prove why it decides.",
        f"{EXAMPLES}\n{shipped.models_help()}",
    )
    parser.add_config()
    group = parser.add_argument_group("the images")
    group.add_argument("paths", nargs="*", metavar="IMAGE", help="files, folders (searched through), globs in quotes")
    group = parser.add_argument_group("sheets of a labelled folder, in place of images")
    group.add_argument(
        "--sheet", action="store_true", help="draws three sheets: confident hits, confident misses, uncertain answers"
    )
    add_labelled_arguments(group, "none; or a .csv with the columns path and label")
    group.add_argument("--sample", type=positive, metavar="N", help="asks about N of the images (default: all)")
    group.add_argument("--each", type=positive, default=EACH, metavar="N", help="images a sheet (default: %(default)s)")
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--model",
        type=str,
        metavar="NAME|FILE",
        help="a model that comes with the package, an exported one (both need no torch), a checkpoint, a run's folder "
        f"or a Keras file (default: {shipped.DEFAULT})",
    )
    group.add_argument(
        "--larger",
        type=Larger,
        default="resize",
        help="what is done with a picture larger than the model looks at, as in predict: resize scales it, crop takes "
        f"its middle, tiles takes up to {TILES} squares of it, whose mean logit decides and whose maps stand side by "
        "side (default: %(default)s)",
    )
    group = parser.add_argument_group("the maps")
    group.add_argument(
        "--method",
        type=Literal["grad_cam", "occlusion"],
        help="one of them (default: all that the model allows)",
    )
    group.add_argument("--layer", metavar="NAME", help="whose map Grad-CAM takes, dotted: backbone.layer2")
    group.add_argument(
        "--patch", type=positive, metavar="PIXELS", help="side of what is covered (default: a quarter of the image's)"
    )
    group.add_argument(
        "--stride", type=positive, metavar="PIXELS", help="from patch to patch (default: a quarter of the patch)"
    )
    group.add_argument(
        "--baseline",
        type=Literal["mean", "grey", "black"],
        default="mean",
        help="what covers: the image's mean colour, grey or black (default: %(default)s)",
    )
    group.add_argument(
        "--sanity",
        action="store_true",
        help="also compares the maps with those of the same network with random weights: a rank correlation near 1 "
        "says that they show the image and nothing that was learnt (of a checkpoint)",
    )
    group = parser.add_argument_group("the pictures")
    group.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FOLDER", help="takes the PNG files (default: %(default)s)"
    )


def run(options: Any) -> int:
    """Writes the pictures and prints the rows; 0, or 1 when an image could not be read.

    Raises:
        UserError: the arguments, the model or the images.
    """
    _check(options)
    from lightning_cifake.assessment.models import needs_torch

    model_name = options.model or shipped.DEFAULT
    what = "explain of a checkpoint" if needs_torch(model_name) else "explain"
    require("evaluate", "matplotlib", "scipy", "cv2", what=what)
    if needs_torch(model_name):
        import_training_side(what)
        if options.method != "occlusion":
            require("evaluate", "captum", what="explain with Grad-CAM")
    passed_over: Counter[str] = Counter()
    images = _images(options, passed_over)
    from lightning_cifake.assessment.explain import How, explainer_of
    from lightning_cifake.assessment.models import open_model

    model = open_model(model_name)
    how = How(options.method, options.layer, options.patch, options.stride, options.baseline)
    explainer = explainer_of(model, how)
    if explainer.note:
        say(explainer.note)
    if options.sanity and explainer.network is None:
        explainer.with_random_weights()  # refuses, before any picture
    if options.model is None:
        which = f"{shipped.DEFAULT}, the released {shipped.released_model().name}"
        say(f"model: {which} (name another, or a checkpoint, with --model)")
    with output_folder(options.output):
        if options.sheet:
            return _draw_sheets(options, model, explainer)
        return _draw_each(options, model, explainer, images)


def _check(options: Any) -> None:
    if options.sheet and options.paths:
        raise UserError("expected IMAGEs or --sheet --data.root, got both")
    if options.sheet and options.data.root is None:
        raise UserError("--sheet: expected --data.root, a folder with REAL/ and FAKE/ in it")
    data = options.data
    of_sheets = (data.root, data.classes, data.protocol, data.split_file, data.exclude, options.labels, options.sample)
    if not options.sheet and any(each is not None for each in of_sheets):
        raise UserError("--data.*, --labels and --sample are for --sheet: expected it too, or IMAGEs alone")
    if not options.sheet and not options.paths:
        raise UserError("expected an IMAGE, or --sheet --data.root (explain --help lists the arguments)")
    options.output = expand_user(options.output)


def _images(options: Any, passed_over: Counter[str]) -> Iterator[Any]:
    from lightning_cifake.deploy.inputs import find_images

    return find_images([str(expand_user(path)) for path in options.paths], passed_over)


def _draw_each(options: Any, model: Any, explainer: Any, images: Iterator[Any]) -> int:
    from lightning_cifake.assessment.explain import Explanation, Sanity, explanations
    from lightning_cifake.evaluation.heatmaps import Explained, draw_explained

    sanity = Sanity(explainer) if options.sanity else None
    total = len(options.paths) if all(map(os.path.isfile, options.paths)) else None
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    with exact_names():
        for found in tracked(explanations(model, explainer, images, options.larger), total):
            path = printable(found.name, exact_bytes=True)
            if not isinstance(found, Explanation):
                print(f"{path}\tERROR\t{printable(found.error)}", flush=True)
                rows.append({"path": found.name, "error": found.error})
                continue
            picture = options.output / _picture_name(found.name, taken)
            title = f"{shorten(printable(found.name), 200)}\n{_answer(found.verdict, found.prob_real)} ({model.name})"
            shown, grid = _put_together(found.pixels, found.columns)
            draw_explained(Explained(title, shown, found.maps, grid), picture)
            if sanity is not None:
                sanity.add(found.pixels, found.maps, found.columns)
            warning = f"\t{printable(found.warning)}" if found.warning else ""
            print(f"{path}\t{found.verdict}\t{found.prob_real:.6f}\t{printable(picture)}{warning}", flush=True)
            rows.append(
                {"path": found.name, "verdict": found.verdict, "prob_real": found.prob_real, "picture": picture.name}
            )
    _finish(options, model, explainer, sanity, {"images": rows})
    return 1 if any("error" in row for row in rows) else 0


def _draw_sheets(options: Any, model: Any, explainer: Any) -> int:
    import numpy as np

    from lightning_cifake.assessment.explain import Sanity, images_as_seen
    from lightning_cifake.assessment.images import open_images
    from lightning_cifake.evaluation.examples import examples_of
    from lightning_cifake.evaluation.heatmaps import Explained, draw_sheet
    from lightning_cifake.evaluation.predictions import Predictions

    data = options.data
    asked = asked_for(options)
    images = open_images(asked, model.image_size)
    say(f"{plural(len(images), 'image')} of {printable(images.source.name)}: {images.about}")
    logits = _logits(model, images, options.larger)
    predictions = Predictions(model.name, images.names, images.labels, logits, model.threshold)
    sanity = Sanity(explainer) if options.sanity else None
    found = examples_of(predictions, options.each)
    drawn: dict[str, list[Explained]] = {kind: [] for kind in found}
    chosen = [(kind, example) for kind, examples in found.items() for example in examples]
    seen = images_as_seen(model, images.take(np.array([example.pop("at") for _, example in chosen])), options.larger)
    pairs = zip(chosen, seen, strict=True)
    for (kind, example), (pixels, columns) in tracked(pairs, len(chosen), "images explained", True):
        maps = explainer.maps(pixels, columns)
        if sanity is not None:
            sanity.add(pixels, maps, columns)
        label = DISPLAY_NAMES[CLASS_NAMES.index(example["label"])]
        title = f"labelled {label}\nP(REAL) {example['prob_real']:.3f}"
        picture, grid = _put_together(pixels, columns)
        drawn[kind].append(Explained(title, picture, maps, grid))
    shown = plural(len(images), "image")
    for kind, (name, title) in SHEETS.items():
        file = options.output / f"{name}.png"
        if not drawn[kind]:
            file.unlink(missing_ok=True)  # of an earlier model
            print(f"{name}\tnone of {shown}")
            continue
        draw_sheet(drawn[kind], f"{title}: model {model.name}, {shown}", file)
        print(f"{name}\t{len(drawn[kind])} of {shown}\t{printable(file)}")
    sheets = {name: found[kind] for kind, (name, _) in SHEETS.items()}
    about = {"name": public_name(data.root), "digest": images.source.digest, "part": images.about}
    _finish(options, model, explainer, sanity, {"data": {**about, "images": len(images)}, "sheets": sheets})
    for problem in images.unreadable:
        print(f"{printable(problem.path)}\tERROR\t{printable(problem.reason)}")
    return 1 if images.unreadable else 0


def _logits(model: Any, images: Any, larger: Larger) -> Any:
    """(N,) float32, with progress."""
    import numpy as np

    from lightning_cifake.assessment.originals import logits_under

    if larger != "resize":
        return logits_under(model, images, larger)
    batches = [slice(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
    parts = [model.logits(images.pixels(part)) for part in tracked(batches, len(batches), "batches asked", True)]
    return np.concatenate(parts)


def _put_together(pixels: Any, columns: int) -> tuple[Any, tuple[int, int]]:
    """What is drawn of what the model sees, and its grid of tiles."""
    from lightning_cifake.assessment.explain import side_by_side

    if pixels.ndim == 3:
        return pixels, (1, 1)
    return side_by_side(pixels, columns), (len(pixels) // columns, columns)


def _finish(options: Any, model: Any, explainer: Any, sanity: Any, content: dict[str, Any]) -> None:
    """The record, and what the check with random weights found."""
    how = explainer.how
    record: dict[str, Any] = {
        "model": {"name": model.name, "sha256": model.sha256, "image_size": model.image_size},
        "larger": options.larger,
        "methods": list(explainer.methods),
        "layers": list(explainer.layers),
        "occlusion": {"patch": how.patch, "stride": how.stride, "baseline": how.baseline},
        **content,
    }
    if sanity is not None:
        record["sanity"] = sanity.figures()
        for method, figures in record["sanity"].items():
            shown = [
                "undefined" if figures[key] is None else f"{figures[key]:.2f}"
                for key in ("rank_correlation", "rank_correlation_of_absolute_values")
            ]
            print(
                f"sanity: {method}: rank correlation with the maps of random weights {shown[0]}, of absolute values "
                f"{shown[1]}: mean of {plural(figures['images'], 'image')}"
            )
    write_whole(options.output / RECORD, sealed_json(record))


def _answer(verdict: str | None, prob_real: float | None) -> str:
    return f"{verdict}, P(REAL) {prob_real:.3f}"


def _picture_name(name: str, taken: set[str]) -> str:
    """None that another image has, on systems that take A for a too; none of an image itself."""
    stem = f"{Path(name).stem}.explained"
    number, made = 1, f"{stem}.png"
    while made.casefold() in taken:
        number += 1
        made = f"{stem}-{number}.png"
    taken.add(made.casefold())
    return made

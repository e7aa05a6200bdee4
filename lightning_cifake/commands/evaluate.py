"""The command ``evaluate``: how good is a model, or several, on any labelled images? Figures, intervals, a page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cifake import shipped
from lightning_cifake.commands.arguments import add_labelled_arguments, asked_for, positive
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.console import say
from lightning_cifake.deploy.larger import TILES, Larger
from lightning_cifake.errors import UserError
from lightning_cifake.extras import MissingExtra, require
from lightning_cifake.files import expand_user, public_words
from lightning_cifake.text import printable

if TYPE_CHECKING:  # torch is not wanted for the help
    from lightning_cifake.assessment.evaluate import Answered, Report, Subject
    from lightning_cifake.assessment.images import Asked

DEFAULT_OUTPUT = Path("evaluation")
ROBUSTNESS_IMAGES = 2000  # assessment.robustness has the same one, and a test holds them together
EXAMPLES = """examples:
  python -m lightning_cifake evaluate --data.root photos/                                  the released model
  python -m lightning_cifake evaluate best robust --data.root CIFAKE.zip                   two, compared
  python -m lightning_cifake evaluate checkpoints/clean/1 model.onnx model.keras --data.root CIFAKE.zip
  python -m lightning_cifake evaluate --data.root list.csv --labels ai=FAKE,photo=REAL
  python -m lightning_cifake evaluate --data.root large/ --larger resize crop tiles        three policies, compared
  python -m lightning_cifake evaluate --data.root CIFAKE.zip --robustness                  JPEG, blur, noise, ... too

The images: of a source with a test part that part alone, else all of it; val and train are never mixed in. Folders
above or below FAKE/ name generators (sdxl/FAKE/, FAKE/sdxl/), and each has a row; photographs beside a generator's
images are its own, else all photographs are. A .csv names its columns path and label, perhaps generator. One class
alone will do: what needs both is undefined. What cannot be read is listed, and left out.

Every figure has a 95 % bootstrap interval. A second column leaves out what the model was trained on, itself or as a
duplicate: known by a checkpoint's record, by the training that an exported model names, or by the source's own train
part. Nothing is tuned here: thresholds and temperatures are those of the models.

The folder that is written holds metrics.json (all of it), predictions.csv (a row an image) and report.html (a page).
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Measures models on labelled images: every figure with its interval, on all images and on those that were not\n"
        "trained on, by generator and by object, side by side where there are several models.",
        f"{EXAMPLES}\n{shipped.models_help()}",
    )
    parser.add_config()
    parser.add_argument(
        "models",
        type=str,
        nargs="*",
        metavar="MODEL",
        help="a model that comes with the package, a file that export wrote, a checkpoint, a run's folder or a Keras "
        f"file; several are compared (default: {shipped.DEFAULT})",
    )
    group = parser.add_argument_group("the images")
    add_labelled_arguments(group, "none: it must be named; or a .csv with the columns path and label")
    group.add_argument("--sample", type=int, metavar="N", help="measures on N of the images, spread over all")
    group.add_argument("--data.cache_dir", type=Path, metavar="FOLDER", help="where decoded images are kept")
    group.add_argument(
        "--larger",
        type=Larger,
        nargs="+",
        default=["resize"],
        help="what is done with a picture larger than the model looks at, as in predict: resize scales it, crop takes "
        f"its middle, tiles up to {TILES} squares that vote; of several, each is measured (default: resize)",
    )
    group = parser.add_argument_group("the evaluation")
    group.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help="written whole, in the place of an earlier evaluation there (default: %(default)s)",
    )
    group.add_argument(
        "--draws",
        type=int,
        default=2000,
        metavar="N",
        help="resamples of each interval; 0: none (default: %(default)s)",
    )
    group.add_argument(
        "--robustness",
        type=positive,
        nargs="?",
        const=ROBUSTNESS_IMAGES,
        metavar="N",
        help="asks again about N of the images, spread over all, after each thing that happens to images: JPEG, blur, "
        f"noise, scaling, ... (N where none is given: {ROBUSTNESS_IMAGES:,})",
    )
    group.add_argument("--threads", type=int, metavar="N", help="that exported models use (default: all cores)")


def run(options: Any) -> int:
    """Prints the tables and writes the folder; 0.

    Raises:
        UserError: the arguments, a model, the images, or the folder.
    """
    asked, output = _check(options)
    require("train", "torch", "torchmetrics", "sklearn", what="evaluate")
    from lightning_cifake.assessment.evaluate import check_output, evaluate, writing
    from lightning_cifake.assessment.tables import print_evaluation

    check_output(output)
    subjects = _subjects(options)
    with _progress() as report:
        content, answered = evaluate(
            subjects,
            asked,
            draws=options.draws,
            robustness=options.robustness,
            cache_dir=options.data.cache_dir,
            report=report,
        )
    command = ["python", "-m", "lightning_cifake", *public_words(options.command_line)]
    content = {"kind": content["kind"], "command": command, **content}
    with writing(output, content, answered) as folder:
        _write_page(folder, content, answered)
        written = sorted(each.name for each in folder.iterdir())
    print_evaluation(content)  # after it is written: who reads it may have closed the pipe
    print(f"\nwritten to {printable(output)}: {', '.join(written)}")
    return 0


def _check(options: Any) -> "tuple[Asked, Path]":
    data = options.data
    if data.root is None:
        raise UserError("expected --data.root: the images to measure on (evaluate --help says what it can be)")
    if options.draws < 0:
        raise UserError(f"--draws: expected 0 or more, got {options.draws}")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads: expected at least 1, got {options.threads}")
    if len(set(options.larger)) < len(options.larger):
        raise UserError(f"--larger: expected each policy once, got {' '.join(options.larger)}")
    return asked_for(options), expand_user(options.output)


def _subjects(options: Any) -> "list[Subject]":
    from lightning_cifake.assessment.evaluate import Subject
    from lightning_cifake.assessment.models import needs_torch, open_models

    models = options.models or [shipped.DEFAULT]
    if not options.models:
        say(f"model: {shipped.DEFAULT}, the released {shipped.released_model().name}")
    if any(map(needs_torch, models)):
        import_training_side("evaluate of a checkpoint")
    return [Subject(model, larger) for model in open_models(models, options.threads) for larger in options.larger]


@contextmanager
def _progress() -> "Iterator[Report]":
    """A bar on standard error for each piece of work, which ends with it: other parts of it have bars of their own."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown: list[Progress] = []

    def stop() -> None:
        while shown:
            shown.pop().stop()

    def report(what: str, total: int) -> Any:
        shown.append(Progress(*columns, console=Console(stderr=True), redirect_stdout=False))
        task = shown[-1].add_task(what, total=total)
        shown[-1].start()

        def step(count: int) -> None:
            shown[-1].advance(task, count)
            if shown[-1].finished:
                stop()

        return step

    try:
        yield report
    finally:
        stop()


def _write_page(folder: Path, content: Any, answered: "list[Answered]") -> None:
    """report.html beside metrics.json, with the pictures of its examples."""
    from lightning_cifake.assessment.originals import prepared
    from lightning_cifake.assessment.page import LONGEST_SIDE, write_page
    from lightning_cifake.deploy.load import whole

    def small(picture: Any) -> Any:
        image = Image.fromarray(whole(picture))
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        return np.asarray(image)

    try:
        require("train", "jinja2", what="report.html")
    except MissingExtra as error:
        say(f"left out: {error}")
        return
    import numpy as np
    from PIL import Image

    examples = [each for model in content["models"] for kind in model["examples"].values() for each in kind]
    places = sorted({each["at"] for each in examples})
    shown = answered[0].images.take(np.array(places, np.int64))
    write_page(folder, dict(zip(shown.names, prepared(shown, small, "pictures"), strict=True)))

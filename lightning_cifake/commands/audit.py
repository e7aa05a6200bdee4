"""The command ``audit``: what is wrong with a data set, before anyone trains on it."""

import shlex
from pathlib import Path
from typing import Any

from lightning_cifake.commands.arguments import add_data_arguments
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import public_words
from lightning_cifake.text import plural, printable

OUTPUT = Path("audit")
EXAMPLES = """examples:
  python -m lightning_cifake audit --data.root photos/
  python -m lightning_cifake audit --data.root data/cifake/CIFAKE.zip --output cifake-audit
  python -m lightning_cifake audit --data.root photos/ --data.classes fake=ai,real=nature --model best
  python -m lightning_cifake fit --data.root photos/ --data.exclude audit/excluded.txt

Writes audit.json, the page audit.html, and excluded.txt, a list of images that fit --data.exclude leaves out: of two
copies the one that is held out less. Copies within a part and suspicious labels stand in it as comments, to be looked
at first.

Near-duplicates are the same picture brightened, shifted by a pixel or two, mirrored or saved again; images are
compared at --image_size. Labels are doubted by a cheap classifier that has not seen the image, or by --model. Shortcuts
are what a detector can learn in place of what images show: each one's AUROC is of images that it was not fitted on.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Looks a data set through: copies and near-duplicates within and across train, val and test, likely label\n"
        "errors, how the files are encoded, and whether something trivial already tells the classes apart.",
        EXAMPLES,
    )
    parser.add_config()
    add_data_arguments(parser, "demo")
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FOLDER", help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=32,
        metavar="S",
        help="height and width that images are brought to and compared at (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a checkpoint, an exported model, or one by name, whose answers speak for or against labels; it should "
        "not have been trained on these images (default: a cheap classifier, out of fold)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=24,
        metavar="N",
        help="pairs and suspects that the page shows with their pictures; 0 for none (default: %(default)s)",
    )


def run(options: Any) -> int:
    """Prints the findings; returns the exit code, 0 whatever was found.

    Raises:
        UserError: no data set, one class, or a folder that cannot be written to.
    """
    require("evaluate", "cleanlab", "jinja2", what="audit")
    require("train", "torch", "sklearn", "scipy", what="audit")
    if options.pictures < 0:
        raise UserError(f"--pictures: expected 0 or more, got {options.pictures}")
    from lightning_cifake.assessment.audit import audit
    from lightning_cifake.assessment.audit_page import check_output, write

    check_output(options.output)
    root = "demo" if options.data.root is None else options.data.root
    found = audit(root, options.data.classes, options.image_size, options.model)
    command = ["python", "-m", "lightning_cifake", *public_words(options.command_line)]
    found.record["command"] = shlex.join(command)
    write(options.output, found, options.pictures)
    for each in found.record["findings"]:
        print(f"{each['severity']}: {each['text']}")
    print(
        f"written to {printable(options.output)}: audit.json, audit.html, excluded.txt "
        f"({plural(found.record['excluded'], 'image')})"
    )
    return 0

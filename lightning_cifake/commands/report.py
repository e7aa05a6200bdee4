"""The command ``report``: the page of a run or of an evaluation made again from its metrics.json, and a model card."""

import os
from pathlib import Path
from typing import Any

from lightning_cifake.commands.parsing import Parser
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import read_bounded, read_json, write_whole
from lightning_cifake.run_folder import METRICS, PAGE
from lightning_cifake.text import printable, reason_of

MOST = 2**20  # bytes of a text

EXAMPLES = """examples:
  python -m lightning_cifake report checkpoints/clean/1                 of a run: fit, test or validate wrote it
  python -m lightning_cifake report evaluations/mine --card MODEL_CARD.md
  python -m lightning_cifake report evaluations/both --card robust.md --model robust
  python -m lightning_cifake report evaluations/* --card all.md --text about.md --manifests models/*.json

Nothing is measured: the page holds what metrics.json says. Pictures of examples are left out, as the images are not
opened; evaluate puts them in. A card's front matter is what the Hugging Face Hub reads. Licence, intended use and
training data are its maker's to write, once, in --text: what is made comes in place of its line
<!-- evaluation -->, so that a card is never edited and can be made again. Several evaluations on the same images are
columns of one card; --manifests, X.json beside X.onnx, add sizes and SHA-256, and models that were not evaluated.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        f"Makes {PAGE}, one self-contained page, from the {METRICS} of a run or of an evaluation; or a model card.",
        EXAMPLES,
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help=f"holds a {METRICS}; {PAGE} is written beside it"
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE.md", help="writes a model card of evaluations instead, in Markdown"
    )
    parser.add_argument("--model", metavar="NAME", help="whose card, where several were evaluated")
    parser.add_argument("--text", type=Path, metavar="FILE.md", help="the part of the card that a person wrote")
    parser.add_argument(
        "--manifests", type=Path, nargs="+", default=[], metavar="FILE.json", help="of the card's exported models"
    )
    parser.add_argument("--overwrite", action="store_true", help="replaces a card that is there")


def run(options: Any) -> int:
    """Returns the exit code.

    Raises:
        UserError: no metrics.json there, or a damaged one; a card of a run; a card that is there already.
    """
    given = {"--model": options.model, "--text": options.text, "--manifests": options.manifests}
    for name, value in given.items():
        if value and options.card is None:
            raise UserError(f"{name} is about a model card: expected --card with it")
    require("train", "jinja2", "markupsafe", what="report")
    from lightning_cifake.assessment.card import make_card, subjects_of
    from lightning_cifake.assessment.page import write_page

    if options.card is None:
        for folder in options.folders:
            print(f"written: {printable(write_page(folder))}")
        return 0
    written = options.card
    if os.path.lexists(written) and not options.overwrite:
        raise UserError(f"{printable(written)} exists already: give --overwrite to replace it, or another name")
    text = None if options.text is None else _words_of(options.text)
    manifests = [read_json(path)[0] for path in options.manifests]
    evaluations = [read_json(folder / METRICS)[0] for folder in options.folders]
    write_whole(written, make_card(subjects_of(evaluations, manifests, options.model), text))
    print(f"written: {printable(written)}")
    return 0


def _words_of(path: Path) -> str:
    """What a person wrote.

    Raises:
        UserError: no file of text there.
    """
    try:
        return read_bounded(path, MOST).decode()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {reason_of(error)}") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(f"{printable(path)}: expected text in UTF-8, of at most {MOST:,} bytes") from error

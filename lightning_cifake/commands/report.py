"""The command ``report``: the page of a run or of an evaluation made again from its metrics.json, and a model card."""

import os
from pathlib import Path
from typing import Any

from lightning_cifake.commands.parsing import Parser
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import read_json, write_whole
from lightning_cifake.run_folder import METRICS, PAGE
from lightning_cifake.text import printable

EXAMPLES = """examples:
  python -m lightning_cifake report checkpoints/clean/1                 of a run: fit, test or validate wrote it
  python -m lightning_cifake report evaluations/mine --card MODEL_CARD.md
  python -m lightning_cifake report evaluations/both --card robust.md --model robust

Nothing is measured: the page holds what metrics.json says. Pictures of examples are left out, as the images are not
opened; evaluate puts them in. A card's front matter is what the Hugging Face Hub reads; licence, intended use and
training data are left for its maker to write.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        f"Makes {PAGE}, one self-contained page, from the {METRICS} of a run or of an evaluation; or a model card.",
        EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=f"holds a {METRICS}; {PAGE} is written beside it")
    parser.add_argument(
        "--card", type=Path, metavar="FILE.md", help="writes a model card of an evaluation instead, in Markdown"
    )
    parser.add_argument("--model", metavar="NAME", help="whose card, where several were evaluated")
    parser.add_argument("--overwrite", action="store_true", help="replaces a card that is there")


def run(options: Any) -> int:
    """Returns the exit code.

    Raises:
        UserError: no metrics.json there, or a damaged one; a card of a run; a card that is there already.
    """
    if options.model is not None and options.card is None:
        raise UserError("--model says whose card: expected --card with it")
    require("train", "jinja2", "markupsafe", what="report")
    from lightning_cifake.assessment.card import card_of
    from lightning_cifake.assessment.page import write_page

    if options.card is None:
        written = write_page(options.folder)
    else:
        written = options.card
        if os.path.lexists(written) and not options.overwrite:
            raise UserError(f"{printable(written)} exists already: give --overwrite to replace it, or another name")
        write_whole(written, card_of(read_json(options.folder / METRICS)[0], options.model))
    print(f"written: {printable(written)}")
    return 0

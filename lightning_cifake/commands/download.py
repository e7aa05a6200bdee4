"""The command ``download``: CIFAKE as its author's archive, verified."""

from pathlib import Path
from typing import Any

from lightning_cifake.commands.parsing import Parser
from lightning_cifake.data.download import CIFAKE_URL, download_cifake

EXAMPLES = """examples:
  python -m lightning_cifake download                                 to data/cifake/CIFAKE.zip
  python -m lightning_cifake download --output /data --source CIFAKE.zip      a file that is there already
      then: python -m lightning_cifake fit --config clean --data.root data/cifake/CIFAKE.zip
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Fetches CIFAKE as its author's archive, resumes a broken transfer, verifies every image, and prints the\n"
        "path that --data.root takes. Nothing is unpacked. Run again, it verifies what is there.",
        EXAMPLES,
    )
    parser.renamed = {"--root": "--output"}
    parser.add_argument(
        "--output", type=Path, default=Path("data/cifake"), metavar="FOLDER", help="it goes to (default: %(default)s)"
    )
    parser.add_argument(
        "--source", default=CIFAKE_URL, metavar="S", help="address or file of the archive (default: %(default)s)"
    )


def run(options: Any) -> int:
    """Returns the exit code."""
    print(download_cifake(options.output, options.source))
    return 0

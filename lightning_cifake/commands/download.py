"""The command ``download``: CIFAKE as its author's archive, verified."""

import argparse
from pathlib import Path

from lightning_cifake.data.download import CIFAKE_URL, download_cifake


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m lightning_cifake download",
        description="Fetches CIFAKE as its author's archive, goes on with a broken transfer, verifies every image, and "
        "prints the path that --data.root takes. Nothing is unpacked. Run again, it verifies what is there.",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("data/cifake"), help="folder it goes to (default: data/cifake)"
    )
    parser.add_argument("--source", default=CIFAKE_URL, help="address or file of the archive (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(download_cifake(options.root, options.source))
    return 0

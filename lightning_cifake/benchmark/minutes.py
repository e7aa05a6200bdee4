"""Minutes to an accuracy: trains a system as its user would, and writes down how accurate it is as time goes by.

    python -m lightning_cifake.benchmark.minutes run compact --data.root CIFAKE.zip --budget 15
    python -m lightning_cifake.benchmark.minutes page minutes/*.jsonl --output docs/minutes

`run` trains one system in a process of its own until its budget is over, and writes a raw log, a line a validation, as
it goes. The machine should do nothing else. `page` makes the table, the picture and the JSON of several logs, those of
each machine beside each other. docs/minutes.md tells which time is counted.
"""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from lightning_cifake.benchmark.minutes_log import CLOCKS, TARGETS, read_log
from lightning_cifake.benchmark.minutes_page import PICTURE, RECORD, draw, make_record, markdown_tables
from lightning_cifake.benchmark.minutes_run import SYSTEMS, Plan, run
from lightning_cifake.console import prepare_streams, say
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import public_words, sealed_json, write_whole
from lightning_cifake.signals import EndedBySignal, ending_on_signals
from lightning_cifake.text import printable

MISTAKE = 2
_OTHERS = "--"  # what stands behind it is fit's
_ENDED = {"budget": "the budget is over", "until": "the accuracy is reached", "epochs": "the last epoch is over"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for a user's mistake, 128 + its number when a signal stopped it."""
    prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lightning_cifake").setLevel(logging.INFO)
    own, more = words, []
    if words[:1] == ["run"] and _OTHERS in words:
        own, more = words[: words.index(_OTHERS)], words[words.index(_OTHERS) + 1 :]
    options = _parser().parse_args(own)
    try:
        with ending_on_signals():
            return _run(options, more, words) if options.command == "run" else _page(options)
    except UserError as error:
        say(f"error: {error}")
        return MISTAKE
    except EndedBySignal as ended:
        say(str(ended))
        return int(ended.code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"python -m {__spec__.name}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    systems = "\n".join(
        f"  {name:10} {' '.join(('fit', *each.configs)) if each.configs else 'tf_reference: Keras as published'}"
        for name, each in SYSTEMS.items()
    )
    run = commands.add_parser(
        "run",
        help="train one system and write its log",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a system on CIFAKE's own training part less a tenth, validates on that tenth, and writes a "
        "line a validation.\nAll systems have the same images. A schedule of the learning rate keeps its full length: "
        f"the budget cuts it off.\n\nsystems:\n{systems}",
        epilog="examples:\n"
        "  ... run recipe --data.root CIFAKE.zip --budget 40 --until 0.97\n"
        "  ... run compact --data.root CIFAKE.zip --output gpu.jsonl -- --trainer.precision 16-mixed\n"
        "What stands behind -- is given to fit.",
    )
    run.add_argument("system", choices=tuple(SYSTEMS), metavar="SYSTEM", help=f"one of {', '.join(SYSTEMS)}")
    run.add_argument("--data.root", dest="root", required=True, metavar="PATH", help="CIFAKE: its zip, or unpacked")
    run.add_argument(
        "--budget", type=_minutes, default=30.0, metavar="MINUTES",
        help="ends so long after the process has begun (default: %(default)g)",
    )  # fmt: skip
    run.add_argument(
        "--until", type=_share, metavar="ACCURACY", help="ends at the first validation that reaches it: 0.97"
    )
    run.add_argument(
        "--passes", type=_from(1), default=3, metavar="N", help="validations an epoch (default: %(default)s)"
    )
    run.add_argument("--output", type=Path, metavar="FILE", help="the log, a new file (default: minutes/SYSTEM.jsonl)")
    run.add_argument("--title", help="of the table's row (default: the system's)")
    run.add_argument("--seed", type=_from(0), default=0, help="of weights, augmentation and dropout (default: 0)")
    run.add_argument("--sample", type=_from(2), metavar="N", help="takes N images alone: to try it out")
    run.add_argument(
        "--kept", action="store_true", help="opens decoded images of an earlier run; a first run has to decode them"
    )
    page = commands.add_parser(
        "page",
        help="the table, the picture and the JSON of logs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Prints a table of logs in Markdown, the runs of each machine together: minutes to "
        f"{', '.join(f'{target:.0%}' for target in TARGETS)}. An accuracy\nis reached by the first "
        "validation that has it; nothing is interpolated.",
        epilog="example: ... page minutes/*.jsonl gpu/*.jsonl --output docs/minutes",
    )
    page.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="what run wrote")
    page.add_argument("--output", type=Path, metavar="FOLDER", help=f"writes {RECORD} and {PICTURE} to a folder")
    clocks = "; ".join(f"{name}: minutes {about}" for name, about in CLOCKS.items())
    page.add_argument("--clock", choices=tuple(CLOCKS), default="paid", help=f"{clocks} (default: %(default)s)")
    return parser


def _minutes(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, got {text}")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected an accuracy above 0 and up to 1, got {text}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def _run(options: argparse.Namespace, more: Sequence[str], words: Sequence[str]) -> int:
    plan = Plan(
        options.system, options.root, options.budget, options.until, options.passes, options.seed, options.sample,
        options.kept, options.title, more,
    )  # fmt: skip
    output = options.output or Path("minutes") / f"{options.system}.jsonl"
    command = ["python", "-m", __spec__.name, *public_words(words)]
    shown = TextColumn(f"{SYSTEMS[plan.system].title}, at most {plan.budget:g} minutes:", markup=False)
    # once a second: what is measured has the machine to itself
    console = Console(stderr=True)
    bar = Progress(
        shown,
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=1,
        transient=True,
        disable=not console.is_terminal,
    )
    bar.add_task("")

    def report(line: Mapping[str, Any]) -> None:
        bar.start()  # not before: decoding and unpacking have bars of their own
        _report(line)

    try:
        why = run(plan, output, command, report)
    finally:
        bar.stop()
    say(f"{_ENDED[why]}; log: {printable(output)}")
    return 0


def _report(line: Mapping[str, Any]) -> None:
    if "val_accuracy" not in line:
        say(f"{line['training_began'] / 60:6.2f} min  training begins")
        return
    accuracy = "no finite loss" if line["val_accuracy"] is None else f"{line['val_accuracy']:.2%}"
    say(f"{line['seconds'] / 60:6.2f} min  epoch {line['epoch']:.2f}  validation {accuracy}")


def _from(least: int) -> Callable[[str], int]:
    """Whole numbers from ``least`` on."""

    def whole(text: str) -> int:
        value = _number(text)
        if value != int(value) or value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text}")
        return int(value)

    return whole


def _page(options: argparse.Namespace) -> int:
    record = make_record([read_log(path) for path in options.logs])
    print(markdown_tables(record, options.clock))
    if options.output:
        require("train", "matplotlib", what="minutes page --output")
        write_whole(options.output / RECORD, sealed_json(record, indent=1))
        drawn = draw(record, options.output / PICTURE, options.clock)
        say(f"written to {printable(options.output)}: {', '.join([RECORD, PICTURE] if drawn else [RECORD])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command ``repeat``: ``fit`` once a seed, each in a folder of its own; what is done already is not done again."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_cifake.commands.arguments import positive
from lightning_cifake.commands.ending import MISTAKE, SIGNAL
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.console import say
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import expand_user, public_name, read_json, sealed_json, write_whole
from lightning_cifake.run_folder import LAST_FILE, RUNS, files_of_run
from lightning_cifake.signals import SIGNALS, EndedBySignal
from lightning_cifake.text import printable

RECORD = "repeat.json"
_OWN = {
    "--seed_everything": "repeat gives each run a seed of its own: --seeds stands before fit",
    "--output_dir": "repeat names each run's folder: --output_dir stands before fit",
    "--ckpt_path": "repeat resumes each run that has begun by itself",
    "--overwrite": "repeat never trains a seed again: remove its folder",
    "--print_config": "give it to fit alone",
    "--help": "fit --help lists its arguments",
    "-h": "fit --help lists its arguments",
}
"""Arguments of ``fit`` that it does not take, and what to do instead."""

EXAMPLES = f"""examples:
  python -m lightning_cifake repeat --seeds 3 fit                  the demo: checkpoints/demo/seed-0, seed-1, seed-2
  python -m lightning_cifake repeat fit --config clean --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake repeat --seeds 10 --output_dir runs/mine fit --config official --data.root data/CIFAKE.zip

Called again it trains what is missing: a seed that was tested is kept, one that was stopped is resumed. Ctrl-C stops
the run that is in progress, which keeps its {LAST_FILE}. More seeds later: the same command with a larger --seeds.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Trains one configuration with several seeds, one after the other, and says how far the figures differ: their\n"
        f"mean, Student's 95 % interval of it, and the standard deviation of one run. {RECORD} holds them.",
        EXAMPLES,
    )
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="0 to N - 1 (default: %(default)s)")
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="FOLDER",
        help=f"where the runs go, as seed-0, seed-1, ... (default: {RUNS}/<config>)",
    )
    parser.add_argument(
        "fit", nargs=argparse.REMAINDER, metavar="fit ...", help="fit and its arguments, the same for each seed"
    )


def run(options: Any) -> int:
    """Trains what is missing, prints the table; returns the exit code: 1 where a seed failed, 2 where none could begin.

    Raises:
        UserError: no ``fit``, an argument that is not for it here, a folder of other runs.
        EndedBySignal: once the run in progress has ended, and what is done is written down.
    """
    if options.fit[:1] != ["fit"]:
        got = f", got {printable(options.fit[0])}" if options.fit else ""
        raise UserError(f"repeat: expected fit and its arguments{got}, as in: repeat --seeds 5 fit --config clean")
    arguments = options.fit[1:]
    for word in arguments:
        if (name := word.partition("=")[0]) in _OWN:
            raise UserError(f"repeat: expected fit without {name}: {_OWN[name]}")
    require("train", "torch", "lightning", "scipy", what="repeat")
    from lightning_cifake.benchmark.seeds import print_table, read_seeds, seed_folder

    asked = _asked(arguments)
    folder = expand_user(options.output_dir) if options.output_dir else RUNS / asked["name"]
    record = folder / RECORD
    _refuse_others(record, asked)
    seeds = range(options.seeds)
    failed: dict[int, str] = {}
    try:
        for place, seed in enumerate(seeds, 1):
            if read_seeds(folder, [seed]).done:
                say(f"seed {seed} ({place} of {len(seeds)}): done already")
                continue
            say(f"seed {seed} ({place} of {len(seeds)}): {printable(seed_folder(folder, seed))}")
            code = _train(arguments, seed, seed_folder(folder, seed))
            if code == MISTAKE and not _begun(folder):  # fit has said which, and would say it of each seed
                return MISTAKE
            if why := _why(code) or read_seeds(folder, [seed]).problems.get(seed):
                failed[seed] = why
                say(f"seed {seed}: {why}")
            _write(record, asked, seeds)
    except EndedBySignal as ended:
        if _begun(folder):
            done = _done(_write(record, asked, seeds), seeds)
            ended.note = f"{done} of {len(seeds)} seeds are done; the same command does the others"
        raise
    written = _write(record, asked, seeds)
    if written["runs"]:
        print_table(written)
    print(f"{_done(written, seeds)} of {len(seeds)} seeds are done: {printable(record)}")
    return 1 if failed else 0


def _asked(arguments: Sequence[str]) -> dict[str, Any]:
    """What makes two calls the same one: the configurations and flags, but for those that change no figure."""
    from lightning_cifake.commands.configurations import find_config
    from lightning_cifake.commands.experiment_row import configuration_of
    from lightning_cifake.commands.fit_validate_test import configurations_of, name_of
    from lightning_cifake.commands.given import read_given

    given = read_given(arguments)
    configs = [find_config(name) for name in configurations_of(given)]
    return {
        "name": name_of(configs),
        "fit": configuration_of(arguments),
        "data_root": public_name(given.data_root) if given.data_root else None,
    }


def _refuse_others(record: Path, asked: dict[str, Any]) -> None:
    if not record.exists():
        return
    before, _ = read_json(record)
    for name, words in (("fit", "fit {}"), ("data_root", "--data.root {}")):
        if before.get(name) != asked[name]:
            was, now = (printable(words.format(each[name] or "")).strip() for each in (before, asked))
            raise UserError(
                f"{printable(record)}: expected the seeds of one configuration, got another: {was!r} before, {now!r} "
                "now; name another --output_dir"
            )


def _train(arguments: Sequence[str], seed: int, folder: Path) -> int:
    """``fit``, or what is left of it; returns its exit code.

    Raises:
        EndedBySignal: it was stopped, or this process was: then it has ended too.
    """
    last = folder / LAST_FILE
    where = ["--ckpt_path", str(last)] if last.exists() else ["--output_dir", str(folder)]
    code = run_fit([*arguments, "--seed_everything", str(seed), *where])
    if code - SIGNAL in SIGNALS:
        raise EndedBySignal(code - SIGNAL)
    return code


def _why(code: int) -> str | None:
    if code == MISTAKE:
        return "fit ended with the error above"
    return None if code == 0 else f"fit was killed by signal {-code}" if code < 0 else f"fit failed (exit code {code})"


def run_fit(arguments: Sequence[str]) -> int:
    """``fit`` as the process that a user would start: a crash is its own, and its memory is the system's again.

    Signals are passed on to it, and it is waited for. Returns its exit code, negative where a signal killed it.

    Raises:
        EndedBySignal: after it has ended.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, frame: Any) -> None:
        received.append(signum)
        if process is not None:  # Ctrl-C has reached it too: `fit` takes two in a row for one
            process.send_signal(signum)

    before = {
        number: signal.signal(number, pass_on) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        process = subprocess.Popen([sys.executable, "-m", "lightning_cifake", "fit", *arguments])
        if received:
            process.send_signal(received[0])
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise EndedBySignal(received[0])
    return code


def _write(record: Path, asked: dict[str, Any], seeds: range) -> dict[str, Any]:
    """The record of what is done by now; with those of other calls, in whose folders there are runs."""
    from lightning_cifake.benchmark.seeds import read_seeds, summary

    before = [int(path.name[5:]) for path in record.parent.glob("seed-*") if path.name[5:].isdecimal()]
    found = read_seeds(record.parent, sorted({*before, *seeds}))
    content = {"kind": "repeat", **asked, **summary(found.done), "unfinished": sorted(found.problems)}
    write_whole(record, sealed_json(content, indent=1))
    return content


def _done(record: dict[str, Any], seeds: range) -> int:
    return sum(str(seed) in record["runs"] for seed in seeds)


def _begun(folder: Path) -> bool:
    return any(files_of_run(place) for place in folder.glob("seed-*"))

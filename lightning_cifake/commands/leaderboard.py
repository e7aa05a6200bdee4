"""The command ``leaderboard``: one table and two pictures of all recorded runs, best first."""

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cifake.commands.arguments import add_data_arguments, positive
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.console import say
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import public_words, sealed_json, temporary_folder, write_whole
from lightning_cifake.run_folder import RUNS
from lightning_cifake.text import printable

if TYPE_CHECKING:  # torch is not wanted for the help
    from lightning_cifake.benchmark.records import Found

DEMO = "demo"
SPEED = "speed.json"
TABLE, COSTS, COURSES = "leaderboard.json", "leaderboard.png", "courses.png"
EXAMPLES = """examples:
  python -m lightning_cifake leaderboard                                  the runs below checkpoints/
  python -m lightning_cifake leaderboard runs/ other/runs/ --output table
  python -m lightning_cifake leaderboard runs/ --measure runs/speed.json   and how fast each trains and answers here

A row is a folder with a metrics.json. Folders seed-0, seed-1, ... side by side are one row: the mean of the runs, and
Student's 95 % interval of that mean. A single run's interval is Wilson's, for other test images. Where a run was tested
on CIFAKE's own test images too (test-official), these figures count. Manifests of exported models below the folders
add the file's size, and a row each where the precision is not float32. What evaluate found of an exported model counts
in its row. Multiply-adds are those of convolutions and matrix products.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Recorded runs side by side, best first: accuracy with its interval, AUROC, the same without images that were\n"
        "trained on, parameters, multiply-adds, speed, minutes of training, file size. Nothing is trained or tested.",
        EXAMPLES,
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help=f"searched with all below it; or a manifest, X.json beside X.onnx (default: {RUNS})",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"writes {TABLE}, {COSTS} and {COURSES} to a folder"
    )
    parser.add_argument(
        "--speed",
        type=Path,
        metavar="FILE",
        help=f"a record of --measure (default: {SPEED} in one of the folders, where there is one)",
    )
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--measure",
        type=Path,
        metavar="FILE",
        help="first measures how fast each row's network trains and answers on this machine, taking turns, and writes "
        "that to a file; the machine should do nothing else",
    )
    add_data_arguments(group, "the demo's")
    group.add_argument("--rounds", type=positive, default=5, metavar="N", help="turns of each (default: %(default)s)")
    group.add_argument("--rows", metavar="A,B", help="measures these alone (default: all)")


def run(options: Any) -> int:
    """Prints the table; returns the exit code.

    Raises:
        UserError: no folder, no run in it, or a record of speed that is none.
    """
    require("train", "torch", "matplotlib", "scipy", what="leaderboard")
    from lightning_cifake.benchmark.leaderboard import TARGET, make_rows, read_speed
    from lightning_cifake.benchmark.leaderboard_table import print_table
    from lightning_cifake.benchmark.records import course_of, read_records

    folders = options.folders or [RUNS]
    if options.measure and options.speed:
        raise UserError("--measure and --speed: expected one of them, got both")
    found = read_records(folders)
    for problem in found.problems:
        say(f"left out: {problem}")
    if not found.runs and not found.exports:
        shown = printable(", ".join(map(str, folders)))
        raise UserError(f"no recorded run below {shown}: expected a metrics.json, as fit writes it")
    speed: dict[str, Any] | None
    if options.measure:
        speed = _measure(found, make_rows(found), options)
    else:
        there = [folder / SPEED for folder in folders if (folder / SPEED).is_file()]
        path = options.speed or (there[0] if there else None)
        speed = read_speed(path) if path else None
    rows = make_rows(found, speed)
    print_table(rows)
    if options.output:
        from lightning_cifake.benchmark.leaderboard_pictures import draw_costs, draw_courses

        write_whole(options.output / TABLE, sealed_json({"rows": rows}, indent=1))
        written = [TABLE]
        written += [COSTS] if draw_costs(rows, options.output / COSTS) else []
        courses = {run.name: course_of(run.history) for run in reversed(found.runs)}  # of several seeds the first
        courses = {_with_machine(row, rows): courses[row["name"]] for row in rows if row["name"] in courses}
        written += [COURSES] if draw_courses({"": courses}, options.output / COURSES, [TARGET]) else []
        print(f"written to {printable(options.output)}: {', '.join(written)}")
    return 0


def _with_machine(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """A row's name; and what it was trained on, where that is not one machine for all."""
    machines = {each["machine"] for each in rows if each["machine"]}
    short = " ".join((row["machine"] or "").partition(",")[0].split()[:2])  # NVIDIA H100, of NVIDIA H100 80GB HBM3
    return f"{row['name']} ({short})" if len(machines) > 1 and short else row["name"]


def _measure(found: "Found", rows: list[dict[str, Any]], options: Any) -> dict[str, Any]:
    """Measures, and writes the record."""
    import_training_side("leaderboard --measure")
    from lightning_cifake.benchmark.network_speed import measure, subjects_of

    with temporary_folder(Path(tempfile.gettempdir()), "lightning_cifake-leaderboard") as scratch:
        subjects = subjects_of(found, rows, options.data.root or DEMO, options.data.classes, scratch)
        if options.rows:
            asked = [name.strip() for name in options.rows.split(",")]
            if unknown := [name for name in asked if name not in subjects]:
                expected = ", ".join(subjects)
                raise UserError(f"--rows: expected some of {printable(expected)}, got {printable(unknown[0])}")
            subjects = {name: subjects[name] for name in asked}
        record = measure(subjects, scratch, options.rounds)
    record["command"] = shlex.join(["python", "-m", "lightning_cifake", *public_words(options.command_line)])
    write_whole(options.measure, sealed_json(record, indent=1))
    for name, why in record["failed"].items():
        say(f"not measured: {printable(name)}, {why}")
    return record

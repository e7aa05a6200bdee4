"""python -m parity_tests: runs the ladder, prints a short table; --report writes docs/parity.

--versions writes no page, but a line: what holds on the versions that are installed here.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from lightning_cifake.errors import UserError

HERE = Path(__file__).parent
EXTRAS = {"tensorflow": "tf", "keras": "tf", "pytest": "dev", "hypothesis": "dev"}


def main(argv: list[str] | None = None) -> int:
    """Runs the parity tests; returns pytest's exit code, 2 for a user's mistake."""
    try:
        return run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m parity_tests", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--report", action="store_true", help="write the page and the JSON")
    what.add_argument("--versions", action="store_true", help="write what holds on these versions to versions.csv")
    parser.add_argument("--output", type=Path, default=Path("docs/parity"), metavar="DIR", help="where (docs/parity)")
    parser.add_argument("--long", action="store_true", help="run the long tests too: minutes to hours")
    parser.add_argument("-k", metavar="EXPRESSION", help="only the tests that match, as pytest's -k")
    given = parser.parse_args(argv)
    if given.versions and given.k:
        parser.error("--versions counts what all tests claim: expected no -k beside it")
    return given


def run(arguments: argparse.Namespace) -> int:
    """Long tests that are not asked for, and tests that -k leaves out, keep the rows of the last report."""
    check_installed()
    given = os.environ.get("CIFAKE_ROOT")
    if given and not Path(given).exists():
        raise UserError(f"CIFAKE_ROOT: expected CIFAKE's folder or zip, and there is no {given}")
    import pytest

    from parity_tests import claims, report, versions

    ended = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    # damaged: said before an hour's run
    before = report.read_recorded(arguments.output) if arguments.report else None
    if arguments.report or arguments.versions:
        versions.read(arguments.output)
    recorder = claims.Recorder()
    options = ["-v", "--no-header", "-p", "no:xdist", "-m", "long or not long" if arguments.long else "not long"]
    options += ["-k", arguments.k] if arguments.k else []

    with tempfile.TemporaryDirectory(prefix="parity-") as pictures:
        recorder.pictures = Path(pictures)
        code = int(pytest.main([str(HERE), *options], plugins=[recorder]))
        recorded = replace(recorder.recorded, facts={**report.facts(), "date": recorder.today})  # of its beginning
        print(f"\n{report.short_table(recorded)}")
        if arguments.versions and code in ended:
            versions.record(arguments.output, recorded)
            print(f"written: {arguments.output / versions.FILE}")
        elif arguments.report and code in ended:
            report.write_report(arguments.output, report.merge(recorded, before), recorder.pictures)
            print(f"written: {arguments.output / report.PAGE} and {report.DATA}")
        elif arguments.report or arguments.versions:
            print("no report: the tests did not run to their end", file=sys.stderr)
    return code


def check_installed() -> None:
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(sorted({EXTRAS[name] for name in missing}))
        raise UserError(f"{', '.join(missing)} missing: expected pip install 'lightning_cifake[{extras}]' before this")


if __name__ == "__main__":
    sys.exit(main())

"""The report on parity: what tests claim is recorded, merged with what was known, and written as a page and a JSON."""

import importlib.util
import json
import math
import re
import subprocess
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json, sealed_json
from parity_tests import __main__ as command
from parity_tests import report, report_picture, tolerances, versions
from parity_tests.claims import FAILS, HOLDS, RUNGS, SAYS, SKIPPED, Claims, Note, Recorded, Recorder, Row, _differences
from parity_tests.report_picture import place
from parity_tests.tolerances import Tolerance

FACTS = {
    "date": "2026-11-23",
    "machine": {"processor": "a processor", "cores": 2, "torch threads": 1, "system": "Linux x86_64"},
    "cifake": "CIFAKE.zip",
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
}
PARITY = Path(report.__file__).parent


def row(text: str = "a claim", **fields: Any) -> Row:
    given = {"kind": "claim", "rung": "2 images", "test": f"test_made.py::{text}", "verdict": HOLDS}
    known = {"measured": 2e-9, "tolerance": 1e-6, "tolerance_name": "METRIC_FLOAT32", "date": "2026-11-23"}
    return Row(text=text, **{**given, **known, **fields})


def recorded(*rows: Row, notes: tuple[Note, ...] = (), tests: tuple[str, ...] | None = None) -> Recorded:
    return Recorded(list(rows), list(notes), list(tests or {row.test for row in rows}), FACTS)


class Named:
    """As much of a pytest item as a recorder looks at."""

    path, name, module = PARITY / "test_made.py", "test_one", None

    def get_closest_marker(self, name: str) -> None:
        return None


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    recorder = Recorder()
    recorder.pytest_runtest_setup(Named())  # type: ignore[arg-type]
    return Claims(recorder, tmp_path)


def rows_of(claims: Claims) -> list[Row]:
    return list(claims._recorder._rows.values())


TEN = Tolerance(10.0, "made", "TEN")


@pytest.mark.parametrize("measured", [0, 9.5, 10.0, np.float32(1), np.float64(3)])
def test_a_claim_within_its_tolerance_holds(claims: Claims, measured: Any) -> None:
    claims("a claim", measured, TEN, rung="2 images")
    [made] = rows_of(claims)
    assert (made.verdict, made.measured, made.tolerance, made.tolerance_name) == (HOLDS, measured, 10.0, "TEN")


@pytest.mark.parametrize("measured", [10.1, math.inf, math.nan])
def test_a_claim_beyond_its_tolerance_or_nan_fails_and_says_both(claims: Claims, measured: float) -> None:
    with pytest.raises(AssertionError, match=re.escape(f"a claim: measured {measured:.3g}, tolerance 10 (TEN)")):
        claims("a claim", measured, TEN, rung="2 images")
    assert [made.verdict for made in rows_of(claims)] == [FAILS]


def test_of_several_cases_the_worst_is_kept(claims: Claims) -> None:
    for measured in (3, 7, 5):
        claims("a claim", measured, TEN, rung="2 images")
        claims.fault("a fault", 100 * measured, TEN, factor=1, rung="2 images")
    claim, fault = rows_of(claims)
    assert (claim.cases, claim.measured) == (3, 7)
    assert (fault.cases, fault.measured) == (3, 300)


def test_a_fault_that_moves_too_little_is_not_seen_and_fails(claims: Claims) -> None:
    claims.fault("a fault", 10_001, TEN, rung="2 images")
    for moved in (10_000, math.nan):
        with pytest.raises(AssertionError, match="not seen: another"):
            claims.fault("another", moved, TEN, rung="2 images")


@pytest.mark.parametrize("tolerance", [1.0, 10 * TEN])
def test_a_tolerance_without_a_reason_is_refused(claims: Claims, tolerance: float) -> None:
    with pytest.raises(TypeError, match="with its reason"):
        claims("a claim", 0, tolerance, rung="2 images")  # type: ignore[arg-type]


def test_a_claim_without_a_rung_is_refused(claims: Claims) -> None:
    with pytest.raises(TypeError, match="expected RUNG"):
        claims("a claim", 0, TEN)


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        (np.arange(3), np.arange(3), 0),
        (np.arange(3), np.array([0, 9, 9]), 2),
        (np.zeros((2, 2)), np.zeros((2, 3)), 6),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), 0),
        (np.array([1.0, math.nan]), np.array([1.0, 2.0]), 1),
        (["a", "b"], ["a", "b"], 0),
        (["a", "b"], ["b", "a", "c"], 3),
        ((3, 1), (3, 1), 0),
        ((3, [1, 2]), (3, [1, 4]), 1),
        ([], ["a"], 1),
        ("text", "text", 0),
        ("text", "taxt", 1),
        (None, None, 0),
        (None, 0.5, 1),
        (math.nan, math.nan, 0),
        (1, 2, 1),
    ],
)
def test_what_is_unequal_is_counted(ours: Any, theirs: Any, count: int) -> None:
    assert _differences(ours, theirs)[0] == _differences(theirs, ours)[0] == count


def test_exact_claims_name_the_first_difference(claims: Claims) -> None:
    with pytest.raises(AssertionError, match=r"files: 1 unequal, first at 1: ours 'b', theirs 'c'"):
        claims.equal("files", ["a", "b"], ["a", "c"], rung="1 split")


def test_what_was_recorded_comes_back_from_its_json() -> None:
    made = recorded(
        row(),
        row("endless", measured=math.inf, verdict=FAILS),
        row("not run", measured=None, verdict=SKIPPED, reason="no data", long=True),
        notes=(Note("2 images", "test_made.py::a claim", "a word", "drift.png", "2026-11-23"),),
    )
    again = Recorded.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert (again.rows, again.notes, again.facts) == (made.rows, made.notes, FACTS)


def test_a_test_that_did_not_run_keeps_its_rows_while_it_exists() -> None:
    kept = [row("long", date="2026-11-01", long=True), row("left out by -k", date="2026-11-02")]
    gone, old = row("gone", date="2026-11-01"), row("run again", measured=1.0, date="2026-11-01")
    before = recorded(
        *kept, gone, old, notes=(Note("2 images", kept[0].test, "kept"), Note("2 images", old.test, "old"))
    )
    now = recorded(row("run again"), tests=("test_made.py::run again", *(one.test for one in kept)))
    merged = report.merge(now, before)
    assert merged.rows == [*kept, *now.rows]
    assert [note.text for note in merged.notes] == ["kept"]
    assert report.merge(now, None) == now


def test_a_long_test_that_was_skipped_keeps_what_it_once_measured() -> None:
    skipped = {"measured": None, "verdict": SKIPPED, "reason": "needs CIFAKE"}
    before = recorded(row("long", long=True, date="2026-11-01"), row("short", date="2026-11-01"))
    now = recorded(row("long", long=True, **skipped), row("short", **skipped))
    assert report.merge(now, before).rows == [before.rows[0], now.rows[1]]
    assert report.merge(now, recorded(row("long", long=True, **skipped))).rows == now.rows


def test_a_long_test_that_ran_takes_the_place_of_its_old_row_also_when_it_fails() -> None:
    before, now = recorded(row("long", long=True)), recorded(row("long", long=True, measured=1.0, verdict=FAILS))
    assert report.merge(now, before).rows == now.rows


def test_the_page_says_what_holds_what_fails_and_what_was_not_measured() -> None:
    page = report.render(
        recorded(
            row("x | y", measured=2e-9, cases=3),
            row("broken", measured=0.5, verdict=FAILS),
            row("away", measured=None, tolerance=None, verdict=SKIPPED, reason="needs CIFAKE"),
            row("earlier", measured=0, date="2026-11-01", long=True),
            row("a fault", kind="fault", measured=0.25, tolerance=1e-3, tolerance_name="1000 x METRIC_FLOAT32"),
            row("a figure", kind="figure", measured=64.7231, tolerance=None, tolerance_name="", unit="%"),
            notes=(Note("2 images", "t", "A paragraph."), Note("2 images", "t", "A curve", "curve.png")),
        )
    )
    assert "**4 claims, 2 hold, 1 FAIL, 1 not measured; 1 deliberate fault, 1 seen.**" in page
    assert "2026-11-23 on images of CIFAKE (`CIFAKE.zip`), on a processor, 2 cores" in page
    assert "| x \\| y | 3 | 2e-9 | 1e-6 | 500x | holds |" in page
    assert "| broken | 1 | 0.5 | 1e-6 | 2e-6x | **FAILS** |" in page
    assert "| away |  |  |  |  | skipped: needs CIFAKE |" in page
    assert "| earlier | 1 | 0 | 1e-6 | exact | holds (2026-11-01) |" in page
    assert "| a fault | `a fault` | 0.25 | 0.001 (1000 x METRIC_FLOAT32) | seen |" in page
    assert "| a figure | 64.72 % |" in page
    assert "A paragraph.\n\n![A curve](curve.png)\n\n*A curve*" in page
    assert f"| `METRIC_FLOAT32` | 1e-6 | {tolerances.METRIC_FLOAT32.reason} |" in page
    assert "python 3.11.7, numpy 2.4.6; Linux x86_64." in page


def test_of_parametrized_tests_the_page_shows_one_line_with_the_worst_case() -> None:
    made = [row("one", test=f"test_made.py::test_one[{i}]", measured=i * 1e-8) for i in (1, 5, 3)]
    assert "| one | 3 | 5e-8 | 1e-6 | 20x | holds |" in report.render(recorded(*made))
    failed = [*made, row("one", test="test_made.py::test_one[9]", measured=1.0, verdict=FAILS)]
    assert "| one | 4 | 1 | 1e-6 | 1e-6x | **FAILS** |" in report.render(recorded(*failed))


def test_the_page_begins_with_a_picture_and_a_line_for_each_rung() -> None:
    page = report.render(recorded(row("a", measured=2e-9), row("b", measured=0.5, verdict=FAILS)))
    start, _, rest = page.partition("Written by `python -m parity_tests --report`")
    assert rest and "(margins.png)" in start
    lines = [line for line in start.splitlines() if re.match(r"\| \[\d", line)]
    assert [line.split(" | ")[0] for line in lines] == [
        f"| [{name.split()[0]}](#{name.split()[0]}-{re.sub('[^a-z0-9 -]', '', title.lower()).replace(' ', '-')})"
        for name, title in RUNGS.items()
    ]
    assert "| 1 of 2 | 2e-6x |" in lines[2]
    assert all(SAYS[name] in line for name, line in zip(RUNGS, lines, strict=True))


def test_the_picture_has_claims_that_hold_left_of_one_and_faults_that_are_seen_right_of_it() -> None:
    assert place(row("a", measured=5e-7)) == pytest.approx(0.5)
    assert place(row("a", measured=0)) == report_picture.EXACT
    assert place(row("a", measured=3, tolerance=0, tolerance_name="EXACT", kind="fault")) == report_picture.COUNTED
    fault = {"kind": "fault", "tolerance": 1e-3, "tolerance_name": "1000 x METRIC_FLOAT32"}
    assert place(row("a", measured=2e-3, **fault)) == pytest.approx(2)  # of what it is held against: seen
    assert place(row("a", measured=5e-4, **fault)) == pytest.approx(0.5)  # not seen: left
    assert place(row("a", measured=0, **fault)) == report_picture.EXACT  # not seen: where it shows
    assert place(row("a", measured=None, verdict=SKIPPED)) is None
    assert place(row("a", kind="figure")) is None
    assert report_picture.draw([row("a"), row("f", **fault)]).startswith(b"\x89PNG")


def test_every_table_of_the_page_has_cells_of_one_number() -> None:
    made = [row(), row("f", kind="fault"), row("g", kind="figure", tolerance=None, tolerance_name="")]
    for table in re.findall(r"(?:^\|.*\n)+", report.render(recorded(*made)), re.MULTILINE):
        assert len({line.count(" | ") for line in table.splitlines()}) == 1, table


def test_the_report_is_written_with_its_pictures_and_read_again(tmp_path: Path) -> None:
    folder, pictures = tmp_path / "docs" / "parity", tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "curve.png").write_bytes(b"picture")
    notes = (Note("2 images", "t", "A curve", "curve.png"), Note("2 images", "t", "Lost", "lost.png"))
    made = recorded(row(), notes=notes)
    report.write_report(folder, made, pictures)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "curve.png", "margins.png", "parity.json"]
    again = report.read_recorded(folder)
    assert again is not None and again.rows == made.rows
    assert [note.text for note in again.notes] == ["A curve"]  # a picture that is nowhere is not shown
    (pictures / "curve.png").unlink()
    report.write_report(folder, again, pictures)  # carried along: the picture is the folder's own
    assert "curve.png" in (folder / "README.md").read_text()


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    report.write_report(tmp_path, recorded(row("old")), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = replace(recorded(row("new")), facts={**FACTS, "date": {1, 2}})
    with pytest.raises(TypeError):
        report.write_report(tmp_path, broken, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_earlier_report_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert report.read_recorded(tmp_path) is None
    for content in ("{", "[]", "{}", '{"claims": [{}], "notes": []}', '{"claims": [[]], "notes": []}'):
        (tmp_path / "parity.json").write_text(content)
        with pytest.raises(UserError, match=r"parity\.json: expected the JSON of an earlier report"):
            report.read_recorded(tmp_path)
    report.write_report(tmp_path, recorded(row("holds")), tmp_path)
    assert report.read_recorded(tmp_path) is not None
    (tmp_path / "parity.json").write_text((tmp_path / "parity.json").read_text().replace("holds", "halts", 1))
    with pytest.raises(UserError, match=r"parity\.json is damaged: it is not what was written"):
        report.read_recorded(tmp_path)


def test_the_facts_name_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAKE_ROOT", "/home/someone/data/CIFAKE.zip")
    facts = report.facts()
    assert facts["cifake"] == "CIFAKE.zip" and "someone" not in json.dumps(facts)
    assert {"python", "numpy", "torch", "lightning"} <= facts["versions"].keys()


def test_every_tolerance_has_a_name_and_a_reason() -> None:
    made = {name: value for name, value in vars(tolerances).items() if name.isupper() and isinstance(value, Tolerance)}
    assert len(made) > 10
    for name, value in made.items():
        assert value.name == name and len(value.reason) > 20, name
    plain = [name for name, value in vars(tolerances).items() if name.isupper() and not isinstance(value, Tolerance)]
    assert not plain


def test_every_file_of_parity_tests_names_its_rung() -> None:
    for path in sorted(PARITY.glob("test_*.py")):
        found = re.search(r'^RUNG = "(.+)"$', path.read_text(), re.MULTILINE)
        assert found and found[1] in RUNGS, path.name


def test_without_tensorflow_one_line_says_which_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name))
    assert command.main(["--report"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "tensorflow missing: expected pip install 'lightning_cifake[tf]'" in error


def test_a_cifake_root_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "check_installed", lambda: None)
    monkeypatch.setenv("CIFAKE_ROOT", "nowhere.zip")
    assert command.main([]) == 2
    assert (
        capsys.readouterr().err == "error: CIFAKE_ROOT: expected CIFAKE's folder or zip, and there is no nowhere.zip\n"
    )


MADE_TESTS = """
    import pytest
    from parity_tests import tolerances

    RUNG = "5 optimizer"


    def test_one_holds(claim):
        claim("within", FIRST, tolerances.METRIC_FLOAT32)


    def test_two_says_nothing():
        pass


    def test_three_is_skipped():
        pytest.skip("needs a thing")


    @pytest.mark.long
    def test_four_is_long(claim):
        claim.equal("long", 1, 1)
        (claim.folder / "long.png").write_bytes(b"picture")
        claim.picture(claim.folder / "long.png", "A picture")


    def test_five_breaks():
        SECOND
"""


@pytest.fixture
def ladder(tmp_path: Path, warm: Any) -> Any:
    """Does what ``python -m parity_tests`` does on a made ladder, in a process of its own; no TensorFlow is needed."""
    folder = tmp_path / "parity_tests"
    folder.mkdir()
    for name in (
        "__init__.py",
        "__main__.py",
        "claims.py",
        "report.py",
        "report_picture.py",
        "versions.py",
        "tolerances.py",
        "conftest.py",
        "real_images.py",
        "reference_run.py",
    ):
        text = (PARITY / name).read_text()
        if name == "__main__.py":
            text = text.replace('"tensorflow": "tf", "keras": "tf", ', "")
        (folder / name).write_text(text)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["long: minutes"]\n')

    def run(*arguments: str, first: str = "1e-9", second: str = "pass") -> "subprocess.CompletedProcess[str]":
        tests = textwrap.dedent(MADE_TESTS).replace("FIRST", first).replace("SECOND", second)
        (folder / "test_made.py").write_text(tests)
        (done,) = warm.together({"call": "parity_tests_of_a_copy", "arguments": arguments, "folder": str(tmp_path)})
        return done

    return run


def test_the_command_writes_a_report_and_carries_a_long_result_along(ladder: Any, tmp_path: Path) -> None:
    first = ladder("--report", "--long", "--output", "out")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "test_one_holds PASSED" in first.stdout and "5 optimizer" in first.stdout
    page = (tmp_path / "out" / "README.md").read_text()
    assert "**5 claims, 4 hold, 1 not measured;" in page
    assert "| three is skipped |  |  |  |  | skipped: needs a thing |" in page
    assert "![A picture](long.png)" in page and (tmp_path / "out" / "long.png").is_file()
    # two days later, without the long one
    content, checked = read_json(tmp_path / "out" / "parity.json")
    assert checked
    for one in (*content["claims"], *content["notes"]):
        one["date"] = "2026-01-01"
    (tmp_path / "out" / "parity.json").write_text(sealed_json(content))
    second = ladder("--report", "--output", "out", second="raise ValueError('a reason')")
    assert second.returncode == 1
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| long | 1 | 0 | 0 | exact | holds (2026-01-01) |" in page and "![A picture](long.png)" in page
    assert "| five breaks | 1 |  |  |  | **FAILS**: ValueError: a reason |" in page
    assert "| within | 1 | 1e-9 | 1e-6 | 1,000x | holds |" in page


def test_a_run_that_crosses_midnight_has_the_date_of_its_beginning(ladder: Any, tmp_path: Path) -> None:
    later = "datetime.date(2100, 1, 1)"
    clock = "import datetime; from parity_tests import report; report.date = type('', (), {'today': lambda: LATER})"
    assert ladder("--report", "--output", "out", second=clock.replace("LATER", later)).returncode == 0
    content, _ = read_json(tmp_path / "out" / "parity.json")
    assert {one["date"] for one in content["claims"]} == {content["date"]} != {"2100-01-01"}


def test_the_command_without_report_prints_a_table_and_writes_nothing(ladder: Any, tmp_path: Path) -> None:
    done = ladder(first="1e-3")
    assert done.returncode == 1
    assert re.search(r"5 optimizer +4 +2 +1 +1 ", done.stdout)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".toml") == [
        ".pytest_cache",
        "parity_tests",
    ]


def test_a_ladder_that_does_not_run_to_its_end_leaves_the_report(ladder: Any, tmp_path: Path) -> None:
    done = ladder("--report", "--output", "out", "-k", "no_such_test")
    assert done.returncode == 5 and "no report" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_line_of_versions_takes_the_place_of_an_earlier_one_of_the_same(tmp_path: Path) -> None:
    failed, skipped = row("b", measured=0.5, verdict=FAILS), row("c", measured=None, verdict=SKIPPED)
    older = {**FACTS, "versions": {"python": "3.11.7", "tensorflow": "2.9.1", "keras": "3.5.0", "torch": "2.10.0"}}
    newer = {**older, "versions": {**older["versions"], "tensorflow": "2.19.0"}}
    for facts, rows in ((newer, [failed]), (older, [row("a")]), (newer, [row("a"), skipped, row("f", kind="fault")])):
        versions.record(tmp_path, replace(recorded(*rows), facts=facts))
    assert [line.split(" | ")[1:] for line in versions.lines(tmp_path)] == [
        ["2.9.1", "3.5.0", "2.10.0", "", "", "1 of 1", "0 of 0", "2026-11-23"],  # 9 before 19
        ["2.19.0", "3.5.0", "2.10.0", "", "", "1 of 2, 1 not measured", "1 of 1", "2026-11-23"],
    ]
    assert "| 2.19.0 | 3.5.0 |" in report.render(recorded(row()), versions.lines(tmp_path))


def test_a_file_of_versions_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / versions.FILE).write_text("python,torch\n3,2\n")
    with pytest.raises(UserError, match=r"versions\.csv: expected the columns python, tensorflow, "):
        versions.record(tmp_path, recorded(row()))

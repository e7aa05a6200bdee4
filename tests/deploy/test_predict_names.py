"""Names from strangers and consoles of every kind: rows come out harmless to people and exact to programs."""

import csv
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.deploy.answers import Prediction

MODEL = ("predict", "--model", "model.onnx")
HOSTILE = "a\x1b[31m\x07\x1b]0;title\x07b\nc\u202ed\u2028e.png"
SHOWN = r"a\x1b[31m\x07\x1b]0;title\x07b\nc\u202ed\u2028e.png"


@pytest.fixture
def place(workplace: Path, make_model: Callable[..., Path]) -> Path:
    """The current folder, with model.onnx and an empty folder names/."""
    make_model()
    (workplace / "names").mkdir()
    return workplace


def image(place: Path, name: str) -> None:
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(place / "names" / name, "PNG")


def run(place: Path, *arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "lightning_cifake", *MODEL, *arguments]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *command],
        capture_output=True,
        cwd=place,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_a_console_that_is_not_utf8_gets_every_row_and_the_file_is_exact(place: Path) -> None:
    names = ["a.png", "\u4e2d\u6587.png", "b\xe9.png", os.fsdecode(b"\xff.png")]
    for name in names:
        image(place, name)
    ran = run(place, "names", "--output", "rows.CSV", PYTHONIOENCODING="cp1252")
    rows = [line.split("\t")[0] for line in ran.stdout.decode("cp1252").splitlines()]
    assert ran.returncode == 0 and rows == [
        "names/a.png",
        "names/b\xe9.png",
        r"names/\u4e2d\u6587.png",
        r"names/\udcff.png",
    ]
    with (place / "rows.CSV").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {f"names/{name}" for name in names}
    ascii_only = run(place, "names", "--json", PYTHONIOENCODING="ascii")
    assert {json.loads(line)["path"] for line in ascii_only.stdout.splitlines()} == {f"names/{name}" for name in names}


def test_control_characters_of_a_name_reach_no_line_of_text(place: Path) -> None:
    image(place, HOSTILE)
    text = run(place, "names")
    assert text.stdout.decode() == f"names/{SHOWN}\tREAL\t0.982014\n"
    missing = run(place, "nowhere\x1b[31m\u202e")
    assert missing.returncode == 2 and missing.stderr.decode().startswith(r"error: nowhere\x1b[31m\u202e is no file")
    listed = run(place, "--paths_from", "list\x1b.txt")
    assert r"cannot read the paths in list\x1b.txt" in listed.stderr.decode()
    output = run(place, "names", "--output", "rows\x1b.txt")
    assert r"got rows\x1b.txt" in output.stderr.decode()


def test_json_and_csv_of_a_hostile_name_are_exact(place: Path) -> None:
    image(place, HOSTILE)
    assert json.loads(run(place, "names", "--json").stdout)["path"] == f"names/{HOSTILE}"
    exact = run(place, "names", "--csv").stdout.decode().splitlines(keepends=True)
    assert [row["path"] for row in csv.DictReader(iter("".join(exact).splitlines(keepends=True)))]
    assert f"names/{HOSTILE}" in "".join(exact)


def test_on_a_terminal_csv_is_shown_without_control_characters(place: Path) -> None:
    image(place, "a\x1b[31m.png")
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "lightning_cifake", *MODEL, "names", "--csv"]
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.PIPE, cwd=place) as running:
        running.wait(60)
    os.close(terminal)
    seen = os.read(master, 10_000)
    os.close(master)
    assert rb"names/a\x1b[31m.png,REAL" in seen and b"\x1b" not in seen


def test_beside_a_progress_bar_the_rows_go_where_standard_output_goes(place: Path) -> None:
    image(place, "a.png")
    image(place, "b.png")
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "lightning_cifake", *MODEL, "names"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, cwd=place) as running:
        rows, _ = running.communicate(timeout=60)
    os.close(terminal)
    shown = os.read(master, 100_000)
    os.close(master)
    assert [line.split(b"\t")[:2] for line in rows.splitlines()] == [
        [b"names/a.png", b"REAL"],
        [b"names/b.png", b"REAL"],
    ]
    assert b"images" in shown and b"REAL" not in shown


@pytest.mark.parametrize("start", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\uff1d1", "\n=1"])
def test_a_cell_that_a_spreadsheet_would_run_is_made_text_where_that_is_asked_for(start: str) -> None:
    answer = Prediction(start, None, None, f"={start}", start)
    safe = next(csv.reader([answer.csv(safe=True)]))
    exact = next(csv.reader([answer.csv()]))
    assert safe == [f"'{start}", "", "", f"'={start}", f"'{start}"]
    assert exact == [start, "", "", f"={start}", start]


def test_csv_safe_reaches_rows_and_file(place: Path) -> None:
    image(place, "=1+1.png")
    ran = run(place / "names", "=1+1.png", "--csv", "--csv_safe", "--output", "rows.csv", "--model", "../model.onnx")
    assert b"\n'=1+1.png,REAL," in ran.stdout
    assert (place / "names" / "rows.csv").read_bytes() == ran.stdout


def test_json_says_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Prediction("a.png", "AI", float("nan")).json()


def test_a_full_disk_behind_standard_output_is_one_line_and_leaves_no_output(place: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    image(place, "a.png")
    (place / "rows.csv").write_text("before")
    for form in ((), ("--json",), ("--csv",)):
        ran = run(place, "names", *form, "--output", "rows.csv", shell="> /dev/full")
        assert ran.returncode == 2
        assert ran.stderr == b"error: cannot write to standard output: No space left on device\n"
        assert (place / "rows.csv").read_text() == "before" and not list(place.glob(".rows*"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_without_a_standard_stream_writes_its_output_all_the_same(place: Path, closed: str) -> None:
    image(place, "a.png")
    ran = run(place, "names", "--output", "rows.jsonl", shell=closed)
    assert ran.returncode == 0 and b"Traceback" not in ran.stderr
    assert json.loads((place / "rows.jsonl").read_text())["verdict"] == "REAL"
    assert (place / "model.onnx").stat().st_size > 100


def test_without_standard_input_an_image_on_it_is_empty(place: Path) -> None:
    ran = run(place, "-", shell="<&-")
    assert ran.returncode == 1 and ran.stdout == b"-\tERROR\tempty file\n"

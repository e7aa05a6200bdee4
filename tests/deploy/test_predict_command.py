"""The command ``predict`` with an exported model: every way to name images, every form of rows, and what goes wrong."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.commands.main import main, run_command


@pytest.fixture
def shades(workplace: Path, make_model: Callable[..., Path]) -> Path:
    """The current folder, with model.onnx and shades/{00..09}.png from black to white."""
    make_model()
    (workplace / "shades").mkdir()
    for number in range(10):
        Image.fromarray(np.full((32, 32, 3), number * 28, np.uint8)).save(workplace / "shades" / f"{number:02}.png")
    return workplace


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


MODEL = ("predict", "--model", "model.onnx")


def test_files_folders_and_globs_are_answered_in_order(shades: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MODEL, "shades"]) == 0
    everything = rows(capsys)
    assert [row[0] for row in everything] == [f"shades/{number:02}.png" for number in range(10)]
    assert [row[1] for row in everything] == ["AI"] * 5 + ["REAL"] * 5
    assert main([*MODEL, "shades/09.png", "shades/0[0-1].png"]) == 0
    assert rows(capsys) == [everything[9], everything[0], everything[1]]


def test_json_and_csv_are_the_same_rows(shades: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shades / "shades" / "03.png").write_bytes(b"no image")
    for form in ("--json", "--csv"):
        assert main([*MODEL, "shades", form, "--output", f"rows{form[2:]}.{form[2:]}"]) == 1
        printed = capsys.readouterr().out
        if form == "--csv":
            assert printed == (shades / "rowscsv.csv").read_text()
            from_csv = list(csv.DictReader(io.StringIO(printed)))
        else:
            from_json = [json.loads(line) for line in printed.splitlines()]
            assert from_json == json.loads((shades / "rowsjson.json").read_text())
    assert from_csv == [{key: "" if value is None else str(value) for key, value in row.items()} for row in from_json]
    assert from_json[3] == {
        "path": "shades/03.png",
        "verdict": None,
        "prob_real": None,
        "error": "not an image, or of a format that is not read here",
        "warning": None,
    }


def test_a_third_verdict_where_it_is_asked_for(shades: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MODEL, "shades", "--uncertain", "0.2", "0.8"]) == 0
    said = [(row[1], float(row[2])) for row in rows(capsys)]
    assert {verdict for verdict, _ in said} == {"AI", "REAL", "UNCERTAIN"}
    assert all((verdict == "UNCERTAIN") == (0.2 <= prob <= 0.8) for verdict, prob in said)


def run(arguments: list[str], given: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "lightning_cifake", *arguments]
    return subprocess.run(command, input=given, capture_output=True, cwd=folder, timeout=60)


def test_standard_input_is_an_image_or_a_list_of_paths(shades: Path) -> None:
    image = run([*MODEL, "-"], (shades / "shades" / "09.png").read_bytes(), shades)
    assert image.returncode == 0 and image.stdout.startswith(b"-\tREAL\t0.9")
    nothing = run([*MODEL, "-"], b"", shades)
    assert nothing.returncode == 1 and nothing.stdout == b"-\tERROR\tempty file\n"
    paths = run([*MODEL, "--paths_from", "-"], b"shades/09.png\nshades/none.png\n\nshades/00.png\n", shades)
    assert paths.returncode == 1
    assert [line.split(b"\t")[:2] for line in paths.stdout.splitlines()] == [
        [b"shades/09.png", b"REAL"],
        [b"shades/none.png", b"ERROR"],
        [b"shades/00.png", b"AI"],
    ]


def test_a_name_that_is_not_utf8_comes_out_as_it_is(shades: Path) -> None:
    name = os.fsdecode(b"shades/\xff.png")
    (shades / "shades" / "09.png").rename(shades / name)
    answered = run([*MODEL, "shades", "--output", "rows.csv"], b"", shades)
    assert answered.returncode == 0 and answered.stdout.splitlines()[-1].startswith(b"shades/\xff.png\tREAL")
    assert b"shades/\xff.png,REAL" in (shades / "rows.csv").read_bytes()


def test_a_reader_that_goes_away_ends_it_quietly(shades: Path) -> None:
    listing = b"shades/09.png\n" * 20_000
    command = f"{sys.executable} -m lightning_cifake {' '.join(MODEL)} --paths_from - | head -n 1"
    ended = subprocess.run(command, input=listing, capture_output=True, cwd=shades, shell=True, timeout=60)
    assert ended.stdout.startswith(b"shades/09.png\tREAL") and ended.stderr == b""


def test_sigterm_and_ctrl_c_leave_nothing_half_written(shades: Path) -> None:
    command = [sys.executable, "-m", "lightning_cifake", *MODEL, "--paths_from", "-", "--output", "rows.csv"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=shades,
            # in the background, as CI may be, a shell has its children ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as running:
            assert running.stdin is not None and running.stdout is not None
            running.stdin.write(b"shades/09.png\n" * 2_000)
            running.stdin.flush()
            assert b"REAL" in running.stdout.readline()
            assert list(shades.glob(".rows*"))
            running.send_signal(number)
            running.stdin.close()
            try:
                running.wait(30)
            finally:
                running.kill()
        assert running.returncode == code
        assert not list(shades.glob("*rows*"))


def test_memory_stays_flat_however_many_files_there_are(
    shades: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    for count in (1_000, 5_000):
        (shades / "paths.txt").write_text("shades/09.png\n" * count)
        with (shades / "out.txt").open("w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            tracemalloc.start()
            arguments = ["--paths_from", "paths.txt", "--output", "rows.json", "--threads", "1"]
            assert run_command("predict", [*MODEL[1:], *arguments]) == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert len(json.loads((shades / "rows.json").read_text())) == count
    assert peaks[1] < peaks[0] + 88_000, peaks  # a row kept would be 4,000 times some hundred bytes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shades", "--model", "nowhere.onnx"], "nowhere.onnx does not exist"),
        (["shades", "--model", "shades/00.png"], "shades/00.png is no model: expected a checkpoint, an exp"),
        (["nowhere.png", "--model", "model.onnx"], "nowhere.png is no file"),
        (["shades", "--model", "model.onnx", "--batch_size", "0"], "--batch_size: expected at least 1"),
        (["shades", "--model", "model.onnx", "--threads", "-1"], "--threads: expected at least 1"),
        (["shades", "--model", "model.onnx", "--output", "rows.txt"], "--output: expected a name that ends in"),
        (["shades", "--model", "model.onnx", "--output", "model.onnx/rows.csv"], "cannot write model.onnx/rows.csv"),
        (["shades", "--model", "model.onnx", "--uncertain", "0.8", "0.2"], "--uncertain: expected 0 <= LOW <= HIGH"),
        (["-", "--model", "model.onnx", "--paths_from", "-"], "standard input is one image"),
        (["--model", "model.onnx", "--paths_from", "nowhere.txt"], "cannot read the paths in nowhere.txt"),
        (["--model", "model.onnx", "--paths_from", "a" * 300], "cannot read the paths in aaa.*: File name too long"),
        ([], "expected a PATH, or --paths_from"),
        (["shades", "--\x1b[31m.png"], r"no such flag: --\\x1b\[31m.png"),
        (["shades", "--batch_size", "many"], "--batch_size: expected a whole number, got many"),
        (["a" * 300, "--model", "model.onnx"], "cannot read aaa.*: File name too long"),
        (["shades", "--model", "a" * 300], "a{200}.* does not exist"),
        (["shades", "--model", "model.onnx", "--output", f"{'a' * 300}.csv"], "cannot write aaa.*: File name too long"),
        (["shades", "--model", "model.onnx", "--output", "folder.csv"], "cannot write folder.csv: Is a directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_nothing_is_written(
    shades: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (shades / "folder.csv").mkdir()
    before = sorted(shades.rglob("*"))
    assert main(["predict", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and re.search(says, output.err) and output.err.count("\n") == 1
    assert sorted(shades.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_the_rows_that_were_there(
    shades: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (shades / "rows.csv").write_text("before")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert main([*MODEL, "shades", "--output", "rows.csv"]) == 2
    assert capsys.readouterr().err == "error: cannot write rows.csv: No space left on device\n"
    assert (shades / "rows.csv").read_text() == "before" and not list(shades.glob(".rows*"))


def test_neither_torch_nor_tensorflow_is_loaded(shades: Path) -> None:
    script = (
        "import sys; from lightning_cifake.commands.main import main\n"
        f"assert main({[*MODEL, 'shades']!r}) == 0\n"
        "print({'torch', 'lightning', 'tensorflow', 'scipy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=shades, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


def test_what_is_passed_over_is_counted_in_one_line(shades: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.txt", "c.psd", "README", ".hidden.png"):
        (shades / "shades" / name).write_bytes(b"x")
    assert main([*MODEL, "shades"]) == 0
    output = capsys.readouterr()
    assert output.out.count("\n") == 10
    assert output.err == (
        "passed over 4 files in folders, not named like images that are read here: 2 .txt, 1 without a suffix, 1 .psd\n"
    ) or ("2 .txt" in output.err and "1 .psd" in output.err and output.err.count("\n") == 1)


def test_suffixes_in_capitals_and_formats_that_training_takes_are_answered(
    shades: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.fromarray(np.full((32, 32, 3), 255, np.uint8))
    for name, kind in (("a.WEBP", "WEBP"), ("b.jfif", "JPEG"), ("c.TIF", "TIFF"), ("d.jpg", "PNG")):
        picture.save(shades / "shades" / name, kind)
    (shades / "linked").symlink_to(shades / "shades")
    assert main([*MODEL, "linked"]) == 0
    found = {row[0]: row[1:] for row in rows(capsys)}
    assert [found[f"linked/{name}"][0] for name in ("a.WEBP", "b.jfif", "c.TIF", "d.jpg")] == ["REAL"] * 4
    assert found["linked/d.jpg"][2] == "named .jpg but holds PNG"


def test_mistakes_come_before_the_first_row_though_lists_are_read_late(
    shades: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["shades", "nowhere"], ["shades", "--paths_from", "nowhere"], ["shades", "nothing*"]):
        assert main([*MODEL, *arguments]) == 2
        assert capsys.readouterr().out == ""

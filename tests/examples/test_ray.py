"""The example on Ray gives the answers that Detector gives, writes whole parts, and resumes where it was stopped."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.deploy.digest import sealed

if importlib.util.find_spec("ray") is None:  # not importorskip: to import it here is a second for nothing
    pytest.skip("needs ray: pip install -e .[ray]", allow_module_level=True)
pq = pytest.importorskip("pyarrow.parquet")

SCRIPT = Path(__file__).parents[2] / "examples" / "ray" / "score.py"
SHARD = 5


def save_model(path: Path, gain: float) -> Path:
    """logit = gain (mean / 255 - 1/2), in the form that export gives."""
    scale, half, axes = np.float32(gain / 255), np.float32(gain / 2), np.array([1, 2, 3])
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "half"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["prob_real"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("prob_real", "logit")],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (("scale", scale), ("half", half), ("axes", axes))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    facts = {"class_names": '["AI", "REAL"]', "decision_threshold": "0.5", "temperature": "1.0"}
    helper.set_model_props(model, {**facts, "image_size": "32", "precision": "float32"})
    path.write_bytes(sealed(model.SerializeToString()))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def flags(**others: object) -> list[str]:
    """On list.txt into scores/; a keyword replaces an argument."""
    chosen = {"model": "model.onnx", "images": "list.txt", "output": "scores", "shard_size": SHARD, **others}
    return [str(part) for name, value in chosen.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def place(module_folder: Callable[[str], Path]) -> Path:
    """model.onnx, other.onnx, images/ good and bad, list.txt of them, of a missing one and of two addresses."""
    folder = module_folder("ray")
    save_model(folder / "model.onnx", gain=8.0)
    save_model(folder / "other.onnx", gain=7.0)
    images = folder / "images" / "deep"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(15):
        low, high = sorted(rng.integers(0, 257, 2))
        size = (32, 32, 3) if number % 3 else (50, 70, 3)
        pixels = rng.integers(low, high + 1, size).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save((images.parent, images)[number % 2] / f"{number} ({number}).png")
    (folder / "images" / "words.jpg").write_text("words")
    (folder / "images" / "empty.png").touch()
    (folder / "images" / "cut.png").write_bytes((images.parent / "0 (0).png").read_bytes()[:300])
    Image.new("RGB", (32, 32), "white").save(folder / "remote.png")
    lines = [*sorted((folder / "images").rglob("*.*")), folder / "missing.png"]
    addresses = [f"file://{folder.as_posix()}/{name}" for name in ("remote.png", "missing too.png")]
    (folder / "list.txt").write_text("\n".join([*map(str, lines), *addresses]))
    return folder


@pytest.fixture(scope="module")
def environment(module_folder: Callable[[str], Path]) -> dict[str, str]:
    """Ray writes a token into the home folder; with the mode said, another process of it shows the token too."""
    home = str(module_folder("home"))
    return {**os.environ, "HOME": home, "USERPROFILE": home, "RAY_AUTH_MODE": "token"}


@pytest.fixture(scope="module")
def score(place: Path, environment: dict[str, str]) -> Any:
    """Runs the script on list.txt into scores/; a keyword replaces an argument."""

    def run(**others: object) -> "subprocess.CompletedProcess[str]":
        line = command(*flags(**others))
        return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def cluster(place: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a Ray that runs already."""
    code = (
        "import ray, sys; ray.init('local', num_cpus=1, include_dashboard=False);"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, cwd=place, env=environment, text=True, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture(scope="module")
def scored(place: Path, score: Any, cluster: str) -> "subprocess.CompletedProcess[str]":
    done = score(address=cluster)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def asked(
    place: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """The same as ``score`` in this process, for what ends before Ray is started."""

    def run(**others: object) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(place)
        monkeypatch.setitem(sys.modules, "ray", None)
        capsys.readouterr()
        code = module.main(flags(**others))
        said = capsys.readouterr()
        return subprocess.CompletedProcess([], code, said.out, said.err)

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def state(folder: Path) -> dict[str, int]:
    """All that lies there, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_rows_are_detectors_answers_in_the_order_of_paths(place: Path, scored: Any) -> None:
    found = rows(place / "scores")
    paths = sorted((place / "list.txt").read_text().split("\n"))
    assert [row["path"] for row in found] == paths
    local = [row for row in found if "://" not in row["path"]]
    answers = Detector(place / "model.onnx").predict([row["path"] for row in local])
    for ours, row in zip(answers, local, strict=True):
        assert (row["verdict"], row["warning"], row["error"]) == (ours.verdict, ours.warning, ours.error)
        assert row["prob_real"] == ours.prob_real  # both are the model's float32
    assert {row["verdict"] for row in local} == {"AI", "REAL", None}
    assert pq.read_table(place / "scores").to_pylist() == found  # the folder as one table, whatever else is in it


def test_bad_files_are_rows_with_an_error_and_the_job_goes_on(place: Path, scored: Any) -> None:
    bad = {Path(row["path"]).name for row in rows(place / "scores") if row["error"]}
    assert bad == {"words.jpg", "empty.png", "cut.png", "missing.png", "missing too.png"}
    last = scored.stdout.splitlines()[-1]
    assert last.startswith("21 images in ") and "5 rows with an error; 5 parts made, 5 in scores" in last


def test_an_address_is_read_through_pyarrow(place: Path, scored: Any) -> None:
    bad, good = sorted((row for row in rows(place / "scores") if "://" in row["path"]), key=lambda row: row["path"])
    assert good["verdict"] == "REAL" and good["prob_real"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert bad["verdict"] is None and "missing too.png" in bad["error"]


def test_a_second_run_does_nothing(place: Path, scored: Any, asked: Any) -> None:
    before = state(place / "scores")
    again = asked()
    assert again.returncode == 0 and again.stdout.startswith("nothing to do: all 5 parts of 21 images")
    assert state(place / "scores") == before


def test_another_run_into_the_same_folder_is_refused_in_one_line(place: Path, scored: Any, asked: Any) -> None:
    before = state(place / "scores")
    for other, fact in (
        ({"model": "other.onnx"}, "model_sha256"),
        ({"images": "images"}, "list_sha256"),
        ({"shard_size": SHARD + 1}, "shard_size"),
    ):
        refused = asked(**other)
        assert refused.returncode == 2 and refused.stderr.startswith(f"error: scores holds another run, of {fact} ")
        assert refused.stderr.count("\n") == 1
    assert state(place / "scores") == before


def test_what_cannot_begin_is_one_line(place: Path, asked: Any) -> None:
    for other in ({"model": "nowhere.onnx"}, {"images": "nowhere"}, {"images": "nowhere://bucket/x"}):
        refused = asked(output="never", **other)
        assert refused.returncode == 2 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not (place / "never").exists()


def test_a_worker_that_cannot_write_leaves_no_half_part_and_then_only_that_one_is_made(
    place: Path, scored: Any, score: Any, cluster: str
) -> None:
    folder = place / "scores"
    complete, before = rows(folder), state(folder)
    (folder / "part-00002.parquet").unlink()
    (folder / "part-00002.parquet").mkdir()
    failed = score(address=cluster)
    last = failed.stderr.splitlines()[-1]
    assert failed.returncode == 2 and last.startswith("error: ") and "part-00002.parquet" in last
    assert state(folder).keys() == before.keys(), "nothing temporary stays"
    (folder / "part-00002.parquet").rmdir()
    repaired = score(address=cluster)
    assert repaired.returncode == 0 and "1 parts made, 5 in scores" in repaired.stdout
    after = state(folder)
    assert {name for name in before if before[name] != after[name]} == {"part-00002.parquet"}
    assert rows(folder) == complete


@pytest.mark.long  # it starts a Ray of its own
def test_ctrl_c_leaves_whole_parts_only(place: Path, environment: dict[str, str]) -> None:
    many = place / "many"
    many.mkdir()
    for number in range(1500):
        Image.new("RGB", (4, 4), (number % 256,) * 3).save(many / f"{number:04d}.png")
    out = place / "stopped"
    line = command(
        "--model", "model.onnx", "--images", "many", "--output", "stopped", "--shard_size", 2, "--concurrency", 1
    )
    with subprocess.Popen(
        line,
        cwd=place,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        until = time.monotonic() + 60
        while not list(out.glob("part-*")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command resumes from them" in said
    parts = [path for path in out.iterdir() if path.name.startswith("part-")]
    assert 0 < len(parts) < 750
    assert {pq.read_table(part).num_rows for part in parts} == {2}
    assert json.loads((out / "_manifest.json").read_text())["images"] == 1500


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_score", SCRIPT)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_file_has_its_name_only_when_whole(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = module.as_table(["a.png"], [module.Prediction("a.png", "AI", 0.25)])
    module.write(str(tmp_path), "part-00000.parquet", table)
    before = state(tmp_path)

    def fail(table: object, file: Any, **options: object) -> None:
        file.write(b"PAR1 and no more")
        assert len(list(tmp_path.iterdir())) == 2, "the half one lies there, under another name"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.pq, "write_table", fail)
    for name in ("part-00000.parquet", "part-00001.parquet"):
        with pytest.raises(OSError, match="No space left"):
            module.write(str(tmp_path), name, table)
    assert state(tmp_path) == before


def test_addresses_keep_spaces_and_percent_signs(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a%20b c.png").touch()
    (tmp_path / "notes.md").touch()
    address = f"file://{tmp_path.as_posix()}"
    assert list(module.find([address])) == [f"{address}/a%20b c.png"]
    assert list(module.find([f"{address}/a%20b c.png"])) == [f"{address}/a%20b c.png"]
    with pytest.raises(module.UserError, match="does not exist"):
        list(module.find([f"{address}/nowhere"]))


def test_a_name_that_is_not_utf8_is_a_row(module: ModuleType) -> None:
    path = os.fsdecode(b"caf\xe9.png")
    table = module.as_table([path], [module.Prediction(path, "AI", 0.25)])
    assert table.to_pylist()[0]["path"] == r"caf\xe9.png"

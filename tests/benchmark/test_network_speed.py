"""leaderboard --measure: who has a turn when, what each trains with, and what becomes of one that fails."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_cifake.benchmark.engines import ENGINES, command
from lightning_cifake.benchmark.network_speed import CALLBACK, Subject, measure, recipe_of, subjects_of
from lightning_cifake.benchmark.records import Export, Found, Run
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.errors import UserError


class Made:
    """A process that notes what it is asked; ``fails`` names the question at which an engine's model or recipe ends."""

    log: list[tuple[str, str, Any]]
    fails: dict[str, str]

    def __init__(self, engine: Any, spec: dict[str, Any]) -> None:
        assert spec["threads"] >= 1 and spec["device"] == "cpu"
        self.name = Path(spec["recipe"]).stem if "recipe" in spec else str(spec["model"])
        self.log.append((self.name, "start", engine.name))

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        key = next(iter(question))
        self.log.append((self.name, key, question[key]))
        if self.fails.get(self.name) == key:
            raise UserError(f"broke at {key}")
        if key == "batch":
            return {"seconds": [0.5 * question["batch"]] * question["repeats"]}
        return {"steps": 1, "images": 64, "seconds": 2.0, "waiting": None}

    def __enter__(self) -> "Made":
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append((self.name, "closed", None))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> type[Made]:
    monkeypatch.setattr(Made, "log", [], raising=False)
    monkeypatch.setattr(Made, "fails", {}, raising=False)
    return Made


def subject(batch: int, model: str, rate: float = 0.1) -> Subject:
    return Subject({"data": {"batch_size": batch}, "model": {"learning_rate": rate}}, lambda: Path(model))


def test_they_take_turns_and_the_first_round_is_not_counted(tmp_path: Path, made: type[Made]) -> None:
    record = measure({"a": subject(512, "a.onnx"), "b": subject(64, "b.onnx")}, tmp_path, rounds=2, make=made)
    asked = [each for each in made.log if each[1] == "steps"]
    assert asked == [("0", "steps", 1), ("1", "steps", 4)] * 3  # at least 256 images
    answered = [each[0] for each in made.log if each[1:] == ("batch", 32)]
    assert answered == ["a.onnx", "b.onnx"] * 3
    assert made.log.index(("1", "closed", None)) < made.log.index(("a.onnx", "start", "onnxruntime"))
    row = record["rows"]["b"]
    assert row["training"] == {"median": 32.0, "low": 32.0, "high": 32.0, "all": [32.0, 32.0]}
    assert row["answering"]["all"] == [2.0, 2.0] and row["one_image_ms"]["median"] == 500.0
    assert record["failed"] == {} and record["settings"]["rounds"] == 2 and record["machine"]["cores"] >= 1


def test_one_that_fails_is_named_and_the_others_go_on(tmp_path: Path, made: type[Made]) -> None:
    made.fails = {"0": "steps", "b.onnx": "batch", "2": "first"}
    given = {name: subject(batch, f"{name}.onnx") for name, batch in (("a", 64), ("b", 128), ("c", 256))}
    record = measure(given, tmp_path, rounds=1, make=made)
    assert record["failed"] == {
        "a": "training: broke at steps", "b": "inference: broke at batch", "c": "training: broke at first",
    }  # fmt: skip
    assert record["rows"]["a"]["training"] is None and record["rows"]["a"]["answering"]["median"] == 2.0
    assert record["rows"]["b"]["training"]["median"] == 32.0 and record["rows"]["b"]["answering"] is None


def test_rows_that_train_alike_but_for_the_rate_are_measured_once(tmp_path: Path, made: type[Made]) -> None:
    given = {"a": subject(64, "a.onnx"), "b": subject(64, "b.onnx", rate=0.2), "c": Subject(model=lambda: Path("c"))}
    record = measure({**given, "d": Subject(model=lambda: Path("d"))}, tmp_path, rounds=1, make=made)
    assert {name for name, key, _ in made.log if key == "start"} == {"0", "a.onnx", "c", "d"}
    assert record["rows"]["b"] == record["rows"]["a"] and record["rows"]["c"]["training"] is None


def test_many_are_measured_in_groups_that_hold_no_more_processes_than_memory(tmp_path: Path, made: type[Made]) -> None:
    given = {name: subject(64 + at, f"{name}.onnx") for at, name in enumerate("abcdefgh")}
    record = measure(given, tmp_path, rounds=1, make=made)
    alive = most = 0
    for _, key, _ in made.log:
        alive += {"start": 1, "closed": -1}.get(key, 0)
        most = max(most, alive)
    assert most == 6 and alive == 0
    assert all(row["training"] and row["answering"] for row in record["rows"].values()) and len(record["rows"]) == 8


def test_each_answers_from_its_file_and_is_exported_only_where_it_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    exports = [Export(tmp_path / f"{name}.json", {"model": {"sha256": name}}) for name in "ab"]
    model = {"network": {"class_path": "compact", "init_args": {}}}
    runs = [Run(name, tmp_path / name, {}, {"model": model}) for name in ("has", "lacks")]
    runs.append(Run("keras", tmp_path, {}, {"framework": "Keras"}))
    rows = [{"name": name, "sha256": sha256} for name, sha256 in (("has", "a"), ("lacks", None), ("int8", "a"))]
    rows += [{"name": "gone", "sha256": "b"}, {"name": "keras", "sha256": None}]
    subjects = subjects_of(Found(runs, exports), rows, "demo", None, tmp_path / "scratch")
    assert list(subjects) == ["has", "lacks", "int8", "keras"] and subjects["keras"].keras
    assert all(subjects[name].recipe is None for name in subjects)  # no config.yaml
    assert subjects["has"].model() == subjects["int8"].model() == tmp_path / "a.onnx"
    made = subjects["lacks"].model()
    assert made.parent == tmp_path / "scratch" and Detector(made).predict([tmp_path / "none.png"])[0].error


def test_a_recipe_is_the_run_s_own_on_other_images(tmp_path: Path) -> None:
    config = {
        "seed_everything": 1,
        "data": {"root": "gone.zip", "protocol": "official", "sample": None, "batch_size": 512, "crop": 4},
        "model": {"network": "resnet50", "weights": "gone.ckpt", "compile": True, "optimizer": "torch.optim.AdamW"},
        "trainer": {"precision": "16-mixed", "accelerator": "gpu", "callbacks": [{"class_path": "a.B"}],
                    "gradient_clip_val": 1.0, "accumulate_grad_batches": None, "max_epochs": 3},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    recipe = recipe_of(Run("a", tmp_path, {}, {}), "demo", None)
    assert recipe is not None
    assert recipe["data"] == {"batch_size": 512, "crop": 4, "root": "demo", "classes": None}
    assert recipe["model"] == {"network": "resnet50", "optimizer": "torch.optim.AdamW"}
    trainer = recipe["trainer"]
    assert trainer["callbacks"] == [{"class_path": "a.B"}, CALLBACK] and trainer["gradient_clip_val"] == 1.0
    assert trainer["accelerator"] == "cpu" and "precision" not in trainer and "accumulate_grad_batches" not in trainer
    assert recipe_of(Run("a", tmp_path / "nowhere", {}, {}), "demo", None) is None
    spec = {"task": "train", "recipe": tmp_path / "r.yaml", "output_dir": tmp_path / "run"}
    assert command(ENGINES["lightning"], spec) == [
        "lightning_cifake", "fit", "--config", str(tmp_path / "r.yaml"), "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip

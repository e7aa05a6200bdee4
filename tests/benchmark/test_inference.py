"""The comparison of engines: its arithmetic on made timings, and that a worker measures and fails as it should."""

import sys
from pathlib import Path

import pytest

from lightning_cifake.benchmark import inference
from lightning_cifake.benchmark.inference import Engine, Worker, summarise, table
from lightning_cifake.errors import UserError

MADE = {"cold": [3.0, 1.0, 2.0], "batch 1": [0.001] * 19 + [0.1], "batch 32": [0.4, 0.2, 0.1], "batch 256": [1.0, 2.0]}


def test_figures_are_medians_and_the_percentiles_are_over_all_single_images() -> None:
    figures = summarise(MADE, 100.0)
    assert figures["cold_start_s"] == 2.0
    assert figures["one_image_ms"]["p50"] == pytest.approx(1.0)
    assert 1.0 < figures["one_image_ms"]["p95"] < 100.0
    assert figures["images_per_second"] == pytest.approx({"1": 1000.0, "32": 160.0, "256": 256 / 1.5})
    assert figures["seconds"] == MADE and figures["peak_mib"] == 100.0


def test_the_table_has_a_row_an_engine_and_ratios_to_the_baseline() -> None:
    fast = {**MADE, "batch 32": [0.1], "batch 1": [0.0005] * 20}
    lines = table({"A": summarise(MADE, 50.0), "B": summarise(fast, None)}, "A").splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| A | 2.00 s | 1.0 / 6.0 ms | 1,000 | 160 | 171 | 50 MiB |"
    assert lines[3] == "| B | 2.00 s | 0.5 / 0.5 ms | 2,000 (2.0x) | 320 (2.0x) | 171 (1.0x) | ? |"


def test_a_worker_that_cannot_start_is_one_line_that_says_why(tmp_path: Path) -> None:
    with (
        Worker(Engine("mine", "onnxruntime", tmp_path / "nowhere.onnx"), 1) as worker,
        pytest.raises(UserError, match=r"mine cannot be measured: .*nowhere\.onnx does not exist"),
    ):
        worker.ask({"batch": 1, "repeats": 1})


def test_engines_take_turns_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, int]] = []

    class Silent:
        def __init__(self, engine: Engine, threads: int) -> None:
            self.engine = engine

        def ask(self, question: dict[str, int]) -> dict[str, list[float]]:
            if "batch" in question:
                order.append((self.engine.name, question["batch"]))
            return {"seconds": [1.0] * question.get("repeats", 0)}

        def end(self) -> dict[str, float]:
            return {"peak_mib": 1.0}

        def __enter__(self) -> "Silent":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(inference, "Worker", Silent)
    found = inference.measure([Engine(name, "", Path()) for name in "AB"], 1, rounds=2, colds=1)
    assert order == [(name, batch) for name in "ABAB" for batch in inference.BATCHES]
    assert found["A"]["images_per_second"]["32"] == 32.0


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is not told there")
def test_a_real_worker_measures_and_tells_its_own_peak(tmp_path: Path) -> None:
    import json

    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["floats", "axes"], ["logit"], keepdims=0),
            helper.make_node("Sigmoid", ["logit"], ["prob_real"]),
        ],
        "maximum",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("prob_real", "logit")],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    facts = {"class_names": json.dumps(["AI", "REAL"]), "decision_threshold": "0.5", "temperature": "1"}
    helper.set_model_props(model, {**facts, "image_size": "32", "precision": "float32"})
    onnx.save_model(model, tmp_path / "model.onnx")
    held = bytearray(300 * 2**20)  # of this process, which is not the worker's
    held[::4096] = b"x" * len(held[::4096])
    found = inference.measure([Engine("mine", "onnxruntime", tmp_path / "model.onnx")], 1, rounds=1, colds=1)["mine"]
    assert [len(found["seconds"][f"batch {batch}"]) for batch in inference.BATCHES] == [inference.SINGLES, 1, 1]
    assert all(seconds > 0 for taken in found["seconds"].values() for seconds in taken)
    assert 20 < found["peak_mib"] < 300

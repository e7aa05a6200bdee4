"""The schedule, with made engines: who has a turn when, and what becomes of one that fails."""

import itertools
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from lightning_cifake.benchmark.engines import ENGINES, REFERENCE, Engine, command
from lightning_cifake.benchmark.materials import Materials
from lightning_cifake.benchmark.measure import HALF_PARITY, PARITY, REPEATS, Bench, Settings
from lightning_cifake.errors import UserError

LABELS = np.array([0, 1])
NETWORK = {"class_path": "own.Network", "init_args": {"width": 2}}


def engine(name, trains=True, answers=True, exact=True):
    return Engine(name, "made", "none", trains, answers, "ckpt", exact)


class Made:
    """A worker that notes what it is asked; ``fails`` maps an engine to the question's key at which it ends."""

    log: list
    fails: dict
    answers: dict

    def __init__(self, engine, spec):
        self.name, self.spec = engine.name, spec
        if self.fails.get(self.name) == "start":
            raise UserError("not installed")

    def ask(self, question):
        key = next(iter(question))
        self.log.append((self.name, key, question[key]))
        if self.fails.get(self.name) == key:
            raise UserError(f"broke at {key}")
        if key == "images":
            exact = self.name + " exact" if question.get("exact") else self.name
            return {"prob_real": self.answers.get(exact, [0.1, 0.9])}
        if key == "batch":
            return {"seconds": [0.5] * question["repeats"]}
        return {"steps": 1, "images": 64, "seconds": 2.0, "waiting": None}

    def end(self):
        return 7.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.append((self.name, "closed", None))


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(Made, "log", [], raising=False)
    monkeypatch.setattr(Made, "fails", {}, raising=False)
    monkeypatch.setattr(Made, "answers", {}, raising=False)
    return Made


def bench(*engines, **settings):
    there = Path("there")
    materials = Materials(there, 64, there, LABELS, ["a", "b"], there, {"ckpt": there}, NETWORK, 32)
    return Bench(engines, materials, Settings(threads=1, **{"rounds": 2, "starts": 2, **settings}), make=Made)


def test_engines_take_turns_round_by_round(made):
    both = bench(engine("A"), engine("B"))
    both.answers()
    both.training()
    asked = [(name, key) for name, key, _ in made.log if key in ("batch", "steps")]
    assert [name for name, key, _ in made.log if key == "file"] == list("ABAB")
    assert asked == [(name, "batch") for name in "ABAB" for _ in REPEATS] + [(name, "steps") for name in "ABAB"]
    assert len(both.raw["A"]["train"]["turns"]) == 2
    assert both.raw["A"]["answer"]["seconds"]["1"] == [[0.5] * REPEATS[1]] * 2
    assert both.raw["B"]["train"]["peak_mib"] == both.raw["B"]["answer"]["peak_mib"] == 7.0
    assert not both.failed


def test_every_start_is_a_new_process_and_only_the_last_goes_on_to_the_turns(made):
    one = bench(engine("A"), starts=3)
    one.training()
    keys = [key for _, key, _ in made.log]
    assert keys == ["first", "first", "closed"] * 2 + ["first", "first", "steps", "steps", "closed"]
    assert len(one.raw["A"]["train"]["first_step"]) == len(one.raw["A"]["train"]["first_epoch"]) == 3


def test_the_last_process_that_was_started_for_its_first_answer_goes_on_to_answer(made):
    one = bench(engine("A"), starts=2)
    one.answers()
    keys = [key for _, key, _ in made.log]
    assert keys == ["file", "closed", "file", "images", *["batch"] * 6, "closed"]
    assert len(one.raw["A"]["answer"]["cold"]) == 2


def test_a_turn_is_as_many_images_for_every_batch_size(made):
    both = bench(
        engine("A"), engine("A-tuned")._replace(large=True), batch_size=32, tuned_batch_size=128, turn_images=384
    )
    both.training()
    steps = {name: value for name, key, value in made.log if key == "steps"}
    assert steps == {"A": 12, "A-tuned": 3}


@pytest.mark.parametrize("at", ["start", "images", "batch", "first", "steps"])
def test_one_that_is_missing_or_fails_leaves_the_others_be(made, at):
    made.fails["A"] = at
    both = bench(engine("A"), engine("B"))
    both.answers()
    both.training()
    assert list(both.failed) == ["A"]
    assert ("not installed" if at == "start" else f"broke at {at}") in both.failed["A"]
    assert len(both.raw["B"]["train"]["turns"]) == 2 and len(both.raw["B"]["answer"]["seconds"]["1"]) == 2


def test_a_model_that_could_not_be_made_is_a_reason_to_fall_out(made):
    both = bench(engine("A"), engine("B")._replace(model="keras"))
    object.__setattr__(both.materials, "models", {"ckpt": Path("there"), "keras": UserError("needs TensorFlow")})
    both.answers()
    assert "needs TensorFlow" in both.failed["B"] and both.raw["A"]["answer"]["seconds"]


def test_other_answers_are_refused_before_anything_is_timed(made):
    made.answers["B"] = [0.1, 0.9 - 2 * PARITY]
    with pytest.raises(UserError, match=r"A and B do not answer alike.*differ by 0\.0002, expected at most 1e-04"):
        bench(engine("A"), engine("B")).answers()
    assert not [key for _, key, _ in made.log if key == "batch"]
    assert made.log[-2:] == [("B", "closed", None), ("A", "closed", None)]


def test_half_precision_is_held_to_its_own_float32_and_float32_to_the_others(made):
    made.answers.update({"A": [0.11, 0.89], "B": [0.1, 0.9 - 3 * HALF_PARITY], "C": [float("nan"), 0.9]})
    every = bench(engine("A"), engine("B"), engine("C"), engine("D"), precision="bf16-mixed")
    every.answers()
    assert set(every.failed) == {"B", "C"}
    assert "in bf16-mixed differ from its own in float32 by 0.03 on average" in every.failed["B"]
    assert "not all numbers" in every.failed["C"]
    assert every.probabilities["A"].tolist() == [0.11, 0.89] and every.exact["A"].tolist() == [0.1, 0.9]
    assert every.half_differences["A"] == pytest.approx({"mean": 0.01, "max": 0.01})
    made.answers["D exact"] = [0.1, 0.9 - 2 * PARITY]
    with pytest.raises(UserError, match="A and D do not answer alike"):
        bench(engine("A"), engine("D"), precision="bf16-mixed").answers()


def test_int8_is_not_held_to_float32s_answers(made):
    made.answers["B"] = [0.3, 0.9]
    both = bench(engine("A"), engine("B", exact=False))
    both.answers()
    assert both.probabilities["B"].tolist() == [0.3, 0.9] and not both.failed


def test_who_only_trains_is_not_asked_and_who_only_answers_is_not_trained(made):
    both = bench(engine("T", answers=False), engine("O", trains=False))
    both.answers()
    both.training()
    assert {name for name, key, _ in made.log if key in ("batch", "images")} == {"O"}
    assert {name for name, key, _ in made.log if key in ("first", "steps")} == {"T"}


def test_the_reference_trains_the_published_network_alone(made):
    reference = Engine("tf", "made", REFERENCE, True, False)
    both = bench(reference, engine("T", answers=False))
    both.training()
    assert both.failed == {
        "tf": "training: it trains the published network alone, and these weights are of another one"
    }
    assert both.raw["T"]["train"]["turns"]
    object.__setattr__(both.materials, "published", True)
    again = Bench([reference], both.materials, both.settings, make=Made)
    again.training()
    assert not again.failed


def test_lightning_trains_by_the_command_that_a_user_would_start():
    spec = {
        "task": "train", "device": "cpu", "precision": "32-true", "batch_size": 32, "data": Path("d"), "threads": 1,
        "scratch": Path("s"), "network": {"class_path": "a.B", "init_args": {"width": 2, "image_size": 48}},
        "image_size": 48,
    }  # fmt: skip
    tuned = command(ENGINES["lightning-tuned"], spec)
    assert tuned[:6] == ["lightning_cifake", "fit", "--config", "published", "--config", "cpu"]
    there = command(ENGINES["lightning-tuned"], {**spec, "device": "cuda", "precision": "16-mixed"})
    assert there[2:6] == ["--config", "published", "--config", "t4"]
    asked = dict(itertools.pairwise(there))
    assert (asked["--trainer.accelerator"], asked["--trainer.precision"], asked["--trainer.devices"]) == (
        "gpu", "16-mixed", "1"
    )  # fmt: skip
    assert asked["--data.batch_size"] == "32"
    assert tuned[tuned.index("--model.network") + 1] == '{"class_path": "a.B", "init_args": {"width": 2}}'
    assert tuned[tuned.index("--data.image_size") + 1] == "48"
    assert command(ENGINES["torch"], spec)[0] == "lightning_cifake.benchmark.worker"
    assert command(ENGINES["lightning"], {**spec, "task": "answer"})[0] == "lightning_cifake.benchmark.worker"


def test_without_tensorflow_its_engine_falls_out_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with what is wrong with its file, which nobody can mend then."""
    from lightning_cifake import extras

    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "tensorflow")
    bench = Bench([ENGINES["tf"]], None, Settings(threads=1, starts=1))  # type: ignore[arg-type]
    with ExitStack() as stack:
        assert not bench._started(stack, lambda each: each.answers, "start", bench._cold_start)
    assert "tensorflow" in bench.failed["tf"] and "pip install" in bench.failed["tf"]

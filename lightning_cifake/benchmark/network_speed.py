"""How fast the networks of a leaderboard train and answer, all in one run on one machine, taking turns.

A row trains by ``fit`` itself, with its own recorded configuration, and answers through onnxruntime; each in a process
of its own. The published system in Keras does both by :mod:`tf_reference.benchmark`.
"""

import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lightning_cifake.benchmark import figures
from lightning_cifake.benchmark.engines import ENGINES, Worker
from lightning_cifake.benchmark.materials import prepare
from lightning_cifake.benchmark.measure import REPEATS
from lightning_cifake.benchmark.records import Export, Found, Run, at
from lightning_cifake.deploy import export
from lightning_cifake.deploy.manifest import environment_info
from lightning_cifake.errors import UserError
from lightning_cifake.files import write_whole
from lightning_cifake.machine import cores
from lightning_cifake.migration import migrate_config
from lightning_cifake.run_folder import CONFIG
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import save_checkpoint
from lightning_cifake.training.precision import best_precision
from lightning_cifake.yaml_file import read_yaml

log = logging.getLogger(__name__)

TURN_IMAGES = 256  # trained on in a turn, at least
BATCH = 32  # asked about at once
AT_ONCE = 6  # processes that wait for each other's turns; each holds more than 1 GiB
CALLBACK = {"class_path": "lightning_cifake.benchmark.callback.BenchmarkCallback"}
_OF_THE_IMAGES = (
    "root", "classes", "protocol", "seed", "sample", "pool", "val_fraction", "split_file", "exclude", "cache_dir",
    "strict",
)  # fmt: skip
_OF_THE_STEP = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")


@dataclass
class Subject:
    """What is measured of a row.

    Attributes:
        recipe: the configuration that ``fit`` is started with; None where it is not trained.
        model: gives the ONNX file that answers; None where nothing does.
        keras: it is the published system in Keras.
    """

    recipe: dict[str, Any] | None = None
    model: Callable[[], Path] | None = None
    keras: bool = False

    @property
    def key(self) -> str:
        """The same for rows that are trained alike but for the learning rate: they are measured once."""
        recipe = json.loads(json.dumps(self.recipe))
        for name in ("learning_rate", "lr_decay"):
            ((recipe or {}).get("model") or {}).pop(name, None)
        return json.dumps([recipe, self.keras, None if recipe else id(self)], sort_keys=True)


def subjects_of(
    found: Found, rows: Sequence[Mapping[str, Any]], root: str, classes: str | None, scratch: Path
) -> dict[str, Subject]:
    """The rows that can be measured, by name, the best first.

    Args:
        found, rows: of the leaderboard.
        root: of the images to train on, as ``--data.root``.
        classes: as ``--data.classes``.
        scratch: a folder for exported models.
    """
    runs = {run.name: run for run in reversed(found.runs)}  # of several seeds the first
    files = {at(each.manifest, "model", "sha256"): each for each in found.exports}
    subjects: dict[str, Subject] = {}
    for row in rows:
        run = runs.get(row["name"])
        if run is not None and run.trained.get("framework") == "Keras":
            subjects[row["name"]] = Subject(keras=True)
        elif run is not None:
            file = _file_of(files.get(row["sha256"]))
            model = partial(Path, file) if file else _exporter(run, scratch / f"{len(subjects)}.onnx")
            subjects[row["name"]] = Subject(recipe_of(run, root, classes), model)
        elif (exported := _file_of(files.get(row["sha256"]))) is not None:
            subjects[row["name"]] = Subject(model=partial(Path, exported))
    return subjects


def recipe_of(run: Run, root: str, classes: str | None) -> dict[str, Any] | None:
    """The run's configuration as far as a step's time depends on it, not compiled, on other images, in the precision
    that this machine would choose; None without a configuration."""
    if not (run.folder / CONFIG).is_file():
        return None
    config = migrate_config(read_yaml(run.folder / CONFIG))
    data, model, trainer = ({**(config.get(name) or {})} for name in ("data", "model", "trainer"))
    for name in _OF_THE_IMAGES:
        data.pop(name, None)
    for name in ("weights", "compile", "cuda_graphs"):  # compiling would take minutes, for a turn of seconds
        model.pop(name, None)
    callbacks = trainer.get("callbacks") or []
    return {
        "data": {**data, "root": root, "classes": classes},
        "model": model,
        "trainer": {
            **{name: trainer[name] for name in _OF_THE_STEP if trainer.get(name) is not None},
            "accelerator": "cpu",
            "max_epochs": 1_000_000,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "logger": False,
            "callbacks": [*(callbacks if isinstance(callbacks, list) else [callbacks]), CALLBACK],
        },
    }


def _exporter(run: Run, path: Path) -> Callable[[], Path] | None:
    """Writes the run's network, untrained, as ONNX: what weights it has costs no time."""
    spec = run.network
    if spec is None:
        return None

    def make() -> Path:
        flips = bool((run.trained.get("model") or {}).get("test_flips"))
        classifier = FakeImageClassifier(network=spec, test_flips=flips)
        model = export.to_onnx(classifier)
        export.set_metadata(model, export.metadata(classifier, "float32", "uint8", 1.0, 0.5))
        write_whole(path, export.serialized(model))
        return path

    return make


def _file_of(found: Export | None) -> Path | None:
    """The exported model that lies beside a manifest."""
    path = None if found is None else found.path.with_suffix(".onnx")
    return path if path is not None and path.is_file() else None


def measure(subjects: Mapping[str, Subject], scratch: Path, rounds: int, make: Any = Worker) -> dict[str, Any]:
    """Every subject in turn, first training, then answering; what fails is named in ``failed`` and left out.

    Args:
        subjects: by row.
        scratch: a folder for what is needed meanwhile.
        rounds: turns of each, whose median counts; one more goes before them.
        make: starts an engine's process.

    Returns:
        ``rows``: of each name ``training`` and ``answering`` (:func:`figures.spread` of images/s, answering in batches
        of 32) and ``one_image_ms``, None where it was not measured; ``failed``: why not; date, machine, versions and
        settings.
    """
    threads = cores()
    common = {"threads": threads, "device": "cpu", "precision": "32-true"}
    failed: dict[str, str] = {}
    first: dict[str, str] = {}  # a key's first row: rows that are trained alike are measured once
    for name, subject in subjects.items():
        first.setdefault(subject.key, name)
    unique = {name: subjects[name] for name in first.values()}
    keras = _keras_materials(scratch, failed) if any(each.keras for each in unique.values()) else None

    def trainer(name: str, subject: Subject) -> Worker | None:
        if keras is not None and subject.keras:
            return make(ENGINES["tf"], {**common, "engine": "tf", "task": "train", "data": keras[0], "batch_size": 32})
        if subject.recipe is None:
            return None
        number = list(unique).index(name)
        recipe = scratch / f"{number}.yaml"
        recipe.write_text(yaml.safe_dump(subject.recipe))
        return make(ENGINES["lightning"], {**common, "recipe": recipe, "output_dir": scratch / f"run-{number}"})

    def answerer(name: str, subject: Subject) -> Worker | None:
        if keras is not None and subject.keras:
            return make(ENGINES["tf"], {**common, "engine": "tf", "task": "answer", "model": keras[1]})
        if subject.model is None:
            return None
        return make(ENGINES["onnxruntime"], {**common, "task": "answer", "model": subject.model()})

    def train_turn(name: str, worker: Worker) -> float:
        batch = at(unique[name].recipe, "data", "batch_size") or 32
        reply = worker.ask({"steps": -(-TURN_IMAGES // batch)})
        return reply["images"] / reply["seconds"]

    def answer_turn(name: str, worker: Worker) -> tuple[float, float]:
        many = worker.ask({"batch": BATCH, "repeats": REPEATS[BATCH]})["seconds"]
        single = worker.ask({"batch": 1, "repeats": REPEATS[1]})["seconds"]
        return BATCH / statistics.median(many), 1e3 * statistics.median(single)

    trained = _in_turns("training", unique, trainer, train_turn, rounds, failed, {"first": "step"})
    answered = _in_turns("inference", unique, answerer, answer_turn, rounds, failed)
    measured = {
        name: {
            "training": figures.spread(trained.get(name, [])),
            "answering": figures.spread([rate for rate, _ in answered.get(name, [])]),
            "one_image_ms": figures.spread([single for _, single in answered.get(name, [])]),
        }
        for name in unique
    }
    return {
        **environment_info(),
        "settings": {"threads": threads, "rounds": rounds, "batch": BATCH, "precision": best_precision("cpu")},
        "rows": {name: measured[first[subject.key]] for name, subject in subjects.items()},
        "failed": failed,
    }


def _in_turns(
    doing: str,
    subjects: Mapping[str, Subject],
    start: Callable[[str, Subject], Worker | None],
    turn: Callable[[str, Worker], Any],
    rounds: int,
    failed: dict[str, str],
    begin: Mapping[str, Any] | None = None,
) -> dict[str, list[Any]]:
    """What each turn of each subject gave, but for a first round that is not counted."""
    if len(subjects) > AT_ONCE:  # in groups
        names = list(subjects)
        groups = [names[low : low + AT_ONCE] for low in range(0, len(names), AT_ONCE)]
        parts = [{name: subjects[name] for name in group} for group in groups]
        found = [_in_turns(doing, part, start, turn, rounds, failed, begin) for part in parts]
        return {name: results for part in found for name, results in part.items()}
    results: dict[str, list[Any]] = {}
    workers: dict[str, Worker] = {}

    def attempt(name: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except UserError as error:
            failed[name] = f"{doing}: {error}"
            log.warning("%s falls out, %s: %s", name, doing, error)
            workers.pop(name, None)
            results.pop(name, None)
            return None

    with ExitStack() as stack:
        for name, subject in subjects.items():
            log.info("%s: starting %s", doing, name)
            worker = attempt(name, partial(start, name, subject))
            if worker is None:
                continue
            workers[name] = stack.enter_context(worker)
            if begin:
                attempt(name, partial(worker.ask, dict(begin)))
        for number in range(rounds + 1):
            log.info("%s: round %d of %d", doing, number, rounds)
            for name, worker in list(workers.items()):
                result = attempt(name, partial(turn, name, worker))
                if result is not None and number:
                    results.setdefault(name, []).append(result)
    return results


def _keras_materials(scratch: Path, failed: dict[str, str]) -> tuple[Path, Path] | None:
    """JPEG files to train on, and a Keras file that answers; None where they cannot be made."""
    try:
        save_checkpoint(FakeImageClassifier(), scratch / "random.ckpt", None, 0)
        (scratch / "keras").mkdir()
        materials = prepare(scratch / "random.ckpt", None, {"keras": None}, (1280, BATCH), scratch / "keras")
        return materials.folder, materials.model("keras")
    except UserError as error:
        failed["Keras"] = str(error)
        return None

"""The measuring: every engine in its own process, round by round in turns; one that fails leaves the others be."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.benchmark import figures
from lightning_cifake.benchmark.engines import REFERENCE, Engine, Worker
from lightning_cifake.benchmark.materials import Materials
from lightning_cifake.errors import UserError
from lightning_cifake.extras import EXTRA_OF, require

log = logging.getLogger(__name__)

PARITY = 1e-4
"""Largest difference of two exact engines' probabilities. float32 through 50 layers leaves some 1e-5 on a trained
network; other weights, or another preprocessing, some tenths."""
HALF_PARITY = 0.02
"""Largest mean difference of an engine's probabilities in half precision from its own in float32. Rounding moves single
images near the threshold; another network moves all of them."""
REPEATS = {1: 20, 32: 5, 256: 1}  # of each batch size in a round


class Settings(NamedTuple):
    """What the command's arguments of the same names say."""

    threads: int
    device: str = "cpu"
    precision: str = "32-true"
    batch_size: int = 32
    tuned_batch_size: int = 128
    rounds: int = 7
    starts: int = 5
    turn_images: int = 384
    xla: bool = False

    def batch_of(self, engine: Engine) -> int:
        return self.tuned_batch_size if engine.large else self.batch_size


class Bench:
    """One benchmark: ``raw`` holds what was measured of each engine, ``failed`` why one fell out."""

    def __init__(self, engines: Sequence[Engine], materials: Materials, settings: Settings, make: Any = Worker) -> None:
        self.engines, self.materials, self.settings, self.make = list(engines), materials, settings, make
        self.raw: dict[str, dict[str, Any]] = {engine.name: {"train": {}, "answer": {}} for engine in engines}
        self.failed: dict[str, str] = {}
        self.probabilities: dict[str, np.ndarray] = {}  # in the precision that is measured
        self.exact: dict[str, np.ndarray] = {}  # in float32
        self.half_differences: dict[str, dict[str, float]] = {}

    @contextmanager
    def _drop_on_error(self, engine: Engine, doing: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.failed[engine.name] = f"{doing}: {error}"
            log.warning("%s falls out, %s: %s", engine.name, doing, error)

    def _active(self, what: Callable[[Engine], bool]) -> list[Engine]:
        return [engine for engine in self.engines if what(engine) and engine.name not in self.failed]

    def _spec(self, engine: Engine, **others: Any) -> dict[str, Any]:
        settings = self.settings
        common = {"threads": settings.threads, "device": settings.device, "precision": settings.precision}
        return {**common, "xla": settings.xla and engine.name.startswith("tf-tuned"), **others}

    def _answerer(self, engine: Engine) -> Worker:
        return self.make(engine, self._spec(engine, task="answer", model=self.materials.model(engine.model)))

    def _started(
        self,
        stack: ExitStack,
        what: Callable[[Engine], bool],
        doing: str,
        start: Callable[[Engine, ExitStack, int], Worker],
    ) -> dict[str, Worker]:
        """Every engine started anew as often as asked for, in turns; the last process of each stays, in ``stack``."""
        workers: dict[str, Worker] = {}
        for number in range(self.settings.starts):
            for engine in self._active(what):
                with self._drop_on_error(engine, doing), ExitStack() as own:
                    if engine.module == REFERENCE and self.make is Worker:  # before its file is asked for
                        require(EXTRA_OF["tensorflow"], "tensorflow", what=f"the engine {engine.name}")
                    worker = start(engine, own, number)
                    if number == self.settings.starts - 1:
                        workers[engine.name] = worker
                        stack.push(own.pop_all())
        return workers

    def answers(self) -> None:
        """Holds the engines' answers against each other, then times them.

        Raises:
            UserError: two exact engines do not answer alike: there is nothing to compare.
        """
        with ExitStack() as stack:
            workers = self._started(stack, lambda each: each.answers, "start to first answer", self._cold_start)
            for engine in self._active(lambda each: each.answers):
                with self._drop_on_error(engine, "inference"):
                    log.info("answers: %s, %s images", engine.name, f"{len(self.materials.labels):,}")
                    self._ask_about_images(engine, workers[engine.name])
            self._refuse_what_differs()
            for number in range(self.settings.rounds):
                log.info("answers: round %d of %d", number + 1, self.settings.rounds)
                for engine in self._active(lambda each: each.answers):
                    with self._drop_on_error(engine, "inference"):
                        self._answer_turn(engine, workers[engine.name])
            for engine in self._active(lambda each: each.answers):
                with self._drop_on_error(engine, "inference"):
                    self.raw[engine.name]["answer"]["peak_mib"] = workers[engine.name].end()

    def _cold_start(self, engine: Engine, stack: ExitStack, number: int) -> Worker:
        started = time.perf_counter()
        worker = stack.enter_context(self._answerer(engine))
        worker.ask({"file": self.materials.image})
        taken = time.perf_counter() - started
        log.info("start to first answer, %d of %d: %s %.1f s", number + 1, self.settings.starts, engine.name, taken)
        self.raw[engine.name]["answer"].setdefault("cold", []).append(taken)
        return worker

    def _answer_turn(self, engine: Engine, worker: Worker) -> None:
        seconds = self.raw[engine.name]["answer"].setdefault("seconds", {})
        for batch in figures.BATCHES:
            reply = worker.ask({"batch": batch, "repeats": REPEATS[batch]})
            seconds.setdefault(str(batch), []).append(reply["seconds"])

    def _ask_about_images(self, engine: Engine, worker: Worker) -> None:
        """In the precision that is measured, and in float32 where that is another."""

        def ask(**more: Any) -> np.ndarray:
            found = np.array(worker.ask({"images": self.materials.pixels, **more})["prob_real"])
            if not np.isfinite(found).all():
                raise UserError("its probabilities are not all numbers")
            return found

        measured = ask()
        if engine.exact:
            precision = engine.answers_in(self.settings.precision)
            self.exact[engine.name] = measured if precision == "32-true" else ask(exact=True)
            if precision != "32-true":
                apart = np.abs(measured - self.exact[engine.name])
                self.half_differences[engine.name] = {"mean": float(apart.mean()), "max": float(apart.max())}
                if apart.mean() > HALF_PARITY:
                    raise UserError(
                        f"its probabilities in {precision} differ from its own in float32 by {apart.mean():.2g} on "
                        f"average, expected at most {HALF_PARITY}"
                    )
        self.probabilities[engine.name] = measured

    def _refuse_what_differs(self) -> None:
        found = figures.max_disagreement(self.exact)
        if found is not None and found[2] > PARITY:
            raise UserError(
                f"{found[0]} and {found[1]} do not answer alike on the same images: their probabilities differ by "
                f"{found[2]:.2g}, expected at most {PARITY:.0e}. They are not the same model, and nothing is compared"
            )

    def training(self) -> None:
        """Starts, first epochs from JPEG files, then steps in turns."""
        with ExitStack() as stack:
            workers = self._started(stack, lambda each: each.trains, "training", self._first_epoch)
            for number in range(self.settings.rounds):
                log.info("training: round %d of %d", number + 1, self.settings.rounds)
                for engine in self._active(lambda each: each.trains):
                    with self._drop_on_error(engine, "training"):
                        steps = -(-self.settings.turn_images // self.settings.batch_of(engine))
                        reply = workers[engine.name].ask({"steps": steps})
                        self.raw[engine.name]["train"].setdefault("turns", []).append(reply)
            for engine in self._active(lambda each: each.trains):
                with self._drop_on_error(engine, "training"):
                    self.raw[engine.name]["train"]["peak_mib"] = workers[engine.name].end()

    def _first_epoch(self, engine: Engine, stack: ExitStack, number: int) -> Worker:
        if engine.module == REFERENCE and not self.materials.published:
            raise UserError("it trains the published network alone, and these weights are of another one")
        scratch = stack.enter_context(_scratch())
        batch = self.settings.batch_of(engine)
        materials = self.materials
        spec = self._spec(
            engine, task="train", data=materials.folder, scratch=scratch, batch_size=batch, network=materials.network,
            image_size=materials.image_size,
        )  # fmt: skip
        raw = self.raw[engine.name]["train"]
        started = time.perf_counter()
        worker = stack.enter_context(self.make(engine, spec))
        worker.ask({"first": "step"})
        raw.setdefault("first_step", []).append(time.perf_counter() - started)
        worker.ask({"first": "epoch"})
        raw.setdefault("first_epoch", []).append(time.perf_counter() - started)
        log.info(
            "start and first epoch, %d of %d: %s, first step after %.1f s, %d images after %.1f s",
            number + 1, self.settings.starts, engine.name, raw["first_step"][-1], self.materials.train_images,
            raw["first_epoch"][-1],
        )  # fmt: skip
        return worker


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""Images that wait, answered together: a bounded queue, and threads that decode and ask the model.

Each thread takes what waits, up to a batch, decodes it and asks. While it is at it more come, which the next one takes
together: the more there is to do, the larger the batches. onnxruntime computes with one thread in each: on images of
this size two batches side by side are faster than one batch on two threads (docs/serve.md).
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from lightning_cifake.deploy.answers import Prediction
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.larger import Larger, under
from lightning_cifake.deploy.load import Encoded, Loaded, Room, decode
from lightning_cifake.deploy.stream import DECODED_BYTES, stream
from lightning_cifake.machine import cores
from lightning_cifake.serve.errors import Refused, busy
from lightning_cifake.serve.explanation import EXPLAIN_COST, Explained, explain
from lightning_cifake.text import reason_of

BATCH_BYTES = 2 * 2**20  # of files, after which a batch is full: large photographs do not keep small ones waiting


class Observer(Protocol):
    """What is told of the work, for the metrics."""

    def batch(self, images: int, seconds: float) -> None: ...


@dataclass(eq=False)
class Job:
    """One image that waits for its answer.

    Attributes:
        image: the file's bytes, under the client's name for it: never a path.
        larger: what is done with a picture larger than the model looks at.
        explained: whether it is to be explained too.
        answer: what was found; set in the thread of the event loop.
    """

    image: Encoded
    larger: Larger
    explained: bool
    answer: "asyncio.Future[Any]"
    since: float = field(default_factory=time.perf_counter)

    @property
    def cost(self) -> int:
        return EXPLAIN_COST if self.explained else 1


class LimitedRoom(Room):
    """What may be decoded at once by all threads; a picture of too many pixels is refused by its header."""

    def __init__(self, limit: int, pixels: int) -> None:
        super().__init__(limit)
        self._pixels = pixels

    @contextmanager
    def of(self, need: int) -> Iterator[None]:
        if need > 4 * self._pixels:  # four bytes a pixel
            raise ValueError(f"{need // 4:,} pixels: expected at most {self._pixels:,}")
        with super().of(need):
            yield


class Engine:
    """Answers images of any requests, a batch at a time.

    Args:
        detector: with one thread: the engine's own are enough.
        workers: threads; one more than there are cores by default, as each waits for Python's lock now and then.
        queue: images that wait or are being answered, at most.
        batch: images that the model is given at once.
        pixels: of one picture, at most.
        uncertain: (low, high): the verdict is UNCERTAIN from low to high of P(REAL).
        observer: is told of each batch.
    """

    def __init__(
        self,
        detector: Detector,
        workers: int | None = None,
        queue: int = 512,
        batch: int = 32,
        pixels: int = 64_000_000,
        uncertain: tuple[float, float] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.detector, self.uncertain = detector, uncertain
        self._workers, self._queue, self._batch = workers or cores() + 1, queue, batch
        self._room = LimitedRoom(DECODED_BYTES, pixels)
        self._observer = observer
        self._waiting: deque[Job] = deque()
        self._held = 0  # cost of what waits and of what is being answered
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def held(self) -> int:
        """Images that wait or are being answered; an explanation counts for several."""
        return self._held

    @property
    def alive(self) -> bool:
        """Whether every thread that was started still runs, and it has not been closed."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def require_room(self, cost: int = 1) -> None:
        """Also asked before a body is read.

        Raises:
            Refused: 429 where there is no room for so many images; 503 where it is closed.
        """
        if self._closed:
            raise Refused(503, "the server is stopping", {"Retry-After": "5"})
        if self._held + cost > self._queue:
            raise busy(f"the queue is full: {self._held} images wait, and at most {self._queue} may")

    async def answer(self, images: Sequence[Encoded], larger: Larger, seconds: float) -> list[Prediction]:
        """Answers in order.

        Raises:
            Refused: 429 at once where the queue has no room for all; 503 where they were not there in time.
        """
        return await self._ask([(image, larger, False) for image in images], seconds)

    async def explain(self, image: Encoded, seconds: float) -> Explained:
        """An answer and its pictures.

        Raises:
            Refused: as :meth:`answer`.
        """
        (found,) = await self._ask([(image, "resize", True)], seconds)
        return found

    async def _ask(self, asked: Sequence[tuple[Encoded, Larger, bool]], seconds: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        jobs = [Job(*each, loop.create_future()) for each in asked]
        self._put(jobs)
        answers = [job.answer for job in jobs]
        timer = loop.call_later(seconds, _give_up, answers, seconds)
        try:
            return [await answer for answer in answers]
        finally:
            timer.cancel()
            for answer in answers:  # those that nobody waits for any more are not computed
                answer.cancel()

    def _put(self, jobs: Sequence[Job]) -> None:
        cost = sum(job.cost for job in jobs)
        with self._changed:
            self.require_room(cost)
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._work, name=f"answers {number}", daemon=True)
                    for number in range(self._workers)
                ]
                for thread in self._threads:
                    thread.start()
            self._held += cost
            self._waiting.extend(jobs)
            self._changed.notify(-(-len(jobs) // self._batch))

    def close(self) -> None:
        """Answers what it holds, and takes no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            self._answer_all(jobs)
            del jobs  # no file's bytes are held while it waits

    def _take(self) -> list[Job] | None:
        """Of one kind, up to a batch; None when there will be no more."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            first = self._waiting.popleft()
            jobs, size = [first], len(first.image.content)  # type: ignore[arg-type]
            while (
                not first.explained
                and self._waiting
                and len(jobs) < self._batch
                and size < BATCH_BYTES
                and (self._waiting[0].larger, self._waiting[0].explained) == (first.larger, False)
            ):
                jobs.append(self._waiting.popleft())
                size += len(jobs[-1].image.content)  # type: ignore[arg-type]
            if self._waiting:
                self._changed.notify()
            return jobs

    def _answer_all(self, jobs: list[Job]) -> None:
        wanted = [job for job in jobs if not job.answer.done()]  # nobody waits for the others
        start = time.perf_counter()
        try:
            results = self._results(wanted)
        finally:
            with self._changed:
                self._held -= sum(job.cost for job in jobs)
        if wanted:
            if self._observer is not None:
                self._observer.batch(len(wanted), time.perf_counter() - start)
            _deliver(wanted, results)

    def _results(self, jobs: Sequence[Job]) -> list[Any]:
        try:
            return self._found(jobs)
        except Exception as error:
            if len(jobs) > 1:  # one of them is to blame, and no other is to suffer for it
                return [result for job in jobs for result in self._results([job])]
            return [_failed(jobs[0], error)] if jobs else []

    def _found(self, jobs: Sequence[Job]) -> list[Any]:
        if not jobs:
            return []
        if jobs[0].explained:
            return [explain(self.detector, job.image, self._room, self.uncertain) for job in jobs]
        larger = jobs[0].larger
        prepare = under(self.detector, larger).prepare
        loaded: list[Loaded] = [decode(job.image, prepare, self._room) for job in jobs]
        return list(stream(self.detector, loaded, self.uncertain, self._batch, larger=larger))


def _give_up(answers: Sequence["asyncio.Future[Any]"], seconds: float) -> None:
    """Tells the one that waits, which waits for the first that is not there."""
    waited = next((answer for answer in answers if not answer.done()), None)
    if waited is not None:
        waited.set_exception(Refused(503, f"no answer within {seconds:g} s", {"Retry-After": "5"}))


def _failed(job: Job, error: Exception) -> Any:
    answer = Prediction(job.image.name, None, None, f"cannot be answered ({reason_of(error)})")
    return Explained(answer, None, None) if job.explained else answer


def _deliver(jobs: Sequence[Job], results: Sequence[Any]) -> None:
    """To the event loops that wait, a call for each of them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        by_loop.setdefault(job.answer.get_loop(), []).append((job, result))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set, pairs)
        except RuntimeError:  # it is closed: nobody waits there any more
            continue


def _set(pairs: Sequence[tuple[Job, Any]]) -> None:
    for job, result in pairs:
        if not job.answer.done():
            job.answer.set_result(result)

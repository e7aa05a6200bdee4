"""Images in, answers out, in order: decoded beside the model, a few ahead, and no more are held."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lightning_cifake.deploy.answers import Prediction, decide
from lightning_cifake.deploy.interruptible import Stoppable
from lightning_cifake.deploy.larger import Larger, Resized, Scored, under
from lightning_cifake.deploy.load import Encoded, Image, Loaded, Prepare, Room, decode, each_of, take
from lightning_cifake.deploy.pool import Pool
from lightning_cifake.errors import UserError

BATCH_BYTES = 32 * 2**20  # of pixels, after which a batch is full, however few images
# that are decoded at once by all threads together, at the four bytes a pixel that Pillow holds: two photographs of 16
# megapixels, or one that is larger. Behind its decoding nothing of a photograph is held but what the model is given.
DECODED_BYTES = 128 * 2**20
LARGE = 512 * 512  # pixels of an image that is better decoded beside others than behind them
TASK_BYTES = 8 * 2**20  # of images that were handed over as bytes, and wait for a thread


class Model(Scored, Protocol):
    """What is asked about images."""

    @property
    def threshold(self) -> float: ...

    def prob_real(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N prepared images -> (N,) float32 P(REAL)."""


def check_options(
    uncertain: Any = None, batch_size: Any = 1, threads: Any = None, flag: str = ""
) -> tuple[float, float] | None:
    """What the command line and Python's callers may ask for; ``flag`` is what stands before a name: ``--``.

    Raises:
        UserError: another value.
    """
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        # True is no count; numpy's integers are
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if (value is not None or name == "batch_size") and not (whole and value >= 1):
            raise UserError(f"{flag}{name}: expected {'' if whole else 'a whole number, '}at least 1, got {value!r}")
    if uncertain is None:
        return None
    try:
        low, high = (float(each) for each in uncertain)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low <= high <= 1:
        got = " ".join(str(each) for each in uncertain) if isinstance(uncertain, (list, tuple)) else repr(uncertain)
        raise UserError(f"{flag}uncertain: expected 0 <= LOW <= HIGH <= 1, got {got}")
    return low, high


def stream(
    model: Model,
    images: Image | Iterable[Image],
    uncertain: tuple[float, float] | None = None,
    batch_size: int = 32,
    threads: int = 1,
    larger: Larger = "resize",
) -> Iterator[Prediction]:
    """Answers in order as they are known; a few images ahead are decoded beside the model, and no more are held.

    Args:
        model: what is asked.
        images: one or many.
        uncertain: (low, high): the verdict is UNCERTAIN where low <= P(REAL) <= high.
        batch_size: images at once.
        threads: that decode.
        larger: what is done with larger pictures, as :func:`~lightning_cifake.deploy.larger.under` has it.

    Raises:
        UserError: at the call, arguments that make no sense; later, an image that is none.
    """
    band = check_options(uncertain, batch_size, threads)
    return _stream(model, under(model, larger), each_of(images), band, batch_size, threads)


def _stream(
    model: Model,
    policy: Resized,
    images: Iterator[Image],
    uncertain: tuple[float, float] | None,
    batch_size: int,
    threads: int,
) -> Iterator[Prediction]:
    def answered(loaded: Iterable[Loaded]) -> Iterator[Prediction]:
        return _answered(model, policy, loaded, uncertain, batch_size)

    if threads > 1 and getattr(model, "many_threads", False):
        return in_threads(images, policy.prepare, answered, threads, batch_size)
    return answered(load_ahead(images, policy.prepare, threads))


def _answered(
    model: Model,
    policy: Resized,
    images: Iterable[Loaded],
    uncertain: tuple[float, float] | None,
    batch_size: int,
) -> Iterator[Prediction]:
    batch: list[Loaded] = []
    size = 0
    for loaded in images:
        batch.append(loaded)
        size += 0 if loaded.pixels is None else loaded.pixels.nbytes
        if len(batch) >= batch_size or size >= BATCH_BYTES:
            yield from _answers(model, policy, batch, uncertain)
            batch, size = [], 0
    yield from _answers(model, policy, batch, uncertain)


def load_ahead(images: Iterator[Image], prepare: Prepare, threads: int) -> Iterator[Loaded]:
    """Decoded in order, at most two ahead of each thread."""
    if threads <= 1:
        yield from (decode(take(image, number, prepare), prepare) for number, image in enumerate(images))
        return
    room = Room(DECODED_BYTES)
    made: Pool[Loaded | Encoded, Loaded] = Pool(threads, lambda taken: decode(taken, prepare, room))
    with made as pool:
        for number, image in enumerate(images):
            pool.put(take(image, number, prepare))
            if len(pool) > 2 * threads:
                yield pool.get()
        while pool:
            yield pool.get()


def in_threads(
    images: Iterator[Image],
    prepare: Prepare,
    answered: Callable[[Iterable[Loaded]], Iterable[Prediction]],
    threads: int,
    batch_size: int,
) -> Iterator[Prediction]:
    """Each of several threads decodes a few images and asks the model about them, beside the others; in order.

    So a core that has decoded need not wait for the other to ask. As many images are held as where one batch is
    gathered while the next is decoded. Of photographs each is a task of its own, as decoding is most of the work.
    """
    most = batch_size + 2 * threads
    few = min(batch_size, max(1, most // (threads + 1)))  # a task for each thread, and one that is gathered meanwhile
    room = Room(DECODED_BYTES)
    runs = Stoppable()

    def work(task: list[Loaded | Encoded]) -> tuple[list[Prediction], int]:
        largest = 0

        def loaded() -> Iterator[Loaded]:
            nonlocal largest
            for taken in task:
                found = decode(taken, prepare, room)
                largest = max(largest, math.prod(found.size or (0,)))
                yield found

        with runs.here():
            return list(answered(loaded())), largest

    def is_full(task: list[Loaded | Encoded]) -> bool:
        return len(task) >= (few if isinstance(task[-1], Loaded) else each) or sum(map(_held, task)) > TASK_BYTES

    each = 1  # images a task, until it is seen how large they are
    waiting: deque[tuple[int, int]] = deque()  # images, and bytes, of the tasks whose answers have not been given
    task: list[Loaded | Encoded] = []
    try:
        with Pool(threads, work) as pool:
            for number, image in enumerate(images):
                if task and is_full(task):
                    pool.put(task)
                    waiting.append((len(task), sum(map(_held, task))))
                    task = []
                    while len(waiting) > threads or _too_many(waiting, most - few):
                        answers, largest = pool.get()
                        waiting.popleft()
                        each = 1 if largest > LARGE else few
                        yield from answers
                task.append(take(image, number, prepare))
            if not pool:  # so few that no other thread is needed: here a run has all cores
                yield from answered(decode(taken, prepare) for taken in task)
                return
            pool.put(task)
            while pool:
                yield from pool.get()[0]
    finally:
        runs.stop()


def _too_many(waiting: Collection[tuple[int, int]], most: int) -> bool:
    images, held = sum(each[0] for each in waiting), sum(each[1] for each in waiting)
    return images > most or held > TASK_BYTES


def _held(taken: Loaded | Encoded) -> int:
    """Bytes that an image takes while it waits; a file that is still to be read, none."""
    if isinstance(taken, Loaded):
        return 0 if taken.pixels is None else taken.pixels.nbytes
    return len(taken.content) if isinstance(taken.content, bytes) else 0


def _answers(
    model: Model, policy: Resized, batch: list[Loaded], uncertain: tuple[float, float] | None
) -> Iterator[Prediction]:
    pixels = [loaded.pixels for loaded in batch if loaded.pixels is not None]
    probabilities = iter(_prob_real(model, policy, pixels) if pixels else ())
    for loaded in batch:
        if loaded.pixels is None:
            yield Prediction(loaded.name, None, None, loaded.error)
            continue
        prob = float(next(probabilities))
        if not 0 <= prob <= 1:  # NaN neither
            yield Prediction(loaded.name, None, None, f"the model's answer is no probability: {prob}")
            continue
        height, width = loaded.size or loaded.pixels.shape[-3:-1]
        warnings = [each for each in (loaded.warning, policy.warning(height, width)) if each]
        verdict = decide(prob, model.threshold, uncertain)
        yield Prediction(loaded.name, verdict, prob, warning="; ".join(warnings) or None)


def _prob_real(model: Model, policy: Resized, prepared: list[np.ndarray]) -> np.ndarray:
    """The model's own of what it is given as one image, to the last bit; else that of the policy's logit."""
    singles = [policy.single(each) for each in prepared]
    prob = np.empty(len(prepared), np.float32)
    own = np.array([each is not None for each in singles])
    if own.any():
        prob[own] = model.prob_real([each for each in singles if each is not None])
    if not own.all():
        logits = policy.logits([each for each, single in zip(prepared, singles, strict=True) if single is None])
        small = np.exp(-np.abs(logits))  # no overflow; scipy is not needed to answer
        prob[~own] = np.where(logits >= 0, 1, small) / (1 + small)
    return prob

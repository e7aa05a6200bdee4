"""Images in, answers out, in order: decoded beside the model, a few ahead, and no more are held."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import numpy as np

from lightning_cifake.deploy.answers import Prediction, decide
from lightning_cifake.deploy.larger import Larger, Resized, Scored, under
from lightning_cifake.deploy.load import Encoded, Image, Loaded, Prepare, Room, decode, each_of, take
from lightning_cifake.errors import UserError

BATCH_BYTES = 32 * 2**20  # of pixels, after which a batch is full, however few images
# that are decoded at once by all threads together, at the four bytes a pixel that Pillow holds: two photographs of 16
# megapixels, or one that is larger. Behind its decoding nothing of a photograph is held but what the model is given.
DECODED_BYTES = 128 * 2**20


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
    batch: list[Loaded] = []
    size = 0
    for loaded in load_ahead(images, policy.prepare, threads):
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
    # not a ThreadPoolExecutor: Ctrl-C inside its submit leaves a lock held, and its end then waits for ever. These
    # queues are C, which an exception cannot leave half done, and daemon threads are not waited for.
    tasks: SimpleQueue[tuple[Loaded | Encoded, SimpleQueue[Loaded | Exception]] | None] = SimpleQueue()
    ahead: deque[SimpleQueue[Loaded | Exception]] = deque()
    room = Room(DECODED_BYTES)
    try:
        for _ in range(threads):
            Thread(target=_decode, args=(tasks, prepare, room), daemon=True).start()
        for number, image in enumerate(images):
            ahead.append(SimpleQueue())
            tasks.put((take(image, number, prepare), ahead[-1]))
            if len(ahead) > 2 * threads:
                yield _result(ahead.popleft())
        while ahead:
            yield _result(ahead.popleft())
    finally:
        for _ in range(threads):
            tasks.put(None)


def _decode(
    tasks: "SimpleQueue[tuple[Loaded | Encoded, SimpleQueue[Loaded | Exception]] | None]", prepare: Prepare, room: Room
) -> None:
    """A thread of :func:`load_ahead`: until None comes."""
    while (task := tasks.get()) is not None:
        taken, reply = task
        try:
            reply.put(decode(taken, prepare, room))
        except Exception as error:
            reply.put(error)
        del task, taken, reply  # a file's bytes are not held until the next one comes


def _result(reply: "SimpleQueue[Loaded | Exception]") -> Loaded:
    found = reply.get()
    if isinstance(found, Exception):
        raise found
    return found


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

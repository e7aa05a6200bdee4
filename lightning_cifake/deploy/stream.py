"""Images in, answers out, in order: decoded beside the model, a few ahead, and no more are held."""

from collections import deque
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lightning_cifake.deploy.answers import Answer, decide, doubts
from lightning_cifake.deploy.inputs import Image, Loaded, load

BATCH_BYTES = 32 * 2**20  # of pixels, after which a batch is full, however few images: photographs are large


def stream(
    model: Any,
    images: Iterable[Image],
    uncertain: tuple[float, float] | None = None,
    batch_size: int = 32,
    threads: int = 1,
) -> Iterator[Answer]:
    """Answers in order as they are known; a few images ahead are decoded beside the model, and no more are held.

    Args:
        model: anything with ``prob_real(list of (H, W, 3) uint8) -> (N,)``, ``threshold`` and ``image_size``.
        threads: that decode.
    """
    batch: list[Loaded] = []
    size = 0
    for loaded in _loaded(images, threads):
        batch.append(loaded)
        size += 0 if loaded.pixels is None else loaded.pixels.nbytes
        if len(batch) >= batch_size or size >= BATCH_BYTES:
            yield from _answers(model, batch, uncertain)
            batch, size = [], 0
    yield from _answers(model, batch, uncertain)


def _loaded(images: Iterable[Image], threads: int) -> Iterator[Loaded]:
    """Decoded in order, at most two ahead of each thread."""
    if threads <= 1:
        yield from (load(image, number) for number, image in enumerate(images))
        return
    # not a ThreadPoolExecutor: Ctrl-C inside its submit leaves a lock held, and its end then waits for ever. These
    # queues are C, which an exception cannot leave half done, and daemon threads are not waited for.
    tasks: SimpleQueue[tuple[Image, int, SimpleQueue[Loaded | Exception]] | None] = SimpleQueue()
    ahead: deque[SimpleQueue[Loaded | Exception]] = deque()
    try:
        for _ in range(threads):
            Thread(target=_decode, args=(tasks,), daemon=True).start()
        for number, image in enumerate(images):
            ahead.append(SimpleQueue())
            tasks.put((image, number, ahead[-1]))
            if len(ahead) > 2 * threads:
                yield _result(ahead.popleft())
        while ahead:
            yield _result(ahead.popleft())
    finally:
        for _ in range(threads):
            tasks.put(None)


def _decode(tasks: "SimpleQueue[tuple[Image, int, SimpleQueue[Loaded | Exception]] | None]") -> None:
    """A thread of :func:`_loaded`: until None comes."""
    while (task := tasks.get()) is not None:
        image, number, reply = task
        try:
            reply.put(load(image, number))
        except Exception as error:
            reply.put(error)


def _result(reply: "SimpleQueue[Loaded | Exception]") -> Loaded:
    found = reply.get()
    if isinstance(found, Exception):
        raise found
    return found


def _answers(model: Any, batch: list[Loaded], uncertain: tuple[float, float] | None) -> Iterator[Answer]:
    pixels = [loaded.pixels for loaded in batch if loaded.pixels is not None]
    probabilities = iter(model.prob_real(pixels) if pixels else ())
    for loaded in batch:
        if loaded.pixels is None:
            yield Answer(loaded.name, None, None, loaded.error)
            continue
        prob = float(next(probabilities))
        height, width = loaded.pixels.shape[:2]
        yield Answer(
            loaded.name, decide(prob, model.threshold, uncertain), prob, warning=doubts(height, width, model.image_size)
        )

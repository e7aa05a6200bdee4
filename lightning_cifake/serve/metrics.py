"""What a Prometheus server reads at /metrics. Counts and times: nothing of any picture, name or client."""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from lightning_cifake.deploy.answers import Prediction

if TYPE_CHECKING:
    from lightning_cifake.serve.bodies import Memory
    from lightning_cifake.serve.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, processor time, open files
        registry = self._registry
        requests = Counter("cifake_requests", "Requests answered", ["route", "status"], registry=registry)
        seconds = Histogram(
            "cifake_request_seconds", "From a request's head to its answer's end", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        images = Counter("cifake_images", "Images answered, by verdict or error", ["verdict"], registry=registry)
        # looked up anew for each request they take longer than the counting; there are few of each
        self._requests, self._seconds, self._images = (
            cache(requests.labels),
            cache(seconds.labels),
            cache(images.labels),
        )
        self._batch = Histogram(
            "cifake_batch_images", "Images that were answered together", buckets=IMAGES, registry=registry
        )
        self._batch_seconds = Histogram(
            "cifake_batch_seconds", "From a batch's files to its answers", buckets=SECONDS, registry=registry
        )
        self._queue = Gauge("cifake_queue_images", "Images that wait or are being answered", registry=registry)
        self._bytes = Gauge("cifake_body_bytes", "Bytes of bodies that are held", registry=registry)

    def watch(self, engine: "Engine", memory: "Memory") -> None:
        """Reads these two whenever it is asked."""
        self._queue.set_function(lambda: engine.held)
        self._bytes.set_function(lambda: memory.held)

    def batch(self, images: int, seconds: float) -> None:
        """A batch was answered."""
        self._batch.observe(images)
        self._batch_seconds.observe(seconds)

    def answered(self, answers: Iterable[Prediction]) -> None:
        """Images were."""
        for answer in answers:
            self._images(answer.verdict or "error").inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was; ``route`` is one of the app's own, not what the client wrote."""
        self._requests(route, status).inc()
        self._seconds(route).observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus's own format."""
        return generate_latest(self._registry)

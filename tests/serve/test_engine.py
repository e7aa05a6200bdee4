"""The queue: images that wait are answered together, a full one refuses at once, and none is forgotten."""

import asyncio
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from served import LIMITS, head, picture, said, serving, talk

from lightning_cifake import Detector
from lightning_cifake.deploy.load import Encoded
from lightning_cifake.errors import UserError
from lightning_cifake.serve import refusal
from lightning_cifake.serve.engine import Engine
from lightning_cifake.serve.errors import Refused
from lightning_cifake.serve.settings import Settings

FILES = [Encoded(f"{seed}.png", picture(seed=seed)) for seed in range(40)]


class Held:
    """A detector that answers when it is let; of ``poison`` it fails."""

    def __init__(self, poison: int | None = None) -> None:
        self.let, self.batches, self.poison = threading.Event(), [], poison
        self.threshold, self.image_size = 0.5, 32

    def prepare(self, picture):
        return picture.rows(0, picture.height)

    def prob_real(self, images):
        assert self.let.wait(20)
        self.batches.append(len(images))
        if self.poison is not None and any(image[0, 0, 0] == self.poison for image in images):
            raise UserError("this one breaks it")
        return np.array([image.mean() / 255 for image in images], np.float32)


class Batches:
    def __init__(self) -> None:
        self.images: list[int] = []

    def batch(self, images: int, seconds: float) -> None:
        self.images.append(images)


def test_what_waits_is_answered_together_and_in_order():
    detector, seen = Held(), Batches()
    engine = Engine(detector, workers=1, batch=16, observer=seen)

    async def ask():
        asked = [asyncio.create_task(engine.answer([each], "resize", 20)) for each in FILES]
        await asyncio.sleep(0)
        assert engine.held == 40
        detector.let.set()
        return [answer for (answer,) in await asyncio.gather(*asked)]

    answers = asyncio.run(ask())
    assert [answer.path for answer in answers] == [each.name for each in FILES]
    assert len({answer.prob_real for answer in answers}) > 30 and engine.held == 0
    assert sum(seen.images) == 40 and max(seen.images) == 16 and len(seen.images) <= 5
    engine.close()


def test_answers_are_the_detectors_own_whatever_they_are_batched_with():
    expected = Detector().predict([each.content for each in FILES], larger="tiles")
    engine = Engine(Detector(threads=1), workers=2, batch=7)

    async def ask():
        return await asyncio.gather(*(engine.answer([each], "tiles", 20) for each in FILES))

    found = [answer for (answer,) in asyncio.run(ask())]
    assert [each.prob_real for each in found] == pytest.approx([each.prob_real for each in expected], abs=1e-6)
    engine.close()


def test_a_full_queue_refuses_at_once_and_keeps_what_it_has():
    detector = Held()
    engine = Engine(detector, workers=1, queue=40)

    async def ask():
        asked = asyncio.create_task(engine.answer(FILES, "resize", 20))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await engine.answer(FILES[:1], "resize", 20)
        detector.let.set()
        return refused.value, await asked

    refused, answers = asyncio.run(ask())
    assert refused.status == 429 and refused.headers["Retry-After"] == "1" and len(answers) == 40
    engine.close()


def test_who_waits_too_long_is_told_so_and_what_nobody_waits_for_is_not_computed(caplog):
    detector = Held()
    engine = Engine(detector, workers=1, batch=4)

    async def ask():
        with pytest.raises(Refused) as refused:
            await engine.answer(FILES, "resize", 0.1)
        return refused.value

    caplog.set_level(logging.DEBUG)  # of an exception that nobody fetched asyncio would say so
    refused = asyncio.run(ask(), debug=True)
    assert refused.status == 503 and refused.reason == "no answer within 0.1 s" and "never" not in caplog.text
    detector.let.set()
    engine.close()  # waits for what it holds
    assert engine.held == 0 and sum(detector.batches) <= 4


def test_an_image_that_breaks_the_model_takes_none_with_it():
    first = [int(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)[0, 0, 0]) for seed in range(40)]
    poison = first[3]
    detector = Held(poison)
    detector.let.set()
    engine = Engine(detector, workers=1)
    answers = asyncio.run(engine.answer(FILES, "resize", 20))
    failed = {answer.path for answer in answers if answer.error is not None}
    assert failed == {f"{seed}.png" for seed in range(40) if first[seed] == poison}
    assert all("this one breaks it" in answer.error for answer in answers if answer.error)
    engine.close()


def test_a_closed_engine_takes_nothing():
    engine = Engine(Held(), workers=1)
    engine.close()
    with pytest.raises(Refused) as refused:
        asyncio.run(engine.answer(FILES[:1], "resize", 20))
    assert refused.value.status == 503 and not engine.alive


def test_a_server_that_is_stopped_says_so_first_and_answers_what_it_has_accepted():
    limits = replace(LIMITS, drain_seconds=0.5)
    with serving(Settings(log="none", workers=1, limits=limits)) as served, served.client() as client:
        detector = served.state.engine.detector = Held()
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(
                lambda: served.client().post("/v1/predict", files={"files": ("a.png", FILES[0].content)})
            )
            while not served.state.engine.held:
                time.sleep(0.01)
            assert "connection" not in client.get("/readyz").headers
            served.server.handle_exit(signal.SIGTERM, None)
            response = client.get("/readyz")
            assert response.headers["connection"] == "close", "no request is sent into a connection that will be closed"
            assert response.status_code == 503 and response.json() == {"status": "stopping"}
            assert client.get("/healthz").status_code == 200
            time.sleep(1)  # past the draining: nothing new is taken
            with pytest.raises(Exception, match=r"refused|reset|disconnected"):
                served.client().get("/healthz")
            assert served.thread.is_alive()
            detector.let.set()
            assert asked.result(20).json()["answers"][0]["error"] is None
        served.thread.join(20)
        assert not served.thread.is_alive() and served.server.killed_by is None


def test_too_much_that_is_uploaded_at_once_is_refused():
    limits = replace(LIMITS, memory_bytes=1000)
    with serving(Settings(log="none", limits=limits)) as served, served.client() as client:
        response = client.post("/v1/predict", content=bytes(2000), headers={"content-type": "image/png"})
        assert response.status_code == 429 and response.headers["retry-after"] == "1"
        assert served.state.memory.held == 0


def test_a_full_queue_refuses_before_a_body_has_come(monkeypatch):
    monkeypatch.setattr(refusal, "LINGER_SECONDS", 0.2)
    with serving(Settings(log="none", workers=1, limits=replace(LIMITS, queue=1))) as served:
        detector = served.state.engine.detector = Held()
        with ThreadPoolExecutor() as pool:
            files = {"files": ("a.png", FILES[0].content)}
            asked = pool.submit(httpx.post, f"{served.url}/v1/predict", files=files, trust_env=False, timeout=20)
            while not served.state.engine.held:
                time.sleep(0.01)
            for path in ("/v1/predict", "/v1/explain"):
                status, found = said(talk(served.port, head(1000, path=path)))  # and not a byte of the body
                assert status == 429 and found["error"].startswith("the queue is full: 1 images wait")
            detector.let.set()
            assert asked.result(20).status_code == 200

"""The HTTP API and the page, as an ASGI app: ``create_app(Settings())`` runs under uvicorn, Ray Serve or any other."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.larger import Larger
from lightning_cifake.serve import openapi
from lightning_cifake.serve.bodies import Memory, images_of
from lightning_cifake.serve.description import describe, name_of
from lightning_cifake.serve.direct import Direct
from lightning_cifake.serve.engine import Engine
from lightning_cifake.serve.errors import Refused
from lightning_cifake.serve.guard import LOGGED, Guard
from lightning_cifake.serve.metrics import Metrics
from lightning_cifake.serve.refusal import refusal
from lightning_cifake.serve.settings import Settings
from lightning_cifake.text import one_line, printable, shorten

STATIC = Path(__file__).parent / "static"
PREDICT = "/v1/predict"
# FastAPI from 0.165 on sends spans and logs to an address that the environment names; older ones take no notice of this
NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)


class State:
    """What the routes share."""

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        self.settings, self.draining = settings, False
        self.metrics, self.memory = Metrics(), Memory(limits.memory_bytes)
        self.engine = Engine(
            Detector(settings.model, threads=1),
            settings.workers,
            limits.queue,
            limits.batch,
            limits.pixels,
            settings.uncertain,
            self.metrics,
        )
        self.metrics.watch(self.engine, self.memory)
        self.name = name_of(settings.model)
        self.described = describe(self.engine.detector, settings)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app, its model opened; ``app.state.serve`` is its :class:`State`.

    Raises:
        UserError: the model cannot be used.
    """
    settings = settings or Settings()
    state = State(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        state.draining = True
        state.engine.close()

    app = FastAPI(
        title="lightning_cifake",
        version=metadata.version("lightning_cifake"),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both of FastAPI's own pages are fetched from elsewhere
        redoc_url=None,
        responses=openapi.ERRORS,
        openapi_tags=openapi.TAGS,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
    )
    app.state.serve = state
    _add_errors(app)
    _add_answers(app, state)
    _add_probes(app, state)
    _add_pages(app)
    openapi.describe_security(app, settings.token is not None)
    routes = [route.path for route in app.routes if hasattr(route, "path")]
    app.add_middleware(Direct, path=PREDICT, answer=app.state.predict)  # behind the guard
    app.add_middleware(Guard, settings=settings, metrics=state.metrics, routes=routes, stopping=lambda: state.draining)
    return app


def _add_answers(app: FastAPI, state: State) -> None:
    limits = state.settings.limits

    @app.post(PREDICT, **openapi.PREDICT)
    async def predict(request: Request, larger: Annotated[Larger, Query(description=openapi.LARGER)] = "resize") -> Any:
        state.engine.require_room()  # a full queue refuses at once, not after all has been sent
        with state.memory.of_one_request() as share:
            images = await images_of(request, limits, share)
            _note(request, images)
            answers = await state.engine.answer(images, larger, limits.answer_seconds)
        state.metrics.answered(answers)
        return _json({"model": state.name, "answers": [vars(answer) for answer in answers]})

    app.state.predict = predict

    @app.post("/v1/explain", **openapi.EXPLAIN)
    async def explain(request: Request) -> Any:
        state.engine.require_room()  # a full queue refuses at once, not after all has been sent
        with state.memory.of_one_request() as share:
            images = await images_of(request, limits, share)
            if len(images) != 1:
                raise Refused(422, f"expected one picture, got {len(images)}")
            _note(request, images)
            found = await state.engine.explain(images[0], limits.answer_seconds)
        state.metrics.answered([found.answer])
        return _json({"answer": vars(found.answer), "view": found.view, "overlay": found.overlay})

    @app.get("/v1/model", **openapi.MODEL)
    async def model() -> Any:
        return _json(state.described)


def _add_probes(app: FastAPI, state: State) -> None:
    @app.get("/healthz", **openapi.HEALTH)
    async def healthz() -> Any:
        return _json({"status": "ok"} if state.engine.alive or state.draining else {"status": "broken"},
                     200 if state.engine.alive or state.draining else 503)  # fmt: skip

    @app.get("/readyz", **openapi.READY)
    async def readyz() -> Any:
        ready = state.engine.alive and not state.draining
        return _json({"status": "ready" if ready else "stopping"}, 200 if ready else 503)

    @app.get("/metrics", **openapi.METRICS)
    async def metrics() -> Any:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Any:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Any:
        return HTMLResponse(openapi.as_page(app.openapi()))

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": one_line(str(error.detail))}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        reason = f"{where}: {first['msg']}, got {first.get('input')}"
        return refusal(Refused(422, printable(shorten(one_line(reason)))))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed; its log says why"}, 500)


def _note(request: Request, images: list[Any]) -> None:
    request.scope.setdefault("state", {})[LOGGED] = [image.name for image in images]


def _json(content: dict[str, Any], status: int = 200) -> Response:
    """As ``predict --json`` writes it: exact, in ASCII."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")

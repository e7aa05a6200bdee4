"""What /openapi.json says of the routes, and /docs of that: by hand, as a body that is counted is read by hand too."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI

from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.deploy.larger import TILES

DESCRIPTION = (
    "Tells AI-generated images from photographs. Pictures come in a request's body and stay in memory until they are "
    "answered; no address and no path is ever opened for a client. A picture that cannot be read is an answer with its "
    '`error`, and no failed request. Whatever is refused is `{"error": "one line"}`.'
)
TAGS = [
    {"name": "answers", "description": "Pictures in, answers out."},
    {"name": "operation", "description": "For what starts, watches and stops the server."},
]
LARGER = (
    "what is done with a picture larger than the model looks at: `resize` scales it to the model's size, `crop` takes "
    f"the middle square of that size, `tiles` takes up to {TILES} such squares, whose mean logit decides"
)

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ANSWER = {
    "type": "object",
    "description": "About one picture, as `predict --json` prints it.",
    "required": ["path", "verdict", "prob_real", "error", "warning"],
    "properties": {
        "path": {**_TEXT, "description": "the client's own name for the file"},
        "verdict": {"enum": [*DISPLAY_NAMES, "UNCERTAIN", None]},
        "prob_real": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "P(REAL)"},
        "error": {**_TEXT_OR_NULL, "description": "why there is no answer"},
        "warning": {**_TEXT_OR_NULL, "description": "why this one deserves less trust"},
    },
}
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")


def _body(several: bool) -> dict[str, Any]:
    file = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1, **({} if several else {"maxItems": 1})}
    form = {"type": "object", "required": ["files"], "properties": {"files": files}, "additionalProperties": False}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            **{kind: {"schema": {"type": "string", "format": "binary", "minLength": 1}} for kind in _IMAGE_TYPES},
        },
    }


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": dict(schema)}}}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


_REASON = _object({"error": {**_TEXT, "description": "one line"}})
_MEANINGS = {
    400: "a Host that this server does not go by, or a body that is no multipart/form-data",
    401: "no token, or another one",
    403: "asked by a page of another origin",
    408: "the body did not arrive in time",
    413: "too large, or too many pictures",
    415: "neither multipart/form-data nor a picture",
    422: "no picture, or an argument that there is not",
    429: "the queue is full, or too much is being uploaded: again in a second",
    503: "stopping, or no answer in time",
}
ERRORS: dict[int | str, dict[str, Any]] = {status: _json(said, _REASON) for status, said in _MEANINGS.items()}
_EARLY: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (400, 401, 403)}

PREDICT: dict[str, Any] = {
    "tags": ["answers"],
    "summary": "Ask about one picture or several",
    "openapi_extra": {"requestBody": _body(several=True)},
    "responses": {
        200: _json(
            "Answers, in the order of the pictures",
            _object({"model": _TEXT, "answers": {"type": "array", "items": _ANSWER}}),
        )
    },
}  # fmt: skip
EXPLAIN: dict[str, Any] = {
    "tags": ["answers"],
    "summary": "See one picture as the network does, and what in it speaks for which answer",
    "openapi_extra": {"requestBody": _body(several=False)},
    "responses": {
        200: _json(
            "The answer, the picture at the network's size, and a map over it: blue speaks for REAL, orange for AI",
            _object({
                "answer": _ANSWER,
                "view": {**_TEXT_OR_NULL, "description": "a PNG in a data URI"},
                "overlay": {**_TEXT_OR_NULL, "description": "a PNG in a data URI"},
            }),
        )
    },
}  # fmt: skip
MODEL: dict[str, Any] = {
    "tags": ["answers"],
    "summary": "What answers, how good it is, and what is taken",
    "responses": {
        200: _json(
            "The model",
            _object({
                "name": _TEXT,
                "file": _TEXT,
                "sha256": _TEXT,
                "version": {**_TEXT, "description": "of lightning_cifake"},
                "image_size": {"type": "integer", "description": "pixels a side that the network sees"},
                "precision": _TEXT,
                "trained_on": {**_TEXT_OR_NULL, "description": "in words"},
                "threshold": {**_NUMBER, "description": "REAL is strictly above"},
                "temperature": _NUMBER,
                "calibration": {
                    "type": ["object", "null"],
                    "description": "how the probabilities were held against pictures of known classes, if they were",
                },
                "unsure": {"type": "array", "items": _NUMBER, "description": "P(REAL) from low to high says little"},
                "larger": {"type": "array", "items": _TEXT},
                "limits": {"type": "object"},
                "figures": {"type": ["object", "null"], "description": "of the manifest beside the model"},
                "card": {**_TEXT_OR_NULL, "description": "HTML"},
            }),
        )
    },
}  # fmt: skip
_STATUS = _object({"status": _TEXT})
HEALTH: dict[str, Any] = {
    "tags": ["operation"],
    "summary": "Whether it runs",
    "responses": {**_EARLY, 200: _json("It does", _STATUS), 503: _json("It has to be started again", _STATUS)},
}
READY: dict[str, Any] = {
    "tags": ["operation"],
    "summary": "Whether to send it requests",
    "responses": {**_EARLY, 200: _json("Yes", _STATUS), 503: _json("No more: it is stopping", _STATUS)},
}
METRICS: dict[str, Any] = {
    "tags": ["operation"],
    "summary": "Counts and times for Prometheus",
    "responses": {**_EARLY, 200: {"description": "Prometheus's format", "content": {"text/plain": {"schema": _TEXT}}}},
}


def describe_security(app: FastAPI, token: bool) -> None:
    """Says in the schema that a token is needed, where it is."""
    made = app.openapi

    def schema() -> dict[str, Any]:
        found = made()
        if token:
            schemes = found.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["token"] = {"type": "http", "scheme": "bearer"}
            for path, methods in found["paths"].items():
                if path.startswith(("/v1/", "/metrics")):
                    for method in methods.values():
                        method["security"] = [{"token": []}]
        return found

    app.openapi = schema  # type: ignore[method-assign]


def as_page(schema: Mapping[str, Any]) -> str:
    """A plain page of the routes: no script, nothing fetched."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            answers = "".join(
                f"<li>{escape(str(status))}: {escape(answer['description'])}</li>"
                for status, answer in sorted(route["responses"].items(), key=lambda each: str(each[0]))
            )
            takes = ", ".join(route.get("requestBody", {}).get("content", {}))
            arguments = "".join(
                f"<p><code>?{escape(each['name'])}=</code> {escape(each.get('description', ''))}</p>"
                for each in route.get("parameters", [])
            )
            rows.append(
                f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(route['summary'])}</p>"
                f"{arguments}{f'<p>Takes: {escape(takes)}</p>' if takes else ''}<ul>{answers}</ul>"
            )
    info = schema["info"]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}: API</title><main><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info['description'])}</p>"
        '<p><a href="/openapi.json">openapi.json</a> has all of it for programs.</p>'
        f"{''.join(rows)}</main></html>"
    )

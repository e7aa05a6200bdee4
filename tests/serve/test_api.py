"""The HTTP API: what ``predict`` answers, what is said of the model, and one line for what cannot be answered."""

import asyncio
import base64
import io
import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from served import LIMITS, picture, serving

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.serve.direct import Direct
from lightning_cifake.serve.explanation import coloured, seen
from lightning_cifake.serve.settings import Settings
from lightning_cifake.shipped import released_model

FILES = {
    "a.png": picture(),
    "wide.jpg": picture("JPEG", (400, 300)),
    "named.png": picture("JPEG", (20, 50)),
    "bad.png": b"\x89PNG\r\n\x1a\nnot one",
    "empty.png": b"",
}

FORM = "multipart/form-data; boundary=a"
PART = '--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'


def as_form(files: dict[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", each) for each in files.items()]


@pytest.mark.parametrize("larger", ["resize", "crop", "tiles"])
def test_answers_are_those_of_predict_json(larger, client, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    assert main(["predict", *FILES, "--json", "--larger", larger]) == 1
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    response = client.post("/v1/predict", files=as_form(FILES), params={"larger": larger})
    assert response.status_code == 200 and response.json() == {"model": "compact", "answers": expected}


@pytest.mark.parametrize("request_", [{"files": as_form(FILES)}, {"content": b"x"}], ids=["answered", "refused"])
def test_a_request_with_a_query_goes_another_way_to_the_same_answer(request_, client):
    direct, routed = (client.post(f"/v1/predict{query}", **request_) for query in ("", "?larger=resize"))
    assert (direct.status_code, direct.json()) == (routed.status_code, routed.json())
    assert {name: value for name, value in direct.headers.items() if name != "date"} == {
        name: value for name, value in routed.headers.items() if name != "date"
    }


def test_what_is_no_plain_request_for_answers_is_left_to_the_app():
    asked = []

    async def app(scope, receive, send):
        asked.append(scope)

    way = Direct(app, "/v1/predict", None)
    plain = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b""}
    others = [{"type": "lifespan"}, *({**plain, name: value} for name, value in
              (("method", "GET"), ("path", "/v1/predict/"), ("query_string", b"larger=crop")))]  # fmt: skip
    for scope in others:
        asyncio.run(way(scope, None, None))
    assert asked == others


def test_a_picture_alone_is_a_body_of_its_type(client):
    (expected,) = Detector().predict([FILES["wide.jpg"]])
    for kind in ("image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream"):
        response = client.post("/v1/predict", content=FILES["wide.jpg"], headers={"content-type": kind})
        (answer,) = response.json()["answers"]
        assert answer == {"path": "image", "verdict": expected.verdict, "prob_real": expected.prob_real,
                          "error": None, "warning": expected.warning}  # fmt: skip


def test_a_body_in_chunks_is_taken_too(client):
    pieces = (FILES["a.png"][at : at + 100] for at in range(0, len(FILES["a.png"]), 100))
    response = client.post("/v1/predict", content=pieces, headers={"content-type": "image/png"})
    assert response.json()["answers"][0]["error"] is None


def test_the_model_is_the_file_and_its_manifest(client):
    found, model = client.get("/v1/model").json(), released_model()
    manifest = json.loads(model.with_suffix(".json").read_text())
    assert (found["name"], found["file"], found["sha256"]) == ("compact", model.name, manifest["model"]["sha256"])
    assert found["figures"]["accuracy"] == manifest["real"]["onnxruntime"]["accuracy"]
    assert (
        found["image_size"] == 32 and found["unsure"] == [0.2, 0.8] and found["larger"] == ["resize", "crop", "tiles"]
    )
    assert found["limits"]["files"] == LIMITS.files and found["limits"]["file_bytes"] < LIMITS.body_bytes


def test_an_explanation_has_the_picture_as_the_network_sees_it(client):
    content = picture("PNG", (70, 50))
    found = client.post("/v1/explain", files=as_form({"x.png": content})).json()
    (expected,) = Detector().predict([content])
    assert found["answer"]["prob_real"] == expected.prob_real and found["answer"]["path"] == "x.png"
    view, overlay = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(found[name].removeprefix("data:image/png;base64,")))))
        for name in ("view", "overlay")
    )
    assert np.array_equal(view, decode_image(content, 32)) and overlay.shape == (32, 32, 4)
    assert overlay[..., 3].max() > overlay[..., 3].min()


def test_an_explanation_of_what_is_no_picture_is_an_answer_with_its_error(client):
    found = client.post("/v1/explain", files=as_form({"x.png": b"no"})).json()
    assert found["view"] is found["overlay"] is None and found["answer"]["error"].startswith("not an image")


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (31, 77), (500, 33), (64, 128)])
def test_what_the_network_sees_is_resized_as_images_of_training_are(size):
    pixels = np.asarray(Image.open(io.BytesIO(picture("PNG", size))))
    from lightning_cifake.data.resize import resize_square

    difference = np.abs(seen(pixels, 32).astype(int) - resize_square(pixels, 32))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # a half, rounded the other way


def test_the_overlay_is_blue_for_real_orange_for_ai_and_clear_where_nothing_speaks():
    found = coloured(np.array([[2.0, -1.0], [0.0, 1.0]]))
    assert found[0, 0, 2] > found[0, 0, 0] and found[0, 1, 0] > found[0, 1, 2]
    assert found[0, 0, 3] == 2 * found[0, 1, 3] == 2 * found[1, 1, 3] > 0 == found[1, 0, 3]
    assert not coloured(np.zeros((2, 2)))[..., 3].any()


@pytest.mark.parametrize(
    ("path", "request_", "status", "words"),
    [
        ("/v1/predict", {"data": {"files": "a"}}, 415, "multipart/form-data"),
        ("/v1/predict", {"content": b"{}", "headers": {"content-type": "application/json"}}, 415, "application/json"),
        ("/v1/predict", {"content": b"x"}, 415, "no Content-Type"),
        ("/v1/predict", {"content": b"", "headers": {"content-type": "image/png"}}, 422, "empty body"),
        ("/v1/predict", {"files": {"file": ("a.png", b"x")}}, 422, "got a file in `file`"),
        ("/v1/predict", {"files": {"files": (None, "http://example.org/a.png")}}, 422, "got text in `files`"),
        ("/v1/predict", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ("/v1/predict", {"content": b"--a\r\nContent-", "headers": {"content-type": FORM}},
         400, "last boundary"),
        ("/v1/predict", {"content": f"{PART}x\r\n{PART}cut off", "headers": {"content-type": FORM}},
         400, "last boundary"),
        ("/v1/predict", {"content": b"--a--\r\n", "headers": {"content-type": FORM}},
         422, "got none"),
        ("/v1/predict", {"files": as_form({f"{n}.png": b"x" for n in range(9)})}, 413, "at most 8 pictures"),
        ("/v1/predict?larger=%1b[2J", {"files": as_form(FILES)}, 422, "\\x1b[2J"),
        ("/v1/explain", {"files": as_form(FILES)}, 422, "one picture, got 5"),
        ("/v1/nothing", {"content": b"x"}, 404, "Not Found"),
        ("/v1/model", {"content": b"x"}, 405, "Not Allowed"),
        ("/static/../app.py", {"content": b"x"}, 404, "Not Found"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_in_one_line(path, request_, status, words, client):
    response = client.post(path, **request_)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"] and words in response.json()["error"]
    assert "\n" not in response.json()["error"] and "\x1b" not in response.json()["error"]


@pytest.mark.parametrize("path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "..%5capp.py", "/etc/passwd", "nothing"])
def test_no_file_but_the_pages_own_is_given(path, client):
    assert client.get(f"/static/{path}").status_code == 404


def test_the_pages_fetch_nothing_from_elsewhere_and_may_not(client):
    for path in ("/", "/docs"):
        response = client.get(path)
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", response.text), path
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and response.headers["x-content-type-options"] == "nosniff"
    scripts = re.findall(r"<script[^>]*>", client.get("/").text)
    assert all("src=" in script for script in scripts)  # the policy lets none run that stands in the page


def test_what_is_answered_is_not_stored_on_the_way(client):
    response = client.post("/v1/predict", files=as_form({"a.png": FILES["a.png"]}))
    assert response.headers["cache-control"] == "no-store" and "set-cookie" not in response.headers


def test_the_docs_list_every_route_of_the_schema(client):
    schema, page = client.get("/openapi.json").json(), client.get("/docs").text
    assert set(schema["paths"]) == {"/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert all(path in page for path in schema["paths"])
    assert {"413", "415", "429", "503"} <= set(schema["paths"]["/v1/predict"]["post"]["responses"])


def test_metrics_count_requests_images_and_batches(client):
    def value(name: str) -> float:
        (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[-1])

    answered, refused = (f'cifake_requests_total{{route="/v1/predict",status="{code}"}}' for code in (200, 415))
    client.post("/v1/predict", content=b"x")
    before = [
        value(answered),
        value(refused),
        value("cifake_batch_images_sum"),
        value('cifake_images_total{verdict="error"}'),
    ]
    client.post("/v1/predict", files=as_form(FILES))
    client.post("/v1/predict", content=b"x")
    after = [
        value(answered),
        value(refused),
        value("cifake_batch_images_sum"),
        value('cifake_images_total{verdict="error"}'),
    ]
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 1, 5, 2]
    assert value("cifake_queue_images") == value("cifake_body_bytes") == 0
    client.get("/etc/passwd")
    assert "passwd" not in client.get("/metrics").text  # what clients write is no label


def test_the_probes_say_that_it_runs_and_is_ready(client):
    assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}


def test_a_token_is_asked_for_by_all_but_the_page_and_the_probes():
    token = "a-token-of-some-length"
    with serving(Settings(log="none", token=token, limits=LIMITS)) as guarded, guarded.client() as client:
        for path in ("/", "/docs", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {token}"},
                      {"authorization": f"Bearer {token}x"}, {"authorization": "Bearer \xff"}):  # fmt: skip
            headers = httpx.Headers(given, encoding="latin-1")
            for method, path in (("POST", "/v1/predict"), ("GET", "/v1/model"), ("GET", "/metrics")):
                response = client.request(method, path, headers=headers)
                assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        twice = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")]
        assert client.get("/v1/model", headers=twice).status_code == 401
        assert client.get("/v1/model", headers={"authorization": f"bearer {token}"}).status_code == 200
        assert client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]


def test_nothing_of_a_request_goes_to_a_tracer_of_the_process(monkeypatch: pytest.MonkeyPatch):
    trace = pytest.importorskip("opentelemetry.trace")
    told = []

    class Provider(trace.TracerProvider):
        def get_tracer(self, *names: object, **options: object) -> object:
            told.append(names)
            return trace.NoOpTracer()

    monkeypatch.setattr(trace, "get_tracer_provider", Provider)
    with serving() as server, server.client() as asking:
        assert asking.get("/v1/model").status_code == 200
    assert not told

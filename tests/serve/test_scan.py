"""The API, fuzzed by its own description: no 500, and no answer that the description does not know."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from served import LIMITS, Served, picture, serving

from lightning_cifake.serve.settings import Settings


def scan(served: Served, examples: int) -> dict[str, int]:
    """Asks each route so often, by what the description allows and by what it does not; counts statuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports'
        import schemathesis
        from schemathesis.checks import not_a_server_error
        from schemathesis.config import SchemathesisConfig
        from schemathesis.generation import GenerationMode
        from schemathesis.specs.openapi.checks import (
            content_type_conformance,
            response_schema_conformance,
            status_code_conformance,
        )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=SchemathesisConfig())
    seen: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @seed(0)
            @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                response = case.call_and_validate(checks=checks)
                key = f"{case.method} {case.path} {response.status_code}"
                seen[key] = seen.get(key, 0) + 1

            try:
                ask()
            except Exception as error:
                if type(error).__name__ not in (
                    "Unsatisfiable",
                    "SkipTest",
                ):  # a route without arguments has no wrong ones
                    raise
    return seen


@pytest.fixture
def roomy() -> Any:
    """With time for a slow machine: of what is slow other tests ask."""
    with serving(Settings(log="none", limits=replace(LIMITS, body_seconds=20.0))) as made:
        yield made


@pytest.mark.long
def test_a_scan_by_the_description_finds_no_500(roomy: Served):
    seen = scan(roomy, 200)
    assert seen["POST /v1/predict 200"] > 20 and seen["POST /v1/explain 200"] > 20, seen
    assert any(key.startswith("POST /v1/predict 4") for key in seen), seen


PART = b'--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
PIECES = st.sampled_from(
    [PART, b"--a", b"--a--", b"--", b"\r\n", b"\r\n\r\n", b"Content-Type: x", picture("JPEG"), b"\xff"]
)
BODIES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=8).map(b"".join))
KINDS = st.sampled_from(["image/png", "multipart/form-data; boundary=a",
                         "multipart/form-data; boundary=\xff; charset=x",
                         "multipart/form-data; boundary=", "", "text/plain"])  # fmt: skip


@seed(0)
@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(["/v1/predict", "/v1/predict?larger=tiles", "/v1/explain"]), kind=KINDS, body=BODIES)
def test_no_body_is_a_500(path: str, kind: str, body: bytes, client: Any):
    response = client.post(path, content=body, headers=[(b"content-type", kind.encode("latin-1"))])
    assert response.status_code in (200, 400, 413, 415, 422), (response.status_code, response.text)
    assert response.status_code == 200 or list(response.json()) == ["error"]

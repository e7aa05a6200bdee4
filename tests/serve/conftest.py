"""One server for the tests that leave it as it was."""

from collections.abc import Iterator

import httpx
import pytest
from served import Served, serving

from lightning_cifake.serve import refusal


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch, serving() as made:
        patch.setattr(refusal, "LINGER_SECONDS", 0.2)
        yield made


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as made:
        yield made

"""A local Hub, and huggingface_hub pointed at it: it reads its variables once, when it is imported."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import LocalHub, local_hub

from lightning_cifake import hub as names

# huggingface_hub 2.4 hands its HTTP client a file to send in a way that the client wants named otherwise
DEPRECATED = "ignore:Use 'content=:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(DEPRECATED))


@pytest.fixture(scope="session")
def server() -> Iterator[LocalHub]:
    with local_hub() as made:
        yield made


@pytest.fixture
def hub(server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """Empty, and the Hub of this process; its cache is a folder of the test's. Nobody is logged in."""
    from huggingface_hub import constants

    server.repos.clear()
    server.large.clear()
    server.asked.clear()
    server.tokens.clear()
    server.broken = None
    names._fetched.clear()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return server


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1 says."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A red picture of 32x32."""
    from PIL import Image

    path = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(path)
    return path

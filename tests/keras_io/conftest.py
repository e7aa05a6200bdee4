"""Makes keras_form, which lies beside these tests, importable by name; a network of arrays of a few numbers."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is expected with all of its arrays, and two numbers a side in each: ``keras_form.small_weights``."""
    from shrunk import expected

    from lightning_cifake.keras_io import importer

    monkeypatch.setattr(importer, "_like", expected)

"""Makes keras_form, which lies beside these tests, importable by name; a network of arrays of a few numbers."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

LINE = "avgpool, dense 1"  # the head of the shrunk network


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is expected with all of its arrays, and two numbers a side in each: ``keras_form.small_weights``."""
    from keras_form import small

    from lightning_cifake.keras_io import importer
    from lightning_cifake.networks.resnet50 import ResNet50Detector

    with torch.device("meta"):
        whole = ResNet50Detector(head=LINE).state_dict()

    def like(head: str | None, image_size: int) -> dict[str, torch.Tensor]:
        keep = {name: value for name, value in whole.items() if head or name.startswith("backbone.")}
        return {name: torch.empty(small(value.shape), device="meta") for name, value in keep.items()}

    monkeypatch.setattr(importer, "_like", like)

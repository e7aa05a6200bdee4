"""What an image shows as a second target: in the loss, from the files' names; not in the answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TinyNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.loss import mean_loss, summed_loss
from lightning_cifake.training.objects import ObjectTarget


class TwoHeads(nn.Module):
    """(N, 3, H, W) -> (N,), or with (N, 10) beside them."""

    def __init__(self, object_classes: int = 10) -> None:
        super().__init__()
        self.object_classes = object_classes
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head, self.objects = nn.Linear(16, 1), nn.Linear(16, object_classes or 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)).squeeze(1)

    def forward_with_objects(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return self.head(features).squeeze(1), self.objects(features)


def test_the_cross_entropy_of_the_known_objects_is_added_with_its_weight() -> None:
    torch.manual_seed(0)
    target = ObjectTarget(0.5, TwoHeads())
    logits, object_logits, objects = torch.randn(4), torch.randn(4, 10), torch.tensor([3, -1, 0, 9])
    known = [F.cross_entropy(object_logits[at], objects[at]) for at in (0, 2, 3)]
    own = torch.tensor(2.0)
    torch.testing.assert_close(target.loss(own, mean_loss, logits, object_logits, objects), 2 + 0.5 * sum(known) / 4)
    torch.testing.assert_close(target.loss(own, summed_loss, logits, object_logits, objects), 2 + 0.5 * sum(known))
    assert ObjectTarget(0, TinyNetwork()).loss(own, mean_loss, logits, None, objects) is own


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_fit_learns_the_objects_that_the_names_tell(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label in ("REAL", "FAKE"):
        (tmp_path / label).mkdir()
        for at in range(36):
            pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{at:04d} ({4 + 5 * (at % 2)}).jpg")

    def fitted(weight: float) -> tuple[FakeImageClassifier, Tensor]:
        torch.manual_seed(0)
        classifier = FakeImageClassifier(TwoHeads(), object_weight=weight)
        before = classifier.network.objects.weight.detach().clone()
        trainer = L.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, limit_val_batches=0,
        )  # fmt: skip
        data = CIFAKEDataModule(root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
        trainer.fit(classifier, data)
        batch = data.transfer_batch_to_device(torch.tensor([5, 0, 7]), torch.device("cpu"), 0)
        assert all(
            f"({number + 1})" in path for number, path in zip(batch.objects, data.paths(batch.index), strict=True)
        )
        return classifier, before

    classifier, before = fitted(1.0)
    assert not torch.equal(classifier.network.objects.weight, before)
    classifier, before = fitted(0.0)
    assert torch.equal(classifier.network.objects.weight, before)


@pytest.mark.parametrize(
    ("weight", "network", "says"),
    [
        (-1.0, TwoHeads(), "expected at least 0, got -1.0"),
        (0.1, TinyNetwork(), "got tiny.TinyNetwork, which tells no object classes apart"),
        (0.1, TwoHeads(0), "which tells no object classes apart"),
    ],
)
def test_a_network_without_an_output_for_objects_is_refused(weight: float, network: nn.Module, says: str) -> None:
    with pytest.raises(UserError, match=says):
        FakeImageClassifier(network, object_weight=weight)


@pytest.mark.parametrize(
    ("numbers", "mixup", "says"),
    [([0, 0], 0.0, "1 to 10 object classes, .* got 0"), ([3, 11], 0.0, "got 11"), ([1, 2], 0.2, "data.mixup: expect")],
)
def test_images_without_objects_and_mixed_ones_are_refused(numbers: list[int], mixup: float, says: str) -> None:
    images = SimpleNamespace(object_classes=np.array(numbers, np.uint8))
    data: Any = SimpleNamespace(images=images, augmentation=SimpleNamespace(mixup=mixup))
    with pytest.raises(UserError, match=says):
        ObjectTarget(0.1, TwoHeads()).check_data(data)
    ObjectTarget(0.0, TwoHeads()).check_data(data)

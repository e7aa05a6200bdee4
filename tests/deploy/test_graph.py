"""What is exported computes what the checkpoint computes, from bytes of any size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_cifake.data.resize import resize_bilinear
from lightning_cifake.deploy.export import to_onnx
from lightning_cifake.deploy.graph import ExportGraph, resize
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.classifier import FakeImageClassifier

FLOAT32 = 2e-5  # a logit of about 1 through 53 convolutions, whose scale is folded in: sums round otherwise


def pixels(height: int, width: int, seed: int = 0, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def network(head: str = PUBLISHED_HEAD, image_size: int = 32, **others: Any) -> ResNet50Detector:
    """With batch norms that are not the identity: a fresh one would hide a wrong fold."""
    torch.manual_seed(0)
    made = ResNet50Detector(head=head, image_size=image_size, **others)
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**16))
def test_bytes_are_resized_to_32_as_opencv_does_bit_for_bit(height: int, width: int, seed: int) -> None:
    image = pixels(height, width, seed)
    theirs = resize_bilinear(image[0], 32)
    assert np.array_equal(resize(torch.from_numpy(image), 32)[0].numpy(), theirs)


def test_an_image_of_the_right_size_comes_through_unchanged() -> None:
    for size in (32, 48):
        image = pixels(size, size)
        assert np.array_equal(resize(torch.from_numpy(image), size).numpy(), image.astype(np.float32))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_graph_answers_as_the_network_does_on_the_decoded_image(temperature: float) -> None:
    made = network()
    image = pixels(50, 77, count=3)
    fitted = np.stack([np.rint(resize_bilinear(each, 32)) for each in image])
    with torch.inference_mode():
        expected = made(torch.from_numpy(fitted).permute(0, 3, 1, 2) / 255) / temperature
        prob, logit = ExportGraph(made, 32, temperature=temperature)(torch.from_numpy(image))
        _, from_floats = ExportGraph(made, 32, "float32")(torch.from_numpy(fitted.astype(np.float32) / 255))
    assert torch.allclose(logit, expected, rtol=0, atol=FLOAT32)
    assert torch.equal(prob, logit.sigmoid())
    assert torch.allclose(from_floats / temperature, expected, rtol=0, atol=FLOAT32)


def test_an_exported_graph_takes_images_of_the_right_size_as_they_are_and_resizes_others() -> None:
    """Both ways are in the file: what the branch is for is a tenth of a small network's time."""
    onnxruntime = pytest.importorskip("onnxruntime")
    classifier = FakeImageClassifier(network={"class_path": "compact", "init_args": {"width": 2}}).eval()
    model = to_onnx(classifier)
    assert [node.op_type for node in model.graph.node].count("If") == 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = ExportGraph(classifier.network, 32).eval()
    for shape in ((32, 32), (32, 40), (40, 32), (7, 300)):
        image = pixels(*shape, count=2)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(image))[1].numpy()
        assert np.allclose(session.run(["logit"], {"images": image})[0], expected, rtol=0, atol=FLOAT32)

"""What a network is fed: the line, and that the network computes it of images in [0, 1]."""

import math

import numpy as np
import pytest
import torch

from lightning_cifake.errors import UserError
from lightning_cifake.networks.pixels import BASES, Affine, Pixels, parse_pixels
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.classifier import FakeImageClassifier

LINES = [
    *BASES,
    "0-255, scale 0.00784313725490196 offset -1.0",
    "0-255, bgr offset -103.939 -116.779 -123.68",
    "0-1, scale 2.0 3.0 4.0 offset 0.5",
    "caffe, scale 0.5",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_is_read_is_written_the_same(line: str) -> None:
    assert str(parse_pixels(line)) == line


@pytest.mark.parametrize(
    "line",
    ["", "0-256", "0-1, ", "0-1, scale", "0-1, scale 1 2", "0-255, offset nan", "0-255, scale 1e9", "0-1, scale x",
     "0-1, rgb", "0-1, offset 1 scale 2", "0-1, scale 1 2 3 4", "caffe, caffe"],
)  # fmt: skip
def test_another_line_is_refused_with_what_can_stand_there(line: str) -> None:
    if line == "0-1, ":
        assert parse_pixels(line) == Pixels()
        return
    with pytest.raises(UserError, match=r"model\.network\.pixels: got '.*'; expected 0-1, 0-255, -1-1, caffe"):
        ResNet50Detector(pixels=line)


def seen(line: str, images: np.ndarray) -> np.ndarray:
    """What the first convolution of a network with this line sees, (N, S, S, 3)."""
    network = ResNet50Detector(head="avgpool, dense 1", pixels=line).eval()
    caught = []
    network.backbone.conv1.register_forward_hook(lambda _module, given, _out: caught.append(given[0]))
    with torch.no_grad():
        network(torch.from_numpy(images).permute(0, 3, 1, 2))
    return caught[0].permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    """(2, 32, 32, 3) float32 of whole numbers, 0 to 255."""
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("line", LINES)
def test_the_network_sees_what_keras_feeds(line: str, raw: np.ndarray) -> None:
    caffe = raw[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    expected = {
        "0-1": raw / 255,
        "0-255": raw,
        "-1-1": raw / 127.5 - 1,
        "caffe": caffe,
        "0-255, scale 0.00784313725490196 offset -1.0": raw / 127.5 - 1,
        "0-255, bgr offset -103.939 -116.779 -123.68": caffe,
        "0-1, scale 2.0 3.0 4.0 offset 0.5": raw / 255 * np.array([2, 3, 4], np.float32) + 0.5,
        "caffe, scale 0.5": caffe / 2,
    }[line]
    np.testing.assert_allclose(seen(line, raw / 255), expected, rtol=1e-6, atol=2e-5)


def test_a_scale_that_the_model_takes_back_is_left_out_to_the_last_bit(raw: np.ndarray) -> None:
    for line in ("0-255, scale 0.00392156862745098", f"0-255, scale {float(np.float32(1 / 255))!r}", "0-1"):
        assert parse_pixels(line).affine == Affine()
        np.testing.assert_array_equal(seen(line, raw / 255), raw / 255)
    assert parse_pixels("0-255").affine != Affine()


def test_a_checkpoint_of_before_is_of_pixels_from_0_to_1() -> None:
    plain, scaled = ResNet50Detector(head="avgpool, dense 1"), ResNet50Detector(head="avgpool, dense 1", pixels="caffe")
    assert plain.state_dict().keys() == scaled.state_dict().keys()
    classifier = FakeImageClassifier(ResNet50Detector(head="avgpool, dense 1"))
    assert classifier.hparams["network"]["init_args"]["pixels"] == "0-1"
    assert not [name for name in classifier.state_dict() if "pixel" in name]


def test_two_steps_are_one() -> None:
    first, second = Affine((2, 1, 0), (2.0, 3.0, 4.0), (0.1, 0.2, 0.3)), Affine((2, 1, 0), (5.0, 6.0, 7.0), (1, 2, 3))
    values = np.array([0.3, 0.5, 0.7])

    def apply(affine: Affine, given: np.ndarray) -> np.ndarray:
        return given[list(affine.order)] * np.array(affine.scale) + np.array(affine.offset)

    np.testing.assert_allclose(apply(first.then(second), values), apply(second, apply(first, values)), rtol=1e-12)
    assert first.then(second).order == (0, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_size": 20000}, r"model\.network\.image_size: expected a whole number from 1 to 1024, got 20000"),
        ({"image_size": 0}, "expected a whole number from 1 to 1024, got 0"),
        ({"image_size": math.nan}, "got nan"),
        ({"image_size": 10**400}, "expected a whole number from 1 to 1024, got 1000"),
        ({"image_size": 1024}, r"model\.network\.head: expected at most 536,870,912 weights, got .* take avgpool"),
        ({"head": "avgpool, dense 1000000, dense 1000000, dense 1"}, r"network\.head: expected at most 536,870,912"),
        ({"head": "avgpool" + ", relu" * 900 + ", dense 1"}, r"network\.head: expected at most 200 layers, got 901"),
    ],
)  # fmt: skip
def test_sizes_that_no_machine_holds_are_refused_before_anything_is_allocated(arguments: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ResNet50Detector(**arguments)

"""This project's own network: parameters counted by hand, the first layers at full resolution, objects beside."""

import pytest
import torch

from lightning_cifake.errors import UserError
from lightning_cifake.networks import CompactCNN


def _by_hand(width: int, first_pair: bool, objects: int, many: int = 1) -> int:
    def convolution(channels: int, filters: int) -> int:
        return 9 * channels * filters + 2 * filters  # its norm's scale and shift; no bias

    w2, w4, w8 = 2 * width, 4 * width, 8 * width
    pairs = many * [w2, w4, w8, *([width] if first_pair else [])]
    chain = [(3, width), (width, w2), (w2, w4), (w4, w8)]
    return sum(2 * convolution(c, c) for c in pairs) + sum(convolution(*c) for c in chain) + (w8 + 1) * (1 + objects)


def test_its_parameters_are_counted_by_hand() -> None:
    for arguments in ((32, False, 0), (32, True, 10), (8, True, 3), (64, True, 10, 2)):
        assert sum(p.numel() for p in CompactCNN(*arguments).parameters()) == _by_hand(*arguments)
    assert _by_hand(32, False, 0) == 1_939_233 and _by_hand(64, True, 10, 2) == 14_099_019


def test_two_convolutions_see_every_pixel_before_anything_is_pooled() -> None:
    network = CompactCNN(4)
    shapes = []
    for layer in network.maps:
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    network(torch.rand(2, 3, 32, 32))
    assert shapes[:3] == [(4, 32, 32), (8, 32, 32), (8, 16, 16)] and shapes[-1] == (32, 4, 4)


def test_what_it_tells_of_objects_leaves_its_logits_as_they_are() -> None:
    network = CompactCNN(4, object_classes=10).eval()
    images = torch.rand(2, 3, 32, 32)
    logits, objects = network.forward_with_objects(images)
    assert torch.equal(logits, network(images)) and objects.shape == (2, 10)


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"width": 2.0}, {"object_classes": -1}, {"width": True}, {"pairs": 0}]
)
def test_an_argument_out_of_its_range_is_refused_in_one_line(arguments: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"^model\.network\.\w+: expected a whole number from"):
        CompactCNN(**arguments)  # type: ignore[arg-type]


def test_an_image_that_pools_to_nothing_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^data\.image_size: expected at least 8"):
        CompactCNN(2)(torch.rand(1, 3, 7, 7))

"""Occlusion: how far the logit falls where a patch is covered; captum's maps, and what a formula gives."""

import numpy as np
import pytest

from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.occlusion import baseline_colour, occlusion_map


def image(side: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def brightness(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64).mean((1, 2, 3))


def test_of_a_sum_a_patch_takes_what_it_covers() -> None:
    pixels = image()
    found = occlusion_map(brightness, pixels, patch=4, stride=4, baseline="black")
    tiles = pixels.astype(np.float64).reshape(3, 4, 3, 4, 3).sum((1, 3, 4)) / pixels.size
    assert np.allclose(found, np.kron(tiles, np.ones((4, 4))), atol=1e-12)


def test_a_pixel_has_the_mean_of_the_patches_that_cover_it() -> None:
    pixels = np.zeros((3, 3, 3), np.uint8)
    pixels[1, 1] = 90  # the sum is 270: patches of 2x2 with the middle in them take 10 = 270 / 27
    assert np.allclose(occlusion_map(brightness, pixels, 2, 1, "black"), np.full((3, 3), 10.0))
    pixels[1, 1], pixels[0, 0] = 0, 90
    expected = np.outer([1, 0.5, 0], [1, 0.5, 0]) * 10  # the corner's patch is one of one, of two and of four
    assert np.allclose(occlusion_map(brightness, pixels, 2, 1, "black"), expected)


def test_what_covers_is_the_mean_colour_grey_or_black() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = (10, 20, 255)
    assert baseline_colour(pixels, "mean").tolist() == [2, 5, 64]  # 2.5 and 63.75, to whole even values
    assert baseline_colour(pixels, "grey").tolist() == [128] * 3 and baseline_colour(pixels, "black").max() == 0
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert not occlusion_map(brightness, flat).any()  # its own mean covers nothing


@pytest.mark.parametrize(("patch", "stride", "says"), [
    (13, 1, "--patch: expected from 1 to 12, the image's side, got 13"),
    (0, 1, "--patch: expected from 1 to 12"),
    (4, 5, "--stride: expected from 1 to 4, the patch's side, got 5"),
    (4, 0, "--stride: expected from 1 to 4"),
])  # fmt: skip
def test_a_patch_that_does_not_fit_is_refused(patch: int, stride: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        occlusion_map(brightness, image(), patch, stride)


@pytest.mark.parametrize(("patch", "stride", "baseline"), [
    (4, 1, "mean"), (5, 3, "grey"), (3, 2, "black"), (12, 7, "mean"), (1, 1, "grey"),
])  # fmt: skip
def test_it_gives_captum_s_maps_patches_over_the_edge_too(patch: int, stride: int, baseline: str) -> None:
    import torch
    from captum.attr import Occlusion
    from torch import nn

    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    network = nn.Sequential(convolutions, nn.Linear(4 * 8 * 8, 1), nn.Flatten(0)).double().requires_grad_(False)

    def of_bytes(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255

    pixels = image()
    colour = of_bytes(baseline_colour(pixels, baseline)[None, None, None]).expand(1, 3, 12, 12)
    theirs = Occlusion(network).attribute(of_bytes(pixels[None]), (3, patch, patch), (3, stride, stride), colour)
    ours = occlusion_map(lambda images: network(of_bytes(images)).numpy(), pixels, patch, stride, baseline)
    assert np.ptp(ours) > 1e-3 or patch == 12  # one patch covers all
    for channel in theirs[0].numpy():
        assert np.allclose(ours, channel, atol=1e-12)

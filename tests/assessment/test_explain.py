"""Maps of a network that was trained to look at one place show that place; with random weights they do not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made import write_checkpoint, write_model
from torch.nn import functional as F

from lightning_cifake import Detector
from lightning_cifake.assessment import gradcam
from lightning_cifake.assessment.explain import How, Sanity, explainer_of, explanations, rank_correlation, side_by_side
from lightning_cifake.assessment.models import open_model
from lightning_cifake.errors import UserError
from lightning_cifake.networks.compact import CompactCNN
from lightning_cifake.networks.ensemble import Ensemble, member_of
from lightning_cifake.networks.flips import MeanOfFlips
from lightning_cifake.networks.registry import SHIPPED, build_network, network_spec

SQUARE = 8  # pixels a side of what makes an image REAL


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[slice, slice]]]:
    """(N, 32, 32, 3) uint8 noise, with a striped square somewhere in every second one, REAL; labels; the places."""
    generator = np.random.default_rng(seed)
    images = generator.integers(60, 140, (count, 32, 32, 3), np.uint8)
    labels = np.arange(count) % 2
    places = []
    for image, label in zip(images, labels, strict=True):
        row, column = generator.integers(0, 32 - SQUARE, 2)
        places.append((slice(row, row + SQUARE), slice(column, column + SQUARE)))
        if label:
            image[row : row + SQUARE : 2, column : column + SQUARE] = 255
    return images, labels, places


@pytest.fixture(scope="module")
def trained() -> CompactCNN:
    torch.manual_seed(0)
    network = CompactCNN(width=4)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(40):
        images, labels, _ = planted(32, step)
        loss = F.binary_cross_entropy_with_logits(network(as_float(images)), torch.from_numpy(labels).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def model(trained: CompactCNN, module_folder: Callable[[str], Path]):
    return open_model(write_checkpoint(module_folder("trained") / "best.ckpt", trained))


def as_float(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_both_maps_point_to_what_the_network_was_trained_on(model) -> None:
    images, labels, places = planted(8, 1000)
    assert ((model.logits(images) > 0) == labels).all()
    explainer = explainer_of(model, How())
    assert explainer.methods == ("grad_cam", "occlusion") and explainer.layers == ("maps.7",)
    for image, place in [(images[at], places[at]) for at in np.flatnonzero(labels)]:
        inside = np.zeros((32, 32), bool)
        inside[place] = True
        for method, values in explainer.maps(image).items():
            assert values.shape == (32, 32) and inside[np.unravel_index(values.argmax(), values.shape)], method
            assert values[inside].mean() > 3 * abs(values[~inside].mean()), method


def test_a_network_of_random_weights_gives_other_maps(model) -> None:
    explainer = explainer_of(model, How())
    sanity, images = Sanity(explainer), planted(8, 2000)[0]
    for image in images:
        sanity.add(image, explainer.maps(image))
    figures = sanity.figures()
    assert figures.keys() == {"grad_cam", "occlusion"}
    for each in figures.values():
        assert each["images"] == 8
        assert abs(each["rank_correlation"]) < 0.5 and abs(each["rank_correlation_of_absolute_values"]) < 0.5
    own = explainer.maps(images[0])
    assert [rank_correlation(own[method], explainer.maps(images[0])[method]) for method in own] == [1.0, 1.0]


def test_the_random_network_is_the_same_each_time_and_leaves_torch_s_draws_alone(trained: CompactCNN) -> None:
    state = torch.get_rng_state()
    one, two = (gradcam.with_random_weights(trained).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], trained.state_dict()["head.weight"])


def test_rank_correlation_is_spearman_s_and_undefined_of_a_flat_map() -> None:
    ramp = np.arange(9.0).reshape(3, 3)
    assert rank_correlation(ramp, np.exp(ramp)) == pytest.approx(1)
    assert rank_correlation(ramp, -(ramp**3)) == pytest.approx(-1)
    assert rank_correlation(ramp, np.ones((3, 3))) is None


CHOSEN = {
    "resnet50": "backbone.layer1",  # its last stage's map is 1x1 at 32 px, its second's 4x4
    "compact": "maps.7",
    "custom_cnn": "maps",
    "meso4": "stages.2.0",
    "mesoinception4": "stages.2.0",
    "correlation": "blocks.2.0",
}


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in ("ensemble", "features")])
def test_the_layer_is_the_last_stage_whose_map_is_at_least_8x8(name: str) -> None:
    network = build_network(name).eval()
    layer = gradcam.chosen_layer(network, 32)
    assert layer == CHOSEN[name]
    assert gradcam.coarse_cam(network, torch.rand(1, 3, 32, 32)).shape[1] >= 8


def test_a_network_may_name_its_layer_and_the_user_another(trained: CompactCNN) -> None:
    images = as_float(planted(2, 0)[0])
    assert gradcam.coarse_cam(trained, images, "maps.0").shape == (2, 32, 32)
    trained.cam_layer = "maps.3"
    try:
        assert gradcam.chosen_layer(trained, 32) == "maps.3"
        assert gradcam.chosen_layer(trained, 32, "maps.0") == "maps.0"
    finally:
        del trained.cam_layer


def test_grad_cam_is_the_gradient_s_mean_times_the_map(trained: CompactCNN) -> None:
    images = as_float(planted(2, 0)[0])
    first, rest = trained.maps[:8], trained.maps[8:]
    maps = first((images - 0.457) * 4).detach().requires_grad_()
    trained.head(rest(maps * 1).mean((2, 3))).sum().backward()
    expected = (maps * maps.grad.mean((2, 3), keepdim=True)).sum(1).detach()
    found = gradcam.coarse_cam(trained, images)
    assert torch.allclose(found, expected, atol=1e-6) and (found < 0).any() and (found > 0).any()
    assert all(parameter.grad is None or parameter.requires_grad for parameter in trained.parameters())


def test_mirrored_images_and_ensembles_have_the_maps_that_their_logits_are_made_of(trained: CompactCNN) -> None:
    images = as_float(planted(2, 0)[0])
    one, mirrored = gradcam.grad_cam(trained, images), gradcam.grad_cam(trained, images.flip(3)).flip(2)
    assert torch.allclose(gradcam.grad_cam(MeanOfFlips(trained), images), (one + mirrored) / 2, atol=1e-6)
    members = [member_of(network_spec(trained), flips, "x") for flips in (False, True)]
    ensemble = Ensemble(members)
    for member in ensemble.members:
        getattr(member, "network", member).load_state_dict(trained.state_dict())
    ensemble.weights.copy_(torch.tensor([0.2, 0.8]))
    assert torch.allclose(gradcam.grad_cam(ensemble, images), 0.6 * one + 0.4 * mirrored, atol=1e-6)
    assert gradcam.layers_of(ensemble, 32) == ["maps.7", "maps.7"]
    again = gradcam.with_random_weights(ensemble)
    assert not torch.equal(again.members[0].head.weight, trained.head.weight)


def test_what_a_model_does_not_have_is_one_line(model, tmp_path) -> None:
    exported = open_model(write_model(tmp_path / "model.onnx"))
    for how, says in (
        (How("grad_cam"), "--method grad_cam: expected a checkpoint, got model.onnx"),
        (How(layer="maps"), "--layer: expected a checkpoint, got model.onnx"),
        (How(patch=33), "--patch: expected from 1 to 32"),
    ):
        with pytest.raises(UserError, match=says):
            explainer_of(exported, how)
    with pytest.raises(UserError, match="--sanity: expected a checkpoint"):
        explainer_of(exported, How()).with_random_weights()
    with pytest.raises(
        UserError, match=r"--layer: expected a layer of .*CompactCNN .* got mapz.3; did you mean maps.3"
    ):
        explainer_of(model, How(layer="mapz.3"))
    with pytest.raises(UserError, match=r"got head; its last are .*maps"):
        explainer_of(model, How(layer="head"))


def test_a_network_without_a_map_is_explained_by_occlusion_with_a_note(tmp_path) -> None:
    network = build_network({"class_path": "features", "init_args": {}})
    found = explainer_of(open_model(write_checkpoint(tmp_path / "best.ckpt", network)), How())
    assert found.methods == ("occlusion",) and found.note.startswith("without Grad-CAM: ")
    with pytest.raises(UserError, match="expected a convolution that gives a map of at least 8x8"):
        explainer_of(open_model(tmp_path / "best.ckpt"), How("grad_cam"))


@pytest.mark.parametrize(("larger", "shape"), [("resize", (32, 32)), ("crop", (32, 32)), ("tiles", (64, 96))])
def test_larger_pictures_are_explained_as_predict_looks_at_them(
    larger: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    gain, side = 8.0, 16
    path = write_model(tmp_path / "model.onnx", gain=gain)
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    model = open_model(path)
    explainer = explainer_of(model, How(patch=side, stride=side, baseline="black"))
    (found,) = explanations(model, explainer, iter([picture]), larger)
    if larger != "resize":  # the made model does not resize, as an exported one does
        (answer,) = Detector(path).predict([picture], larger=larger)
        assert (answer.prob_real, answer.verdict, answer.warning) == (found.prob_real, found.verdict, found.warning)
    pixels = found.pixels if found.pixels.ndim == 3 else side_by_side(found.pixels, found.columns)
    assert pixels.shape[:2] == found.maps["occlusion"].shape == shape
    if larger != "resize":
        assert np.array_equal(pixels, picture if larger == "tiles" else picture[16:48, 32:64])
    # logit = gain (mean / 255 - 1/2), over all tiles: a black patch takes away its own part of the mean
    means = pixels.reshape(shape[0] // side, side, shape[1] // side, side, 3).mean((1, 3, 4))
    expected = gain * means / 255 * side**2 / (shape[0] * shape[1])
    assert np.allclose(found.maps["occlusion"][::side, ::side], expected, atol=1e-5)

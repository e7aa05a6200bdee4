"""The network: layouts, stems, shapes, initialisation, and what it says of weights that do not fit."""

import math

import pytest
import torch
import torchvision
from torch import nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks.resnet50 import KerasBatchNorm1d, KerasBatchNorm2d, ResNet50Detector
from lightning_cifake.training.initial_weights import load_weights


@pytest.fixture(scope="module")
def keras_network():
    torch.manual_seed(0)
    return ResNet50Detector(layout="keras")


@pytest.fixture(scope="module")
def torchvision_network():
    torch.manual_seed(0)
    return ResNet50Detector(layout="torchvision")


def down_sampling_strides(network):
    blocks = [network.backbone.layer2[0], network.backbone.layer3[0], network.backbone.layer4[0]]
    return {(block.conv1.stride, block.conv2.stride) for block in blocks}


def test_the_keras_layout_strides_on_the_first_convolution_and_torchvisions_on_the_second(
    keras_network, torchvision_network
):
    assert down_sampling_strides(keras_network) == {((2, 2), (1, 1))}
    assert down_sampling_strides(torchvision_network) == {((1, 1), (2, 2))}


def test_batch_norm_has_each_frameworks_constants(keras_network, torchvision_network):
    backbone = {(n.eps, n.momentum, type(n)) for n in keras_network.backbone.modules() if isinstance(n, nn.BatchNorm2d)}
    assert backbone == {(1.001e-5, 0.01, KerasBatchNorm2d)}
    assert (keras_network.head.norm.eps, keras_network.head.norm.momentum) == (1e-3, 0.01)
    theirs = [n for n in torchvision_network.modules() if isinstance(n, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in theirs} == {(1e-5, 0.1)}
    assert not any(isinstance(n, KerasBatchNorm1d | KerasBatchNorm2d) for n in theirs)


def test_the_head_is_the_papers(keras_network):
    kinds = [type(layer).__name__ for layer in keras_network.head]
    assert kinds == ["Linear", "ReLU", "KerasBatchNorm1d", "Dropout", "Linear", "ReLU", "Linear"]
    shapes = [tuple(layer.weight.shape) for layer in keras_network.head if isinstance(layer, nn.Linear)]
    assert shapes == [(256, 2048), (128, 256), (1, 128)]
    assert keras_network.head.dropout.p == 0.5


def test_keras_initialisation_is_glorot_uniform_with_zero_biases(keras_network):
    for layer in keras_network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert layer.weight.abs().max() <= bound
            if layer.weight.numel() > 1000:
                assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(
    ("size", "stem", "features"),
    [(32, "imagenet", 2048), (33, "imagenet", 8192), (64, "imagenet", 8192), (16, "small", 8192), (32, "half", 8192)],
)
def test_the_head_fits_what_the_backbone_hands_over(size, stem, features):
    network = ResNet50Detector(stem=stem, image_size=size).eval()
    assert network.features == features
    assert network(torch.rand(2, 3, size, size)).shape == (2,)


def test_each_stem_hands_the_first_stage_maps_of_its_size():
    sides = {}
    for stem in ("imagenet", "small", "half"):
        with torch.device("meta"):
            network = ResNet50Detector(stem=stem, head="avgpool, dense 1").eval()
            network.backbone.layer1.register_forward_pre_hook(
                lambda _, args, stem=stem: sides.update({stem: args[0].shape[-1]})
            )
            network(torch.rand(1, 3, 32, 32))
    assert sides == {"imagenet": 8, "small": 32, "half": 16}
    assert (network.backbone.conv1.kernel_size, network.backbone.conv1.stride) == ((3, 3), (2, 2))
    # 3 * 3 * 3 * 64 kernels where the stem of ImageNet has 7 * 7 * 3 * 64, and a head of 2,048 + 1
    assert sum(p.numel() for p in network.parameters()) == 23_508_032 - (49 - 9) * 3 * 64 + 2_049


@pytest.mark.parametrize(
    ("stem", "features", "parameters"),
    [("imagenet", 2048, 24_066_113), ("half", 4 * 2048, 25_631_297), ("small", 16 * 2048, 31_922_753)],
)
def test_its_parameters_are_counted_by_hand(stem, features, parameters):
    """Of keras.applications' backbone those that are trained here: not the biases, which a batch norm takes away."""
    with torch.device("meta"):
        network = ResNet50Detector(stem=stem)
    backbone = 23_508_032 - (0 if stem == "imagenet" else (49 - 9) * 3 * 64)
    head = 256 * (features + 1) + 2 * 256 + 128 * (256 + 1) + 128 + 1
    assert sum(p.numel() for p in network.parameters()) == backbone + head == parameters


def test_features_are_flattened_channels_last_as_keras_flattens(torchvision_network):
    network = ResNet50Detector(image_size=64).eval()
    seen = []
    network.head.dense1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    maps = []
    network.backbone.layer4.register_forward_hook(lambda _m, _a, out: maps.append(out))
    network(torch.rand(1, 3, 64, 64))
    channels_last = maps[0][0].permute(1, 2, 0).reshape(-1)
    assert torch.equal(seen[0][0], channels_last)


@pytest.mark.parametrize("norm", [KerasBatchNorm1d(5, momentum=0.01), KerasBatchNorm2d(5, momentum=0.01)])
def test_keras_batch_norm_keeps_the_biased_variance_and_trains_as_torchs_does(norm):
    shape = (6, 5) if isinstance(norm, KerasBatchNorm1d) else (6, 5, 2, 2)
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    norm = norm.double()
    plain = (nn.BatchNorm1d if isinstance(norm, nn.BatchNorm1d) else nn.BatchNorm2d)(5, momentum=0.01).double()
    others = values.detach().clone().requires_grad_()
    weight = torch.randn(shape, dtype=torch.float64)
    (norm(values) * weight).sum().backward()
    (plain(others) * weight).sum().backward()
    assert torch.equal(values.grad, others.grad)
    assert torch.equal(norm.running_mean, plain.running_mean)
    biased = values.detach().transpose(0, 1).reshape(5, -1).var(dim=1, correction=0)
    torch.testing.assert_close(norm.running_var, 0.99 + 0.01 * biased, rtol=1e-14, atol=0)
    assert (norm.running_var < plain.running_var).all()


def test_a_frozen_backbone_neither_learns_nor_moves_its_statistics():
    network = ResNet50Detector(freeze_backbone=True).train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    network(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(parameter.grad is not None for parameter in network.head.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.backbone.state_dict().items())


def test_the_logit_keeps_float32_under_autocast(keras_network):
    keras_network.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = keras_network(torch.rand(4, 3, 32, 32))
    assert logits.dtype == torch.float32


def test_torchvisions_own_file_is_loaded_but_for_its_classifier(tmp_path):
    """A file of the form that torchvision's ImageNet weights have."""
    source = torchvision.models.resnet50(weights=None)
    path = tmp_path / "resnet50.pth"
    torch.save(source.state_dict(), path)
    network = ResNet50Detector(layout="torchvision")
    load_weights(network, str(path))
    ours, theirs = network.backbone.state_dict(), source.state_dict()
    assert set(theirs) - set(ours) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_imagenet_weights_come_through_torchvisions_loader(monkeypatch):
    source = torchvision.models.resnet50(weights=None).state_dict()
    monkeypatch.setattr(torchvision.models.ResNet50_Weights, "get_state_dict", lambda self, **kwargs: dict(source))
    network = ResNet50Detector(layout="torchvision")
    load_weights(network, "imagenet")
    assert torch.equal(network.backbone.conv1.weight, source["conv1.weight"])


def test_imagenet_weights_out_of_reach_are_one_clear_error(monkeypatch):
    def offline(self, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet50_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"could not fetch .* give a file instead"):
        load_weights(ResNet50Detector(layout="torchvision"), "imagenet")


@pytest.mark.parametrize("layout", ["keras", "torchvision"])
def test_imagenet_weights_are_refused_where_they_do_not_belong(layout):
    with pytest.raises(UserError, match=r"imagenet need model\.network\.stem: imagenet, got stem: small"):
        load_weights(ResNet50Detector(layout=layout, stem="small"), "imagenet")


def test_the_networks_own_weights_are_loaded_too(tmp_path, keras_network):
    path = tmp_path / "own.pt"
    torch.save({"state_dict": {f"network.{name}": value for name, value in keras_network.state_dict().items()}}, path)
    network = ResNet50Detector()
    load_weights(network, str(path))
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), keras_network.state_dict().values(), strict=True)
    )


def write(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return str(path)


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path, keras_network):
    state = dict(keras_network.state_dict())
    state["head.logit.weight"] = torch.zeros(2, 128)
    state["head.extra"] = torch.zeros(1)
    del state["head.dense1.bias"]
    network = ResNet50Detector()
    before = network.head.dense2.weight.clone()
    with pytest.raises(UserError) as caught:
        load_weights(network, write(tmp_path, state))
    message = str(caught.value)
    assert "missing head.dense1.bias" in message
    assert "unexpected head.extra" in message
    assert "head.logit.weight expected (1, 128), got (2, 128)" in message
    assert torch.equal(network.head.dense2.weight, before)


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("content", [Trap(), {"a": Trap()}, [1, 2], {"name": "text"}])
def test_files_that_are_no_weights_are_refused_and_run_no_code(tmp_path, content, capsys):
    with pytest.raises(UserError, match=r"holds no"):
        load_weights(ResNet50Detector(), write(tmp_path, content))
    assert "code ran" not in capsys.readouterr().out


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected none, imagenet or a file"):
        load_weights(ResNet50Detector(), str(tmp_path / "absent.pt"))


@pytest.mark.parametrize("name", ["own.pt", "own.ckpt"])
def test_weights_to_start_from_are_checked_like_a_checkpoint(tmp_path, keras_network, name):
    path = tmp_path / name
    state = {f"network.{key}": value.clone() for key, value in keras_network.state_dict().items()}
    torch.save({"state_dict": state}, path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    network = ResNet50Detector()
    with pytest.raises(UserError, match=r"own.* is damaged: the checksum of .* does not fit"):
        load_weights(network, str(path))
    state["network.head.logit.bias"][0] = float("nan")
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match=r"NaN or infinite weights, first network\.head\.logit\.bias"):
        load_weights(network, str(path))

"""The head's line: read, written, and refused with what can stand there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.errors import UserError
from lightning_cifake.networks.head import ACTIVATIONS, PUBLISHED_HEAD, HeadLayer, make_head, parse_head
from lightning_cifake.networks.resnet50 import KerasBatchNorm1d, ResNet50Detector
from lightning_cifake.training.classifier import FakeImageClassifier

ACTIVATION = st.sampled_from(list(ACTIVATIONS)).map(HeadLayer)
SHARE = st.floats(0, 1, exclude_min=True, exclude_max=True)
DENSE = st.tuples(st.integers(1, 2**20 - 1), st.booleans()).map(lambda v: HeadLayer("dense", units=v[0], bias=v[1]))
DROPOUT = (st.none() | SHARE).map(lambda rate: HeadLayer("dropout", rate=rate))
NORM = st.tuples(*2 * [st.none() | SHARE]).map(lambda v: HeadLayer("batchnorm", eps=v[0], momentum=v[1]))


@given(st.sampled_from(["flatten", "avgpool"]), st.lists(st.one_of(ACTIVATION, DENSE, DROPOUT, NORM), max_size=9))
def test_a_head_comes_back_from_its_line(pooling, layers):
    head = make_head(pooling, [*layers, HeadLayer("dense", units=1)])
    assert parse_head(str(head)) == head
    names = [layer.name for layer in head.layers]
    assert len(set(names)) == len(names)
    assert names[-1] == "logit"


def test_the_published_heads_names_are_those_of_its_checkpoints():
    head = parse_head(PUBLISHED_HEAD)
    assert [layer.name for layer in head.layers] == ["dense1", "relu1", "norm", "dropout", "dense2", "relu2", "logit"]
    assert str(head) == PUBLISHED_HEAD


@pytest.mark.parametrize(
    "line",
    [
        "",
        "dense 1",
        "flatten",
        "flatten, dense 2",
        "flatten, dense 1 sigmoid",
        "flatten, dense, dense 1",
        "flatten, dense 0, dense 1",
        "flatten, dense 8 rleu, dense 1",
        "flatten, dense 8 relu tanh, dense 1",
        "flatten, dropout 1, dense 1",
        "flatten, dropout nan, dense 1",
        "flatten, batchnorm eps, dense 1",
        "flatten, batchnorm eps 0, dense 1",
        "flatten, batchnorm rate 0.1, dense 1",
        "flatten, conv 3, dense 1",
        "flatten,, dense 1",
        "maxpool, dense 1",
    ],
)
def test_a_wrong_line_is_answered_with_what_can_stand_there(line):
    with pytest.raises(UserError, match=r"network\.head: got '.*' .*expected flatten or avgpool, then any of: dense"):
        parse_head(line)


@pytest.mark.parametrize("layout", ["keras", "torchvision"])
def test_a_network_has_the_head_it_is_given(layout):
    line = "avgpool, dense 8 tanh, batchnorm eps 0.5 momentum 0.25, dropout 0.125, batchnorm, dropout, dense 1"
    network = ResNet50Detector(layout=layout, head=line, dropout=0.75, image_size=64).eval()
    assert network.features == 2048
    assert (network.head.norm.eps, network.head.norm.momentum) == (0.5, 0.25)
    assert (network.head.dropout.p, network.head.dropout2.p) == (0.125, 0.75)
    keras = layout == "keras"
    assert isinstance(network.head.norm2, KerasBatchNorm1d) == keras
    assert (network.head.norm2.eps, network.head.norm2.momentum) == ((1e-3, 0.01) if keras else (1e-5, 0.1))
    images = torch.rand(2, 3, 64, 64)
    maps = []
    network.backbone.layer4.register_forward_hook(lambda _m, _a, out: maps.append(out))
    assert torch.equal(network(images), network.head(maps[0].mean((2, 3))).squeeze(1))


def test_a_classifier_keeps_its_head_with_its_hyper_parameters():
    classifier = FakeImageClassifier(ResNet50Detector(head="avgpool, dense 1"))
    assert classifier.hparams["network"]["init_args"]["head"] == "avgpool, dense 1"
    assert [name for name, _ in classifier.network.head.named_children()] == ["logit"]

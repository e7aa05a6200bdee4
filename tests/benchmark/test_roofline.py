"""The limit: counted work against figures that are known, and the roofline's formula."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_cifake.benchmark import record, roofline
from lightning_cifake.benchmark.engines import ENGINES
from lightning_cifake.benchmark.measure import Settings
from lightning_cifake.benchmark.roofline import Rates, Work, measured_rates, shortest
from lightning_cifake.errors import UserError
from lightning_cifake.networks.registry import build_network


def work(size, batch, training, **others):
    return roofline.work(build_network("resnet50").to("meta"), size, batch, training, **others)


def test_operations_are_those_of_resnet50_at_32_pixels():
    one = work(32, 1, training=False)
    # 4.1 G multiplications and additions at 224 px (He et al. 2016), the layout's stride first: 3.8; a 49th of them
    assert one.operations == pytest.approx(2 * 3.8e9 / 49, rel=0.1)
    assert work(32, 8, training=False).operations == pytest.approx(8 * one.operations)


def test_training_costs_three_forward_passes_less_the_gradient_of_the_images():
    forward, training = work(32, 4, training=False).operations, work(32, 4, training=True).operations
    assert 2.8 * forward < training < 3 * forward


def test_bytes_grow_with_the_batch_from_those_of_the_weights():
    one, many = work(32, 2, training=True), work(32, 4, training=True)
    weights = 10 * 4 * 24.1e6
    assert one.bytes > weights
    assert many.bytes - one.bytes == pytest.approx(one.bytes - weights, rel=0.2)
    assert work(32, 2, training=True, value_bytes=2).bytes < one.bytes


def test_the_limit_is_whichever_takes_longer():
    assert shortest(Work(100.0, 10.0), Rates(10.0, 10.0)) == 10.0
    assert shortest(Work(10.0, 100.0), Rates(10.0, 10.0)) == 10.0


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr("lightning_cifake.benchmark.roofline.SIDE", 256)
    monkeypatch.setattr("lightning_cifake.benchmark.roofline.COPIED", 2**22)
    rates = measured_rates()
    assert 1e8 < rates.operations < 1e15 and 1e7 < rates.bytes < 1e14


class Dense(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU(), nn.Linear(5, 1), nn.Flatten(0))


def test_any_network_is_counted():
    one = roofline.work(Dense().to("meta"), 8, 4, training=False)
    assert one.operations == 2 * 4 * (192 * 5 + 5)
    assert one.bytes >= 4 * (192 * 5 + 5 + 5 + 1)


class Looks(Dense):
    def forward(self, images):
        return super().forward(images) if images.mean() > 0 else images.flatten(1)[:, 0]


class OwnTensors(Dense):
    def forward(self, images):
        return super().forward(images + torch.ones(1))


@pytest.mark.parametrize("network", [Looks, OwnTensors])
def test_a_network_that_cannot_be_counted_is_said_in_one_line(network):
    with pytest.raises(UserError, match=rf"{network.__name__} cannot be counted on torch's meta device \(.*: "):
        roofline.work(network().to("meta"), 8, 4, training=False)


def test_half_precision_is_held_against_its_own_rate_and_exported_models_against_float32s(monkeypatch):
    rates = {torch.bfloat16: Rates(8e9, 1e30), torch.float32: Rates(1e9, 1e30)}
    monkeypatch.setattr(roofline, "measured_rates", lambda device, dtype: rates[dtype])
    engines = [ENGINES[name] for name in ("lightning", "lightning-large", "onnxruntime", "onnxruntime-int8")]
    network = {"class_path": "custom_cnn", "init_args": {}}
    materials = SimpleNamespace(network=network, image_size=32)
    bench = SimpleNamespace(engines=engines, settings=Settings(threads=1, precision="bf16-mixed"))
    limits = record._limits(bench, materials)
    assert limits["operations_per_second"] == {"bf16-mixed": 8e9, "32-true": 1e9}
    steps = limits["steps"]
    assert {name for name in steps if "training" in name} == {"training, batches of 32", "training, batches of 128"}
    assert steps["training, batches of 32"]["seconds"] == steps["training, batches of 32"]["operations"] / 8e9
    half, full = steps["answering, 32 at once"], steps["answering, 32 at once, 32-true"]
    assert full["seconds"] == pytest.approx(8 * half["seconds"]) and full["bytes"] == 2 * half["bytes"]
    spread = {"median": 16 / half["seconds"]}
    measured = {"training": {"images_per_second": None}, "answering": {"images_per_second": {"32": spread}}}
    reached = [record._reached(measured, limits, each, bench.settings) for each in engines if each.answers]
    assert reached == [pytest.approx({"answering_32": share}) for share in (0.5, 4.0, 4.0)]

"""Every shipped network: one logit an image, every weight trained, known by what it says of itself, and configured."""

import pytest
import torch
import yaml

from lightning_cifake.commands.configurations import shipped_configs
from lightning_cifake.errors import UserError
from lightning_cifake.networks import SHIPPED, build_network, network_spec
from lightning_cifake.networks.contract import check_inference
from lightning_cifake.shipped import config_dir

BUILT = [name for name in SHIPPED if name not in ("resnet50", "ensemble")]  # which have tests of their own


@pytest.mark.parametrize("name", BUILT)
def test_it_gives_one_logit_an_image_and_trains_every_parameter(name: str) -> None:
    network = build_network(name)
    check_inference(network.eval(), 32)
    if hasattr(network, "fit_collected"):
        return  # fitted whole: what does not answer has no gradient
    network.train()(torch.rand(4, 3, 32, 32)).sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", BUILT)
def test_it_is_known_by_what_it_says_of_itself(name: str) -> None:
    made = type(build_network(name))()
    spec = network_spec(made)
    assert spec is not None and spec["class_path"] == SHIPPED[name]
    build_network(spec).load_state_dict(made.state_dict(), strict=True)


@pytest.mark.parametrize("name", ["custom_cnn", "meso4", "mesoinception4", "correlation"])
@pytest.mark.parametrize("size", [3, 2.0, True, 10**9])
def test_an_image_size_that_it_does_not_take_is_refused_in_one_line(name: str, size: object) -> None:
    with pytest.raises(UserError, match=r"^model\.network\.image_size: expected a (whole number|multiple)") as refused:
        build_network({"class_path": name, "init_args": {"image_size": size}})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("config", [name for name in shipped_configs() if name.startswith("networks/")])
def test_a_networks_configuration_names_a_shipped_one(config: str) -> None:
    network = yaml.safe_load((config_dir() / f"{config}.yaml").read_text())["model"]["network"]
    name = network if isinstance(network, str) else network["class_path"]
    assert name in SHIPPED and config.removeprefix("networks/").startswith(name)

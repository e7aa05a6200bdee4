"""Networks by name: found, built, named again, and refused in one line that says what is wrong."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks import SHIPPED, ResNet50Detector, build_network, network_spec

OWN = """
from torch import nn

class Small(nn.Module):
    def __init__(self, width: int = 4, names: list = (), slope: float = 0.1):
        super().__init__()
        self.width, self.names, self.slope = width, names, slope
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1))

    def forward(self, images):
        return self.layers(images).squeeze(1)

class Needy(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        if depth < 1:
            raise ValueError("depth below 1")

class Other: ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the user's own in the current folder, as an installed command meets it: the folder is on no path."""
    (tmp_path / "ownnet.py").write_text(OWN)
    (tmp_path / "brokennet.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "raisingnet.py").write_text("raise RuntimeError('no luck')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    for name in ("ownnet", "brokennet", "raisingnet"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_short_name_and_its_class_path_build_the_same_network() -> None:
    small = {"stem": "small", "head": "avgpool, dense 1"}
    for name in ("resnet50", SHIPPED["resnet50"], "lightning_cifake.networks.resnet50.ResNet50Detector"):
        with torch.device("meta"):
            network = build_network({"class_path": name, "init_args": small})
        assert type(network) is ResNet50Detector and network.stem == "small"


def test_a_class_of_the_current_folder_is_built_and_named_again(own: Path) -> None:
    spec = {"class_path": "ownnet.Small", "init_args": {"width": 8}}
    network = build_network(spec)
    assert network(torch.rand(2, 3, 9, 9)).shape == (2,)
    assert network_spec(network) == spec
    assert not any("spec" in name for name in network.state_dict())
    made = type(network)(width=2)  # type: ignore[operator]
    assert network_spec(made) == {"class_path": "ownnet.Small", "init_args": {"width": 2, "names": (), "slope": 0.1}}
    assert network_spec(build_network(network_spec(made))).get("init_args")["width"] == 2  # type: ignore


def test_a_network_whose_making_cannot_be_told_has_no_specification() -> None:
    class Local(nn.Module): ...

    assert network_spec(Local()) is None
    assert network_spec(nn.Linear(2, 1)) is None  # its bias is an argument, and a tensor once it is made
    with torch.device("meta"):
        spec = network_spec(ResNet50Detector(layout="torchvision"))
    assert spec is not None and spec["class_path"] == SHIPPED["resnet50"]
    assert spec["init_args"]["layout"] == "torchvision"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("resnet", r"expected resnet50, .*correlation.* or a class path .*; did you mean resnet50\?"),
        ("resnet50x", "did you mean resnet50?"),
        ("", "expected resnet50, .* or a class path"),
        ("a b.C", "expected resnet50, .* or a class path"),
        ("nowhere_net.Small", r"there is no module nowhere_net \(looked for in the current folder and among"),
        ("ownnet.deeper.Small", "there is no module ownnet.deeper"),
        ("ownnet.Smal", r"ownnet has no Smal: did you mean ownnet\.Small\?"),
        ("ownnet.Xyz", "ownnet has no Xyz: it has Needy, Small"),
        ("ownnet.Other", "expected a class that is a torch's Module, got class Other"),
        ("os.system", "expected a class that is a torch's Module, got builtin_function_or_method|got function"),
        ("brokennet.Small", "its module cannot be imported: there is no module nothing_of_this_name"),
        ("raisingnet.Small", r"its module cannot be imported \(RuntimeError: no luck\)"),
        (3, "expected a class path, or class_path and init_args, got 3"),
        ({"init_args": {}}, "expected a class path, or class_path and init_args"),
        ({"class_path": "ownnet.Small", "args": {}}, "expected a class path, or class_path and init_args"),
        ({"class_path": "ownnet.Small", "init_args": [1]}, "init_args: expected names and values, got list"),
        ({"class_path": "ownnet.Small", "init_args": {"wdth": 8}}, "Small has no argument wdth: did you mean width?"),
        ({"class_path": "ownnet.Small", "init_args": {"zz": 8}}, "no argument zz: it takes width, names, slope"),
        ({"class_path": "ownnet.Small", "init_args": {"width": "8"}}, r"width: expected a whole number, got '8'"),
        ({"class_path": "ownnet.Small", "init_args": {"width": True}}, "expected a whole number, got True"),
        ({"class_path": "ownnet.Small", "init_args": {"slope": float("nan")}}, "slope: expected a plain value"),
        ({"class_path": "ownnet.Small", "init_args": {"names": torch.ones(1)}}, "names: expected a plain value"),
        ({"class_path": "ownnet.Small", "init_args": {"names": {"class_path": "os.system"}}}, "a plain value"),
        ("ownnet.Needy", r"Needy needs the arguments depth, width \(model\.network\.depth\)"),
        ({"class_path": "ownnet.Needy", "init_args": {"depth": 0, "width": 1}}, "Needy: depth below 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_in_one_line(own: Path, spec: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        build_network(spec)
    assert "\n" not in str(refused.value) and str(refused.value).startswith("model.network")


def test_a_whole_number_is_a_number(own: Path) -> None:
    assert build_network({"class_path": "ownnet.Small", "init_args": {"slope": 1}}).slope == 1

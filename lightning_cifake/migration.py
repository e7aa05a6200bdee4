"""What version 0.1.0 wrote, in today's words: one function for checkpoints' hyper-parameters and for config.yaml.

There the ResNet50's own arguments stood among the model's: ``model.layout`` is ``model.network.layout`` since 0.2.0.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from lightning_cifake.errors import UserError

OF_NETWORK = ("layout", "stem", "freeze_backbone", "image_size", "dropout", "head", "pixels")
"""Arguments of the model in 0.1.0 that are its network's now."""
ONLY_OF_NETWORK = tuple(name for name in OF_NETWORK if name != "freeze_backbone")
"""Those that are no argument of the model today; ``model.freeze_backbone`` freezes any network."""
RESNET50 = "lightning_cifake.networks.ResNet50Detector"


def is_of_0_1_0(model: Mapping[str, Any]) -> bool:
    """Whether a model's arguments are in 0.1.0's words."""
    return "network" not in model and any(name in model for name in ONLY_OF_NETWORK)


def migrate_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments by name, as 0.1.0 or this version wrote them, in this version's words."""
    if not is_of_0_1_0(model):
        return dict(model)
    own = {name: model[name] for name in OF_NETWORK if name in model}
    rest = {name: value for name, value in model.items() if name not in OF_NETWORK}
    return {"network": {"class_path": RESNET50, "init_args": own}, **rest}


def migrate_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with a ``model`` in it; its image size follows the data's."""
    model = values.get("model")
    if not isinstance(model, Mapping) or not is_of_0_1_0(model):
        return dict(values)
    return {**values, "model": migrate_model({name: value for name, value in model.items() if name != "image_size"})}


def network_of_0_1_0(network: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The network that arguments of FakeImageClassifier in 0.1.0 name; with a warning.

    Raises:
        UserError: another network is given too.
    """
    unknown = [name for name in arguments if name not in OF_NETWORK]
    if unknown:
        raise TypeError(f"FakeImageClassifier has no argument {unknown[0]}")
    if network != "resnet50":
        raise UserError(f"{', '.join(arguments)}: expected among the arguments of model.network, which is given too")
    warnings.warn(
        f"FakeImageClassifier({next(iter(arguments))}=...) is network={{'class_path': 'resnet50', 'init_args': ...}} "
        "since 0.2.0",
        DeprecationWarning,
        stacklevel=3,
    )
    made: dict[str, Any] = migrate_model(arguments)["network"]
    return made

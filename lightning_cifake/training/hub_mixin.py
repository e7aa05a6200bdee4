"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of a classifier, as huggingface_hub's users know them.

Not huggingface_hub's own ``PyTorchModelHubMixin``: it has to be a base of the class, so every training would import the
library; where a repository has no safetensors it reads a pickle; and it builds any class ``config.json`` names. The
files are those that it writes (``model.safetensors`` by the module's own names, ``config.json``), and
``huggingface_hub`` fetches and sends them.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from torch import nn

from lightning_cifake.checkpoint import load_strictly
from lightning_cifake.data import trained_on
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.hub import README, SAFETENSORS, SCHEME, fetch
from lightning_cifake.hub_upload import Upload, plain_card, plan, repo_name, send
from lightning_cifake.networks.registry import network_spec
from lightning_cifake.pretrained import WEIGHTS, read_pretrained, write_pretrained


class HubMixin:
    """For a LightningModule with ``network``, ``image_size`` and ``trained_on``; its checkpoints stay as they are."""

    network: nn.Module
    trained_on: trained_on.Record
    image_size: Any
    hparams: Any
    state_dict: Any
    take_image_size: Any
    eval: Any

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None, network: nn.Module | None = None) -> Self:
        """A classifier from the Hub, or from a folder that :meth:`save_pretrained` wrote; in eval mode.

            classifier = FakeImageClassifier.from_pretrained("owner/name", revision="v1")

        Of training it holds nothing: to train on, it begins as ``fit --model.weights hf://owner/name`` does.

        Args:
            model: ``owner/name``, ``hf://owner/name[@revision]``, or a folder or ``.safetensors`` file here, which goes
                before a name of the Hub.
            revision: a branch, a tag or a commit.
            network: the network, where it is not one of this package's: no code is taken from the Hub.

        Raises:
            UserError: no such model, damaged, a network of another package, weights of another network.
            MissingExtra: huggingface_hub is not installed.
        """
        path = _local(model, revision)
        content = read_pretrained(path, network is not None)
        arguments: dict[str, Any] = dict(content["hyper_parameters"])
        if network is None and arguments["network"] is None:
            raise UserError(f"{model}: its network has no name: give it, from_pretrained(..., network=YourNetwork())")
        made: Any = cls(**{**arguments, **({} if network is None else {"network": network})})
        load_strictly(made, content["state_dict"], str(model))
        made.take_image_size(content)
        made.trained_on = trained_on.checked(content["trained_on"], path)
        return made.eval()

    def save_pretrained(self, folder: str | Path, training: Mapping[str, Any] | None = None) -> list[Path]:
        """Writes ``model.safetensors``, ``config.json`` and the record of what it was trained on; returns them.

        Args:
            folder: made where missing.
            training: what else is known of the training, for readers: protocol, data, epochs.

        Raises:
            UserError: the folder cannot be written to.
            MissingExtra: safetensors is not installed.
        """
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("loss.")}
        flips = bool(self.hparams["test_flips"])
        known = {"image_size": self.image_size, "test_flips": flips, "training": dict(training or {})}
        return write_pretrained(expand_user(folder), state, network_spec(self.network), known, self.trained_on)

    def push_to_hub(self, repo: str, private: bool = True, message: str = "Weights") -> str | None:
        """Sends what :meth:`save_pretrained` writes, with a short card, to the Hub; returns the address of the commit.

        None where all of it is there already.

        ``push`` on the command line shows first what would go, and sends an evaluation with it.

        Args:
            repo: ``owner/name``, made where it does not exist.
            private: seen by its owner alone, where it is made.
            message: of the commit.

        Raises:
            UserError: not allowed, no such owner, the Hub cannot be reached.
            MissingExtra: huggingface_hub is not installed.
        """
        repo = repo_name(repo)
        with TemporaryDirectory() as folder:
            files: dict[str, bytes | Path] = {each.name: each for each in self.save_pretrained(folder)}
            return send(plan(Upload(repo, {README: plain_card(repo, True).encode(), **files})), private, message)


def _local(model: str | Path, revision: str | None) -> Path:
    path = expand_user(model)
    if path.is_dir():
        return path / WEIGHTS
    if path.suffix == SAFETENSORS and path.is_file():
        return path
    name = str(model) if str(model).startswith(SCHEME) else f"{SCHEME}{model}"
    if revision is not None:
        if "@" in name:
            raise UserError(f"{model}: expected one revision, got {revision} too")
        name = f"{name}@{revision}"
    found = fetch(name, weights=True)
    if found.suffix != SAFETENSORS:
        raise UserError(f"{model} holds an exported model alone: Detector({name!r}) asks it")
    return found

"""An exported model -> the checkpoint of a network that answers alike: training goes on from a released file.

What export has folded is unfolded: a batch norm that went into a convolution comes back as one that changes nothing in
eval mode. Its statistics are those of the built-in reference images, and its scale and shift undo them, so that
training mode, which normalises by the batch, starts near the same answers.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cifake.checkpoint import load_strictly
from lightning_cifake.data.trained_on import unknown_entry
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.predict import ClassifierModel
from lightning_cifake.deploy.products import MapProduct, as_products
from lightning_cifake.deploy.reference_images import edge_case_images, reference_images
from lightning_cifake.deploy.simplify import fold_batch_norm, map_sizes, prune_padding_taps, watched
from lightning_cifake.deploy.verification import LOGIT, lightning_logits, logits_of, onnxruntime_logits
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import Calibration
from lightning_cifake.networks import build_network
from lightning_cifake.networks.contract import for_export
from lightning_cifake.networks.convolution import window
from lightning_cifake.text import printable, reason_of
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import Report, check_target, save_checkpoint

PREFIX = "network."  # of every weight's name in a graph that export made
HALF = "_float16"  # at its end, where --precision float16 has halved it


class _Unfolded(NamedTuple):
    """A network's own batch norm, and what it adds: the bias that its convolution has no place for."""

    norm: _BatchNorm
    shift: Tensor


def unexport(source: Path, target: Path, overwrite: bool = False) -> Report:
    """Writes the checkpoint, whole or not at all.

    Args:
        source: an exported model in float32 or float16.
        target: a ``.ckpt``.
        overwrite: replaces a target that exists.

    Raises:
        UserError: another kind of file, int8, a graph that does not hold its network's weights by name, or one whose
            network answers otherwise once they are read back.
    """
    if target.suffix != ".ckpt":
        raise UserError(f"convert: expected a .ckpt to write an exported model's weights to, got {printable(target)}")
    check_target(target, overwrite)
    detector = Detector(source)
    if detector.facts.precision == "int8":
        raise UserError(
            f"{printable(source)} is in int8, which training cannot go on from: expected an export in float32 or "
            "float16, as the released compact-float32"
        )
    classifier = _classifier(detector, _weights(source), printable(source))
    model = ClassifierModel(classifier)
    calibration = Calibration.of_metadata(detector.facts.metadata)
    images = [*reference_images(), *edge_case_images().values()]
    ours = logits_of(lightning_logits(model, calibration, detector.facts.input_type), images)
    furthest = float(np.abs(ours - logits_of(onnxruntime_logits(detector), images)).max())
    if not furthest <= LOGIT:
        raise UserError(
            f"{printable(source)} cannot be read back: the network's logits differ by up to {furthest:.2g} from the "
            f"file's (limit {LOGIT:g})"
        )
    classifier.trained_on = [unknown_entry(source.name)]
    save_checkpoint(classifier, target, None, 0)
    count = sum(parameter.numel() for parameter in classifier.network.parameters())
    notes = ["an exported file does not hold which images it was trained on: test cannot say of its own"]
    if calibration != Calibration():
        notes.append("its calibration stays behind: the checkpoint's logits are the network's own")
    return Report(
        f"{printable(source)} -> {printable(target)}: {type(classifier.network).__name__}, {count:,} weights; logits "
        f"of {len(images)} images differ by {furthest:.1g} at most",
        notes,
    )


def _weights(source: Path) -> dict[str, np.ndarray]:
    """By their names in the network."""
    found = {}
    for each in onnx.load(str(source)).graph.initializer:
        if each.name.startswith(PREFIX):
            found[each.name.removeprefix(PREFIX).removesuffix(HALF)] = numpy_helper.to_array(each)
    return found


def _classifier(detector: Detector, weights: dict[str, np.ndarray], shown: str) -> FakeImageClassifier:
    try:
        spec: Any = json.loads(detector.facts.metadata["network"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of what an export leaves out, as the head that tells objects
            network = build_network(spec)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{shown} does not say which network it is of ({reason_of(error)})") from error
    flips = not hasattr(network, "network") and all(name.startswith(PREFIX) for name in weights)
    classifier = FakeImageClassifier(network, test_flips=flips).eval()
    classifier.take_image_size({"image_size": detector.image_size})
    try:
        fill(classifier.inference_network, weights, detector.image_size, shown)
    except AttributeError as error:  # its for_export() is built otherwise than the network
        raise UserError(f"{shown} cannot be read back into {type(network).__name__} ({reason_of(error)})") from error
    return classifier


@torch.no_grad()
def fill(network: nn.Module, weights: dict[str, np.ndarray], image_size: int, source: str) -> None:
    """Gives a network in eval mode the weights of its own export, by name; the mapping is then the export's.

    Raises:
        UserError: they are not all there, or of other shapes.
    """
    folded = for_export(network).double()
    images = torch.rand(2, 3, image_size, image_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    names = {id(module): name for name, module in folded.named_modules()}
    behind = {names[id(layer)]: names[id(norm)] for norm, layer in fold_batch_norm(folded, images)}
    prune_padding_taps(folded, images)
    as_products(folded, map_sizes(folded, images))
    asked = {id(call.layer) for call in watched(folded, images)}
    idle = [name for name, module in folded.named_modules() if not list(module.children()) and id(module) not in asked]
    given = {name: torch.from_numpy(value.astype(np.float64)) for name, value in weights.items()}
    for name, value in folded.state_dict().items():  # what is no part of an export stays as it is
        if name.rpartition(".")[0] in idle or name.endswith("num_batches_tracked"):
            given.setdefault(name, value)
    load_strictly(folded, given, source)
    shifts: dict[str, Tensor] = {}
    norms: dict[str, _BatchNorm] = {}
    for name, module in folded.named_modules():
        own = network.get_submodule(name)
        if isinstance(own, _BatchNorm) and isinstance(module, nn.Identity):
            norms[name] = own
        for each, value in _own_tensors(module):
            if (target := getattr(own, each)) is None:
                shifts[behind[name]] = value
            elif target.shape != value.shape:
                _spread(cast(nn.Conv2d, own), value)
            else:
                target.copy_(value)
    _unfold(
        {name: _Unfolded(norm, shifts.get(name, torch.zeros(()))) for name, norm in norms.items()}, network, image_size
    )


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """By the names that they have in the network itself."""
    if isinstance(module, MapProduct):
        bias = module.channel_bias
        return [("weight", module.kernel), *([] if bias is None else [("bias", bias)])]
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _spread(layer: nn.Conv2d, seen: Tensor) -> None:
    """The taps that meet a pixel into a whole kernel, whose others meet padding alone."""
    stride, padding = layer.stride, cast(tuple[int, int], layer.padding)
    first = [window(seen.shape[2 + at], layer.kernel_size[at], stride[at], padding[at]).first for at in (0, 1)]
    layer.weight.zero_()
    layer.weight[:, :, first[0] : first[0] + seen.shape[2], first[1] : first[1] + seen.shape[3]] = seen


def _unfold(norms: dict[str, _Unfolded], network: nn.Module, image_size: int) -> None:
    """Batch norms that add their shift, and normalise by the statistics of the reference images to no effect."""
    for norm, shift in norms.values():
        _set(norm, torch.zeros(()), torch.ones(()), shift)
    taken: dict[int, Tensor] = {}

    def take(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        taken[id(norm)] = given[0].double().transpose(0, 1).flatten(1)

    handles = [norm.register_forward_pre_hook(take) for norm, _ in norms.values() if norm.affine]
    try:
        images = torch.from_numpy(reference_images()).permute(0, 3, 1, 2).float() / 255
        if images.shape[-1] != image_size:
            images = nn.functional.interpolate(images, (image_size, image_size), mode="bilinear")
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    for norm, shift in norms.values():
        if (values := taken.get(id(norm))) is not None:
            _set(norm, values.mean(1), values.var(1, correction=0), shift)


def _set(norm: _BatchNorm, mean: Tensor, variance: Tensor, shift: Tensor) -> None:
    """Statistics, and the scale and the shift by which it adds ``shift`` alone; without those, statistics that do."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean if norm.affine else -shift)
    norm.running_var.copy_(variance if norm.affine else torch.tensor(1 - norm.eps))
    if norm.affine:
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean)

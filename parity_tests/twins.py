"""The two networks with the same weights: building, perturbing, copying and comparing them.

Written out here once more, by hand, apart from the converter that users run (``lightning_cifake.keras_io.weights``):
a mistake in that one cannot hide itself.
"""

from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cifake.networks.resnet50 import ResNet50Detector


def published_model(keras: Any, dropout: bool = True) -> Any:
    """``tf_reference``'s model, uncompiled, with random weights; without dropout its Dropout(0.5) is a Dropout(0)."""
    from tf_reference import model as reference

    if dropout:
        return reference.build_model(weights=None)
    kind = keras.layers.Dropout
    with patch.object(reference.layers, "Dropout", lambda rate: kind(0.0)):
        return reference.build_model(weights=None)


@torch.no_grad()
def perturb(network: nn.Module) -> None:
    """Freshly initialised batch norm is nearly the identity and hides what differs.

    The last of a block stays small: at 1 the random blocks pile up to a function so steep that in train mode rounding
    alone grows a hundredfold from stem to head.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.weight.uniform_(*((0.05, 0.2) if name.endswith("bn3") else (0.5, 1.5)))
            layer.bias.uniform_(-0.2, 0.2)
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)


def convolutions(network: ResNet50Detector) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Keras's name of every convolution -> (convolution, batch norm)."""
    body = network.backbone
    pairs = {"conv1": (body.conv1, body.bn1)}
    for stage, blocks in enumerate([body.layer1, body.layer2, body.layer3, body.layer4], start=2):
        for number, block in enumerate(blocks, start=1):
            name = f"conv{stage}_block{number}"
            if block.downsample is not None:
                pairs[f"{name}_0"] = (block.downsample[0], block.downsample[1])
            for step in (1, 2, 3):
                pairs[f"{name}_{step}"] = (getattr(block, f"conv{step}"), getattr(block, f"bn{step}"))
    return pairs


def copy_weights(ours: ResNet50Detector, theirs: Any, bias: float = 0.1) -> None:
    """Ours into theirs; their convolutions get a random bias of that size, which ours carry in the running mean."""
    rng = np.random.default_rng(0)
    backbone = theirs.layers[0]
    for name, (convolution, norm) in convolutions(ours).items():
        kernel = array(convolution.weight).transpose(2, 3, 1, 0)
        shift = bias * rng.normal(size=kernel.shape[-1])
        backbone.get_layer(f"{name}_conv").set_weights([kernel, shift])
        backbone.get_layer(f"{name}_bn").set_weights(
            [array(norm.weight), array(norm.bias), array(norm.running_mean) + shift, array(norm.running_var)]
        )
    head = ours.head
    theirs.layers[2].set_weights([array(head.dense1.weight).T, array(head.dense1.bias)])
    norm = head.norm
    theirs.layers[3].set_weights(
        [array(norm.weight), array(norm.bias), array(norm.running_mean), array(norm.running_var)]
    )
    theirs.layers[5].set_weights([array(head.dense2.weight).T, array(head.dense2.bias)])
    theirs.layers[6].set_weights([array(head.logit.weight).T, array(head.logit.bias)])


def their_weights(theirs: Any) -> dict[str, np.ndarray]:
    """Theirs, under our names and in our shapes, convolution biases taken out of the running means."""
    found: dict[str, np.ndarray] = {}
    backbone = theirs.layers[0]
    for name, ours in _our_names().items():
        kernel, bias = backbone.get_layer(f"{name}_conv").get_weights()
        gamma, beta, mean, variance = backbone.get_layer(f"{name}_bn").get_weights()
        found[f"{ours[0]}.weight"] = kernel.transpose(3, 2, 0, 1)
        found |= _norm(ours[1], gamma, beta, mean - bias, variance)
    for layer, ours in ((2, "dense1"), (5, "dense2"), (6, "logit")):
        kernel, bias = theirs.layers[layer].get_weights()
        found |= {f"head.{ours}.weight": kernel.T, f"head.{ours}.bias": bias}
    return found | _norm("head.norm", *theirs.layers[3].get_weights())


def _norm(name: str, *values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}.{each}": value for each, value in zip(NORM, values, strict=True)}


NORM = ("weight", "bias", "running_mean", "running_var")


def _our_names() -> dict[str, tuple[str, str]]:
    """Keras's name of every convolution -> (name of the convolution, name of its batch norm) in our state_dict."""
    with torch.device("meta"):
        network = ResNet50Detector()
    names = {id(module): name for name, module in network.named_modules()}
    return {key: (names[id(conv)], names[id(norm)]) for key, (conv, norm) in convolutions(network).items()}


def our_weights(network: ResNet50Detector) -> dict[str, np.ndarray]:
    """The state_dict as arrays, less the counters of batches."""
    return {name: array(value) for name, value in network.state_dict().items() if "num_batches" not in name}


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Largest difference of any two entries, in units of max(1, the tensor's largest entry)."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max() / max(1, np.abs(theirs[name]).max())) for name in ours)


def array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()  # numpy has no bf16


def to_ours(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) -> (N, 3, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


STAGES = {
    "stem": ("maxpool", "pool1_pool"),
    "stage 2": ("layer1", "conv2_block3_out"),
    "stage 3": ("layer2", "conv3_block4_out"),
    "stage 4": ("layer3", "conv4_block6_out"),
    "stage 5": ("layer4", "conv5_block3_out"),
}
"""Of the backbone: torchvision's module, and Keras's layer whose output is the same."""


@torch.no_grad()
def our_stages(network: ResNet50Detector, images: np.ndarray) -> dict[str, np.ndarray]:
    """What every stage gives of (N, H, W, 3) images, channels last, in the network's present mode; one forward pass."""
    found: dict[str, np.ndarray] = {}
    device = next(network.parameters()).device

    def keep(stage: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[stage] = array(output.permute(0, 2, 3, 1) if output.ndim == 4 else output).copy()

        return hook

    hooks = [getattr(network.backbone, ours).register_forward_hook(keep(stage)) for stage, (ours, _) in STAGES.items()]
    head = {"first dense": "relu1", "head's batch norm": "norm", "second dense": "relu2", "logit": "logit"}
    hooks += [getattr(network.head, ours).register_forward_hook(keep(stage)) for stage, ours in head.items()]
    try:
        found["probability"] = array(network(to_ours(images).to(device)).sigmoid())
    finally:
        for hook in hooks:
            hook.remove()
    return found


def their_stages(theirs: Any, images: np.ndarray, training: bool) -> dict[str, np.ndarray]:
    """The same of theirs, one forward pass; in train mode it moves the running statistics, as a step does."""
    return {stage: np.asarray(value) for stage, value in _their_tensors(theirs, images, training).items()}


def _their_tensors(theirs: Any, images: np.ndarray, training: bool) -> dict[str, Any]:
    import keras

    backbone, flatten, dense1, norm, dropout, dense2, last = theirs.layers
    outputs = [backbone.get_layer(name).output for _, name in STAGES.values()]
    values = keras.Model(backbone.input, outputs)(images, training=training)
    found = dict(zip(STAGES, values, strict=True))
    found["first dense"] = dense1(flatten(values[-1]))
    found["head's batch norm"] = norm(found["first dense"], training=training)
    found["second dense"] = dense2(dropout(found["head's batch norm"], training=training))
    kernel, bias = (keras.ops.cast(weight, last.compute_dtype) for weight in (last.kernel, last.bias))
    found["logit"] = keras.ops.matmul(found["second dense"], kernel) + bias
    found["probability"] = last(found["second dense"])[:, 0]
    return found


def their_grad_cam(tf: Any, theirs: Any, images: np.ndarray, stage: str, of: str = "logit") -> np.ndarray:
    """Grad-CAM of a stage, (N, h, w), not cut at 0, in eval mode; as Keras's own example of it computes.

    Args:
        of: whose gradient: ``logit``, or ``probability``.
    """
    with tf.GradientTape() as tape:
        found = _their_tensors(theirs, images, training=False)
    weights = tf.reduce_mean(tape.gradient(found[of], found[stage]), axis=(1, 2), keepdims=True)
    return np.asarray(tf.reduce_sum(weights * found[stage], axis=-1))


def their_gradients(
    tf: Any, theirs: Any, images: np.ndarray, labels: np.ndarray
) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(loss, gradients under our names, gradients of the convolutions' biases) as a train step computes them."""
    import keras

    loss_of = keras.losses.BinaryCrossentropy()

    @tf.function  # only in a graph does Keras find the sigmoid's logits, and take the loss of those
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels[:, None], theirs(images, training=True))
        return loss, tape.gradient(loss, theirs.trainable_variables)

    loss, values = gradients()
    by_path = {v.path: np.asarray(g) for v, g in zip(theirs.trainable_variables, values, strict=True)}
    return float(loss), *under_our_names(theirs, by_path)


def under_our_names(theirs: Any, by_path: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays by their variables' paths -> (under our names and in our shapes, those of the convolutions' biases)."""
    found: dict[str, np.ndarray] = {}
    biases: dict[str, np.ndarray] = {}
    backbone = theirs.layers[0]
    for name, (conv, norm) in _our_names().items():
        layer, normalisation = backbone.get_layer(f"{name}_conv"), backbone.get_layer(f"{name}_bn")
        found[f"{conv}.weight"] = by_path[layer.kernel.path].transpose(3, 2, 0, 1)
        biases[name] = by_path[layer.bias.path]
        found |= {
            f"{norm}.weight": by_path[normalisation.gamma.path],
            f"{norm}.bias": by_path[normalisation.beta.path],
        }
    for layer, name in ((2, "dense1"), (5, "dense2"), (6, "logit")):
        found[f"head.{name}.weight"] = by_path[theirs.layers[layer].kernel.path].T
        found[f"head.{name}.bias"] = by_path[theirs.layers[layer].bias.path]
    norm = theirs.layers[3]
    found |= {"head.norm.weight": by_path[norm.gamma.path], "head.norm.bias": by_path[norm.beta.path]}
    return found, biases


def load_theirs(ours: ResNet50Detector, theirs: Any) -> None:
    """Theirs into ours."""
    state = ours.state_dict()
    weights = {name: torch.from_numpy(np.array(value)) for name, value in their_weights(theirs).items()}
    counters = {name: value for name, value in state.items() if "num_batches" in name}
    ours.load_state_dict({**weights, **counters}, strict=True)

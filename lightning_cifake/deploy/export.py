"""A classifier -> an ONNX model that carries its preprocessing and says where it comes from."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.deploy.digest import KEY, sealed
from lightning_cifake.deploy.graph import ExportGraph, InputType
from lightning_cifake.errors import UserError
from lightning_cifake.networks.contract import check_inference, for_export
from lightning_cifake.text import reason_of
from lightning_cifake.training.classifier import FakeImageClassifier

Precision = Literal["float32", "float16", "int8"]
OPSET = 20
LICENCE = (
    "model and code MIT; trained on CIFAKE (Bird and Lotfi, IEEE Access 2024), made from CIFAR-10 (Krizhevsky 2009), "
    "under CIFAR-10's licence"
)


def to_onnx(
    classifier: FakeImageClassifier, input_type: InputType = "uint8", temperature: float = 1.0
) -> onnx.ModelProto:
    """``images`` (batch, height, width, 3) -> ``prob_real`` and ``logit`` (batch,), by torch's current exporter.

    Raises:
        UserError: the network does not give one logit an image, or is one that the exporter does not take.
    """
    size = classifier.image_size
    check_inference(for_export(classifier.inference_network), size)
    graph = ExportGraph(classifier.inference_network, size, input_type, temperature).eval()
    example = torch.zeros(2, 40, 48, 3, dtype=getattr(torch, input_type))  # any sizes that are not 0, 1 or each other's
    shapes = ({0: Dim("batch"), 1: Dim("height"), 2: Dim("width")},)
    try:
        with silence():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["prob_real", "logit"],
                dynamic_shapes=shapes,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"this network cannot be exported: {reason_of(error)}") from error
    assert program is not None
    model = program.model_proto
    _forget_where_it_was_made(model)
    return model


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """torch's exporter and onnxruntime's quantiser log, warn and print as they go; what matters is an exception."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """The exporter notes the lines of code, with this machine's paths, on every node, those of a branch too."""
    del model.metadata_props[:]
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
            del part.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            graphs += [each.g for each in node.attribute if each.HasField("g")]


def with_half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are kept in float16 and cast to float32, in which all is computed as before.

    Half the file, and as fast: onnxruntime casts once, as it opens it, and computes in float32 on CPUs whatever the
    model says. Biases, and weights past float16's range, stay as they are.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, casts = made.graph, []
    for weight in [each for each in graph.initializer if len(each.dims) > 1 and each.data_type == TensorProto.FLOAT]:
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(weight).astype(np.float16)
        if np.isfinite(values).all():
            half = numpy_helper.from_array(values, f"{weight.name}_float16")
            casts.append(helper.make_node("Cast", [half.name], [weight.name], to=TensorProto.FLOAT))
            graph.initializer.remove(weight)
            graph.initializer.append(half)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def set_metadata(model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Writes facts into the model's own metadata; what is not text as JSON."""
    helper.set_model_props(
        model, {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    )


def serialized(model: onnx.ModelProto) -> bytes:
    """What is written to a file: the model, and the digest of it all at its end, which ``Detector`` checks."""
    kept = [each for each in model.metadata_props if each.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return sealed(model.SerializeToString())


def metadata(
    classifier: FakeImageClassifier, precision: Precision, input_type: InputType, temperature: float, threshold: float
) -> dict[str, Any]:
    """What every exported model says of itself, whatever is known of its training."""
    return {
        "class_names": DISPLAY_NAMES,
        "decision_threshold": threshold,
        "temperature": temperature,
        "image_size": classifier.image_size,
        "input": f"images: {input_type} RGB (N, H, W, 3), "
        + ("0 to 255" if input_type == "uint8" else "0 to 1")
        + "; resized inside",
        "output": "prob_real: P(REAL), logit: its log-odds; REAL where prob_real is above decision_threshold",
        "precision": precision,
        "network": classifier.hparams["network"],
        "licence": LICENCE,
    }

"""float32 -> int8: static, per channel, calibrated on training images, the method chosen by measurement."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from lightning_cifake.deploy.export import silence
from lightning_cifake.deploy.products import PRODUCT
from lightning_cifake.errors import UserError
from lightning_cifake.files import temporary_folder

Method = Literal["percentile 99.9", "percentile 99.99", "percentile 99.999", "smallest and largest"]
# name -> onnxruntime's calibration method, and what percentile it keeps. Which is best differs from network to network,
# and the measurement tells. Its entropy method is not among them: with 128 bins it came out as the smallest and largest
# value on small networks, and takes minutes.
METHODS: dict[Method, tuple[str, float | None]] = {
    "percentile 99.9": ("Percentile", 99.9),
    "percentile 99.99": ("Percentile", 99.99),
    "percentile 99.999": ("Percentile", 99.999),
    "smallest and largest": ("MinMax", None),
}
CALIBRATION_IMAGES = 512
_BATCH = 32


def quantize(model: onnx.ModelProto, images: np.ndarray, method: Method) -> onnx.ModelProto:
    """A copy in int8, its input and outputs as before.

    Convolutions alone, where they hold most of the weights: in ResNet50 they are 99 % of the arithmetic. Quantising the
    additions and the pooling between them too was slower and less accurate. Else dense layers too, but for the last:
    256 levels of its output would tie probabilities. Weights int8 per output channel,
    activations uint8. Weights take 7 bits: on a processor without VNNI the pairwise sums of a uint8 and an
    int8 product overflow int16 otherwise, and the same file would answer differently there.

    Args:
        images: (N, S, S, 3) uint8, of training, never of the test.
        method: of METHODS, how the range of each activation is found.

    Raises:
        UserError: there is no layer whose weights int8 could hold.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kind, percentile = METHODS[method]
    layers = _layers(model)
    with temporary_folder(Path(tempfile.gettempdir()), "lightning_cifake-quantize") as folder, silence():
        source, target = folder / "float32.onnx", folder / "int8.onnx"
        onnx.save_model(model, source)
        quantize_static(
            source,
            target,
            _Reader(images, _dtype(model)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in layers}),
            nodes_to_quantize=[node.name for node in layers],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, kind),
            extra_options={} if percentile is None else {"CalibPercentile": percentile},
        )
        return onnx.load_model(target)


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    weights = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    sizes = {each.name: math.prod(each.dims) for each in weights}
    weighted = [node for node in model.graph.node if len(node.input) > 1 and node.input[1] in sizes]
    convolutions = [node for node in weighted if node.op_type == "Conv" or node.input[1].endswith(PRODUCT)]
    dense = [node for node in weighted if node.op_type in ("Gemm", "MatMul") and node not in convolutions][:-1]
    in_convolutions, in_dense = (sum(sizes[node.input[1]] for node in nodes) for nodes in (convolutions, dense))
    layers = convolutions if in_convolutions >= in_dense else [*convolutions, *dense]
    if not layers:
        raise UserError(
            "int8 is for networks with convolutions, or dense layers before the last: this one has none; export it in "
            "float32 or float16"
        )
    return layers


def _dtype(model: onnx.ModelProto) -> Any:
    kind = model.graph.input[0].type.tensor_type.elem_type
    return np.uint8 if kind == onnx.TensorProto.UINT8 else np.float32


class _Reader:
    """Hands onnxruntime's calibrator one batch after the other; it asks for no base class."""

    def __init__(self, images: np.ndarray, dtype: Any) -> None:
        self.images, self.dtype = images, dtype
        self._batches = self._make()

    def _make(self) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self.images), _BATCH):
            batch = np.ascontiguousarray(self.images[start : start + _BATCH])
            yield {"images": batch if self.dtype == np.uint8 else batch.astype(np.float32) / 255}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)

    def __len__(self) -> int:
        return -(-len(self.images) // _BATCH)

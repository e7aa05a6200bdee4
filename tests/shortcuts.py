"""What the tests leave out, for it takes longer than what they test; each is tested somewhere as it is.

- The three pictures of a run's report are left blank. ``tests/evaluation`` asks for ``drawn_pictures``; a command in
  a process of its own (``python tests/tiny.py``) draws them too.
- A network of the same code, arguments and weights is exported once a process; anew where a test has put another
  function into ``lightning_cifake.deploy.graph``, or another ``forward`` into one of its modules.
- torch's exporter parses onnxscript's five hundred functions once, not in every export.
"""

import base64
import functools
import hashlib
import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from lightning_cifake.evaluation import plots
from lightning_cifake.files import write_whole

# a grey pixel
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
DRAWN = {name: getattr(plots, name) for name in ("plot_confusion_matrix", "plot_roc", "plot_history")}


def write_blank(*given: Any) -> None:
    (path,) = (each for each in given if isinstance(each, Path))
    write_whole(path, PNG)


def blank_pictures() -> AbstractContextManager[object]:
    return patch.multiple(plots, **dict.fromkeys(DRAWN, write_blank))


def drawn_pictures() -> AbstractContextManager[object]:
    return patch.multiple(plots, **DRAWN)


@contextmanager
def quick_exports() -> Iterator[None]:
    """``export.to_onnx`` remembers what it has made."""
    import onnx

    from lightning_cifake.deploy import export, graph

    original = export.to_onnx
    made: dict[Any, bytes] = {}

    @functools.wraps(original)
    def to_onnx(classifier: Any, *given: Any, **named: Any) -> onnx.ModelProto:
        read_torchlib_once()
        functions = tuple(each for each in vars(graph).values() if callable(each))
        key = (_identity(classifier.inference_network), classifier.image_size, functions, given, *sorted(named.items()))
        if key not in made:
            made[key] = original(classifier, *given, **named).SerializeToString()
        return onnx.load_model_from_string(made[key])

    with patch.object(export, "to_onnx", to_onnx):
        yield


def _identity(network: nn.Module) -> tuple[Any, ...]:
    """Of each module its class, its code and its arguments; and the weights."""
    modules = []
    for name, module in network.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str | tuple)}
        modules.append((name, type(module), type(module).forward, str(plain)))
    weights = hashlib.sha256()
    for name, value in network.state_dict().items():
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        weights.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())  # of bfloat16 too
    return *modules, weights.digest()


@functools.cache
def read_torchlib_once() -> None:
    registration = importlib.import_module("torch.onnx._internal.exporter._registration")
    apis = getattr(registration, "onnxscript_apis", None)
    if hasattr(apis, "get_torchlib_ops"):
        apis.get_torchlib_ops = functools.cache(apis.get_torchlib_ops)

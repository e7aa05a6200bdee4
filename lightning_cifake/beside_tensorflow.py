"""TensorFlow and torch in one process, in either order."""

import sys


def keep_triton_out() -> None:
    """Where TensorFlow was imported first, keeps triton from being imported behind it. Idempotent.

    Both hold an LLVM of their own that registers the same options: imported behind TensorFlow, triton ends the process
    with a segmentation fault (tensorflow 2.21, triton of torch 2.14). torchvision and Lightning import it by way of
    torch._dynamo. Nothing of this project needs it; ``torch.compile`` on a GPU does, and then says that it is missing:
    for that, import torchvision before TensorFlow.
    """
    if "tensorflow" in sys.modules and "triton" not in sys.modules:
        sys.modules["triton"] = None  # type: ignore[assignment]  # an import raises ImportError: as if not installed

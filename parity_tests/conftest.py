"""The two frameworks in one process: torch first (TensorFlow first ends in an LLVM error); skips without TensorFlow."""

import os

import pytest
import torch  # noqa: F401 - before TensorFlow
import torchvision  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def tf():
    return pytest.importorskip("tensorflow", reason="TensorFlow is missing: pip install 'lightning_cifake[tf]'")


@pytest.fixture(scope="session")
def keras(tf):
    return pytest.importorskip("keras", reason="Keras is missing: pip install 'lightning_cifake[tf]'")


@pytest.fixture(scope="module")
def keras_float64(keras):
    """Keras in float64 for a module's tests, which takes two settings; put back afterwards."""
    keras.backend.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield keras
    keras.backend.set_floatx("float32")
    keras.config.set_dtype_policy("float32")

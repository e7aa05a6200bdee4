"""The two frameworks in one process: torch first (TensorFlow first ends in an LLVM error); skips without TensorFlow."""

import gc
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from parity_tests.claims import Claims, Recorder
from parity_tests.real_images import real_images as draw_real_images
from parity_tests.reference_run import ReferenceRun, train_reference

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as python -m tf_reference computes

# Keras 3.15 makes arrays of TensorFlow's variables by a call that numpy 2 wants spelled otherwise: nothing to fix here
KERAS_AND_NUMPY = "ignore:.*__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_configure(config: pytest.Config) -> None:
    if _recorder(config) is None:  # python -m parity_tests brings its own
        config.pluginmanager.register(Recorder())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(KERAS_AND_NUMPY))


def _recorder(config: pytest.Config) -> Recorder | None:
    return next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Recorder)), None)


@pytest.fixture(scope="module")  # not the test's own: hypothesis takes no fixture that it would have to make anew
def claim(request) -> Iterator[Claims]:
    """``claim(text, measured, tolerance)``, ``claim.equal``, ``claim.fault``, ``claim.figure``, ``claim.note``."""
    recorder = _recorder(request.config)
    assert recorder is not None
    with TemporaryDirectory(prefix="pictures-") as folder:
        yield Claims(recorder, recorder.pictures or Path(folder))


@pytest.fixture(scope="module", autouse=True)
def drawn_alike():
    """Keras draws its initialisers' seeds from here: a module's weights do not depend on the tests before it."""
    random.seed(0)


@pytest.fixture
def tmp_path(tmp_path):
    """Removed as its test ends: what is gone by then of hundreds of MB need not be written to the disk."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def tf():
    # at the first use: the tests' controller, which runs none, does not wait for them
    import torch  # noqa: F401 - before TensorFlow
    import torchvision  # noqa: F401

    found = pytest.importorskip("tensorflow", reason="TensorFlow is missing: pip install 'lightning_cifake[tf]'")
    gc.freeze()  # it stays: collecting garbage need not pass over it
    return found


@pytest.fixture(scope="session")
def keras(tf):
    found = pytest.importorskip("keras", reason="Keras is missing: pip install 'lightning_cifake[tf]'")
    gc.freeze()
    return found


@pytest.fixture(scope="module")
def keras_float64(keras):
    """Keras in float64 for a module's tests, which takes two settings; put back afterwards."""
    with in_float64(keras):
        yield keras


@contextmanager
def in_float64(keras):
    before = keras.backend.floatx(), keras.config.dtype_policy()
    keras.backend.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.backend.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


@pytest.fixture(scope="session")
def backbone(keras):
    """keras.applications' ResNet50 in float64, for many models to stand on; whoever changes it puts it back."""
    from parity_tests.keras_files import backbone_of, perturb  # torch, which the controller need not import

    state = random.getstate()
    random.seed(0)
    with in_float64(keras):
        made = perturb(backbone_of(keras))
    random.setstate(state)
    return made


@pytest.fixture(scope="session")
def real_images(demo_cache) -> tuple[np.ndarray, np.ndarray]:
    """Of CIFAKE's test part, or of the built-in demo where CIFAKE_ROOT is not set: real_images.py says which."""
    return draw_real_images(os.environ.get("CIFAKE_ROOT"), demo_cache)


@pytest.fixture(scope="session")
def reference_run(tf, tmp_path_factory) -> ReferenceRun:
    """``tf_reference``'s own command, run on 640 images for two epochs."""
    return train_reference(tmp_path_factory.mktemp("reference_run"))


@pytest.fixture(scope="session")
def trained_model(request, keras):
    """A Keras model trained by ``tf_reference``: the file that $PARITY_MODEL names, else ``reference_run``'s."""
    path = os.environ.get("PARITY_MODEL") or request.getfixturevalue("reference_run").model
    return keras.models.load_model(path)

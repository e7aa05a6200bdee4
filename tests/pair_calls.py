"""What a process that :mod:`warm` forks, or a pair of them, can be asked to do; each function gets arguments and gives
an exit code.
"""

import importlib.util
import json
import os
import pkgutil
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from lightning_cifake.distributed import shard_of, use_shard
from lightning_cifake.networks.resnet50 import ResNet50Detector

IMAGES = 9  # 4 and 5


def resnet_step(_: list[str]) -> int:
    """Prints how far a step of the real network on two processes is from one on one, of each tensor's largest value."""
    dist.init_process_group("gloo")
    shard = shard_of(IMAGES, dist.get_rank(), 2)
    torch.manual_seed(0)
    images, labels = torch.rand(IMAGES, 3, 32, 32).double(), torch.arange(IMAGES).double() % 2
    after = [_step(images, labels, shared) for shared in (None, shard)]
    print(json.dumps({name: _distance(after[1][name], after[0][name]) for name in after[0]}))
    dist.destroy_process_group()
    return 0


def ask_in_a_fork(arguments: list[str]) -> int:
    """Asks a checkpoint, and asks it once more in a forked process, OpenMP's threads being there in both."""
    from lightning_cifake.deploy.predict import predict_files

    torch.set_num_threads(2)
    image = np.zeros((32, 32, 3), np.uint8)
    (expected,) = predict_files(arguments[0], image)
    big = torch.rand(512, 512)
    (big @ big).exp().sum()
    tasks = Path("/proc/self/task")
    assert not tasks.exists() or len([*tasks.iterdir()]) > 1, "no threads have started"
    pid = os.fork()
    if pid == 0:
        (answer,) = predict_files(arguments[0], image)
        (big @ big).exp().sum()
        os._exit(0 if abs(answer.prob_real - expected.prob_real) < 1e-6 else 71)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read_keras_without_keras(arguments: list[str]) -> int:
    """Imports all that reads Keras's files where Keras and TensorFlow are not, and reads the files that are named."""
    assert not {"keras", "tensorflow"} & set(sys.modules), "the package has imported them on its way"
    for name in [each for each in sys.modules if each.startswith("lightning_cifake.keras_io")]:
        del sys.modules[name]
    sys.modules |= dict.fromkeys(("keras", "tensorflow"))  # type: ignore[arg-type] - an import of one fails
    from lightning_cifake import keras_io

    for module in pkgutil.iter_modules(keras_io.__path__, "lightning_cifake.keras_io."):
        importlib.import_module(module.name)
    importer = importlib.import_module("lightning_cifake.keras_io.importer")
    return sum(importer.import_keras(Path(path)).adam is None for path in arguments)


def load_within_512_mib(arguments: list[str]) -> int:
    """Decodes a source into a cache with so much more address space than there is, and prints what it found."""
    import resource

    from lightning_cifake.data.decode import load_images

    most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (512 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    images = load_images(Path(arguments[0]), cache_dir=Path(arguments[1]))
    print(len(images), [problem.path for problem in images.problems])
    return 0


def kill_fits(_: list[str]) -> int:
    """``python tests/training/kill.py``, which reads ``sys.argv``."""
    spec = importlib.util.spec_from_file_location("kill", Path(__file__).parent / "training" / "kill.py")
    assert spec is not None and spec.loader is not None
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    return kill.main()


def pytest_of_a_copy(arguments: list[str]) -> int:
    """pytest with the package that lies in the current folder; of this project nothing stays imported."""
    import pytest

    for name in [each for each in sys.modules if each.partition(".")[0] in ("lightning_cifake", "tests", "conftest")]:
        del sys.modules[name]
    sys.path.insert(0, str(Path.cwd()))
    import lightning_cifake

    assert Path(lightning_cifake.__file__).is_relative_to(Path.cwd()), lightning_cifake.__file__
    return int(pytest.main(arguments))


def parity_tests_of_a_copy(arguments: list[str]) -> int:
    """``python -m parity_tests`` of what lies in the current folder under that name; ends as that does."""
    for name in [each for each in sys.modules if each.partition(".")[0] in ("parity_tests", "tests", "conftest")]:
        del sys.modules[name]
    sys.path.insert(0, str(Path.cwd()))
    sys.dont_write_bytecode = True  # its tests are written anew within a second
    sys.argv = ["parity_tests", *arguments]
    runpy.run_module("parity_tests", run_name="__main__", alter_sys=True)
    raise AssertionError("python -m parity_tests ends by sys.exit")


def _step(images: Tensor, labels: Tensor, shard: Any) -> dict[str, Tensor]:
    """Gradients, those of all processes added up, and batch norm's statistics behind a step, dropout on."""
    torch.manual_seed(1)
    network = ResNet50Detector().double().train()
    with use_shard(shard):
        logits = network(images if shard is None else shard.slice(images))
    loss = F.binary_cross_entropy_with_logits(logits, labels if shard is None else shard.slice(labels), reduction="sum")
    (loss / IMAGES).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    if shard is not None:
        for gradient in gradients.values():
            dist.all_reduce(gradient)  # type: ignore[arg-type]
    statistics = {name: value for name, value in network.named_buffers() if value.is_floating_point()}
    return {**gradients, **statistics}  # type: ignore[dict-item]


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()

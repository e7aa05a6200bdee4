"""Names that a dependency keeps to itself and this project uses all the same: each is there, in the form relied on.

Everything else goes through public names; the first test holds the code to that. Where a release of a dependency takes
one of these away, the test of that name fails and says which file needs another way. They hold from the oldest version
that pyproject.toml allows (``make test-oldest``) to the newest that was tried.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lightning_cifake", "tf_reference", "parity_tests", "examples")
DOCUMENTED = {"_asdict", "_exit", "_fields", "_replace"}  # os._exit and namedtuple's: public in spite of their names


class Use(NamedTuple):
    """A private name of a dependency."""

    since: str
    """The oldest version that is supported."""
    place: str
    """``module`` or ``module:class`` that has it."""
    parameters: list[str] | None
    """What it takes; None where it is no function."""
    why: str
    """The file that uses it, and why there is no public way."""


LIGHTNING: dict[str, Use] = {
    "_batches_that_stepped": Use(
        "lightning 2.6.6",
        "lightning.pytorch.loops.training_epoch_loop:_TrainingEpochLoop",
        None,
        "training/convert.py writes a checkpoint that a fit resumes; Lightning saves this counter under this name",
    ),
    "_get": Use(
        "lightning 2.6.6",
        "lightning.pytorch.cli:LightningCLI",
        ["self", "config", "key", "default"],
        "commands/lightning_cli.py makes the model itself and takes the rest from where LightningCLI keeps it",
    ),
    "_run_subcommand": Use(
        "lightning 2.6.6",
        "lightning.pytorch.cli:LightningCLI",
        ["self", "subcommand"],
        "commands/lightning_cli.py turns what a command raises into one line; the public hooks do not enclose it",
    ),
    "_trainer": Use(
        "lightning 2.6.6",
        "lightning.pytorch:LightningModule",
        None,
        "training/classifier.py asks whether there is a Trainer; the public property raises where there is none",
    ),
}
PARSERS: dict[str, Use] = {
    "_actions": Use(
        "Python 3.11",
        "argparse:ArgumentParser",
        None,
        "commands/parsing.py names an argument as its help does; argparse lists them nowhere else",
    ),
    "_check_type": Use(
        "jsonargparse 4.48",
        "an action of jsonargparse",
        None,
        "commands/model_arguments.py takes short names where a class path is read, from a flag or a file",
    ),
    "_negative_number_matcher": Use(
        "Python 3.11",
        "argparse:ArgumentParser",
        None,
        "commands/parsing.py: --pixels -1-1 is a flag and its value",
    ),
    "_option_string_actions": Use(
        "Python 3.11",
        "argparse:ArgumentParser",
        None,
        "commands/parsing.py answers a misspelt flag with the one that was meant; argparse lists them nowhere else",
    ),
}
TORCH: dict[str, Use] = {
    "_BatchNorm": Use(
        "torch 2.10",
        "torch.nn.modules.batchnorm",
        None,
        "training/classifier.py finds every batch norm, a user's subclass too; torch has no public name for their base",
    ),
    **{
        name: Use(
            "torch 2.10",
            "torch",
            None,
            "training/optimizers.py and averaging.py take all weights in one launch; torch.optim has it inside alone",
        )
        for name in (
            "_foreach_add",
            "_foreach_add_",
            "_foreach_copy_",
            "_foreach_lerp",
            "_foreach_lerp_",
            "_foreach_mul_",
        )
    },
    "_init_group": Use(
        "torch 2.10",
        "torch.optim:Adam",
        ["self", "group", "params_with_grad", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "state_steps"],
        "training/keras_adam.py gives the fused kernel moments laid out as their parameter, where it would mix them up",
    ),
    "_is_amx_tile_supported": Use(
        "torch 2.10",
        "torch.cpu",
        [],
        "training/precision.py; torch.cpu.get_capabilities is younger than torch 2.10",
    ),
    "_is_avx512_bf16_supported": Use(
        "torch 2.10",
        "torch.cpu",
        [],
        "training/precision.py; torch.cpu.get_capabilities is younger than torch 2.10",
    ),
    "_version": Use(
        "torch 2.10",
        "torch:Tensor",
        None,
        "deploy/simplify.py tells a tensor that was written to in place; torch has no public count of that",
    ),
}
KERAS: dict[str, Use] = {
    "_momentums": Use("keras 3.15", "keras.optimizers:Adam", None, "keras_io/exporter.py fills a model's optimizer"),
    "_velocities": Use("keras 3.15", "keras.optimizers:Adam", None, "keras_io/exporter.py fills a model's optimizer"),
}
SCIKIT_LEARN: dict[str, Use] = {
    name: Use(
        "scikit-learn 1.6",
        "sklearn.ensemble:HistGradientBoostingClassifier",
        None,
        "networks/fitted.py keeps boosted trees as tensors; scikit-learn shows them nowhere else",
    )
    for name in ("_baseline_prediction", "_predictors")
}
ALL = LIGHTNING | PARSERS | TORCH | KERAS | SCIKIT_LEARN


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def of_others(source: str) -> set[str]:
    """Private names that the source reads, calls through super() or imports, and that it does not itself define."""
    tree = ast.parse(source)
    own, read = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                own.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
    inherited = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()" and is_private(node.attr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name):
                read.add(name)
            case ast.ImportFrom(module=module, names=names) if module and module.split(".")[0] not in PACKAGES:
                read |= {part for name in names for part in (*module.split("."), name.name) if is_private(part)}
            case ast.Import(names=names):
                read |= {part for name in names for part in name.name.split(".") if is_private(part)}
    return (read - own) | inherited


def found(table: dict[str, Use], name: str) -> Any:
    """What the name stands for, or a failure that says what to do."""
    since, place, parameters, why = table[name]
    module, _, owner = place.partition(":")
    holder: Any = importlib.import_module(module)
    holder = getattr(holder, owner) if owner else holder
    version = importlib.import_module(module.split(".")[0]).__version__
    assert hasattr(holder, name), (
        f"{place} has no {name} in version {version} (it had from {since} on). Needed because: {why}"
    )
    if parameters is not None:
        got = list(inspect.signature(getattr(holder, name)).parameters)
        assert got == parameters, f"{place}.{name} of version {version} takes {got}, expected {parameters}. {why}"
    return getattr(holder, name)


def test_no_other_private_name_of_a_dependency_is_used() -> None:
    own = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            own |= {
                node.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_private(node.name)
            }
    used: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text()
            overridden = {name for name in ALL if re.search(rf"(super\(\)|self)\.{name}\b", source)}
            for name in (of_others(source) - own - DOCUMENTED) | overridden:
                used.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert set(used) <= set(ALL), {name: files for name, files in used.items() if name not in ALL}
    assert set(ALL) <= set(used), f"no longer used, take it out of the table: {sorted(set(ALL) - set(used))}"


def test_the_search_sees_each_way_to_use_a_private_name() -> None:
    source = (
        "import torch._dynamo\nfrom keras._x import y\nclass A(B):\n  def _f(self):\n    super()._f()\n    a._g = 1\n"
    )
    assert of_others(source) == {"_dynamo", "_x", "_f", "_g"}
    assert (
        of_others("class A:\n  def _f(self):\n    self._g = 1\n    return self._f() + self._g + self.__dict__\n")
        == set()
    )


@pytest.mark.parametrize("name", [name for name in LIGHTNING if LIGHTNING[name].parameters is not None])
def test_lightning_still_has(name: str) -> None:
    found(LIGHTNING, name)


def test_lightning_counts_steps_and_keeps_its_trainer_under_these_names() -> None:
    import lightning as L

    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    saved = trainer.fit_loop.epoch_loop.on_save_checkpoint()
    assert saved == {"_batches_that_stepped": 0}, f"lightning {L.__version__} saves {saved}"
    module = L.LightningModule()
    assert module._trainer is None, LIGHTNING["_trainer"].why
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        _ = module.trainer


def test_parsers_keep_their_arguments_and_checks_under_these_names() -> None:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    action = parser.add_argument("--count", type=int | None)
    for name in PARSERS:
        holder = action if name == "_check_type" else parser
        assert hasattr(holder, name), f"jsonargparse {jsonargparse.__version__}: no {name}. {PARSERS[name].why}"
    assert parser._option_string_actions["--count"] is action and action in parser._actions
    checked: list[Any] = []
    check = action._check_type
    action._check_type = lambda value, *more, **named: checked.append(value) or check(value, *more, **named)
    assert parser.parse_args(["--count", "3"]).count == 3
    assert parser.parse_object({"count": 4}).count == 4
    assert {3, 4} <= {int(value) for value in checked}, "a flag and a file are both read by _check_type"


@pytest.mark.parametrize("name", list(TORCH))
def test_torch_still_has(name: str) -> None:
    import torch

    held = found(TORCH, name)
    if name.startswith("_is_"):
        assert isinstance(held(), bool)
    if name == "_BatchNorm":
        norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)
        assert all(issubclass(norm, held) for norm in norms)


def test_adam_fills_its_lists_in_init_group() -> None:
    """What KerasAdam changes there is what the kernel then gets."""
    import torch

    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), 2.0)
    adam = torch.optim.Adam([weight])
    params, grads, first, second, largest, steps = [], [], [], [], [], []
    adam._init_group(adam.param_groups[0], params, grads, first, second, largest, steps)
    assert params[0] is weight and grads[0] is weight.grad
    assert first[0] is adam.state[weight]["exp_avg"] and second[0] is adam.state[weight]["exp_avg_sq"]
    assert steps[0] is adam.state[weight]["step"] and not largest


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs keras: pip install -e .[tf]")
def test_keras_keeps_its_moments_in_the_order_of_the_variables() -> None:
    importlib.import_module("torch")  # before TensorFlow: the other order ends the process
    keras = importlib.import_module("keras")

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    for name, use in KERAS.items():
        moments = getattr(optimizer, name, None)
        assert moments is not None, f"keras {keras.__version__} has no Adam.{name}. Needed because: {use.why}"
        assert [tuple(each.shape) for each in moments] == [tuple(each.shape) for each in model.trainable_variables]


def test_scikit_learn_keeps_boosted_trees_as_arrays_under_these_names() -> None:
    import numpy as np
    import sklearn
    from sklearn.ensemble import HistGradientBoostingClassifier

    features = np.arange(40.0)[:, None]
    fitted = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=5).fit(features, features[:, 0] > 19)
    for name, use in SCIKIT_LEARN.items():
        assert hasattr(fitted, name), f"scikit-learn {sklearn.__version__}: no {name}. Needed because: {use.why}"
    ((tree,), _) = fitted._predictors
    assert {"is_leaf", "value", "feature_idx", "num_threshold", "left", "right"} <= set(tree.nodes.dtype.names)
    assert np.asarray(fitted._baseline_prediction).size == 1

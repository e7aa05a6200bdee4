"""Every default is what the paper's script has; a planted patience of 4 went unseen once.

The values are the paper's, section 10, literally: nothing here is computed from this project's own constants.
parity_tests/test_published_defaults.py asks Keras for those that the paper leaves to its defaults.
"""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_cifake.commands.main import main
from lightning_cifake.data import protocols
from lightning_cifake.data.augment import PublishedAugmentation
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.networks.registry import network_class
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.callbacks import default_callbacks
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import Options
from lightning_cifake.training.early_stopping import KerasEarlyStopping, RestoreBestWeights
from lightning_cifake.training.keras_adam import KerasAdam

LEARNING_RATE = 0.001  # 10.5: initial_learning_rate = 0.001
LR_DECAY = 0.95  # 10.5: return lr * 0.95
EPOCHS = 10  # 10.6: epochs=10
PATIENCE = 3  # 10.6: EarlyStopping(monitor='val_loss', patience=3, restore_best_weights=True)
BATCH = 32  # 10.3: image_dataset_from_directory's own batch_size, which is not given
IMAGE_SIZE = 32  # 10.3: image_size=(32, 32)
SAMPLE = 20_000  # 10.3: Found 20000 files belonging to 2 classes.
SPLIT = (0.7, 0.2, 0.1)  # 10.3
DROPOUT = 0.5  # 10.4: layers.Dropout(0.5)
BRIGHTNESS = 0.1  # 10.6: max_delta=0.1
CONTRAST = (0.9, 1.1)  # 10.6: lower=0.9, upper=1.1
THRESHOLD = 0.5  # 10.10: using a threshold of 0.5
SHUFFLE_BUFFER = 256  # 10.3: image_dataset_from_directory shuffles within 8 batches

REFERENCE = Path(__file__).parents[1] / "tf_reference"


def defaults(function: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """What `fit --config published` runs with."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        main(["fit", "--config", "published", "--print_config"])
    return yaml.safe_load(out.getvalue())


def test_the_published_configuration_is_the_paper_s(published: dict[str, Any]) -> None:
    data, model, trainer = published["data"], published["model"], published["trainer"]
    assert {
        name: data[name] for name in ("protocol", "sample", "batch_size", "image_size", "augment", "per_image")
    } == {
        "protocol": "published",
        "sample": SAMPLE,
        "batch_size": BATCH,
        "image_size": IMAGE_SIZE,
        "augment": True,
        "per_image": False,  # mapped behind the batching: brightness and contrast once a batch
    }
    assert (data["rotation"], data["zoom"], data["split_file"]) == (0, 0, None)  # in the text, not in the script
    network = model["network"]["init_args"]
    assert network_class(model["network"]["class_path"]) is ResNet50Detector
    assert (model["learning_rate"], model["lr_decay"]) == (LEARNING_RATE, LR_DECAY)
    assert model["optimizer"]["class_path"].endswith(".KerasAdam")
    assert model["scheduler"]["class_path"].endswith(".EpochDecay")
    assert model["loss"]["class_path"] == "torch.nn.BCEWithLogitsLoss"
    assert model["loss"]["init_args"]["reduction"] == "mean" and model["loss"]["init_args"]["pos_weight"] is None
    assert {name: network[name] for name in ("layout", "stem", "dropout", "head")} == {
        "layout": "keras",
        "stem": "imagenet",
        "dropout": DROPOUT,
        "head": "flatten, dense 256 relu, batchnorm, dropout, dense 128 relu, dense 1",
    }
    # the one that is not the paper's: its ImageNet weights are a download; --model.weights imagenet has them
    assert model["weights"] == "none" and network["freeze_backbone"] is False
    assert (trainer["max_epochs"], trainer["precision"], published["patience"]) == (EPOCHS, "32-true", PATIENCE)
    for name in ("limit_train_batches", "limit_val_batches", "gradient_clip_val", "max_steps", "val_check_interval"):
        assert trainer[name] in (None, -1), name
    assert (trainer["accumulate_grad_batches"], trainer["check_val_every_n_epoch"]) == (1, 1)
    # the paper has no seeds; ours are fixed, so that a run repeats
    assert (data["seed"], published["seed_everything"]) == (0, 0)


def test_the_defaults_of_the_command_line_are_the_published_ones(
    published: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a configuration merged over them: what a file of one's own starts from."""
    (tmp_path / "empty.yaml").write_text("{}\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "empty.yaml"), "--print_config"])
    plain = yaml.safe_load(capsys.readouterr().out)
    for section, given in (("data", {"protocol", "sample"}), ("model", set()), ("trainer", {"precision"})):
        differs = {name for name, value in plain[section].items() if published[section][name] != value}
        assert differs <= given, section
    assert plain["patience"] == PATIENCE


def test_the_defaults_in_python_are_the_paper_s() -> None:
    model, data = defaults(FakeImageClassifier.__init__), defaults(CIFAKEDataModule.__init__)
    assert (model["learning_rate"], model["lr_decay"], model["network"]) == (LEARNING_RATE, LR_DECAY, "resnet50")
    network = defaults(ResNet50Detector.__init__)
    assert (network["layout"], network["stem"], network["dropout"]) == ("keras", "imagenet", DROPOUT)
    assert (network["image_size"], network["pixels"]) == (IMAGE_SIZE, "0-1")
    assert (data["batch_size"], data["image_size"]) == (BATCH, IMAGE_SIZE)
    assert (data["augment"], data["per_image"], data["rotation"], data["zoom"]) == (True, False, 0, 0)
    assert defaults(binary_metrics)["threshold"] == THRESHOLD
    assert defaults(default_callbacks)["patience"] == PATIENCE
    assert Options().lr_decay == LR_DECAY


def test_early_stopping_is_the_paper_s() -> None:
    (stopper,) = (each for each in default_callbacks("nowhere") if isinstance(each, KerasEarlyStopping))
    assert (stopper.patience, stopper.monitor, stopper.mode, stopper.min_delta) == (PATIENCE, "val_loss", "min", 0)
    assert KerasEarlyStopping().patience == PATIENCE
    assert [each for each in default_callbacks("nowhere") if isinstance(each, RestoreBestWeights)]


def test_the_rate_falls_as_the_script_s_does(tiny_network: type) -> None:
    """LearningRateScheduler runs as an epoch begins: the first trains at 9.5e-4 already."""
    (optimizer,), (schedule,) = FakeImageClassifier(tiny_network()).configure_optimizers()
    assert isinstance(optimizer, KerasAdam)
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = LEARNING_RATE
    for rate in rates:
        expected *= LR_DECAY
        assert rate == pytest.approx(expected, rel=1e-12)


def test_the_augmentation_draws_from_the_paper_s_ranges() -> None:
    torch.manual_seed(0)
    augment = PublishedAugmentation()
    image = torch.tensor([[0.0, 1.0], [0.25, 0.75]], dtype=torch.float64).expand(1, 1, 2, 2)
    brightness, contrast, mirrored, upset = [], [], 0, 0
    draws = 4000
    for _ in range(draws):
        drawn = augment(image.clone())[0, 0]
        brightness.append(drawn.mean().item() - 0.5)
        contrast.append((drawn.max() - drawn.min()).item())
        low = int(drawn.argmin())
        mirrored += low % 2
        upset += low // 2
    assert max(map(abs, brightness)) <= BRIGHTNESS + 1e-12
    assert max(brightness) > 0.99 * BRIGHTNESS and min(brightness) < -0.99 * BRIGHTNESS
    assert CONTRAST[0] - 1e-12 <= min(contrast) < CONTRAST[0] + 1e-3
    assert CONTRAST[1] - 1e-3 < max(contrast) <= CONTRAST[1] + 1e-12
    for count in (mirrored, upset):
        assert abs(count / draws - 0.5) < 0.04  # five standard deviations


def test_the_split_is_the_paper_s() -> None:
    assert protocols.CLEAN_FRACTIONS == SPLIT
    assert protocols.PUBLISHED_BATCH == BATCH
    batches = -(-SAMPLE // BATCH)
    cut = int(batches * 0.7), int(batches * 0.2), int(batches * 0.1) + 1  # as the script computes it
    assert protocols.published_batches(batches) == cut == (437, 125, 63)


def test_the_network_is_the_paper_s() -> None:
    network = FakeImageClassifier().network
    head = [module for module in network.head.modules() if not list(module.children())]
    linear = [(module.in_features, module.out_features) for module in head if isinstance(module, torch.nn.Linear)]
    assert linear == [(2048, 256), (256, 128), (128, 1)]
    assert [module.p for module in head if hasattr(module, "p")] == [DROPOUT]
    assert sum(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in head) == 1
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    biases = 26_560  # of Keras's convolutions; the norm behind each takes them out, ours have none
    assert trained + biases == 24_092_673  # what Keras's summary() calls trainable


def constants(name: str) -> dict[str, Any]:
    """A module's literal constants, read without importing it: it needs TensorFlow."""
    found: dict[str, Any] = {}
    for node in ast.parse((REFERENCE / name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = eval(
                    compile(ast.Expression(node.value), name, "eval"), {"__builtins__": {}}, dict(found)
                )
            except (NameError, TypeError, AttributeError):
                continue
    return found


def test_the_reference_s_constants_are_the_paper_s() -> None:
    model, data, evaluate = constants("model.py"), constants("data.py"), constants("evaluate.py")
    assert (model["INITIAL_LEARNING_RATE"], model["LR_DECAY"]) == (LEARNING_RATE, LR_DECAY)
    assert (model["PATIENCE"], model["EPOCHS"]) == (PATIENCE, EPOCHS)
    assert (data["BATCH_SIZE"], data["IMAGE_SIZE"], data["SHUFFLE_BUFFER"]) == (BATCH, IMAGE_SIZE, SHUFFLE_BUFFER)
    assert data["CLASS_NAMES"] == ("FAKE", "REAL")  # in the order of their folders: REAL is 1
    assert evaluate["THRESHOLD"] == THRESHOLD


def test_the_reference_s_command_line_defaults_are_the_paper_s() -> None:
    from tf_reference.__main__ import _parser

    options = _parser().parse_args(["fit", "--data.root", "folder"])
    assert (options.epochs, options.patience, options.lr_decay) == (EPOCHS, PATIENCE, LR_DECAY)
    assert (options.protocol, options.weights, options.decoder, options.seed) == (
        "published",
        "imagenet",
        "default",
        None,
    )

"""The network of descriptors and classifiers: fitted as scikit-learn fits, fused, fitted by `fit`, and exported."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from lightning_cifake.commands.main import main
from lightning_cifake.data.datamodule import Batch
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.predict import ClassifierModel, load_classifier
from lightning_cifake.deploy.quantize import METHODS, quantize
from lightning_cifake.errors import UserError
from lightning_cifake.networks import build_network, network_spec
from lightning_cifake.networks.contract import check_inference
from lightning_cifake.networks.descriptors import DESCRIPTORS
from lightning_cifake.networks.features import FeatureDetector
from lightning_cifake.networks.fitted import CLASSIFIERS, STEPS, Standardized
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.fitting import check_fitting

SMALL = ["--model.network.descriptors", "[colour,noise]", "--model.network.classifiers", "[lda,boosting]"]


@pytest.fixture(scope="module")
def made() -> tuple[torch.Tensor, torch.Tensor]:
    """(60, 3, 16, 16) of noise, and labels: the second class is smoother."""
    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 2
    images[labels == 1] = (images[labels == 1] + images[labels == 1].roll(1, -1)) / 2
    return (images * 255).round() / 255, labels.float()


@pytest.fixture(scope="module")
def fitted(made: tuple[torch.Tensor, torch.Tensor]) -> tuple[FeatureDetector, torch.Tensor]:
    network = FeatureDetector(["lbp", "noise", "colour"], ["lda", "logistic", "boosting"], image_size=16)
    for images, labels in zip(made[0].split(20), made[1].split(20), strict=True):
        network.collect(images, labels)
    return network, network.fit_collected()


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_classifier_answers_as_scikit_learns(kind: str) -> None:
    assert issubclass(ConvergenceWarning, UserWarning)
    drawn = np.random.default_rng(0)
    features = drawn.standard_normal((600, 30)).astype(np.float32)
    features[:, 0] = features[:, 0].round(1)  # ties
    labels = (features[:, 0] + features[:, 1] ** 2 + 0.5 * drawn.standard_normal(600) > 0.7).astype(int)
    module = CLASSIFIERS[kind](30)
    estimator = module.estimator(0).fit(features, labels)  # type: ignore[operator]
    module.take(estimator)  # type: ignore[operator]
    logits = module(torch.from_numpy(features)).detach().numpy()
    if kind == "mlp":
        shares = estimator.predict_proba(features).astype(np.float64)
        expected = np.log(shares[:, 1] / shares[:, 0])
    else:
        expected = estimator.decision_function(features)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_array_equal(logits > 0, estimator.predict(features) == 1)
    held = CLASSIFIERS[kind](30)
    held.load_state_dict(module.state_dict(), strict=True)  # numbers are all there is
    assert torch.equal(held(torch.from_numpy(features)), module(torch.from_numpy(features)))


def test_a_feature_that_never_changes_stays_out() -> None:
    module = Standardized(2)
    module.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert module(torch.tensor([[1.0, 7.0], [1e9, 5.0]])).tolist() == [[-1, pytest.approx(0)], [10, 0]]


def test_the_last_bits_of_a_feature_decide_nothing() -> None:
    """Sums in another order: of 100,000 values none is rounded to another step, and trees see steps alone."""
    values = torch.randn(100_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module = Standardized(1)
    module.fit(values.float())
    found = module(values)
    assert torch.equal(found, module(values * (1 + 1e-13)))
    assert torch.equal(found * STEPS, (found * STEPS).round())
    assert (found - (values - module.mean) / module.scale).abs().max() < 0.51 / STEPS


def test_every_part_and_every_fusion_is_fitted_and_named(
    made: tuple[torch.Tensor, torch.Tensor], fitted: tuple[FeatureDetector, torch.Tensor]
) -> None:
    network, logits = fitted
    named = network.named_logits(made[0])
    assert list(named)[:4] == ["lbp-lda", "lbp-logistic", "lbp-boosting", "noise-lda"]
    assert list(named)[-5:] == ["all-lda", "all-logistic", "all-boosting", "vote", "meta"] and len(named) == 14
    assert all(((each > 0) == made[1].bool()).float().mean() > 0.9 for each in named.values())
    assert torch.allclose(named["meta"].double(), logits, atol=1e-5)
    votes = torch.stack([named[name] > 0 for name in network.parts]).float().mean(0)
    assert torch.equal(named["vote"] > 0, votes > 0.5)
    assert len({round(float(each), 4) for each in named["vote"]}) <= 10


@pytest.mark.parametrize("answer", ["meta", "vote", "all-boosting", "noise-lda"])
def test_what_is_exported_is_the_answer_and_no_more(
    made: tuple[torch.Tensor, torch.Tensor], fitted: tuple[FeatureDetector, torch.Tensor], answer: str
) -> None:
    spec = network_spec(fitted[0])
    assert spec is not None
    network = FeatureDetector(**{**spec["init_args"], "answer": answer})
    network.load_state_dict(fitted[0].state_dict(), strict=True)
    check_inference(network.eval(), 16)
    exported = network.for_export()
    assert torch.equal(exported(made[0]), network(made[0]))
    assert torch.equal(network(made[0]), fitted[0].named_logits(made[0])[answer])
    assert len(exported.state_dict()) < len(network.state_dict())


def test_the_meta_classifier_learns_from_images_that_the_parts_have_not_seen() -> None:
    """Labels of chance: trees learn their own images by heart, and the meta-classifier must not believe them."""
    seeded = torch.Generator().manual_seed(1)
    images, labels = torch.rand(120, 3, 16, 16, generator=seeded), torch.arange(120) % 2
    network = FeatureDetector(["noise"], ["boosting", "lda"], image_size=16)
    network.collect(images, labels.float())
    network.fit_collected()
    by_heart = (network.named_logits(images)["noise-boosting"] > 0) == labels.bool()
    assert by_heart.all() and network.meta.weight.abs().max() < 0.2


def test_two_fits_are_the_same(made: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits = []
    for _ in range(2):
        network = FeatureDetector(["colour"], ["mlp", "svm"], image_size=16)
        network.collect(*made)
        logits.append(network.fit_collected())
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"descriptors": ["lbq"]}, "model.network.descriptors: expected names of wavelet, .*, each once, got lbq"),
        ({"classifiers": ["lda", "lda"]}, "model.network.classifiers: .* each once, got lda, lda"),
        ({"answer": "hog-svm"}, "model.network.answer: expected one of wavelet-lda, .*, vote, meta, got hog-svm"),
        ({"folds": 1}, "folds of at least 2"),
        ({"image_size": 8}, "image_size of at least 16"),
    ],
)
def test_an_argument_out_of_range_is_refused_in_one_line(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        build_network({"class_path": "features", "init_args": arguments})
    assert "\n" not in str(refused.value)


def test_16_bits_are_refused_in_one_line(made: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="expected float32, got a precision of 16 bits"):
        FeatureDetector(["colour"], ["lda"], image_size=16).half()(made[0].half())


def test_its_size_is_known() -> None:
    network = FeatureDetector()
    assert sum(len(each.mean) for each in network.standardize.values()) == 1065
    assert sum(parameter.numel() for parameter in network.parameters()) == 212_720
    assert len(network.named_logits(torch.zeros(1, 3, 32, 32))) == 7 * 3 + 3 + 2 and len(DESCRIPTORS) == 7


def test_fit_collects_fits_and_reports_each_part_and_the_export_answers_alike(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--config", "demo", "--config", "networks/features", *SMALL, "--data.batch_size", "100"]
    assert (
        main(
            [
                "fit",
                *asked,
                "--output_dir",
                "run",
                "--data.sample",
                "300",
                "--trainer.accelerator",
                "cpu",
                "--trainer.logger",
                "false",
            ]
        )
        == 0
    )
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["accuracy"] > 0.7 and metrics["parts"]["meta"]["accuracy"] == metrics["accuracy"]
    assert 0.6 < metrics["parts"]["noise-lda"]["val_accuracy"] <= 1
    rows = list(csv.DictReader(Path("run/parts.csv").read_text().splitlines()))
    assert [row["part"] for row in rows][-4:] == ["all-lda", "all-boosting", "vote", "meta"] and len(rows) == 8
    assert "its parts, the best first:" in capsys.readouterr().out
    history = list(csv.DictReader(Path("run/history.csv").read_text().splitlines()))
    assert len(history) == 1 and float(history[0]["train_accuracy"]) > 0.7
    assert main(["export", "--ckpt_path", "run/best.ckpt", "--output", "features.onnx"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    images[:3] = images[:3] // 32 * 32  # flat places: ties
    expected = ClassifierModel(load_classifier("run/best.ckpt")).prob_real([*images])
    assert np.abs(Detector("features.onnx").prob_real([*images]) - expected).max() < 1e-6
    assert len(set(expected)) > 1
    written = json.loads(Path("features.json").read_text())["real"]
    assert written["flipped_decisions"] == 0 and written["logit_difference_max"] < 1e-5
    with pytest.raises(UserError, match="int8 is for networks with convolutions"):
        quantize(onnx.load("features.onnx"), images, next(iter(METHODS)))


def test_a_run_is_not_fitted_to_the_end_of_an_epoch_alone(made: tuple[torch.Tensor, torch.Tensor]) -> None:
    """What a run that was ended had collected is in no checkpoint."""
    model = FakeImageClassifier(FeatureDetector(["colour"], ["lda"], image_size=16))
    model._trainer = SimpleNamespace(is_last_batch=True, num_training_batches=2)  # type: ignore[assignment]
    with pytest.raises(UserError, match="expected all 2 batches of an epoch to fit to, got the last 1"):
        model.training_step(Batch(*made, torch.arange(60)), 1)


@pytest.mark.parametrize(
    ("arguments", "processes", "says"),
    [
        (
            {"ema_decay": 0.9, "teacher": "none"},
            1,
            "^model.ema_decay: expected none of it with a network that is fitted",
        ),
        ({}, 2, r"trainer\.devices: expected 1 .* got 2 processes$"),
    ],
)
def test_what_is_for_gradients_is_refused_in_one_line(arguments: dict[str, object], processes: int, says: str) -> None:
    network = FeatureDetector(["colour"], ["lda"], image_size=16)
    with pytest.raises(UserError, match=says):
        check_fitting(arguments, processes)
    check_fitting(FakeImageClassifier(network).hparams, 1)

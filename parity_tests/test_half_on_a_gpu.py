"""The record of our side of half precision on a GPU: what is in it, and that it is made as the tests measure."""

import copy

import numpy as np
import pytest
import torch

from lightning_cifake.networks.resnet50 import ResNet50Detector
from parity_tests import half_cases as cases
from parity_tests import half_on_a_gpu
from parity_tests.half import BF16, NAMES, STEPS, TRUTH, apart, losses_apart, plugin_of, train_ours
from parity_tests.twins import STAGES, perturb

RUNG = "6 training"

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = ResNet50Detector(layout="keras", dropout=0.0)
    perturb(made)
    return made


def made_images(count, seed):
    rng = np.random.default_rng(seed)
    return rng.random((count, 32, 32, 3), np.float32), (np.arange(count) % 2).astype(np.float32)


def test_the_recorded_run_is_whole():
    record = half_on_a_gpu.read_record()
    assert record is not None and "CPU" not in record["device"]
    for name in NAMES.values():
        for mode in ("eval", "train"):
            found = record["stages"][name][mode]
            assert set(STAGES) < set(found) and {"logit", "probability", cases.LOSS} < set(found)
            assert all(0 < distance < 0.1 for distance in found.values())
        assert len(record["courses"][name]["losses"]) == STEPS
        truth = record["courses"]["float64"]["losses"]
        apart_by = np.abs(np.subtract(record["courses"][name]["losses"], truth)).mean()
        assert record["courses"][name]["distance"] == pytest.approx(apart_by)
        assert 0 < record["first step"][name]["gradient"] < 1 and 0 < record["first step"][name]["step"] < 1


def test_a_digest_is_of_every_weight_and_every_pixel(network):
    assert cases.digest_of_weights(copy.deepcopy(network)) == cases.digest_of_weights(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.norm.running_var[3] += 1e-6
    assert cases.digest_of_weights(other) != cases.digest_of_weights(network)
    images, labels = made_images(4, 0)
    changed = images.copy()
    changed[3, 31, 31, 2] += 1e-6
    assert cases.digest_of_images([(images, labels)]) != cases.digest_of_images([(changed, labels)])
    assert cases.digest_of_images([(images, labels)]) != cases.digest_of_images([(images, 1 - labels)])


@pytest.mark.long
def test_a_record_holds_what_the_tests_measure(network, monkeypatch):
    """In bf16 alone, which takes seconds on a CPU; where the tests compute on it too, nothing else may come out."""
    monkeypatch.setattr(cases, "NAMES", {BF16: "bf16"})
    batches, asked = [made_images(8, seed) for seed in (1, 2)], made_images(8, 3)
    course = cases.Course([made_images(4, seed) for seed in (4, 5)], made_images(8, 6))
    found = cases.distances_of_ours(network, batches, course, asked, "cpu")
    assert found["weights"] == cases.digest_of_weights(network)  # left as they were
    for mode in ("eval", "train"):
        truth, half = (cases.stages_of_ours(network, batches, p, mode == "train") for p in (TRUTH, BF16))
        assert found["stages"]["bf16"][mode] == {stage: apart(half[stage], truth[stage]) for stage in truth}
    truth, half = (train_ours(network, plugin_of(p), course.batches, ask=course.validation) for p in (TRUTH, BF16))
    assert found["courses"]["bf16"]["losses"] == half.losses and found["courses"]["float64"]["losses"] == truth.losses
    assert found["courses"]["bf16"]["distance"] == losses_apart(half, truth) > 0
    assert 0 < found["first step"]["bf16"]["gradient"] < 2 and found["first step"]["bf16"]["scale"] == 1
    assert 0 <= found["decisions"]["bf16"]["flips"] <= 8 and 0 < found["decisions"]["bf16"]["distance"] < 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["measure", "weights.pt", "--data.root", "nowhere.zip"], "expected CIFAKE's zip or folder, got nowhere.zip"),
        (["measure", "weights.pt", "--data.root", "."], "--device cuda: torch finds no GPU on this machine"),
        (["measure", "nowhere.pt", "--data.root", ".", "--device", "cpu"], "nowhere.pt: expected what `weights` wrote"),
        (
            ["measure", __file__, "--data.root", ".", "--device", "cpu"],
            "test_half_on_a_gpu.py: expected what `weights`",
        ),
    ],
)
def test_a_users_mistake_is_one_line(arguments, expected, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        half_on_a_gpu.main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and expected in said.splitlines()[-1]


@pytest.mark.parametrize("name", ["nowhere.keras", "damaged.keras"])
def test_a_keras_file_that_cannot_be_read_is_one_line(keras, name, tmp_path, capsys):
    (tmp_path / "damaged.keras").write_bytes(b"PK")
    with pytest.raises(SystemExit) as ended:
        half_on_a_gpu.main(["weights", str(tmp_path / name), str(tmp_path / "weights.pt")])
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and f"{name}: expected a model of tf_reference" in said
    assert not (tmp_path / "weights.pt").exists()


def test_the_weights_of_a_keras_file_are_taken_exactly(keras, network, tmp_path):
    from parity_tests.twins import copy_weights, published_model

    theirs = published_model(keras)
    copy_weights(network, theirs, bias=0.0)
    theirs.save(tmp_path / "model.keras")
    half_on_a_gpu.main(["weights", str(tmp_path / "model.keras"), str(tmp_path / "weights.pt")])
    found = ResNet50Detector(layout="keras", dropout=0.0)
    found.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert cases.digest_of_weights(found) == cases.digest_of_weights(network)

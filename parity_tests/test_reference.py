"""``tf_reference`` is the published system: its split, its leaks, its files, its answers, its errors."""

import ast
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity_tests.reference_run import tf_reference, write_folder
from parity_tests.tolerances import EXACT

RUNG = "0 reference"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(module_folder) -> Path:
    return write_folder(module_folder("reference") / "images", 640)


def test_it_imports_nothing_of_ours():
    for path in (ROOT / "tf_reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("lightning_cifake", "torch", "lightning")], (
                path
            )


def test_the_printed_sizes_are_the_papers(tf, claim):
    printed = tf_reference("split-sizes", "--batches", 625).stdout.split("\n")
    claim.equal("tf_reference split-sizes for 625 batches", printed[:3], ["Train:  437", "Test:  63", "Val:  125"])


def test_the_published_split_leaks_and_the_clean_one_does_not(tf, folder, claim):
    """Images are told apart by their bytes; the augmentation is left out to see which ones are trained on."""
    from unittest.mock import patch

    from tf_reference import data

    with patch.object(data, "augment_data", lambda x, y: (x, y)):
        published, clean = data.published(str(folder), seed=3), data.clean(str(folder), seed=3)
    every, first, again = read(published.train), read(published.cv), read(published.cv)
    claim.equal("published: images of the validation that are not trained on", len(first - every), 0)
    claim.fault("leak 2: images of the published validation that a second reading has not", len(first - again), EXACT)
    parts = [read(part) for part in (clean.train, clean.cv, clean.test)]
    claim.equal("clean: images in two of train, validation and test", sum(map(len, parts)) - len(set.union(*parts)), 0)
    claim.equal("clean: images of the validation that a second reading has not", len(parts[1] - read(clean.cv)), 0)
    claim.equal("clean: images lost or gained against published", len(set.union(*parts) ^ every), 0)
    assert published.sizes == clean.sizes == data.split_sizes(20)


def read(part) -> set[bytes]:
    return {image.tobytes() for images, _ in part.as_numpy_iterator() for image in images}


def test_its_own_reader_is_kerass(tf, folder, claim):
    """What ``clean`` reads file by file is what image_dataset_from_directory gives, in its order."""
    import keras

    from tf_reference import data

    theirs = keras.utils.image_dataset_from_directory(str(folder), image_size=(32, 32), shuffle=False, verbose=False)
    ours, files = data.whole_folder(str(folder))
    assert files == theirs.file_paths
    expected = np.concatenate([x for x, _ in theirs.as_numpy_iterator()]) / np.float32(255)
    found = np.concatenate([x for x, _ in ours.as_numpy_iterator()])
    labels = [np.concatenate([y for _, y in part.as_numpy_iterator()]) for part in (theirs, ours)]
    claim.equal("tf_reference's file reader against image_dataset_from_directory: images", found, expected)
    claim.equal("tf_reference's file reader against image_dataset_from_directory: labels", labels[1], labels[0])


def test_an_epoch_comes_in_kerass_order(tf, folder, claim):
    """The shuffling of what ``clean`` reads file by file: Keras's own, by the same seed, draw for draw."""
    import keras

    from tf_reference import data

    theirs = keras.utils.image_dataset_from_directory(str(folder), image_size=(32, 32), seed=5, verbose=False)
    files = theirs.file_paths
    labels = [data.CLASS_NAMES.index(Path(path).parent.name) for path in files]
    ours = data.data_from_files(files, labels, shuffle=True, seed=5)
    found, expected = (np.concatenate([x for x, _ in part.as_numpy_iterator()]) for part in (ours, theirs))
    elsewhere = np.count_nonzero((found != expected).any(axis=(1, 2, 3)))
    text = "order of an epoch, tf_reference's file reader against image_dataset_from_directory: images in another place"
    claim.equal(text, elsewhere, 0)


def test_a_shuffle_buffer_twice_as_large_is_seen(tf, claim, monkeypatch):
    from lightning_cifake.data.loader import IndexLoader
    from tf_reference import data

    def earliest(order):
        """How many places before its own an image comes, at most."""
        return int((order - np.arange(len(order))).max())

    def theirs():
        numbers = list(range(4000))  # as labels, which come along; of the images nothing is read
        batches = data.data_from_files([""] * len(numbers), numbers, shuffle=True, seed=0)
        return earliest(np.concatenate([labels for _, labels in batches.as_numpy_iterator()]))

    monkeypatch.setattr(data, "_load_image", lambda path, decoder: path)
    reach = 8 * data.BATCH_SIZE - 1
    text = "places before its own that an image of tf_reference's order comes, at most: Keras's 8 batches less 1"
    claim.equal(text, theirs(), reach)
    ours = IndexLoader(np.arange(4000), data.BATCH_SIZE, shuffle=True)
    claim.figure("places before its own that an image of our order comes, which is drawn of all 4,000 images",
                 earliest(ours.order().numpy()))  # fmt: skip
    monkeypatch.setattr(data, "SHUFFLE_BUFFER", 2 * data.SHUFFLE_BUFFER)
    claim.fault("tf_reference's shuffle buffer doubled: places before its own", theirs() - reach, EXACT)


def test_a_split_that_is_sorted_by_class_is_trained_on_in_mixed_batches(tf, folder):
    """The lists of a split file may be sorted; the buffer of 256 images alone would leave batches of one class."""
    from tf_reference import data

    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    split = {"train": names, "val": names[:32], "test": names[-32:]}
    shares = [labels.mean() for _, labels in data.from_split(str(folder), split, seed=0).train.as_numpy_iterator()]
    assert min(shares) > 0 and max(shares) < 1


def test_fit_leaves_a_model_that_gives_its_results_again(reference_run):
    run = reference_run
    results = run.results
    assert f"Test Accuracy: {results['test']['keras_accuracy'] * 100:.2f}%" in run.printed
    assert "Classification Report:" in run.printed and "Train:  14" in run.printed
    for name in ("history.png", "confusion_matrix.png", "classification_report.txt", "split.json"):
        assert (run.folder / name).stat().st_size > 100, name
    history = json.loads((run.folder / "history.json").read_text())
    assert np.allclose(history["learning_rate"], [9.5e-4, 9.025e-4]) and len(history["val_loss"]) == 2
    with (run.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    again = tf_reference(
        "evaluate", "--model", run.model, "--data.root", run.data, "--split", run.folder / "split.json",
        "--decoder", "accurate", "--output", run.folder / "again",
    )  # fmt: skip
    assert f"Test Accuracy: {results['test']['keras_accuracy'] * 100:.2f}%" in again.stdout
    with (run.folder / "again" / "predictions.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [row["path"] for row in rows]


def test_keras_file_and_saved_model_give_the_same(tf, keras, reference_run):
    model = keras.models.load_model(reference_run.model)
    served = tf.saved_model.load(str(reference_run.folder / "ai_imageclassifier"))
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    assert np.allclose(served.serve(images).numpy(), model(images, training=False).numpy(), atol=1e-6)


@pytest.mark.long
def test_training_goes_on_from_a_saved_model(reference_run, tmp_path):
    tf_reference(
        "fit", "--data.root", reference_run.data, "--resume", reference_run.model, "--initial_epoch", 2, "--epochs", 3,
        "--lr_decay", 0.5, "--output", tmp_path,
    )  # fmt: skip
    history = json.loads((tmp_path / "history.json").read_text())
    assert np.allclose(history["learning_rate"], [1e-3 * 0.95**2 * 0.5])


def test_it_trains_without_xla_as_the_papers_keras_did(keras):
    from tf_reference.model import compile_model

    model = compile_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")]))
    assert model.jit_compile is False


def test_predict_answers_and_tells_what_it_cannot_read(reference_run, tmp_path):
    image = next((reference_run.data / "REAL").iterdir())
    shown = tmp_path / "shown.png"
    answered = tf_reference("predict", "--model", reference_run.model, image, "--show", shown)
    assert answered.stdout.strip() in ("Predicted class: AI", "Predicted class: REAL") and shown.is_file()
    refused = tf_reference("predict", "--model", reference_run.model, tmp_path / "none.jpg", check=False)
    assert refused.returncode == 1 and refused.stdout.startswith("Error: Could not read the image from")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split-sizes"], "expected either --data.root FOLDER or --batches N"),
        (["split-sizes", "--data.root", "nowhere"], "there is no folder nowhere"),
        (["evaluate", "--model", "none.keras", "--data.root", "nowhere"], "there is no model none.keras"),
        (["fit", "--data.root", "nowhere", "--initial_epoch", "2"], "--initial_epoch belongs to --resume"),
        (["fit", "--data.root", "nowhere", "--weights", "none"], "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line(tf, capsys, arguments, message):
    from tf_reference.__main__ import main

    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_other_classes_are_refused(tf, tmp_path, capsys):
    from tf_reference.__main__ import main

    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
    assert main(["split-sizes", "--data.root", str(tmp_path)]) == 2
    assert "expected the folders FAKE and REAL in it, got cats, dogs" in capsys.readouterr().err


def test_without_tensorflow_it_names_the_extra():
    code = "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
    code += "from tf_reference.__main__ import main; sys.exit(main(['split-sizes', '--batches', '625']))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.strip().endswith("pip install 'lightning_cifake[tf]'")


def test_a_model_with_code_in_it_is_refused(tf, tmp_path):
    import keras

    from tf_reference.data import InputError
    from tf_reference.train import load_model

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "code.keras")
    with pytest.raises(InputError, match="no Keras model that can be read safely"):
        load_model(tmp_path / "code.keras")
